//! Aggregations that pick series: `topk`, `bottomk`, `limitk`, `limit_ratio`.

use super::aggregate::Groups;
use super::error::EvalError;
use super::evaluator::{Evaluator, bare};
use super::frame::Frame;
use super::quantile::nan_first;
use super::series::{Point, Series, Vector};
use super::xxh64::labels_hash;
use crate::ast::{Aggregate, AggregateOp, Expr, Span};
use crate::go_text::general;

/// A series at one step: which, and its value.
type Candidate = (usize, f64);

impl Evaluator<'_> {
    #[inline(never)]
    pub(super) fn pick(
        &self,
        aggregate: &Aggregate,
        param: &Expr,
        at: Span,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let params = self.scalar(param, frame)?;
        let input = self.vector(&aggregate.expr, frame)?;
        let ratio = aggregate.op == AggregateOp::LimitRatio;
        let nothing = match ratio {
            true => self.check_ratios(&params, param)?,
            false => check_counts(&params)?,
        };
        if nothing {
            return self.empty();
        }
        let picked = match ratio {
            true => self.by_ratio(&input, &params)?,
            false => self.by_rank(aggregate, &input, &params, at, frame)?,
        };
        self.vector_of(picked)
    }

    /// Tells whether nothing is asked for.
    fn check_ratios(&self, ratios: &[f64], param: &Expr) -> Result<bool, EvalError> {
        if ratios.iter().any(|ratio| ratio.is_nan()) {
            return Err(EvalError::Execution("Ratio value is NaN".to_owned()));
        }
        let highest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let mut notes = self.notes.borrow_mut();
        if highest > 1.0 {
            notes.invalid_ratio(highest, 1.0, bare(param).span);
        }
        if lowest < -1.0 {
            notes.invalid_ratio(lowest, -1.0, bare(param).span);
        }
        Ok(ratios.iter().all(|ratio| *ratio == 0.0))
    }

    /// Keeps the series whose hash lies in the part that is asked for; a negative ratio asks for the complement.
    fn by_ratio(&self, input: &Vector<'_>, ratios: &[f64]) -> Result<Vec<Series>, EvalError> {
        let mut picked = Vec::with_capacity(input.series.len());
        for series in &input.series {
            self.tick_series()?;
            let offset = labels_hash(&series.labels) as f64 / u64::MAX as f64;
            let keeps = |ratio: f64| if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio };
            let mut series = series.clone();
            for (step, ratio) in ratios.iter().enumerate() {
                if *ratio == 0.0 || !keeps(ratio.clamp(-1.0, 1.0)) {
                    series.unset(step);
                }
            }
            picked.push(series);
        }
        Ok(picked)
    }

    fn by_rank(
        &self,
        aggregate: &Aggregate,
        input: &Vector<'_>,
        params: &[f64],
        at: Span,
        frame: &Frame,
    ) -> Result<Vec<Series>, EvalError> {
        let groups = Groups::new(&input.series, &aggregate.grouping);
        self.ordered.set(true);
        let empty = |series: &Series| Series::absent(series.labels.clone(), series.drop_name, frame.steps);
        let _held = self.budget.hold(input.series.len().saturating_mul(frame.steps / 2))?;
        let mut picked: Vec<Series> = match frame.steps {
            1 => Vec::new(),
            _ => input.series.iter().map(empty).collect(),
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        for members in &groups.members {
            for (step, param) in params.iter().enumerate() {
                self.tick(members.len())?;
                candidates.clear();
                candidates.extend(
                    members
                        .iter()
                        .filter_map(|index| self.candidate(aggregate.op, *index, input.series.get(*index)?, step, at)),
                );
                keep_best(aggregate.op, &mut candidates, *param as i64);
                for (index, _) in &candidates {
                    let Some(series) = input.series.get(*index) else { continue };
                    // At a single step the order of the rank is the order of the answer.
                    if frame.steps == 1 {
                        picked.push(series.clone());
                    } else if let (Some(to), Some(point)) = (picked.get_mut(*index), series.point(step)) {
                        to.set(step, point);
                    }
                }
            }
        }
        Ok(picked)
    }

    /// A histogram has no rank; only `limitk` takes it.
    fn candidate(&self, op: AggregateOp, index: usize, series: &Series, step: usize, at: Span) -> Option<Candidate> {
        match series.point(step)? {
            Point::Float(value) => Some((index, value)),
            Point::Histogram(_) if op == AggregateOp::Limitk => Some((index, f64::NAN)),
            Point::Histogram(_) => {
                self.notes.borrow_mut().ignored_in_aggregation(op.as_str(), at);
                None
            }
        }
    }
}

/// Leaves the `k` best, best first; NaN is worse than any value, and of equals the first wins.
fn keep_best(op: AggregateOp, candidates: &mut Vec<Candidate>, k: i64) {
    let k = usize::try_from(k).unwrap_or(0).min(candidates.len());
    let by_value = |a: &Candidate, b: &Candidate| match (a.1.is_nan(), b.1.is_nan()) {
        (false, false) if op == AggregateOp::Topk => nan_first(b.1, a.1),
        (false, false) => nan_first(a.1, b.1),
        (a, b) => a.cmp(&b),
    };
    let order = |a: &Candidate, b: &Candidate| by_value(a, b).then(a.0.cmp(&b.0));
    if op != AggregateOp::Limitk && k > 0 {
        if k < candidates.len() {
            candidates.select_nth_unstable_by(k - 1, order);
            candidates.truncate(k);
        }
        candidates.sort_by(order);
    }
    candidates.truncate(k);
}

/// Tells whether nothing is asked for.
fn check_counts(params: &[f64]) -> Result<bool, EvalError> {
    if params.iter().any(|param| param.is_nan()) {
        return Err(EvalError::Execution("Parameter value is NaN".to_owned()));
    }
    if params.iter().all(|param| *param < 1.0) {
        return Ok(true);
    }
    if let Some(low) = params.iter().find(|param| **param <= i64::MIN as f64) {
        return Err(EvalError::Execution(format!("Scalar value {} underflows int64", general(*low))));
    }
    if let Some(high) = params.iter().find(|param| **param >= i64::MAX as f64) {
        return Err(EvalError::Execution(format!("Scalar value {} overflows int64", general(*high))));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_nan_last() {
        let all = [(0, 1.0), (1, f64::NAN), (2, 3.0), (3, 3.0), (4, 2.0)];
        let best = |op, k| {
            let mut candidates = all.to_vec();
            keep_best(op, &mut candidates, k);
            candidates.iter().map(|(index, _)| *index).collect::<Vec<_>>()
        };
        assert_eq!(best(AggregateOp::Topk, 3), [2, 3, 4]);
        assert_eq!(best(AggregateOp::Bottomk, 10), [0, 4, 2, 3, 1]);
        assert_eq!(best(AggregateOp::Limitk, 2), [0, 1]);
        assert!(best(AggregateOp::Topk, -5).is_empty());
    }

    #[test]
    fn counts_that_are_none_are_refused() {
        assert_eq!(check_counts(&[0.5, -3.0, f64::NEG_INFINITY]), Ok(true));
        assert!(check_counts(&[2.0, f64::NEG_INFINITY]).is_err());
        assert!(check_counts(&[f64::NAN]).is_err_and(|e| e.to_string() == "Parameter value is NaN"));
        assert!(check_counts(&[1e300]).is_err_and(|e| e.to_string() == "Scalar value 1e+300 overflows int64"));
    }
}
