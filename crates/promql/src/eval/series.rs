//! What expressions evaluate to: per series a column with a value for each step.
//!
//! A step without a double holds [`ABSENT`], the stale marker: it ends a series on the way in and so can never be a
//! value. Native histograms stand in a second column at steps that are absent in the first; most series have none.

use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use model::histogram::Histogram;
use model::{Labels, STALE_NAN_BITS};

use super::budget::Hold;
use super::error::EvalError;
use super::label_set::without_metadata;

/// No value at this step.
pub(super) const ABSENT: f64 = f64::from_bits(STALE_NAN_BITS);

/// Tells whether a step has no value.
#[inline]
pub(super) fn is_absent(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// A value at one step.
#[derive(Clone, Debug)]
pub(super) enum Point {
    /// A double.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// One series over the steps of a frame.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// Its labels; the name is still there when it is only to be dropped at the end.
    pub labels: Labels,
    /// Whether the name (with type and unit) goes away when the query is done.
    pub drop_name: bool,
    /// A double or [`ABSENT`] for each step.
    pub values: Vec<f64>,
    /// Native histograms: empty, or one place for each step.
    pub histograms: Vec<Option<Arc<Histogram>>>,
}

impl Series {
    /// Makes a series of doubles.
    pub(super) fn floats(labels: Labels, drop_name: bool, values: Vec<f64>) -> Series {
        Series { labels, drop_name, values, histograms: Vec::new() }
    }

    /// Makes a series without any value.
    pub(super) fn absent(labels: Labels, drop_name: bool, steps: usize) -> Series {
        Series::floats(labels, drop_name, vec![ABSENT; steps])
    }

    /// Gives the double at a step.
    #[inline]
    pub(super) fn float(&self, step: usize) -> Option<f64> {
        self.values.get(step).copied().filter(|value| !is_absent(*value))
    }

    /// Gives the histogram at a step.
    #[inline]
    pub(super) fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        self.histograms.get(step).and_then(Option::as_ref)
    }

    /// Gives the value at a step.
    pub(super) fn point(&self, step: usize) -> Option<Point> {
        match self.float(step) {
            Some(value) => Some(Point::Float(value)),
            None => self.histogram(step).cloned().map(Point::Histogram),
        }
    }

    /// Tells whether a step has a value.
    #[inline]
    pub(super) fn has(&self, step: usize) -> bool {
        self.float(step).is_some() || self.histogram(step).is_some()
    }

    /// Sets the value at a step that has none.
    pub(super) fn set(&mut self, step: usize, point: Point) {
        match point {
            Point::Float(value) => {
                if let Some(slot) = self.values.get_mut(step) {
                    *slot = value;
                }
            }
            Point::Histogram(histogram) => {
                if self.histograms.is_empty() {
                    self.histograms.resize(self.values.len(), None);
                }
                if let Some(slot) = self.histograms.get_mut(step) {
                    *slot = Some(histogram);
                }
            }
        }
    }

    /// Takes the value at a step away.
    pub(super) fn unset(&mut self, step: usize) {
        if let Some(slot) = self.values.get_mut(step) {
            *slot = ABSENT;
        }
        if let Some(slot) = self.histograms.get_mut(step) {
            *slot = None;
        }
    }

    /// Counts the steps that have a value; a histogram counts as the doubles it takes the room of.
    pub(super) fn present(&self) -> usize {
        let floats = self.values.iter().filter(|v| !is_absent(**v)).count();
        floats + self.histograms.iter().flatten().map(|h| histogram_weight(h)).sum::<usize>()
    }

    /// Tells whether no step has a value.
    pub(super) fn is_empty(&self) -> bool {
        !self.has_floats() && self.histograms.iter().all(Option::is_none)
    }

    /// Tells whether any step has a double.
    pub(super) fn has_floats(&self) -> bool {
        !self.values.iter().all(|v| is_absent(*v))
    }

    /// Replaces every double by `f` of its step and itself; `f` may give [`ABSENT`].
    #[inline]
    pub(super) fn map(&mut self, mut f: impl FnMut(usize, f64) -> f64) {
        for (step, value) in self.values.iter_mut().enumerate() {
            if !is_absent(*value) {
                *value = f(step, *value);
            }
        }
    }

    /// Replaces every histogram by what `f` makes of it.
    pub(super) fn map_histograms(&mut self, mut f: impl FnMut(usize, &Histogram) -> Option<Point>) {
        for (step, histogram) in std::mem::take(&mut self.histograms).into_iter().enumerate() {
            if let Some(point) = histogram.and_then(|histogram| f(step, &histogram)) {
                self.set(step, point);
            }
        }
    }

    /// What it weighs in the budget: its values, and for sparse columns a part of the room they take.
    fn weight(&self) -> u64 {
        self.present().max(self.values.len() / 2) as u64
    }
}

