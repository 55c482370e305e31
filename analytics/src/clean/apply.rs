//! Applies steps to a table.
//!
//! Limits: a table has [`ROWS_MAX`] rows at most, after columns have become rows, too.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime};
use polars::prelude::{
    BooleanChunked, Column, DataFrame, DataType, NamedFrom, NewChunkedArray, PolarsError, Series, SortMultipleOptions,
    TimeUnit, UniqueKeepStrategy,
};

use super::steps::Step;
use super::{ROW, Report};

const ROWS_MAX: usize = 2_000_000;

type Texts = Vec<Option<String>>;

/// Applies all steps in order.
///
/// **Errors** with a sentence that names the step: then it cannot be applied to any such table.
pub fn all(table: DataFrame, steps: &[(String, Step)], report: &mut Report) -> Result<DataFrame, String> {
    let mut work = Work { table, report };
    for (text, step) in steps {
        work.step(text, step).map_err(|why| format!("{text}: {why}"))?;
    }
    // The names that the columns are known by stay at their places.
    let rows = work.table.drop_in_place(ROW).map_err(text_of)?;
    work.table.with_column(rows).map_err(text_of)?;
    Ok(work.table)
}

fn text_of(error: PolarsError) -> String {
    error.to_string()
}

struct Work<'a> {
    table: DataFrame,
    report: &'a mut Report,
}

