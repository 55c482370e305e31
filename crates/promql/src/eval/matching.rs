//! Operators between two vectors: which series of the two sides meet is worked out once, not at each step.

use hashbrown::{HashMap, HashSet};
use model::{Labels, LabelsBuf};

use super::binary::{changes_meaning, compute};
use super::error::EvalError;
use super::evaluator::Evaluator;
use super::frame::Frame;
use super::label_set::{go_string, is_metadata, match_labels};
use super::series::{ABSENT, Series, Vector, is_absent};
use crate::ast::{Binary, Cardinality, Matching, Span};

/// The series of both sides that have the same matching labels.
#[derive(Default)]
struct Meeting {
    labels: Labels,
    /// Of the side that may have many.
    many: Vec<usize>,
    /// Of the side that must have one at each step.
    one: Vec<usize>,
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
        for (any, value) in any.iter_mut().zip(&one.values) {
            *any |= !is_absent(*value);
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
        self.note_trim(binary.op, &left, at);
        let swapped = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped { (&right, &left) } else { (&left, &right) };
        let (fill_many, fill_one) = match swapped {
            true => (matching.fill_right, matching.fill_left),
            false => (matching.fill_left, matching.fill_right),
        };
        let (many_any, one_any) = (any_present(&many.series, frame.steps), any_present(&one.series, frame.steps));
        let looked_at = many_any.into_iter().zip(one_any).map(|(many, one)| filled || (many && one)).collect();
        let mut matcher = Matcher {
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
        use crate::ast::BinaryOp::{And, Or};
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
                for (present, value) in present.iter_mut().zip(&series.values) {
                    *present |= !is_absent(*value);
                }
            }
            for index in masked_by {
                let Some(series) = masked.get_mut(*index) else { continue };
                series.map(|step, value| {
                    let present = present.get(step).copied().unwrap_or(false);
                    if present == (binary.op == And) { value } else { ABSENT }
                });
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
        let mut made: HashSet<(usize, Labels)> = HashSet::new();
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
            for ((slot, value), looked_at) in one_at.iter_mut().zip(&series.values).zip(&self.looked_at) {
                if is_absent(*value) || !looked_at {
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
        made: &mut HashSet<(usize, Labels)>,
    ) -> Result<(), EvalError> {
        let Some(many) = self.many.get(index) else { return Ok(()) };
        let one_to_one = self.matching.cardinality == Cardinality::OneToOne;
        // One column for each series of the one side (and one for the filled value), because labels may come from there.
        let mut columns: Vec<(Option<usize>, Labels, Vec<f64>)> = Vec::new();
        for (step, value) in many.values.iter().enumerate() {
            if is_absent(*value) || !self.looked_at.get(step).copied().unwrap_or(false) {
                continue;
            }
            let one = one_at.get(step).copied().flatten();
            let partner = one.and_then(|one| self.one.get(one));
            let other = match (partner, self.fill_one) {
                (Some(series), _) => series.values.get(step).copied().unwrap_or(ABSENT),
                (None, Some(fill)) => fill,
                (None, None) => continue,
            };
            let at = match columns.iter().position(|(known, ..)| *known == one) {
                Some(at) => at,
                None => {
                    let labels = self.result_labels(&many.labels, partner.map_or(&meeting.labels, |s| &s.labels));
                    columns.push((one, labels, vec![ABSENT; one_at.len()]));
                    columns.len() - 1
                }
            };
            let Some((_, labels, column)) = columns.get_mut(at) else { continue };
            if let Some(matched) = matched.get_mut(step)
                && std::mem::replace(matched, true)
                && one_to_one
            {
                return execution(
                    "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
                );
            }
            // Only where several series of the many side may come out the same is it worth remembering.
            if !one_to_one && meeting.many.len() > 1 && !made.insert((step, labels.clone())) {
                return execution("multiple matches for labels: grouping labels must ensure unique matches");
            }
            if let Some(slot) = column.get_mut(step) {
                *slot = self.value(*value, other);
            }
        }
        for (_, labels, values) in columns {
            self.push(labels, many.drop_name, values)?;
        }
        Ok(())
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
            let alone = |step: usize| {
                one_at.get(step) == Some(&Some(*index)) && matched.get(step).is_some_and(|matched| !matched)
            };
            let value = |(step, value): (usize, &f64)| if alone(step) { self.value(fill, *value) } else { ABSENT };
            let values = one.values.iter().enumerate().map(value).collect();
            self.push(labels, false, values)?;
        }
        Ok(())
    }

    fn push(&mut self, labels: Labels, drop_name: bool, values: Vec<f64>) -> Result<(), EvalError> {
        let drop_name = self.binary.return_bool || (drop_name && !changes_meaning(self.binary.op));
        self.out.push(Series { labels, drop_name, values })
    }

    #[inline]
    fn value(&self, many: f64, one: f64) -> f64 {
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        match (compute(self.binary.op, left, right), self.binary.return_bool) {
            ((_, true), true) => 1.0,
            ((_, false), true) => 0.0,
            ((value, true), false) => value,
            ((_, false), false) => ABSENT,
        }
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
