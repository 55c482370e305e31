//! Operators between two vectors: which series of the two sides meet is worked out once, not at each step.

use hashbrown::HashMap;
use model::{Labels, LabelsBuf};

use super::binary::{changes_meaning, compute};
use super::error::EvalError;
use super::evaluator::Evaluator;
use super::frame::Frame;
use super::label_set::{go_string, is_metadata, match_labels};
use super::series::{Point, Series, Vector};
use crate::ast::{Binary, BinaryOp, Cardinality, Matching, Span};

/// The series of both sides that have the same matching labels.
#[derive(Default)]
struct Meeting {
    labels: Labels,
    /// Of the side that may have many.
    many: Vec<usize>,
    /// Of the side that must have one at each step.
    one: Vec<usize>,
}

/// The label sets that a meeting made, with the steps at which it made them.
#[derive(Default)]
struct Made {
    slots: HashMap<Labels, usize>,
    steps: Vec<Vec<bool>>,
}

impl Made {
    fn slot(&mut self, labels: &Labels, steps: usize) -> usize {
        let next = self.steps.len();
        let slot = *self.slots.entry(labels.clone()).or_insert(next);
        if slot == next {
            self.steps.push(vec![false; steps]);
        }
        slot
    }

    /// Tells whether the label set was made at this step before.
    fn twice(&mut self, slot: usize, step: usize) -> bool {
        let made = self.steps.get_mut(slot).and_then(|steps| steps.get_mut(step));
        made.is_some_and(|made| std::mem::replace(made, true))
    }
}

/// Groups the series of both sides by their matching labels.
fn meetings(many: &[Series], one: &[Series], matching: &Matching) -> Vec<Meeting> {
    let mut at: HashMap<Labels, usize> = HashMap::new();
    let mut all: Vec<Meeting> = Vec::new();
    let mut place = |series: &Series| {
        let labels = match_labels(&series.labels, matching.on, &matching.labels);
        *at.entry(labels).or_insert_with_key(|labels| {
            all.push(Meeting { labels: labels.clone(), ..Meeting::default() });
            all.len() - 1
        })
    };
    let many: Vec<usize> = many.iter().map(&mut place).collect();
    let one: Vec<usize> = one.iter().map(&mut place).collect();
    for (index, meeting) in many.into_iter().enumerate() {
        if let Some(meeting) = all.get_mut(meeting) {
            meeting.many.push(index);
        }
    }
    for (index, meeting) in one.into_iter().enumerate() {
        if let Some(meeting) = all.get_mut(meeting) {
            meeting.one.push(index);
        }
    }
    all
}

/// Which steps have any value at all.
fn any_present(series: &[Series], steps: usize) -> Vec<bool> {
    let mut any = vec![false; steps];
    for one in series {
        for (step, any) in any.iter_mut().enumerate() {
            *any |= one.has(step);
        }
    }
    any
}

fn execution<T>(text: &str) -> Result<T, EvalError> {
    Err(EvalError::Execution(text.to_owned()))
}

/// An operator between two vectors at work. `many` and `one` are the sides as matching sees them; `swapped` tells that
/// the one side stands on the left.
struct Matcher<'m, 'a> {
    evaluator: &'a Evaluator<'a>,
    at: Span,
    binary: &'m Binary,
    matching: &'m Matching,
    swapped: bool,
    many: &'m [Series],
    one: &'m [Series],
    /// Steps at which both sides have something, so that they are looked at.
    looked_at: Vec<bool>,
    fill_many: Option<f64>,
    fill_one: Option<f64>,
    out: Vector<'a>,
}