impl Work<'_> {
    fn step(&mut self, text: &str, step: &Step) -> Result<(), String> {
        match step {
            Step::Trim => self.in_all_texts(|text| Some(text.trim().to_owned())),
            Step::Null { text, column: None } => self.in_all_texts(|t| (t != text).then(|| t.to_owned())),
            Step::Null { text, column: Some(column) } => self.in_texts(column, |t| (t != text).then(|| t.to_owned())),
            Step::Lower(column) => self.in_texts(column, |text| Some(text.to_lowercase())),
            Step::Replace(column, from, to) => {
                self.in_texts(column, |text| Some(if text == from { to.clone() } else { text.to_owned() }))
            }
            Step::DecimalComma(column) => self.in_texts(column, |text| Some(text.replace('.', "").replace(',', "."))),
            Step::DropEmpty(column) => {
                let empty = self.empty(column)?;
                self.leave_out(text, empty.into_iter().map(|empty| !empty).collect())
            }
            Step::Fill(column, text) => self.fill(column, text),
            Step::Keep(column, min, max) => {
                let numbers = self.numbers(column)?;
                let inside = |n: &Option<f64>| n.is_none_or(|n| (*min..=*max).contains(&n));
                self.leave_out(text, numbers.iter().map(inside).collect())
            }
            Step::Scale(column, factor, offset) => {
                let numbers: Vec<Option<f64>> =
                    self.numbers(column)?.into_iter().map(|n| n.map(|n| n * factor + offset)).collect();
                self.put(Series::new(column.as_str().into(), numbers))
            }
            Step::Time(column, form) => self.time(column, form),
            Step::Rename(column, to) => {
                self.column(column)?;
                if column != to && self.table.column(to).is_ok() {
                    return Err(format!("there is a column {to:?} already"));
                }
                self.table.rename(column, to.as_str().into()).map(drop).map_err(text_of)
            }
            Step::Drop(column) => {
                self.column(column)?;
                self.table.drop_in_place(column).map(drop).map_err(text_of)
            }
            Step::Unpivot { name, value, columns } => self.unpivot(name, value, columns),
            Step::Dedupe(columns, last) => self.dedupe(text, columns, *last),
        }
    }

    fn column(&self, name: &str) -> Result<&Column, String> {
        self.table.column(name).map_err(|_| {
            let names = self.table.get_column_names();
            let names: Vec<&str> = names.iter().map(|n| n.as_str()).filter(|n| *n != ROW).take(20).collect();
            format!("there is no column {name:?}, but {}", names.join(", "))
        })
    }

    fn put(&mut self, series: Series) -> Result<(), String> {
        self.table.with_column(Column::from(series)).map(drop).map_err(text_of)
    }

    fn texts(&self, column: &str) -> Result<Texts, String> {
        let texts = self.column(column)?.str().map_err(|_| format!("the column {column:?} holds no texts"))?;
        Ok(texts.iter().map(|text| text.map(str::to_owned)).collect())
    }

    fn in_texts(&mut self, column: &str, change: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let texts: Texts = self.texts(column)?.iter().map(|text| text.as_deref().and_then(&change)).collect();
        self.put(Series::new(column.into(), texts))
    }

    fn in_all_texts(&mut self, change: impl Fn(&str) -> Option<String>) -> Result<(), String> {
        let is_text = |column: &&Column| *column.dtype() == DataType::String;
        let names: Vec<String> = self.table.columns().iter().filter(is_text).map(|c| c.name().to_string()).collect();
        names.iter().try_for_each(|name| self.in_texts(name, &change))
    }

    /// Tells for each row whether it has no value in a column.
    fn empty(&self, column: &str) -> Result<Vec<bool>, String> {
        let found = self.column(column)?;
        if let Ok(texts) = found.str() {
            return Ok(texts.iter().map(|text| text.is_none_or(|text| text.trim().is_empty())).collect());
        }
        if let Ok(numbers) = found.f64() {
            return Ok(numbers.iter().map(|n| n.is_none_or(f64::is_nan)).collect());
        }
        Ok(found.is_null().iter().map(|null| null.unwrap_or(true)).collect())
    }

    fn fill(&mut self, column: &str, with: &str) -> Result<(), String> {
        let empty = self.empty(column)?;
        if let Ok(numbers) = self.column(column)?.f64().cloned() {
            let with: f64 = with.parse().map_err(|_| format!("{with:?} is no number"))?;
            let filled = numbers.iter().zip(&empty).map(|(n, empty)| if *empty { Some(with) } else { n });
            let filled: Vec<Option<f64>> = filled.collect();
            return self.put(Series::new(column.into(), filled));
        }
        let texts = self.texts(column)?.into_iter().zip(&empty);
        let texts: Texts = texts.map(|(text, empty)| if *empty { Some(with.to_owned()) } else { text }).collect();
        self.put(Series::new(column.into(), texts))
    }

    /// Gives the numbers of a column; rows whose text is none are noted and go.
    fn numbers(&mut self, column: &str) -> Result<Vec<Option<f64>>, String> {
        if let Ok(numbers) = self.column(column)?.f64() {
            return Ok(numbers.iter().collect());
        }
        let read = |text: &Option<String>| match text.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("{column}: not a number")),
        };
        let read: Vec<Result<Option<f64>, String>> = self.texts(column)?.iter().map(read).collect();
        self.without_bad(read)
    }

    fn time(&mut self, column: &str, form: &str) -> Result<(), String> {
        let read = |text: &Option<String>| match text.as_deref().map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => millis(text, form.trim()).map(Some).ok_or_else(|| format!("{column}: no time of that form")),
        };
        let read: Vec<Result<Option<i64>, String>> = self.texts(column)?.iter().map(read).collect();
        let times = Series::new(column.into(), self.without_bad(read)?);
        let times = times.cast(&DataType::Datetime(TimeUnit::Milliseconds, None)).map_err(text_of)?;
        self.put(times)
    }

    /// Notes what could not be read, lets those rows go, and gives the rest.
    fn without_bad<T>(&mut self, read: Vec<Result<T, String>>) -> Result<Vec<T>, String> {
        let good: Vec<bool> = read.iter().map(Result::is_ok).collect();
        if good.iter().all(|good| *good) {
            return Ok(read.into_iter().filter_map(Result::ok).collect());
        }
        let rows = self.table.column(ROW).and_then(|c| c.i64().cloned()).map_err(text_of)?;
        for (row, result) in rows.iter().zip(&read) {
            if let Err(why) = result {
                self.report.bad.push((row.unwrap_or_default(), why.clone()));
            }
        }
        self.table = self.table.filter(&mask(&good)).map_err(text_of)?;
        Ok(read.into_iter().filter_map(Result::ok).collect())
    }

    /// Lets rows go that are not to be kept.
    fn leave_out(&mut self, text: &str, keep: Vec<bool>) -> Result<(), String> {
        self.table = self.table.filter(&mask(&keep)).map_err(text_of)?;
        self.count(text, keep.iter().filter(|keep| !**keep).count());
        Ok(())
    }

    fn count(&mut self, text: &str, rows: usize) {
        if rows > 0 {
            *self.report.left_out.entry(text.to_owned()).or_default() += rows as u64;
        }
    }

    fn dedupe(&mut self, text: &str, columns: &[String], last: bool) -> Result<(), String> {
        columns.iter().try_for_each(|column| self.column(column).map(drop))?;
        let keep = if last { UniqueKeepStrategy::Last } else { UniqueKeepStrategy::First };
        let before = self.table.height();
        self.table = self.table.unique_stable(Some(columns), keep, None).map_err(text_of)?;
        self.count(text, before - self.table.height());
        Ok(())
    }

    fn unpivot(&mut self, name: &str, value: &str, columns: &[String]) -> Result<(), String> {
        let mut values = Vec::new();
        for column in columns {
            values.push(self.column(column)?.clone());
        }
        if values.windows(2).any(|pair| pair[0].dtype() != pair[1].dtype()) {
            return Err("the columns must all hold texts, or all numbers".to_owned());
        }
        if self.table.height().saturating_mul(columns.len()) > ROWS_MAX {
            return Err(format!("it makes more than {ROWS_MAX} rows of a table"));
        }
        let rest = self.table.drop_many(columns.iter().map(String::as_str));
        if [name, value].iter().any(|new| rest.column(new).is_ok()) || name == value {
            return Err(format!("there is a column {name:?} or {value:?} already, or they are one"));
        }
        let mut long: Option<DataFrame> = None;
        for (column, values) in columns.iter().zip(values) {
            let mut part = rest.clone();
            let names = Series::new(name.into(), vec![column.as_str(); part.height()]);
            part.with_column(Column::from(names)).map_err(text_of)?;
            part.with_column(values.with_name(value.into())).map_err(text_of)?;
            match &mut long {
                None => long = Some(part),
                Some(long) => long.vstack_mut(&part).map(drop).map_err(text_of)?,
            }
        }
        let Some(long) = long else { return Err("it names no column".to_owned()) };
        // What stood in one row stays together.
        self.table = long.sort([ROW], SortMultipleOptions::default().with_maintain_order(true)).map_err(text_of)?;
        Ok(())
    }
}

