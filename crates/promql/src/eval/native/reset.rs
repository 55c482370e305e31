//! Whether a counter started again between two histograms.

use model::histogram::{CUSTOM_SCHEMA, Histogram, ResetHint};

use super::layout::{bound, side};
use super::sum::Total;
use crate::eval::kahan::Kahan;

/// Tells whether the later histogram cannot have grown out of the earlier one.
pub(in crate::eval) fn detect_reset(later: &Histogram, earlier: &Histogram) -> bool {
    match later.reset_hint {
        ResetHint::Reset => return true,
        ResetHint::NoReset => return false,
        ResetHint::Unknown | ResetHint::Gauge => {}
    }
    if later.count < earlier.count {
        return true;
    }
    if later.schema == CUSTOM_SCHEMA {
        return earlier.schema != CUSTOM_SCHEMA || custom_reset(later, earlier);
    }
    if later.schema > earlier.schema || later.zero_threshold < earlier.zero_threshold {
        return true;
    }
    let before = Total::new(earlier).at_layout(later.schema, later.zero_threshold);
    let after = Total::new(later);
    let ((zero_before, threshold), (zero_after, _)) = (before.zero(), after.zero());
    // A threshold inside of a bucket that was populated cannot have come about by growing.
    threshold != later.zero_threshold
        || zero_after < zero_before
        || fell(before.positive(), after.positive())
        || fell(before.negative(), after.negative())
}

/// Tells whether any bucket holds less than before.
fn fell(before: &[(i32, Kahan)], after: &[(i32, Kahan)]) -> bool {
    before.iter().any(|(index, count)| {
        let now = after.binary_search_by_key(index, |(i, _)| *i).ok().and_then(|at| after.get(at));
        now.map_or(0.0, |(_, now)| now.total()) < count.total()
    })
}

/// Compares what lies below each bound that both have; one count fewer is a reset.
fn custom_reset(later: &Histogram, earlier: &Histogram) -> bool {
    let below = |h: &Histogram, limit: f64| -> f64 {
        side(&h.positive_spans, &h.positive)
            .into_iter()
            .filter(|(index, _)| bound(*index, CUSTOM_SCHEMA, &h.custom_bounds) <= limit)
            .map(|(_, count)| count)
            .sum()
    };
    let common = later.custom_bounds.iter().copied().filter(|b| earlier.custom_bounds.contains(b));
    let (mut last_later, mut last_earlier) = (0.0, 0.0);
    for limit in common.chain([f64::INFINITY]) {
        let (now, before) = (below(later, limit), below(earlier, limit));
        if now - last_later < before - last_earlier {
            return true;
        }
        (last_later, last_earlier) = (now, before);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::BucketSpan;

    fn histogram(counts: &[f64], hint: ResetHint) -> Histogram {
        Histogram {
            count: counts.iter().sum(),
            positive: counts.to_vec(),
            positive_spans: vec![BucketSpan { offset: 0, length: counts.len() as u32 }],
            reset_hint: hint,
            ..Histogram::default()
        }
    }

    #[test]
    fn a_bucket_that_fell_is_a_reset() {
        let before = histogram(&[1.0, 2.0], ResetHint::Unknown);
        assert!(!detect_reset(&histogram(&[1.0, 2.0, 3.0], ResetHint::Unknown), &before));
        assert!(detect_reset(&histogram(&[0.0, 9.0], ResetHint::Unknown), &before));
        assert!(!detect_reset(&histogram(&[0.0, 9.0], ResetHint::NoReset), &before));
        assert!(detect_reset(&histogram(&[5.0, 9.0], ResetHint::Reset), &before));
    }
}
