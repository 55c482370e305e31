//! Start timestamps: when the counting began that a sample belongs to. They tell of resets that the values do not show.

use super::selector::start_of;
use super::window::Window;

/// A sample's time, and when the counting began that it belongs to; 0 when that is not known.
pub(super) type Started = (i64, i64);

/// Tells whether a counter started again between two samples, by what their start timestamps say.
pub(super) fn started_again((before_ms, before_start): Started, (after_ms, after_start): Started) -> bool {
    // A start at the sample's own time is how OpenTelemetry writes that it is not known.
    let known = after_start != 0 && after_start < after_ms;
    if !known || after_start == before_start || after_start < before_ms {
        return false;
    }
    // A start at the sample before is that of a delta, which begins anew each time; or of a sum whose first sample has no
    // known start.
    after_start > before_ms || (before_start != 0 && before_start < before_ms)
}

/// Tells whether a sample claims to count from a time when another counting was still going on.
fn overlaps((before_ms, before_start): Started, (_, after_start): Started) -> bool {
    after_start != 0 && after_start < before_ms && after_start != before_start
}

impl Window<'_> {
    /// Gives a sample's time with its start.
    pub(super) fn started(&self, ts_ms: i64) -> Started {
        (ts_ms, start_of(self.starts, ts_ms))
    }

    /// Tells whether start timestamps say that a counter started again between the samples of two times.
    pub(super) fn starts_again(&self, before_ms: i64, after_ms: i64) -> bool {
        !self.starts.is_empty() && started_again(self.started(before_ms), self.started(after_ms))
    }

    /// Gives when the counting began, if that was in the range but before its first sample.
    pub(super) fn began_inside(&self, first_ms: i64) -> Option<i64> {
        let start = start_of(self.starts, first_ms);
        (start != 0 && start > self.start_ms && start < first_ms).then_some(start)
    }

    /// Tells whether start timestamps contradict each other.
    pub(super) fn starts_overlap(&self) -> bool {
        let doubt = |a: i64, b: i64| overlaps(self.started(a), self.started(b));
        let floats = self.ts_ms.windows(2).any(|pair| matches!(pair, [a, b] if doubt(*a, *b)));
        floats || self.histograms.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if doubt(*a, *b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_behind_the_sample_before_is_a_reset() {
        for (before, after, want) in [
            ((10, 0), (20, 0), false),
            ((10, 0), (20, 15), true),
            ((10, 5), (20, 5), false),
            // Deltas; sums whose first start is not known; starts that cannot be.
            ((10, 5), (20, 10), true),
            ((10, 0), (20, 10), false),
            ((10, 10), (20, 10), false),
            ((10, 15), (20, 10), false),
            ((10, 5), (20, 20), false),
            ((10, 5), (20, 25), false),
            ((10, 5), (20, 7), false),
            ((10, 15), (20, 15), false),
        ] {
            assert_eq!(started_again(before, after), want, "{before:?} {after:?}");
        }
    }

    #[test]
    fn starts_that_lie_before_earlier_samples_are_noticed() {
        assert!(overlaps((10, 5), (20, 7)) && overlaps((10, 0), (20, 7)));
        assert!(!overlaps((10, 5), (20, 5)) && !overlaps((10, 5), (20, 10)) && !overlaps((10, 5), (20, 0)));
    }
}