fn mask(keep: &[bool]) -> BooleanChunked {
    BooleanChunked::from_slice("keep".into(), keep)
}

/// Reads a time: with a zone, without one, or a day alone.
fn millis(text: &str, form: &str) -> Option<i64> {
    if let Ok(at) = DateTime::parse_from_str(text, form) {
        return Some(at.timestamp_millis());
    }
    let at = NaiveDateTime::parse_from_str(text, form).ok();
    let at = at.or_else(|| Some(NaiveDate::parse_from_str(text, form).ok()?.and_time(NaiveTime::MIN)));
    at.map(|at| at.and_utc().timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::super::steps::parse;
    use super::*;
    use polars::prelude::df;

    fn clean(table: DataFrame, steps: &str) -> Result<(DataFrame, Report), String> {
        let mut report = Report::default();
        all(table, &parse(steps)?, &mut report).map(|table| (table, report))
    }

    fn rows(n: i64) -> Vec<i64> {
        (1..=n).collect()
    }

    #[test]
    fn a_dirty_table_becomes_a_clean_one() {
        let table = df!(
            "at" => [" 01.02.2026 10:00:00", "01.02.2026 10:00:10", "01.02.2026 10:00:10", "soon", "01.02.2026 10:00:20"],
            "Temp" => ["20,5 ", "1.021,0", "-", "1", "x"],
            "room" => ["Hall", "HALL", "hall", "hall", ""],
            ROW => rows(5)
        );
        let steps = "trim;null:-:Temp;decimal_comma:Temp;drop_empty:Temp;time:at:%d.%m.%Y %H:%M:%S;scale:Temp:2:1;\
                     lower:room;rename:Temp:value;replace:room:hall:Hall";
        let (clean, report) = clean(table.unwrap(), steps).unwrap();
        let times = clean.column("at").unwrap().cast(&DataType::Int64).unwrap();
        assert_eq!(times.i64().unwrap().iter().flatten().collect::<Vec<_>>(), [1_769_940_000_000, 1_769_940_010_000]);
        assert_eq!(clean.column("value").unwrap().f64().unwrap().iter().flatten().collect::<Vec<_>>(), [42.0, 2043.0]);
        assert_eq!(clean.column("room").unwrap().str().unwrap().iter().flatten().collect::<Vec<_>>(), ["Hall", "Hall"]);
        assert_eq!(clean.get_column_names(), ["at", "value", "room", ROW]);
        assert_eq!(report.left_out, [("drop_empty:Temp".to_owned(), 1)].into());
        let bad = [(4, "at: no time of that form".to_owned()), (5, "Temp: not a number".to_owned())];
        assert_eq!(report.bad, bad);
    }

    #[test]
    fn wide_tables_become_long_and_repetitions_go() {
        let table = df!("t" => ["1", "1", "2"], "x" => [1.0, 2.0, f64::NAN], "y" => [Some(10.0), None, Some(30.0)], ROW => rows(3));
        let (long, report) =
            clean(table.unwrap(), "dedupe:t:last;unpivot:metric_name:value:x+y;drop_empty:value;keep:value::25")
                .unwrap();
        assert_eq!(long, df!("t" => ["1"], "metric_name" => ["x"], "value" => [2.0], ROW => [2_i64]).unwrap());
        let left_out = [("dedupe:t:last", 1), ("drop_empty:value", 2), ("keep:value::25", 1)];
        assert_eq!(report.left_out, left_out.map(|(step, n)| (step.to_owned(), n)).into());
    }

    #[test]
    fn what_cannot_be_done_is_said_with_the_columns_there_are() {
        let table = || df!("a" => ["1"], "b" => [1.0], ROW => rows(1)).unwrap();
        for steps in ["lower:c", "lower:b", "unpivot:n:v:a+b", "rename:a:b", "unpivot:b:v:a", "fill:b:x", "dedupe:z"] {
            let error = clean(table(), steps).unwrap_err();
            assert!(error.starts_with(steps), "{error}");
        }
        assert!(clean(table(), "drop:z").unwrap_err().contains("but a, b"));
        let (kept, _) = clean(table(), "fill:b:2;keep:b:1:1;drop:a").unwrap();
        assert_eq!(kept.get_column_names(), ["b", ROW]);
    }
}
