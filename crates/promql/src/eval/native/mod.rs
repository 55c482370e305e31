//! Native histograms: arithmetic, resets, quantiles, trimming, text.

mod distribution;
mod layout;
mod reset;
mod sum;
mod text;
mod trim;

pub(super) use distribution::{Observed, fraction, quantile, variance};
pub(super) use layout::compact;
pub(super) use reset::detect_reset;
pub(super) use sum::{Added, Incompatible, Mean, Total, scaled};
pub(super) use text::text;
pub(super) use trim::trim;

use model::histogram::{Histogram, ResetHint};

/// Tells whether two histograms hold the same, whatever empty buckets they write out and whatever hint they carry.
pub(super) fn equal(a: &Histogram, b: &Histogram) -> bool {
    let bare = |h: &Histogram| Histogram { reset_hint: ResetHint::Unknown, ..compact(h) };
    bare(a).same_bits(&bare(b)) || bare(a) == bare(b)
}

/// Gives the histogram with another hint.
pub(super) fn with_hint(mut histogram: Histogram, hint: ResetHint) -> Histogram {
    histogram.reset_hint = hint;
    histogram
}
