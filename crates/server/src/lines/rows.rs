//! Names of line protocols as names of series.

use model::{Batch, LABEL_NAME, LabelsBuf, NO_FAMILY, Refusal, SeriesIndex, Verdict};
use wire::legacy_name;

/// Labels of one series; far more than the store takes.
const LABELS_MAX: usize = 1_000;

/// Makes series out of foreign names.
///
/// Invariant: what it makes has a name and label names of Prometheus' text format, none with two underscores before it.
#[derive(Default)]
pub struct SeriesMaker {
    labels: LabelsBuf,
    name: String,
    /// A label name is not one that may be given.
    reserved: bool,
    /// There are more labels than [`LABELS_MAX`].
    crowded: bool,
}

impl SeriesMaker {
    /// Starts a series.
    pub fn begin(&mut self, name: &str) {
        self.labels.clear();
        (self.reserved, self.crowded) = (false, false);
        legacy_name(name, true, &mut self.name);
        self.labels.push(LABEL_NAME, &self.name);
    }

    /// Puts another name on the series.
    pub fn rename(&mut self, name: &str) {
        legacy_name(name, true, &mut self.name);
        self.labels.set(LABEL_NAME, &self.name);
    }

    /// Adds a label; the last of equal names wins.
    pub fn label(&mut self, name: &str, value: &str) {
        legacy_name(name, false, &mut self.name);
        if self.name.starts_with("__") {
            self.reserved = true;
        } else if self.labels.len() > LABELS_MAX {
            // Each name is looked for among those before it.
            self.crowded = true;
        } else {
            self.labels.set(&self.name, value);
        }
    }

    /// Adds a label unless it is there.
    pub fn default_label(&mut self, name: &str, value: &str) {
        if self.labels.get(name).is_none() {
            self.labels.set(name, value);
        }
    }

    /// Adds the series and a sample to a batch; one with a reserved name is refused there.
    pub fn push(&mut self, batch: &mut Batch, ts_ms: i64, value: f64) {
        // Names are unique: `set` replaces.
        let sorted = self.labels.sort();
        debug_assert!(sorted.is_ok());
        let series: SeriesIndex = batch.push_series(&self.labels, NO_FAMILY);
        match (self.reserved, self.crowded) {
            (false, false) => batch.push_sample(series, ts_ms, value),
            (true, _) => batch.push_decided(series, ts_ms, value, Verdict::Refused(Refusal::InvalidName)),
            (false, true) => batch.push_decided(series, ts_ms, value, Verdict::Refused(Refusal::LabelLimit)),
        }
    }

    /// Gives the labels; `None` when one of them is reserved, or there are too many.
    pub fn labels(&mut self) -> Option<model::Labels> {
        if self.reserved || self.crowded || self.labels.sort().is_err() {
            return None;
        }
        Some(self.labels.to_labels())
    }
}
