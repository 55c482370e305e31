//! The steps of a clean-up, as their text has them: `step;step`, each `word:column:more`.
//!
//! Limits: [`STEPS_MAX`] steps.

use chrono::format::{Item, StrftimeItems};

const STEPS_MAX: usize = 100;

/// What is done to a table.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Spaces around texts go.
    Trim,
    /// A text means nothing: in one column or in all.
    Null {
        /// The text.
        text: String,
        /// Where.
        column: Option<String>,
    },
    /// Rows without a value there go.
    DropEmpty(String),
    /// What has no value there gets one.
    Fill(String, String),
    /// Rows whose number there is smaller or larger go; those without one stay.
    Keep(String, f64, f64),
    /// Numbers are multiplied, then moved.
    Scale(String, f64, f64),
    /// Numbers are written `1.234,5`.
    DecimalComma(String),
    /// Texts are written small.
    Lower(String),
    /// One text becomes another.
    Replace(String, String, String),
    /// A column gets another name.
    Rename(String, String),
    /// A column goes.
    Drop(String),
    /// Several columns become rows of a name and a value.
    Unpivot {
        /// The column of names.
        name: String,
        /// The column of values.
        value: String,
        /// The columns, which go.
        columns: Vec<String>,
    },
    /// A text is a time of this form, in UTC unless it says where.
    Time(String, String),
    /// Of rows that are equal in these columns one stays: the first, or the last.
    Dedupe(Vec<String>, bool),
}

/// Reads steps; each with its text.
///
/// **Errors** with a sentence that names the step.
pub fn parse(text: &str) -> Result<Vec<(String, Step)>, String> {
    let parts: Vec<&str> = text.split(';').filter(|part| !part.trim().is_empty()).collect();
    if parts.len() > STEPS_MAX {
        return Err(format!("there are more than {STEPS_MAX} steps"));
    }
    parts.iter().map(|part| Ok((part.trim().to_owned(), one(part.trim_start())?))).collect()
}

fn one(part: &str) -> Result<Step, String> {
    let (word, rest) = part.split_once(':').unwrap_or((part.trim_end(), ""));
    let step = match word {
        "time" => rest.split_once(':').and_then(|(column, form)| time(column, form)),
        _ => by_words(word, &rest.trim_end().split(':').collect::<Vec<_>>()),
    };
    step.ok_or_else(|| format!("{:?} is no step; {}", part.trim_end(), like(word)))
}

/// Says how a step is written.
fn like(word: &str) -> &'static str {
    match word {
        "null" => "write null:TEXT or null:TEXT:COLUMN",
        "drop_empty" => "write drop_empty:COLUMN",
        "fill" => "write fill:COLUMN:TEXT",
        "keep" => "write keep:COLUMN:MIN:MAX, where either number may be missing",
        "scale" => "write scale:COLUMN:FACTOR or scale:COLUMN:FACTOR:OFFSET",
        "decimal_comma" | "lower" | "drop" => "write it with the name of one column",
        "replace" => "write replace:COLUMN:FROM:TO",
        "rename" => "write rename:COLUMN:NAME",
        "unpivot" => "write unpivot:NAMES:VALUES:COLUMN+COLUMN",
        "time" => "write time:COLUMN:FORM, such as time:at:%d.%m.%Y %H:%M:%S",
        "dedupe" => "write dedupe:COLUMN+COLUMN or dedupe:COLUMN+COLUMN:last",
        _ => {
            "there are trim, null, drop_empty, fill, keep, scale, decimal_comma, lower, replace, rename, drop, unpivot, time and dedupe"
        }
    }
}

fn by_words(word: &str, words: &[&str]) -> Option<Step> {
    let name = |text: &str| (!text.is_empty() && text != super::ROW).then(|| text.to_owned());
    let names = |text: &str| text.split('+').map(name).collect::<Option<Vec<_>>>();
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite());
    let bound = |text: &str, otherwise| if text.is_empty() { Some(otherwise) } else { number(text) };
    Some(match (word, words) {
        ("trim", [""]) => Step::Trim,
        ("null", [text]) => Step::Null { text: (*text).to_owned(), column: None },
        ("null", [text, column]) => Step::Null { text: (*text).to_owned(), column: Some(name(column)?) },
        ("drop_empty", [column]) => Step::DropEmpty(name(column)?),
        ("fill", [column, text]) => Step::Fill(name(column)?, (*text).to_owned()),
        ("keep", [column, min, max]) => {
            Step::Keep(name(column)?, bound(min, f64::NEG_INFINITY)?, bound(max, f64::INFINITY)?)
        }
        ("scale", [column, factor]) => Step::Scale(name(column)?, number(factor)?, 0.0),
        ("scale", [column, factor, offset]) => Step::Scale(name(column)?, number(factor)?, number(offset)?),
        ("decimal_comma", [column]) => Step::DecimalComma(name(column)?),
        ("lower", [column]) => Step::Lower(name(column)?),
        ("replace", [column, from, to]) => Step::Replace(name(column)?, (*from).to_owned(), (*to).to_owned()),
        ("rename", [column, to]) => Step::Rename(name(column)?, name(to)?),
        ("drop", [column]) => Step::Drop(name(column)?),
        ("unpivot", [names_to, values_to, columns]) => {
            Step::Unpivot { name: name(names_to)?, value: name(values_to)?, columns: names(columns)? }
        }
        ("dedupe", [columns]) => Step::Dedupe(names(columns)?, false),
        ("dedupe", [columns, "first"]) => Step::Dedupe(names(columns)?, false),
        ("dedupe", [columns, "last"]) => Step::Dedupe(names(columns)?, true),
        _ => return None,
    })
}

fn time(column: &str, form: &str) -> Option<Step> {
    let good = !form.is_empty() && !StrftimeItems::new(form).any(|item| matches!(item, Item::Error));
    (good && !column.is_empty() && column != super::ROW).then(|| Step::Time(column.to_owned(), form.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_in_order() {
        let text = "trim; null:NA;null:-:v;keep:v::5;scale:v:0.1:-40;time:at:%H:%M ;dedupe:a+b:last;unpivot:n:v:x+y";
        let steps: Vec<Step> = parse(text).unwrap().into_iter().map(|(_, step)| step).collect();
        let text = str::to_owned;
        assert_eq!(
            steps,
            [
                Step::Trim,
                Step::Null { text: text("NA"), column: None },
                Step::Null { text: text("-"), column: Some(text("v")) },
                Step::Keep(text("v"), f64::NEG_INFINITY, 5.0),
                Step::Scale(text("v"), 0.1, -40.0),
                Step::Time(text("at"), text("%H:%M ")),
                Step::Dedupe(vec![text("a"), text("b")], true),
                Step::Unpivot { name: text("n"), value: text("v"), columns: vec![text("x"), text("y")] },
            ]
        );
        assert_eq!(parse(" ; "), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_step_is_said_with_what_would_be() {
        for bad in
            ["blur:v", "drop_empty", "keep:v:a:b", "scale:v:inf", "scale:#row:2", "time:at", "time:at:%Q", "dedupe:a+"]
        {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(bad) && error.len() > bad.len() + 20, "{error}");
        }
        assert!(parse(&"trim;".repeat(101)).is_err());
    }
}
