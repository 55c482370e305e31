//! `absent` and `absent_over_time`: a series exactly where there is none.

use std::collections::{BTreeMap, HashSet};

use model::{LABEL_NAME, Labels, LabelsBuf, MatchOp, Matcher};

use super::error::EvalError;
use super::evaluator::{Evaluator, bare};
use super::frame::Frame;
use super::series::{ABSENT, Series, Vector};
use crate::ast::{Expr, ExprKind};

impl Evaluator<'_> {
    #[inline(never)]
    pub(super) fn absent(&self, arg: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let vector = self.vector(arg, frame)?;
        self.absent_of(vector, arg, frame)
    }

    /// Gives 1 at the steps where no series has a value.
    pub(super) fn absent_of(&self, vector: Vector<'_>, arg: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let mut values = vec![1.0; frame.steps];
        for series in &vector.series {
            for (step, to) in values.iter_mut().enumerate() {
                if series.has(step) {
                    *to = ABSENT;
                }
            }
        }
        self.vector_of([Series::floats(asked_for(arg), false, values)])
    }
}

/// The labels that a selector fixes: those with one `=` matcher and no other.
fn asked_for(arg: &Expr) -> Labels {
    let matchers: &[Matcher] = match &bare(arg).kind {
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => &selector.matchers,
        _ => return Labels::empty(),
    };
    // A selector may have tens of thousands: none is looked for among the others.
    let (mut fixed, mut seen) = (BTreeMap::new(), HashSet::new());
    for matcher in matchers.iter().filter(|matcher| matcher.name() != LABEL_NAME) {
        if matcher.op() == MatchOp::Equal && seen.insert(matcher.name()) {
            fixed.insert(matcher.name(), matcher.value());
        } else {
            fixed.remove(matcher.name());
        }
    }
    let mut labels = LabelsBuf::default();
    fixed.iter().for_each(|(name, value)| labels.push(name, value));
    labels.to_labels()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_fixed_becomes_a_label() {
        for (query, want) in [
            (r#"x{a="1",b="2"}"#, r#"{a="1", b="2"}"#),
            (r#"x{a="1",a="2",b="2"}"#, r#"{b="2"}"#),
            (r#"(x{a="1",b=~".+"})"#, r#"{a="1"}"#),
            (r#"x{b=~".+",b="2"}"#, r#"{b="2"}"#),
            (r#"x{a="1",a=~".+"}"#, "{}"),
            (r#"sum(x{a="1"})"#, "{}"),
        ] {
            let expr = crate::parse(query).unwrap();
            assert_eq!(asked_for(&expr).to_string(), want, "{query}");
        }
    }
}
