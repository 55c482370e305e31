//! Aggregating one step of a group that has native histograms in it.

use std::sync::Arc;

use model::histogram::{Histogram, ResetHint};

use super::evaluator::Evaluator;
use super::native::{Added, Incompatible, Mean, Total};
use super::series::{Point, Series};
use crate::ast::{AggregateOp, Span};

/// A histogram with the metric it belongs to.
type Member<'m> = (&'m str, &'m Arc<Histogram>);

impl Evaluator<'_> {
    /// Computes a step of `sum`, `avg`, `count` or `group`; `floats` gives what the doubles come to, if there are any.
    pub(super) fn mixed_step(
        &self,
        op: AggregateOp,
        members: &[&Series],
        step: usize,
        at: Span,
        floats: Option<f64>,
    ) -> Option<Point> {
        let histograms: Vec<Member<'_>> =
            members.iter().filter_map(|series| Some((series.labels.metric_name(), series.histogram(step)?))).collect();
        if histograms.is_empty() {
            return floats.map(Point::Float);
        }
        match op {
            AggregateOp::Count => Some(Point::Float(floats.unwrap_or(0.0) + histograms.len() as f64)),
            AggregateOp::Group => Some(Point::Float(1.0)),
            AggregateOp::Sum | AggregateOp::Avg if floats.is_some() => {
                self.notes.borrow_mut().mixed_aggregation(at);
                None
            }
            AggregateOp::Sum => self.total(&histograms, at),
            AggregateOp::Avg => self.mean(&histograms, at),
            _ => {
                self.notes.borrow_mut().ignored_in_aggregation(op.as_str(), at);
                floats.map(Point::Float)
            }
        }
    }

    fn total(&self, histograms: &[Member<'_>], at: Span) -> Option<Point> {
        let ((_, first), rest) = histograms.split_first()?;
        let mut total = Total::new(first);
        let mut added = Added::default();
        for (metric, histogram) in rest {
            added.note(self.joined(total.add(histogram, 1.0), metric, at)?);
        }
        self.note_added(histograms, added, at);
        Some(Point::Histogram(Arc::new(total.get())))
    }

    fn mean(&self, histograms: &[Member<'_>], at: Span) -> Option<Point> {
        let ((_, first), rest) = histograms.split_first()?;
        let mut mean = Mean::new(first);
        let mut added = Added::default();
        for (metric, histogram) in rest {
            added.note(self.joined(mean.add(histogram), metric, at)?);
        }
        self.note_added(histograms, added, at);
        Some(Point::Histogram(Arc::new(mean.get())))
    }

    fn joined(&self, added: Result<Added, Incompatible>, metric: &str, at: Span) -> Option<Added> {
        if added.is_err() {
            self.notes.borrow_mut().mixed_schemas(metric, at);
        }
        added.ok()
    }

    fn note_added(&self, histograms: &[Member<'_>], added: Added, at: Span) {
        let any = |hint: ResetHint| histograms.iter().any(|(_, h)| h.reset_hint == hint);
        let mut notes = self.notes.borrow_mut();
        if any(ResetHint::Reset) && any(ResetHint::NoReset) {
            notes.conflicting_resets("aggregation", at);
        }
        if added.reconciled {
            notes.reconciled_buckets("aggregation", at);
        }
    }
}
