//! Binary operators: on numbers, and between a vector and a scalar.

use std::sync::Arc;

use model::histogram::{Histogram, ResetHint};

use super::error::EvalError;
use super::evaluator::Evaluator;
use super::frame::Frame;
use super::native::{self, Total, compact};
use super::scalars::Scalars;
use super::series::{ABSENT, Point, Series, Vector};
use crate::ast::{Binary, BinaryOp, Expr, Span};

/// Computes two numbers; a comparison gives its left side and whether it holds.
#[inline]
pub(super) fn compute(op: BinaryOp, left: f64, right: f64) -> (f64, bool) {
    match op {
        BinaryOp::Add => (left + right, true),
        BinaryOp::Sub => (left - right, true),
        BinaryOp::Mul => (left * right, true),
        BinaryOp::Div => (left / right, true),
        BinaryOp::Mod => (left % right, true),
        BinaryOp::Pow => (left.powf(right), true),
        BinaryOp::Atan2 => (left.atan2(right), true),
        BinaryOp::Eql => (left, left == right),
        BinaryOp::Neq => (left, left != right),
        BinaryOp::Lss => (left, left < right),
        BinaryOp::Lte => (left, left <= right),
        BinaryOp::Gtr => (left, left > right),
        BinaryOp::Gte => (left, left >= right),
        // Sets and histograms only; no float comes out.
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::TrimUpper | BinaryOp::TrimLower => (left, false),
    }
}

/// Tells whether the result measures something else than the left side, so that its name would mislead.
pub(super) fn changes_meaning(op: BinaryOp) -> bool {
    use BinaryOp::{Add, Atan2, Div, Mod, Mul, Pow, Sub};
    matches!(op, Add | Sub | Mul | Div | Mod | Pow | Atan2)
}

