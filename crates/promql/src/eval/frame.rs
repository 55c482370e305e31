//! The steps of an evaluation, and the times that selectors read at.

use super::error::EvalError;
use crate::ast::{At, DurationExpr, DurationNode, DurationOp};

/// Evenly spaced times: `start_ms`, `start_ms + step_ms` and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    /// The first time.
    pub start_ms: i64,
    /// The distance; at least 1.
    pub step_ms: i64,
    /// How many times there are; at least 1.
    pub steps: usize,
}

impl Frame {
    /// A single time.
    pub(super) fn instant(ts_ms: i64) -> Frame {
        Frame { start_ms: ts_ms, step_ms: 1, steps: 1 }
    }

    /// All times from start to end; `None` when there is none or there are more than `limit`.
    pub(super) fn between(start_ms: i64, end_ms: i64, step_ms: i64, limit: u64) -> Option<Frame> {
        let steps = (i128::from(end_ms) - i128::from(start_ms)) / i128::from(step_ms.max(1)) + 1;
        let fits = end_ms >= start_ms && steps <= i128::from(limit);
        fits.then(|| Frame { start_ms, step_ms: step_ms.max(1), steps: steps as usize })
    }

    /// Gives the time of a step.
    #[inline]
    pub(super) fn at(&self, step: usize) -> i64 {
        self.start_ms.saturating_add(self.step_ms.saturating_mul(step as i64))
    }

    /// Gives the last time.
    pub(super) fn end_ms(&self) -> i64 {
        self.at(self.steps - 1)
    }

    /// Gives the first time alone.
    pub(super) fn first(&self) -> Frame {
        Frame::instant(self.start_ms)
    }
}

/// Where a selector reads at each step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reference {
    /// So much before the step.
    Moving {
        /// `offset`
        offset_ms: i64,
    },
    /// Always at this time, because of `@`.
    Fixed {
        /// The time, offset included.
        ts_ms: i64,
    },
}

impl Reference {
    /// Gives the time that is read at a time of the frame.
    #[inline]
    pub(super) fn of(self, ts_ms: i64) -> i64 {
        match self {
            Reference::Moving { offset_ms } => ts_ms.saturating_sub(offset_ms),
            Reference::Fixed { ts_ms } => ts_ms,
        }
    }
}

/// What the whole query spans; `@ start()`, `step()` and the like speak of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryTimes {
    /// The first time.
    pub start_ms: i64,
    /// The last time.
    pub end_ms: i64,
    /// The step; 0 in instant queries.
    pub step_ms: i64,
}

impl QueryTimes {
    /// Works out where a selector or subquery reads.
    pub(super) fn reference(&self, offset: Option<&DurationExpr>, at: Option<At>) -> Result<Reference, EvalError> {
        let offset_ms = offset.map_or(Ok(0), |offset| self.duration_ms(offset))?;
        let fixed = |ts_ms: i64| Reference::Fixed { ts_ms: ts_ms.saturating_sub(offset_ms) };
        Ok(match at {
            None => Reference::Moving { offset_ms },
            Some(At::TimeMs(ts_ms)) => fixed(ts_ms),
            Some(At::Start) => fixed(self.start_ms),
            Some(At::End) => fixed(self.end_ms),
        })
    }

    /// Works out a duration that must be positive.
    pub(super) fn positive_ms(&self, duration: &DurationExpr) -> Result<i64, EvalError> {
        match self.duration_ms(duration)? {
            ms if ms > 0 => Ok(ms),
            _ => Err(EvalError::Execution("duration must be greater than 0".to_owned())),
        }
    }

    fn duration_ms(&self, duration: &DurationExpr) -> Result<i64, EvalError> {
        let node = match duration {
            DurationExpr::Ms(ms) => return Ok(*ms),
            DurationExpr::Computed(node) => node,
        };
        let seconds = self.seconds(node)?;
        if seconds.is_nan() || seconds.abs() > MAX_SECONDS {
            return Err(EvalError::Execution("duration is out of range".to_owned()));
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn seconds(&self, node: &DurationNode) -> Result<f64, EvalError> {
        Ok(match node {
            DurationNode::Number(v) | DurationNode::Duration(v) => *v,
            DurationNode::Step => self.step_ms as f64 / 1000.0,
            DurationNode::Range => self.end_ms.saturating_sub(self.start_ms) as f64 / 1000.0,
            DurationNode::Neg(inner) => -self.seconds(inner)?,
            DurationNode::Paren(inner) => self.seconds(inner)?,
            DurationNode::Binary(op, left, right) => binary(*op, self.seconds(left)?, self.seconds(right)?)?,
        })
    }
}

/// Seconds beyond which Go's nanoseconds overflow.
const MAX_SECONDS: f64 = 9_223_372_036.0;

fn binary(op: DurationOp, left: f64, right: f64) -> Result<f64, EvalError> {
    Ok(match op {
        DurationOp::Add => left + right,
        DurationOp::Sub => left - right,
        DurationOp::Mul => left * right,
        DurationOp::Div if right == 0.0 => return Err(EvalError::Execution("division by zero".to_owned())),
        DurationOp::Div => left / right,
        DurationOp::Mod if right == 0.0 => return Err(EvalError::Execution("modulo by zero".to_owned())),
        DurationOp::Mod => left % right,
        DurationOp::Pow => left.powf(right),
        DurationOp::Min => left.min(right),
        DurationOp::Max => left.max(right),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_count_their_steps_and_never_overflow() {
        let frame = Frame::between(0, 25, 10, 100).unwrap();
        assert_eq!((frame.steps, frame.end_ms()), (3, 20));
        assert_eq!(Frame::between(0, -1, 10, 100), None);
        assert_eq!(Frame::between(i64::MIN, i64::MAX, 1, u64::MAX), None);
        assert_eq!(Frame::between(0, 100, 1, 100), None);
    }

    #[test]
    fn at_fixes_the_time_and_offset_still_counts() {
        let times = QueryTimes { start_ms: 10_000, end_ms: 70_000, step_ms: 5_000 };
        let offset = DurationExpr::Computed(Box::new(DurationNode::Neg(Box::new(DurationNode::Step))));
        assert_eq!(times.reference(Some(&offset), Some(At::End)).unwrap().of(1), 75_000);
        assert_eq!(times.reference(Some(&DurationExpr::Ms(3)), None).unwrap().of(5), 2);
        let zero = DurationExpr::Computed(Box::new(DurationNode::Number(0.0)));
        assert!(times.positive_ms(&zero).is_err());
    }
}
