//! The table: what is promised, what this machine showed.

use serde_json::{Value, json};

use crate::table;

/// What a row came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A promise that must hold on every machine, and did.
    Pass,
    /// It did not.
    Fail,
    /// A figure; the promise is about two cores of a certain kind with a release build.
    Measured,
    /// Not tried here, for the reason that stands in the row.
    NotRun,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "FAIL",
            Verdict::Measured => "measured",
            Verdict::NotRun => "not run",
        }
    }
}

/// One row.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// What it is about.
    pub what: String,
    /// What is promised.
    pub promise: String,
    /// What was seen.
    pub seen: String,
    /// The number in it, if there is one.
    pub value: Option<f64>,
    /// What it came to.
    pub verdict: Verdict,
}

/// All rows.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows(pub Vec<Row>);

impl Rows {
    /// Adds a figure.
    pub fn measured(&mut self, what: &str, promise: &str, value: f64, unit: &str) {
        let digits = if value.abs() >= 1_000.0 { 0 } else { 2 };
        let seen = format!("{value:.digits$} {unit}").trim().to_owned();
        self.push(what, promise, seen, Some(value), Verdict::Measured);
    }

    /// Adds a promise that held or did not.
    pub fn check(&mut self, what: &str, promise: &str, good: bool, seen: impl Into<String>) {
        self.push(what, promise, seen.into(), None, if good { Verdict::Pass } else { Verdict::Fail });
    }

    /// Adds what is not tried.
    pub fn not_run(&mut self, what: &str, promise: &str, why: &str) {
        self.push(what, promise, why.to_owned(), None, Verdict::NotRun);
    }

    fn push(&mut self, what: &str, promise: &str, seen: String, value: Option<f64>, verdict: Verdict) {
        self.0.push(Row { what: what.to_owned(), promise: promise.to_owned(), seen, value, verdict });
    }

    /// Counts the promises that did not hold.
    pub fn failed(&self) -> usize {
        self.0.iter().filter(|r| r.verdict == Verdict::Fail).count()
    }

    /// Prints the table.
    pub fn print(&self) {
        let row = |r: &Row| vec![r.what.clone(), r.promise.clone(), r.seen.clone(), r.verdict.as_str().to_owned()];
        table::print(&["What", "Promise", "Here", "Result"], self.0.iter().map(row).collect());
    }

    /// Gives the table for machines.
    pub fn json(&self, machine: &str, seconds: f64) -> Value {
        let row = |r: &Row| {
            json!({
                "what": r.what, "promise": r.promise, "seen": r.seen, "value": r.value,
                "result": r.verdict.as_str().to_ascii_lowercase().replace(' ', "_"),
            })
        };
        let rows: Vec<Value> = self.0.iter().map(row).collect();
        json!({"machine": machine, "seconds": seconds, "rows": rows, "failed": self.failed()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_row_is_a_failed_run() {
        let mut rows = Rows::default();
        rows.measured("speed", "much", 1_234.5, "samples/s");
        rows.check("kill -9", "0 lost", true, "0 lost");
        rows.not_run("disk full", "507", "needs a file system of its own");
        assert_eq!(rows.failed(), 0);
        rows.check("SIGTERM", "0 lost", false, "3 lost");
        let json = rows.json("m", 1.0);
        assert_eq!((&json["failed"], &json["rows"][3]["result"]), (&json!(1), &json!("fail")));
        assert_eq!(json["rows"][0]["seen"], "1234 samples/s");
        assert_eq!(json["rows"][2]["result"], "not_run");
    }
}
