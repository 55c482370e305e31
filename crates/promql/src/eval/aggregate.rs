//! Aggregations: the group of each series is worked out once, then whole columns flow into the groups.

use hashbrown::HashMap;
use model::{LABEL_NAME, Labels};

use super::error::EvalError;
use super::evaluator::{Evaluator, bare, impossible};
use super::frame::Frame;
use super::kahan::{Kahan, Mean};
use super::label_set::{filtered, with_label};
use super::native;
use super::quantile::{self, quantile};
use super::series::{ABSENT, Series, Vector, is_absent};
use crate::ast::{Aggregate, AggregateOp, Expr, Grouping, Span};
use crate::go_text::{float, quote};

/// Gives the labels of the group that a series belongs to.
pub(super) fn group_labels(labels: &Labels, grouping: &Grouping) -> Labels {
    let listed = |names: &[String], name: &str| names.iter().any(|n| n == name);
    match grouping {
        Grouping::By(names) if names.is_empty() => Labels::empty(),
        Grouping::By(names) => filtered(labels, |name| listed(names, name)),
        Grouping::Without(names) => filtered(labels, |name| name != LABEL_NAME && !listed(names, name)),
    }
}

/// Which series form which group.
pub(super) struct Groups {
    /// The labels of each group.
    pub labels: Vec<Labels>,
    /// The indices of its series.
    pub members: Vec<Vec<usize>>,
}

impl Groups {
    pub(super) fn new(series: &[Series], grouping: &Grouping) -> Groups {
        let mut groups = Groups { labels: Vec::new(), members: Vec::new() };
        let mut at: HashMap<Labels, usize> = HashMap::new();
        for (index, one) in series.iter().enumerate() {
            let labels = group_labels(&one.labels, grouping);
            let group = *at.entry(labels).or_insert_with_key(|labels| {
                groups.labels.push(labels.clone());
                groups.members.push(Vec::new());
                groups.members.len() - 1
            });
            if let Some(members) = groups.members.get_mut(group) {
                members.push(index);
            }
        }
        groups
    }
}

/// What a group has of one step so far.
#[derive(Clone, Copy)]
enum Cell {
    Nothing,
    Sum(Kahan),
    Mean(Mean),
    Value(f64),
    Variance { count: f64, mean: f64, squares: f64 },
}

impl Cell {
    #[inline]
    fn add(&mut self, op: AggregateOp, value: f64) {
        *self = match (*self, op) {
            (Cell::Nothing, AggregateOp::Sum) => Cell::Sum(Kahan { sum: value, lost: 0.0 }),
            (Cell::Nothing, AggregateOp::Avg) => {
                let mut mean = Mean::default();
                mean.add(value);
                Cell::Mean(mean)
            }
            (Cell::Nothing, AggregateOp::Count | AggregateOp::Group) => Cell::Value(1.0),
            (Cell::Nothing, AggregateOp::Stddev | AggregateOp::Stdvar) => {
                let squares = if value.is_finite() { 0.0 } else { f64::NAN };
                Cell::Variance { count: 1.0, mean: value, squares }
            }
            (Cell::Nothing, _) => Cell::Value(value),
            (Cell::Sum(sum), _) => Cell::Sum(sum.add(value)),
            (Cell::Mean(mut mean), _) => {
                mean.add(value);
                Cell::Mean(mean)
            }
            (Cell::Value(count), AggregateOp::Count) => Cell::Value(count + 1.0),
            (Cell::Value(best), AggregateOp::Max) if best < value || best.is_nan() => Cell::Value(value),
            (Cell::Value(best), AggregateOp::Min) if best > value || best.is_nan() => Cell::Value(value),
            (kept @ Cell::Value(_), _) => kept,
            (Cell::Variance { count, mean, squares }, _) => {
                let (count, delta) = (count + 1.0, value - mean);
                let mean = mean + delta / count;
                Cell::Variance { count, mean, squares: squares + delta * (value - mean) }
            }
        };
    }

    fn get(self, op: AggregateOp) -> f64 {
        match self {
            Cell::Nothing => ABSENT,
            Cell::Sum(sum) => sum.sum + sum.lost,
            Cell::Mean(mean) => mean.get(),
            Cell::Value(value) => value,
            Cell::Variance { count, squares, .. } if op == AggregateOp::Stddev => (squares / count).sqrt(),
            Cell::Variance { count, squares, .. } => squares / count,
        }
    }
}

