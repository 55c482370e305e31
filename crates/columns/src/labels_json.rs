//! Labels as a JSON object, both ways: what the `labels` column of `series.parquet` holds.

use model::{LABEL_NAME, Labels, LabelsBuf};

/// Appends `{"a":"1","b":"2"}`: sorted by name, no spaces, without the metric name, which has its own column.
pub fn labels_to_json(labels: &Labels, out: &mut String) {
    out.push('{');
    let mut first = true;
    for (name, value) in labels.iter().filter(|(name, _)| *name != LABEL_NAME) {
        if !first {
            out.push(',');
        }
        first = false;
        push_string(name, out);
        out.push(':');
        push_string(value, out);
    }
    out.push('}');
}

/// Writes pairs as a JSON object, in their order.
pub(crate) fn pairs_to_json(pairs: &[(String, String)]) -> String {
    let mut out = String::from("{");
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_string(name, &mut out);
        out.push(':');
        push_string(value, &mut out);
    }
    out.push('}');
    out
}

/// Reads the two columns back into labels.
///
/// **Gives** `None` when the text is not a flat JSON object of strings without white space.
pub fn labels_from_json(metric_name: &str, json: &str) -> Option<Labels> {
    let mut buf = LabelsBuf::default();
    if !metric_name.is_empty() {
        buf.push(LABEL_NAME, metric_name);
    }
    let mut rest = json.strip_prefix('{')?.strip_suffix('}')?;
    let (mut name, mut value) = (String::new(), String::new());
    while !rest.is_empty() {
        rest = take_string(rest, &mut name)?.strip_prefix(':')?;
        rest = take_string(rest, &mut value)?;
        if name == LABEL_NAME {
            return None;
        }
        buf.push(&name, &value);
        if !rest.is_empty() {
            rest = rest.strip_prefix(',').filter(|rest| !rest.is_empty())?;
        }
    }
    buf.sort().ok()?;
    Some(buf.to_labels())
}

fn push_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Reads one quoted string into `out` and gives what follows.
fn take_string<'t>(text: &'t str, out: &mut String) -> Option<&'t str> {
    out.clear();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let special = rest.find(['"', '\\'])?;
        let (plain, tail) = rest.split_at(special);
        out.push_str(plain);
        if let Some(after) = tail.strip_prefix('"') {
            return Some(after);
        }
        let mut chars = tail.strip_prefix('\\')?.chars();
        match chars.next()? {
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            c @ ('"' | '\\' | '/') => out.push(c),
            'u' => {
                let hex = chars.as_str().get(..4)?;
                out.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                chars = chars.as_str().get(4..)?.chars();
            }
            _ => return None,
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(labels: &Labels) -> String {
        let mut out = String::new();
        labels_to_json(labels, &mut out);
        out
    }

    #[test]
    fn what_json_reserves_is_escaped() {
        let labels = Labels::from_pairs([("__name__", "m"), ("b", "\"\\\n\u{1}ü"), ("a", "1")]);
        assert_eq!(json(&labels), "{\"a\":\"1\",\"b\":\"\\\"\\\\\\n\\u0001ü\"}");
        assert_eq!(json(&Labels::empty()), "{}");
    }

    #[test]
    fn broken_text_is_refused() {
        for text in [
            "",
            "{",
            "}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":\"1\",}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"1\"\"b\":\"2\"}",
            "{\"__name__\":\"x\"}",
        ] {
            assert_eq!(labels_from_json("m", text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_is_the_inverse_of_writing(pairs in prop::collection::vec((".{0,6}", ".{0,6}"), 0..6), name in ".{0,5}") {
            let mut buf = LabelsBuf::default();
            for (n, v) in pairs {
                if n != LABEL_NAME {
                    buf.set(&n, &v);
                }
            }
            buf.set(LABEL_NAME, &name);
            let labels = buf.to_labels();
            prop_assert_eq!(labels_from_json(&name, &json(&labels)), Some(labels));
        }

        #[test]
        fn any_text_is_survived(text in "[{}\":,\\\\a-zu0-9ü]{0,24}") {
            let _ = labels_from_json("m", &text);
        }
    }
}
