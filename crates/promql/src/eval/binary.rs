//! Binary operators: on numbers, and between a vector and a scalar.

use super::error::EvalError;
use super::evaluator::Evaluator;
use super::frame::Frame;
use super::series::{ABSENT, Vector};
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
    pub(super) fn scalar_binary(&self, binary: &Binary, frame: &Frame) -> Result<Vec<f64>, EvalError> {
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
        self.note_trim(op, &vector, at);
        for series in &mut vector.series {
            self.tick(series.values.len())?;
            series.drop_name |= changes_meaning(op) || binary.return_bool;
            series.map(|step, value| {
                let scalar = scalars.get(step).copied().unwrap_or(f64::NAN);
                let (left, right) = if swapped { (scalar, value) } else { (value, scalar) };
                match compute(op, left, right) {
                    (_, holds) if binary.return_bool => truth(holds),
                    (_, false) => ABSENT,
                    // A comparison keeps the value of the vector, on whichever side it stands.
                    _ if op.is_comparison() => value,
                    (result, true) => result,
                }
            });
        }
        vector.prune();
        Ok(vector)
    }

    /// Complains of floats where only native histograms can be trimmed.
    pub(super) fn note_trim(&self, op: BinaryOp, vector: &Vector<'_>, at: Span) {
        if matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower) && !vector.series.is_empty() {
            self.notes.borrow_mut().incompatible_types("float", op.as_str(), "float", at);
        }
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