fn truth(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

impl Evaluator<'_> {
    /// Evaluates an operator between two scalars.
    #[inline(never)]
    pub(super) fn scalar_binary(&self, binary: &Binary, frame: &Frame) -> Result<Scalars<'_>, EvalError> {
        let op = binary.op;
        self.both(&binary.lhs, &binary.rhs, frame, |left, right| match compute(op, left, right) {
            (_, holds) if op.is_comparison() => truth(holds),
            (value, _) => value,
        })
    }

    /// Evaluates an operator of which at least one side is a vector.
    #[inline(never)]
    pub(super) fn binary(&self, binary: &Binary, at: Span, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        match (self.is_scalar(&binary.lhs), self.is_scalar(&binary.rhs)) {
            (false, false) if binary.op.is_set() => self.set_operation(binary, frame),
            (false, false) => self.matched(binary, at, frame),
            (true, _) => self.with_scalar(binary, (&binary.rhs, &binary.lhs), true, at, frame),
            (_, true) => self.with_scalar(binary, (&binary.lhs, &binary.rhs), false, at, frame),
        }
    }

    /// Combines a vector with a scalar, which stands on the left if `swapped`.
    fn with_scalar(
        &self,
        binary: &Binary,
        (vector, scalar): (&Expr, &Expr),
        swapped: bool,
        at: Span,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let scalars = self.scalar(scalar, frame)?;
        let mut vector = self.vector(vector, frame)?;
        let op = binary.op;
        for series in &mut vector.series {
            self.tick(series.values.len())?;
            series.drop_name |= changes_meaning(op) || binary.return_bool;
            self.note_trim(op, series, at);
            let scalar = |step: usize| scalars.get(step).copied().unwrap_or(f64::NAN);
            series.map(|step, value| {
                let (left, right) = if swapped { (scalar(step), value) } else { (value, scalar(step)) };
                match compute(op, left, right) {
                    (_, holds) if binary.return_bool && !is_trim(op) => truth(holds),
                    (_, false) => ABSENT,
                    // A comparison keeps the value of the vector, on whichever side it stands.
                    _ if op.is_comparison() => value,
                    (result, true) => result,
                }
            });
            series.map_histograms(|step, h| {
                let result = native_with_float(op, scalar(step), h, swapped);
                if result.is_none() {
                    let (left, right) = if swapped { ("float", "histogram") } else { ("histogram", "float") };
                    self.notes.borrow_mut().incompatible_types(left, op.as_str(), right, at);
                }
                result.map(|histogram| Point::Histogram(Arc::new(histogram)))
            });
        }
        vector.prune();
        Ok(vector)
    }

    /// Complains of doubles where only native histograms can be trimmed.
    pub(super) fn note_trim(&self, op: BinaryOp, series: &Series, at: Span) {
        if is_trim(op) && series.has_floats() {
            self.notes.borrow_mut().incompatible_types("float", op.as_str(), "float", at);
        }
    }

    /// Computes two values of which at least one is a histogram; `None` when nothing comes out.
    pub(super) fn compute_native(&self, op: BinaryOp, left: &Point, right: &Point, at: Span) -> Option<(Point, bool)> {
        let kind = |point: &Point| if matches!(point, Point::Float(_)) { "float" } else { "histogram" };
        let result = match (left, right) {
            (Point::Histogram(a), Point::Histogram(b)) => match op {
                BinaryOp::Add | BinaryOp::Sub => return self.summed(a, b, op, at),
                BinaryOp::Eql => return Some((left.clone(), native::equal(a, b))),
                BinaryOp::Neq => return Some((left.clone(), !native::equal(a, b))),
                _ => None,
            },
            (Point::Histogram(h), Point::Float(value)) => native_with_float(op, *value, h, false),
            (Point::Float(value), Point::Histogram(h)) => native_with_float(op, *value, h, true),
            (Point::Float(_), Point::Float(_)) => None,
        };
        if result.is_none() {
            self.notes.borrow_mut().incompatible_types(kind(left), op.as_str(), kind(right), at);
        }
        result.map(|histogram| (Point::Histogram(Arc::new(histogram)), true))
    }

    fn summed(&self, a: &Histogram, b: &Histogram, op: BinaryOp, at: Span) -> Option<(Point, bool)> {
        let (sign, during) = if op == BinaryOp::Add { (1.0, "addition") } else { (-1.0, "subtraction") };
        let mut total = Total::new(a);
        let mut notes = self.notes.borrow_mut();
        let Ok(added) = total.add(b, sign) else {
            notes.incompatible_layout(op.as_str(), at);
            return None;
        };
        if added.collision {
            notes.conflicting_resets(during, at);
        }
        if added.reconciled {
            notes.reconciled_buckets(during, at);
        }
        let mut sum = total.get();
        if op == BinaryOp::Sub {
            sum.reset_hint = ResetHint::Gauge;
        }
        Some((Point::Histogram(Arc::new(sum)), true))
    }
}

fn is_trim(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

/// Computes a histogram and a number, which stands on the left if `swapped`.
fn native_with_float(op: BinaryOp, value: f64, h: &Histogram, swapped: bool) -> Option<Histogram> {
    match op {
        BinaryOp::Mul => Some(compact(&native::scaled(h, value < 0.0, |v| v * value))),
        BinaryOp::Div if !swapped && value == 0.0 => {
            let mut out = native::scaled(h, false, |v| v / value);
            out.positive.clear();
            out.positive_spans.clear();
            out.negative.clear();
            out.negative_spans.clear();
            Some(out)
        }
        BinaryOp::Div if !swapped => Some(compact(&native::scaled(h, value < 0.0, |v| v / value))),
        BinaryOp::TrimUpper if !swapped => Some(native::trim(h, value, true)),
        BinaryOp::TrimLower if !swapped => Some(native::trim(h, value, false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_follow_ieee() {
        assert_eq!(compute(BinaryOp::Mod, -5.0, 3.0), (-2.0, true));
        assert_eq!(compute(BinaryOp::Div, 1.0, 0.0), (f64::INFINITY, true));
        assert_eq!(compute(BinaryOp::Pow, 2.0, 10.0), (1024.0, true));
        assert!(!compute(BinaryOp::Eql, f64::NAN, f64::NAN).1 && compute(BinaryOp::Neq, f64::NAN, f64::NAN).1);
    }
}
