//! A way into the store that remembers what a reader of the answer should know.

use std::collections::BTreeSet;

use model::{Changed, Family, Matcher, Select, SelectError, SeriesReader, TimeRange};
use parking_lot::Mutex;

/// One query's way into the store.
pub struct Noting<'a> {
    select: &'a dyn Select,
    notes: Mutex<BTreeSet<String>>,
}

impl<'a> Noting<'a> {
    /// Starts without notes.
    pub fn new(select: &'a dyn Select) -> Noting<'a> {
        Noting { select, notes: Mutex::default() }
    }

    /// Gives what was noted, each once.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().iter().cloned().collect()
    }
}

impl Select for Noting<'_> {
    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        let notes = self.select.notes(matchers, range);
        if !notes.is_empty() {
            self.notes.lock().extend(notes);
        }
        self.select.select(matchers, range)
    }

    fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        self.select.label_names(matchers, range)
    }

    fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        self.select.label_values(name, matchers, range)
    }

    fn changes(&self, since: u64) -> Changed {
        self.select.changes(since)
    }

    fn metadata(&self, family: Option<&str>) -> Vec<Family> {
        self.select.metadata(family)
    }
}