/// What a series takes beside its values and the bytes of its labels.
const SERIES_BYTES: u64 = size_of::<Series>() as u64 + 32;

/// How many doubles a histogram takes the room of.
pub(super) fn histogram_weight(h: &Histogram) -> usize {
    6 + (h.positive.len() + h.negative.len() + h.custom_bounds.len() + h.positive_spans.len()) / 2
}

/// Series with their share of the budget. Series without any value are left out.
#[derive(Debug)]
pub(super) struct Vector<'a> {
    /// The series.
    pub series: Vec<Series>,
    hold: Hold<'a>,
}

impl<'a> Vector<'a> {
    /// Starts without series; `hold` is grown with each.
    pub(super) fn new(hold: Hold<'a>) -> Vector<'a> {
        Vector { series: Vec::new(), hold }
    }

    /// Adds a series unless it has no value.
    pub(super) fn push(&mut self, series: Series) -> Result<(), EvalError> {
        if series.is_empty() {
            return Ok(());
        }
        self.hold.grow_with(series.weight(), SERIES_BYTES + series.labels.as_bytes().len() as u64)?;
        self.series.push(series);
        Ok(())
    }

    /// Moves all series of another vector in.
    pub(super) fn append(&mut self, other: Vector<'a>) -> Result<(), EvalError> {
        let Vector { series, hold } = other;
        drop(hold);
        series.into_iter().try_for_each(|series| self.push(series))
    }

    /// Leaves out the series that lost their last value.
    pub(super) fn prune(&mut self) {
        self.series.retain(|series| !series.is_empty());
    }

    /// Makes one series of all that have the same labels.
    ///
    /// **Errors** when two of them have a value at the same step.
    pub(super) fn merge(&mut self) -> Result<(), EvalError> {
        self.series = merge(std::mem::take(&mut self.series))?;
        Ok(())
    }
}

/// Makes one series of all that have the same labels, in order of their first.
///
/// **Errors** when two of them have a value at the same step.
pub(super) fn merge(series: Vec<Series>) -> Result<Vec<Series>, EvalError> {
    let mut at: HashMap<Labels, usize> = HashMap::with_capacity(series.len());
    let mut merged: Vec<Series> = Vec::with_capacity(series.len());
    for one in series {
        match at.entry(one.labels.clone()) {
            Entry::Vacant(free) => {
                free.insert(merged.len());
                merged.push(one);
            }
            Entry::Occupied(taken) => {
                if let Some(first) = merged.get_mut(*taken.get()) {
                    join(first, &one)?;
                }
            }
        }
    }
    Ok(merged)
}

fn join(into: &mut Series, from: &Series) -> Result<(), EvalError> {
    for step in 0..from.values.len() {
        let Some(point) = from.point(step) else { continue };
        if into.has(step) {
            return Err(EvalError::Execution("vector cannot contain metrics with the same labelset".to_owned()));
        }
        into.set(step, point);
    }
    Ok(())
}

/// Drops the names that were to be dropped and merges what then is the same series.
pub(super) fn finish(mut series: Vec<Series>) -> Result<Vec<Series>, EvalError> {
    for one in &mut series {
        if one.drop_name {
            one.labels = without_metadata(&one.labels);
        }
    }
    merge(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        Series::floats(Labels::from_pairs([("__name__", name)]), true, values.to_vec())
    }

    #[test]
    fn series_merge_where_they_do_not_overlap() {
        let merged = finish(vec![series("a", &[1.0, ABSENT]), series("b", &[ABSENT, 2.0])]).unwrap();
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].values, [1.0, 2.0]);
        let clash = finish(vec![series("a", &[1.0, ABSENT]), series("b", &[3.0, 2.0])]);
        assert_eq!(clash.unwrap_err().to_string(), "vector cannot contain metrics with the same labelset");
    }
}