impl Evaluator<'_> {
    pub(super) fn matched(&self, binary: &Binary, at: Span, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let default = Matching::default();
        let matching = binary.matching.as_ref().unwrap_or(&default);
        let left = self.vector(&binary.lhs, frame)?;
        let right = self.vector(&binary.rhs, frame)?;
        let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
        if (left.series.is_empty() || right.series.is_empty()) && !filled {
            return self.empty();
        }
        let swapped = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped { (&right, &left) } else { (&left, &right) };
        let (fill_many, fill_one) = match swapped {
            true => (matching.fill_right, matching.fill_left),
            false => (matching.fill_left, matching.fill_right),
        };
        let _held = self.budget.hold(frame.steps.saturating_mul(2))?;
        let (many_any, one_any) = (any_present(&many.series, frame.steps), any_present(&one.series, frame.steps));
        let looked_at = many_any.into_iter().zip(one_any).map(|(many, one)| filled || (many && one)).collect();
        let mut matcher = Matcher {
            evaluator: self,
            at,
            binary,
            matching,
            swapped,
            many: &many.series,
            one: &one.series,
            looked_at,
            fill_many,
            fill_one,
            out: self.empty()?,
        };
        for meeting in meetings(&many.series, &one.series, matching) {
            self.tick_series()?;
            self.tick((meeting.many.len() + meeting.one.len()).saturating_mul(frame.steps))?;
            matcher.meet(&meeting, frame)?;
        }
        let mut out = matcher.out;
        out.merge()?;
        Ok(out)
    }

    /// Evaluates `and`, `or` and `unless`.
    pub(super) fn set_operation(&self, binary: &Binary, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        use BinaryOp::{And, Or};
        let default = Matching::default();
        let matching = binary.matching.as_ref().unwrap_or(&default);
        let mut left = self.vector(&binary.lhs, frame)?;
        let mut right = self.vector(&binary.rhs, frame)?;
        for meeting in meetings(&left.series, &right.series, matching) {
            self.tick((meeting.many.len() + meeting.one.len()).saturating_mul(frame.steps))?;
            // `and` and `unless` look what the right side has, `or` what the left side has.
            let (seen, seen_by, masked, masked_by) = match binary.op {
                Or => (&left.series, &meeting.many, &mut right.series, &meeting.one),
                _ => (&right.series, &meeting.one, &mut left.series, &meeting.many),
            };
            let mut present = vec![false; frame.steps];
            for series in seen_by.iter().filter_map(|index| seen.get(*index)) {
                for (step, present) in present.iter_mut().enumerate() {
                    *present |= series.has(step);
                }
            }
            for index in masked_by {
                let Some(series) = masked.get_mut(*index) else { continue };
                for (step, present) in present.iter().enumerate() {
                    if *present != (binary.op == And) {
                        series.unset(step);
                    }
                }
            }
        }
        left.prune();
        if binary.op == Or {
            right.prune();
            left.append(right)?;
            left.merge()?;
        }
        Ok(left)
    }
}

impl Matcher<'_, '_> {
    fn meet(&mut self, meeting: &Meeting, frame: &Frame) -> Result<(), EvalError> {
        let one_at = self.one_at_each_step(meeting, frame)?;
        // Steps at which a series of the many side found its one.
        let mut matched = vec![false; frame.steps];
        // What was made in this meeting, to see that nothing is made twice.
        let mut made = Made::default();
        for index in &meeting.many {
            self.meet_series(*index, meeting, &one_at, &mut matched, &mut made)?;
        }
        if let Some(fill) = self.fill_many {
            self.meet_nothing(fill, meeting, &one_at, &matched)?;
        }
        Ok(())
    }

    /// Finds which series of the one side has a value at each step.
    fn one_at_each_step(&self, meeting: &Meeting, frame: &Frame) -> Result<Vec<Option<usize>>, EvalError> {
        let mut one_at: Vec<Option<usize>> = vec![None; frame.steps];
        for index in &meeting.one {
            let Some(series) = self.one.get(*index) else { continue };
            for (step, (slot, looked_at)) in one_at.iter_mut().zip(&self.looked_at).enumerate() {
                if !looked_at || !series.has(step) {
                    continue;
                }
                if let Some(other) = slot.replace(*index) {
                    return self.duplicate(other, *index, meeting);
                }
            }
        }
        Ok(one_at)
    }

    fn duplicate<T>(&self, a: usize, b: usize, meeting: &Meeting) -> Result<T, EvalError> {
        let side = if self.swapped { "left" } else { "right" };
        let mut names: Vec<String> =
            [a, b].into_iter().filter_map(|index| self.one.get(index)).map(|s| go_string(&s.labels)).collect();
        names.sort();
        execution(&format!(
            "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}];many-to-many matching not allowed: matching labels must be unique on one side",
            go_string(&meeting.labels),
            names.join(", ")
        ))
    }