impl Evaluator<'_> {
    #[inline(never)]
    pub(super) fn aggregate(&self, aggregate: &Aggregate, at: Span, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        match (aggregate.op, aggregate.param.as_deref()) {
            (AggregateOp::CountValues, Some(label)) => self.count_values(aggregate, label, frame),
            (AggregateOp::Quantile, Some(q)) => self.quantile_aggregate(aggregate, q, frame),
            (AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio, Some(param)) => {
                self.pick(aggregate, param, at, frame)
            }
            (_, None) => self.fold(aggregate, frame),
            _ => impossible("parameter of an aggregation"),
        }
    }

    fn fold(&self, aggregate: &Aggregate, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let input = self.vector(&aggregate.expr, frame)?;
        let groups = Groups::new(&input.series, &aggregate.grouping);
        let mut vector = self.empty()?;
        // A cell is as large as several doubles.
        let _held = self.budget.hold(frame.steps.saturating_mul(4))?;
        let mut cells = vec![Cell::Nothing; frame.steps];
        for (labels, members) in groups.labels.into_iter().zip(&groups.members) {
            cells.fill(Cell::Nothing);
            let mut drop_name = false;
            for series in members.iter().filter_map(|index| input.series.get(*index)) {
                self.tick(series.values.len())?;
                drop_name |= series.drop_name;
                for (cell, value) in cells.iter_mut().zip(&series.values) {
                    if !is_absent(*value) {
                        cell.add(aggregate.op, *value);
                    }
                }
            }
            let values = cells.iter().map(|cell| cell.get(aggregate.op)).collect();
            let mut series = Series::floats(labels, drop_name, values);
            let members: Vec<&Series> = members.iter().filter_map(|index| input.series.get(*index)).collect();
            if members.iter().any(|series| !series.histograms.is_empty()) {
                self.fold_histograms(aggregate, &members, &mut series)?;
            }
            vector.push(series)?;
        }
        Ok(vector)
    }

    fn fold_histograms(
        &self,
        aggregate: &Aggregate,
        members: &[&Series],
        series: &mut Series,
    ) -> Result<(), EvalError> {
        let at = bare(&aggregate.expr).span;
        for step in 0..series.values.len() {
            self.tick(members.len())?;
            let floats = series.float(step);
            let point = self.mixed_step(aggregate.op, members, step, at, floats);
            series.unset(step);
            if let Some(point) = point {
                series.set(step, point);
            }
        }
        Ok(())
    }

    fn quantile_aggregate(&self, aggregate: &Aggregate, q: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let qs = self.scalar(q, frame)?;
        let input = self.vector(&aggregate.expr, frame)?;
        self.note_extremes(&qs, q);
        let groups = Groups::new(&input.series, &aggregate.grouping);
        let mut vector = self.empty()?;
        let mut found = Vec::new();
        for (labels, members) in groups.labels.into_iter().zip(&groups.members) {
            let mut drop_name = false;
            let mut values = vec![ABSENT; frame.steps];
            for (step, slot) in values.iter_mut().enumerate() {
                found.clear();
                for series in members.iter().filter_map(|index| input.series.get(*index)) {
                    if let Some(value) = series.float(step) {
                        drop_name |= series.drop_name;
                        found.push(value);
                    } else if series.histogram(step).is_some() {
                        self.notes.borrow_mut().ignored_in_aggregation("quantile", bare(&aggregate.expr).span);
                    }
                }
                self.tick(members.len())?;
                if !found.is_empty() {
                    *slot = quantile(qs.get(step).copied().unwrap_or(f64::NAN), &mut found);
                }
            }
            vector.push(Series::floats(labels, drop_name, values))?;
        }
        Ok(vector)
    }

    /// Complains of quantiles that do not exist, of many only the outermost.
    fn note_extremes(&self, qs: &[f64], q: &Expr) {
        let at = bare(q).span;
        let mut notes = self.notes.borrow_mut();
        if qs.iter().any(|q| q.is_nan()) {
            notes.invalid_quantile(f64::NAN, at);
            return;
        }
        let highest = qs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lowest = qs.iter().copied().fold(f64::INFINITY, f64::min);
        [highest, lowest]
            .into_iter()
            .filter(|q| !quantile::is_valid(*q) && qs.contains(q))
            .for_each(|q| notes.invalid_quantile(q, at));
    }

    fn count_values(&self, aggregate: &Aggregate, label: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let name = self.text(label)?;
        // A literal that is no UTF-8 arrives with this character in place of the bytes.
        if name.is_empty() || name.contains(char::REPLACEMENT_CHARACTER) {
            return Err(EvalError::Execution(format!("invalid label name {}", quote(name))));
        }
        let grouping = match &aggregate.grouping {
            Grouping::By(names) => Grouping::By(names.iter().cloned().chain([name.to_owned()]).collect()),
            without => without.clone(),
        };
        let input = self.vector(&aggregate.expr, frame)?;
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut counts: Vec<Series> = Vec::new();
        let mut hold = self.budget.hold(0)?;
        for series in &input.series {
            // Per series most values repeat: the group of a value is worked out once.
            let mut known: HashMap<u64, usize> = HashMap::new();
            for (step, value) in series.values.iter().enumerate().filter(|(_, value)| !is_absent(**value)) {
                let group = match known.get(&value.to_bits()) {
                    Some(group) => *group,
                    None => {
                        let labels = group_labels(&with_label(&series.labels, name, &float(*value)), &grouping);
                        let group = *at.entry(labels.clone()).or_insert(counts.len());
                        if group == counts.len() {
                            hold.grow((frame.steps / 2).max(1) as u64)?;
                            counts.push(Series::absent(labels, false, frame.steps));
                        }
                        known.insert(value.to_bits(), group);
                        group
                    }
                };
                if let Some(count) = counts.get_mut(group).and_then(|group| group.values.get_mut(step)) {
                    *count = if is_absent(*count) { 1.0 } else { *count + 1.0 };
                }
            }
            for (step, histogram) in series.histograms.iter().enumerate() {
                let Some(histogram) = histogram else { continue };
                let text = native::text(histogram);
                let labels = group_labels(&with_label(&series.labels, name, &text), &grouping);
                let group = *at.entry(labels.clone()).or_insert(counts.len());
                if group == counts.len() {
                    hold.grow((frame.steps / 2).max(1) as u64)?;
                    counts.push(Series::absent(labels, false, frame.steps));
                }
                if let Some(count) = counts.get_mut(group).and_then(|group| group.values.get_mut(step)) {
                    *count = if is_absent(*count) { 1.0 } else { *count + 1.0 };
                }
            }
            self.tick(series.values.len())?;
        }
        drop(hold);
        self.vector_of(counts)
    }
}
