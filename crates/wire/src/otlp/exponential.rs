//! The data point of an exponential histogram as a native histogram.

use model::histogram::{BUCKETS_MAX, BucketSpan, Histogram};

use crate::native::{Refused, check_whole, exact_count};
use crate::proto::{Message, WireError};

/// What stands for a zero bucket of no width, as Prometheus has it.
const ZERO_THRESHOLD: f64 = 1e-128;
const SCALE_MAX: i32 = 8;
const SCALE_MIN: i32 = -4;
/// Empty buckets in a row that are written rather than begin a new span.
const GAP_MAX: i64 = 2;

/// A data point as it is read.
#[derive(Default)]
pub(super) struct Exponential<'a> {
    pub(super) count: u64,
    pub(super) sum: Option<f64>,
    pub(super) scale: i32,
    pub(super) zero_count: u64,
    pub(super) zero_threshold: f64,
    pub(super) positive: Option<Message<'a>>,
    pub(super) negative: Option<Message<'a>>,
}

/// Buckets of one side: the index of the first, and counts.
#[derive(Default)]
struct Buckets {
    offset: i32,
    counts: Vec<u64>,
    too_many: bool,
}

impl Exponential<'_> {
    /// Makes the native histogram; a scale finer than 8 is made coarser.
    ///
    /// **Errors** with the reason when it is too coarse or does not fit together.
    pub(super) fn to_native(&self) -> Result<Result<Histogram, Refused>, WireError> {
        if self.scale < SCALE_MIN {
            return Ok(Err(format!("the scale {} is coarser than {SCALE_MIN}", self.scale).into()));
        }
        let shift = (self.scale - SCALE_MAX).max(0) as u32;
        let (positive, negative) = (read_buckets(self.positive)?, read_buckets(self.negative)?);
        if positive.too_many || negative.too_many {
            return Ok(Err(format!("more than {BUCKETS_MAX} buckets").into()));
        }
        let build = || {
            let (positive_spans, positive) = spans_of(&positive, shift)?;
            let (negative_spans, negative) = spans_of(&negative, shift)?;
            let histogram = Histogram {
                schema: self.scale.min(SCALE_MAX),
                zero_threshold: if self.zero_threshold == 0.0 { ZERO_THRESHOLD } else { self.zero_threshold },
                zero_count: exact_count(self.zero_count)?,
                count: exact_count(self.count)?,
                sum: self.sum.unwrap_or(0.0),
                positive_spans,
                positive,
                negative_spans,
                negative,
                ..Histogram::default()
            };
            check_whole(&histogram)?;
            Ok(histogram)
        };
        Ok(build())
    }
}

fn read_buckets(message: Option<Message<'_>>) -> Result<Buckets, WireError> {
    let mut buckets = Buckets::default();
    let Some(mut message) = message else { return Ok(buckets) };
    while let Some(field) = message.next_field()? {
        match field.number {
            1 => buckets.offset = field.sint32()?,
            2 => field.varints(|count| {
                if buckets.counts.len() < BUCKETS_MAX {
                    buckets.counts.push(count);
                } else {
                    buckets.too_many = true;
                }
            })?,
            _ => {}
        }
    }
    Ok(buckets)
}

/// Puts buckets together by twos `shift` times and leaves out the empty ones.
///
/// OpenTelemetry's bucket 0 lies above 1, Prometheus' ends there: hence the 1 that is added.
fn spans_of(buckets: &Buckets, shift: u32) -> Result<(Vec<BucketSpan>, Vec<f64>), Refused> {
    let (mut spans, mut counts): (Vec<BucketSpan>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut last: Option<i64> = None;
    for (at, count) in buckets.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let index = ((i64::from(buckets.offset) + at as i64) >> shift.min(62)) + 1;
        let count = exact_count(*count)?;
        if last == Some(index)
            && let Some(merged) = counts.last_mut()
        {
            *merged += count;
            continue;
        }
        let gap = last.map_or(index, |last| index - last - 1);
        match spans.last_mut() {
            Some(span) if gap <= GAP_MAX => {
                span.length += gap as u32 + 1;
                counts.extend((0..gap).map(|_| 0.0));
            }
            _ => {
                let offset = i32::try_from(gap).map_err(|_| "buckets beyond all indexes")?;
                spans.push(BucketSpan { offset, length: 1 });
            }
        }
        counts.push(count);
        last = Some(index);
    }
    Ok((spans, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(offset: i32, counts: &[u64], shift: u32) -> (Vec<(i32, u32)>, Vec<f64>) {
        let buckets = Buckets { offset, counts: counts.to_vec(), too_many: false };
        let (spans, counts) = spans_of(&buckets, shift).unwrap();
        (spans.iter().map(|s| (s.offset, s.length)).collect(), counts)
    }

    #[test]
    fn buckets_move_by_one_and_gaps_become_spans() {
        assert_eq!(spans(0, &[4, 2, 1], 0), (vec![(1, 3)], vec![4.0, 2.0, 1.0]));
        assert_eq!(spans(-3, &[1, 0, 0, 2, 0, 0, 0, 3, 0], 0), (vec![(-2, 4), (3, 1)], vec![1.0, 0.0, 0.0, 2.0, 3.0]));
        assert_eq!(spans(5, &[0, 0], 0), (vec![], vec![]));
    }

    #[test]
    fn a_finer_scale_is_put_together() {
        // Indexes -3..=2 by twos: -2, -1, -1, 0, 0, 1; each plus 1.
        assert_eq!(spans(-3, &[1, 2, 4, 8, 16, 32], 1), (vec![(-1, 4)], vec![1.0, 6.0, 24.0, 32.0]));
        assert_eq!(spans(i32::MIN, &[1], 12), (vec![(-524_287, 1)], vec![1.0]));
    }
}
