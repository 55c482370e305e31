//! What becomes of a series' samples when they are rolled up to a resolution.
//!
//! Two things: for each stretch of time the sums that SQL asks for ([`columns::Bucket`]), and the samples that are kept as
//! they are, so that PromQL goes on working on real samples at their real times: the first, the last, the least and the
//! greatest of each stretch, and of a counter both sides of every reset. So rates and increases over whole stretches
//! come out as before, and so do minima and maxima.

use columns::Bucket;
use model::{MetricType, Samples, is_stale};

/// The result of rolling up.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rolled {
    /// One for each stretch with samples.
    pub buckets: Vec<Bucket>,
    /// Some of the samples.
    pub kept: Samples,
}

/// Tells whether a fall means a reset. Families without a type go by their names, as people do.
pub fn is_counter(metric_type: MetricType, name: &str) -> bool {
    match metric_type {
        MetricType::Counter => !name.ends_with("_created"),
        MetricType::Histogram | MetricType::Summary | MetricType::Unknown => {
            ["_total", "_count", "_bucket", "_sum"].iter().any(|suffix| name.ends_with(suffix))
        }
        _ => false,
    }
}

/// Rolls up; of histograms the first and the last of each stretch stay, and both sides of every reset. `before` is the
/// series' last value before these samples, where it is known: a counter's first stretch grows from there.
pub fn roll_up(samples: &Samples, before: Option<f64>, resolution_ms: i64, counter: bool) -> Rolled {
    let resolution_ms = resolution_ms.max(1);
    let mut rolled = Rolled::default();
    let mut kept = vec![false; samples.len()];
    let mut before: Option<(Option<usize>, f64)> = before.map(|value| (None, value));
    let mut from = 0;
    while let Some(ts_ms) = samples.ts_ms.get(from) {
        let slot = ts_ms.div_euclid(resolution_ms);
        let times = samples.ts_ms.get(from..).unwrap_or_default();
        let to = from + times.partition_point(|ts| ts.div_euclid(resolution_ms) == slot);
        let mut stretch = Stretch::new(slot.saturating_mul(resolution_ms), counter);
        for at in from..to {
            let (Some(ts_ms), Some(value)) = (samples.ts_ms.get(at), samples.values.get(at)) else { break };
            if is_stale(*value) {
                // A marker says that a series ended, at any resolution.
                stretch.keep.push(at);
            } else {
                stretch.add(at, *ts_ms, *value, before.replace((Some(at), *value)));
            }
        }
        rolled.buckets.extend(stretch.bucket());
        let all = stretch.keep.iter().chain([&stretch.least, &stretch.greatest].into_iter().flatten());
        all.chain(&stretch.first).chain(&stretch.last).for_each(|at| mark(&mut kept, *at));
        from = to;
    }
    for ((ts_ms, value), _) in samples.ts_ms.iter().zip(&samples.values).zip(&kept).filter(|(_, kept)| **kept) {
        rolled.kept.push(*ts_ms, *value);
    }
    roll_up_histograms(samples, resolution_ms, &mut rolled.kept);
    rolled
}

fn mark(kept: &mut [bool], at: usize) {
    if let Some(place) = kept.get_mut(at) {
        *place = true;
    }
}

/// One stretch under construction.
struct Stretch {
    bucket: Bucket,
    counter: bool,
    /// Places of samples that stay.
    keep: Vec<usize>,
    first: Option<usize>,
    last: Option<usize>,
    least: Option<usize>,
    greatest: Option<usize>,
}

impl Stretch {
    fn new(start_ms: i64, counter: bool) -> Stretch {
        let bucket = Bucket { start_ms, increase: counter.then_some(0.0), ..Bucket::default() };
        Stretch { bucket, counter, keep: Vec::new(), first: None, last: None, least: None, greatest: None }
    }

    fn add(&mut self, at: usize, ts_ms: i64, value: f64, before: Option<(Option<usize>, f64)>) {
        let b = &mut self.bucket;
        if self.first.is_none() {
            (b.first, b.first_ts_ms, b.min, b.max) = (value, ts_ms, value, value);
            (self.first, self.least, self.greatest) = (Some(at), Some(at), Some(at));
        }
        if value < b.min || (b.min.is_nan() && !value.is_nan()) {
            (b.min, self.least) = (value, Some(at));
        }
        if value > b.max || (b.max.is_nan() && !value.is_nan()) {
            (b.max, self.greatest) = (value, Some(at));
        }
        (b.last, b.last_ts_ms) = (value, ts_ms);
        b.count += 1;
        b.sum += value;
        if let (true, Some((before_at, before))) = (self.counter, before) {
            let reset = value < before;
            *b.increase.get_or_insert(0.0) += if reset { value } else { value - before };
            if reset {
                // The one before may lie in the stretch before: there it was the last.
                self.keep.extend(before_at.into_iter().chain([at]));
            }
        }
        self.last = Some(at);
    }

    fn bucket(&self) -> Option<Bucket> {
        (self.bucket.count > 0).then_some(self.bucket)
    }
}