    fn meet_series(
        &mut self,
        index: usize,
        meeting: &Meeting,
        one_at: &[Option<usize>],
        matched: &mut [bool],
        made: &mut Made,
    ) -> Result<(), EvalError> {
        let Some(many) = self.many.get(index) else { return Ok(()) };
        let one_to_one = self.matching.cardinality == Cardinality::OneToOne;
        // One column for each series of the one side (and one for the filled value), because labels may come from there.
        let mut columns: Vec<(Option<usize>, usize, Series)> = Vec::new();
        // Only where several series of the many side may come out the same is it worth remembering.
        let watched = !one_to_one && meeting.many.len() > 1;
        for (step, one) in one_at.iter().enumerate() {
            if !self.looked_at.get(step).copied().unwrap_or(false) {
                continue;
            }
            let partner = one.and_then(|one| self.one.get(one));
            let (Some(value), Some(other)) = (many.point(step), self.other(partner, step)) else { continue };
            let Some(result) = self.value(&value, &other) else { continue };
            let at = match columns.iter().position(|(known, ..)| known == one) {
                Some(at) => at,
                None => {
                    let labels = self.result_labels(&many.labels, partner.map_or(&meeting.labels, |s| &s.labels));
                    let slot = if watched { made.slot(&labels, one_at.len()) } else { 0 };
                    columns.push((*one, slot, Series::absent(labels, many.drop_name, one_at.len())));
                    columns.len() - 1
                }
            };
            let Some((_, slot, column)) = columns.get_mut(at) else { continue };
            if let Some(matched) = matched.get_mut(step)
                && std::mem::replace(matched, true)
                && one_to_one
            {
                return execution(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                );
            }
            if watched && made.twice(*slot, step) {
                return execution("multiple matches for labels: grouping labels must ensure unique matches");
            }
            if let Some(point) = result {
                column.set(step, point);
            }
        }
        columns.into_iter().try_for_each(|(.., series)| self.push(series))
    }

    /// The value on the one side: of the series that is there, else the one to fill in.
    fn other(&self, partner: Option<&Series>, step: usize) -> Option<Point> {
        match partner {
            Some(series) => series.point(step),
            None => self.fill_one.map(Point::Float),
        }
    }

    /// Computes where only the one side has a value, with the fill value for the other.
    fn meet_nothing(
        &mut self,
        fill: f64,
        meeting: &Meeting,
        one_at: &[Option<usize>],
        matched: &[bool],
    ) -> Result<(), EvalError> {
        for index in &meeting.one {
            let Some(one) = self.one.get(*index) else { continue };
            let labels = self.result_labels(&meeting.labels, &one.labels);
            let mut series = Series::absent(labels, false, one.values.len());
            for (step, matched) in matched.iter().enumerate() {
                if *matched || one_at.get(step) != Some(&Some(*index)) {
                    continue;
                }
                let result = one.point(step).and_then(|value| self.value(&Point::Float(fill), &value)).flatten();
                if let Some(point) = result {
                    series.set(step, point);
                }
            }
            self.push(series)?;
        }
        Ok(())
    }

    fn push(&mut self, mut series: Series) -> Result<(), EvalError> {
        series.drop_name = self.binary.return_bool || (series.drop_name && !changes_meaning(self.binary.op));
        self.out.push(series)
    }

    /// Computes a value of each side: `None` when the two do not fit together, `Some(None)` when nothing comes out.
    #[inline]
    fn value(&self, many: &Point, one: &Point) -> Option<Option<Point>> {
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        let op = self.binary.op;
        let (result, keep) = match (left, right) {
            (Point::Float(_), Point::Float(_)) if matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower) => {
                self.evaluator.notes.borrow_mut().incompatible_types("float", op.as_str(), "float", self.at);
                return None;
            }
            (Point::Float(left), Point::Float(right)) => {
                let (value, keep) = compute(op, *left, *right);
                (Point::Float(value), keep)
            }
            _ => self.evaluator.compute_native(op, left, right, self.at)?,
        };
        Some(match (self.binary.return_bool, keep) {
            (true, keep) => Some(Point::Float(if keep { 1.0 } else { 0.0 })),
            (false, true) => Some(result),
            (false, false) => None,
        })
    }

    /// The labels of the many side, changed as operator and matching want it.
    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let matching = self.matching;
        let mut labels = LabelsBuf::from_labels(many);
        if changes_meaning(self.binary.op) {
            labels.retain(|name, _| !is_metadata(name));
        }
        if matching.cardinality == Cardinality::OneToOne {
            labels.retain(|name, _| matching.labels.iter().any(|n| n == name) == matching.on);
        }
        for name in &matching.include {
            labels.set(name, one.get(name).unwrap_or_default());
        }
        labels.to_labels()
    }
}