fn roll_up_histograms(samples: &Samples, resolution_ms: i64, kept: &mut Samples) {
    let all = &samples.histograms;
    let slot = |at: usize| all.get(at).map(|h| h.0.div_euclid(resolution_ms));
    for (at, (ts_ms, histogram)) in all.iter().enumerate() {
        let edge = at.checked_sub(1).and_then(slot) != slot(at) || slot(at + 1) != slot(at);
        let falls = |a: usize, b: usize| all.get(a).zip(all.get(b)).is_some_and(|(a, b)| b.1.count < a.1.count);
        let reset = at.checked_sub(1).is_some_and(|before| falls(before, at)) || falls(at, at + 1);
        if edge || reset || is_stale(histogram.sum) {
            kept.histograms.push((*ts_ms, histogram.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::stale_nan;
    use proptest::prelude::*;

    fn samples(values: &[f64]) -> Samples {
        let mut out = Samples::default();
        values.iter().enumerate().for_each(|(n, value)| out.push(n as i64 * 15_000, *value));
        out
    }

    /// The increase as a reader of PromQL would add it up.
    fn increase(samples: &Samples) -> f64 {
        let values: Vec<f64> = samples.values.iter().copied().filter(|v| !is_stale(*v)).collect();
        values.windows(2).map(|w| if w[1] < w[0] { w[1] } else { w[1] - w[0] }).sum()
    }

    #[test]
    fn markers_nans_and_empty_stretches() {
        let mut all = samples(&[f64::NAN, 2.0, stale_nan(), -1.0]);
        all.push(3_600_000, stale_nan());
        let rolled = roll_up(&all, None, 300_000, false);
        assert_eq!(rolled.buckets.len(), 1, "a marker alone is no stretch");
        let b = rolled.buckets[0];
        assert!((b.count, b.min, b.max, b.last, b.increase) == (3, -1.0, 2.0, -1.0, None) && b.sum.is_nan());
        assert_eq!(rolled.kept.ts_ms, all.ts_ms, "first, greatest, marker, least, marker");
        assert_eq!(roll_up(&Samples::default(), Some(1.0), 300_000, true), Rolled::default());
        assert!(is_counter(MetricType::Unknown, "x_total") && !is_counter(MetricType::Gauge, "x_total"));
    }

    proptest! {
        #[test]
        fn sums_are_right_and_what_is_kept_has_the_same_extremes_and_increase(
            steps in prop::collection::vec(0u32..40, 1..400), counter: bool, cut: prop::sample::Index,
        ) {
            let mut value = 0.0;
            let values: Vec<f64> = steps.iter().map(|step| {
                value = if *step == 0 { 0.0 } else { value + f64::from(*step) };
                value
            }).collect();
            let all = samples(&values);
            let rolled = roll_up(&all, None, 300_000, counter);
            prop_assert_eq!(rolled.buckets.iter().map(|b| b.count).sum::<i64>(), values.len() as i64);
            prop_assert_eq!(rolled.buckets.iter().map(|b| b.sum).sum::<f64>(), values.iter().sum::<f64>());
            if counter {
                prop_assert_eq!(increase(&rolled.kept), increase(&all));
                let added: f64 = rolled.buckets.iter().filter_map(|b| b.increase).sum();
                prop_assert_eq!(added, increase(&all));
                // Cut anywhere, as blocks are, it is the same when each part knows the value before it.
                let (mut one, mut other) = (Samples::default(), Samples::default());
                let cut = cut.index(values.len());
                for (n, value) in values.iter().enumerate() {
                    if n < cut { &mut one } else { &mut other }.push(n as i64 * 15_000, *value);
                }
                let parts = [roll_up(&one, None, 300_000, true), roll_up(&other, one.values.last().copied(), 300_000, true)];
                let added: f64 = parts.iter().flat_map(|part| &part.buckets).filter_map(|b| b.increase).sum();
                prop_assert_eq!(added, increase(&all));
            }
            for bucket in &rolled.buckets {
                let inside = |samples: &Samples| -> Vec<f64> {
                    let end_ms = bucket.start_ms + 300_000;
                    let rows = samples.ts_ms.iter().zip(&samples.values);
                    rows.filter(|(ts, _)| (bucket.start_ms..end_ms).contains(*ts)).map(|r| *r.1).collect()
                };
                let (want, got) = (inside(&all), inside(&rolled.kept));
                let extremes = |v: &[f64]| (v.iter().copied().fold(f64::INFINITY, f64::min), v.iter().copied().fold(0.0, f64::max));
                prop_assert_eq!(extremes(&got), extremes(&want));
                prop_assert_eq!((bucket.min, bucket.max), extremes(&want));
                prop_assert_eq!((got.first(), got.last()), (want.first(), want.last()));
                prop_assert_eq!((Some(&bucket.first), Some(&bucket.last)), (want.first(), want.last()));
                if !counter {
                    prop_assert!(got.len() <= 4);
                }
            }
        }
    }
}
