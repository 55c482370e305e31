//! Quantiles and fractions of classic histograms: cumulative buckets, linear in between.

/// A bucket: how many observations are at most its bound.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Bucket {
    /// The upper bound, inclusive.
    pub bound: f64,
    /// The observations up to there.
    pub count: f64,
}

/// A bucket count that is off by at most this part of it counts as a rounding error.
const TOLERANCE: f64 = 1e-12;

/// What was raised so that counts do not fall: lowest and highest bucket, largest difference.
pub(super) type Forced = Option<(f64, f64, f64)>;

/// Gives a quantile; `buckets` get sorted and mended.
pub(super) fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Forced) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if !settle(buckets) {
        return (f64::NAN, None);
    }
    mend_rounding(buckets);
    let forced = force_monotonic(buckets);
    let [.., before_last, last] = buckets.as_slice() else { return (f64::NAN, None) };
    if last.count == 0.0 {
        return (f64::NAN, None);
    }
    let rank = q * last.count;
    let all_but_last = buckets.len() - 1;
    let at = buckets.get(..all_but_last).map_or(0, |inner| inner.partition_point(|bucket| bucket.count < rank));
    if at == all_but_last {
        return (before_last.bound, forced);
    }
    let Some(bucket) = buckets.get(at) else { return (f64::NAN, None) };
    let Some(below) = at.checked_sub(1).and_then(|at| buckets.get(at)) else {
        let value = if bucket.bound <= 0.0 { bucket.bound } else { bucket.bound * (rank / bucket.count) };
        return (value, forced);
    };
    let share = (rank - below.count) / (bucket.count - below.count);
    (below.bound + (bucket.bound - below.bound) * share, forced)
}

/// Gives the fraction of observations between two bounds; `buckets` get sorted.
pub(super) fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !settle(buckets) {
        return f64::NAN;
    }
    let count = buckets.last().map_or(0.0, |last| last.count);
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, buckets, count) - rank_of(lower, buckets, count)) / count
}

/// How many observations lie at most at a value.
fn rank_of(value: f64, buckets: &[Bucket], count: f64) -> f64 {
    let mut below = Bucket { bound: f64::NEG_INFINITY, count: 0.0 };
    // The lowest bucket begins at zero when it ends above.
    if buckets.first().is_some_and(|first| first.bound > 0.0) {
        below.bound = 0.0;
    }
    for bucket in buckets {
        if below.bound >= value {
            return below.count.min(count);
        }
        if bucket.bound > value {
            let share = (value - below.bound) / (bucket.bound - below.bound);
            let rank = match below.bound.is_infinite() {
                true => bucket.count,
                false => below.count + (bucket.count - below.count) * share,
            };
            return rank.min(count);
        }
        below = *bucket;
    }
    count
}

/// Sorts and joins buckets of the same bound; tells whether the highest reaches to infinity.
fn settle(buckets: &mut Vec<Bucket>) -> bool {
    buckets.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    buckets.dedup_by(|next, kept| {
        let same = next.bound == kept.bound;
        if same {
            kept.count += next.count;
        }
        same
    });
    buckets.last().is_some_and(|last| last.bound == f64::INFINITY)
}

/// Levels differences that rounding made.
fn mend_rounding(buckets: &mut [Bucket]) {
    let Some(mut before) = buckets.first().map(|first| first.count) else { return };
    for bucket in buckets.iter_mut().skip(1) {
        let off = (bucket.count - before).abs();
        if off == 0.0 {
            continue;
        }
        if off / bucket.count <= TOLERANCE {
            bucket.count = before;
        } else {
            before = bucket.count;
        }
    }
}

/// Raises counts that fell below the one before.
fn force_monotonic(buckets: &mut [Bucket]) -> Forced {
    let mut highest = buckets.first().map(|first| first.count)?;
    let mut forced: Forced = None;
    for bucket in buckets.iter_mut().skip(1) {
        if bucket.count > highest {
            highest = bucket.count;
        } else if bucket.count < highest {
            let off = highest - bucket.count;
            forced = Some(forced.map_or((bucket.bound, bucket.bound, off), |(low, high, diff)| {
                (low.min(bucket.bound), high.max(bucket.bound), diff.max(off))
            }));
            bucket.count = highest;
        }
    }
    forced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs.iter().map(|(bound, count)| Bucket { bound: *bound, count: *count }).collect()
    }

    #[test]
    fn quantiles_lie_on_lines() {
        let inf = f64::INFINITY;
        let of = |q: f64, pairs: &[(f64, f64)]| bucket_quantile(q, &mut buckets(pairs)).0;
        let plain = [(inf, 10.0), (1.0, 4.0), (2.0, 8.0)];
        assert_eq!(of(0.2, &plain), 0.5);
        assert_eq!(of(0.6, &plain), 1.5);
        assert_eq!(of(1.0, &plain), 2.0);
        assert_eq!(of(0.5, &[(-1.0, 6.0), (inf, 10.0)]), -1.0);
        assert!(
            of(0.5, &[(1.0, 4.0)]).is_nan() && of(0.5, &[]).is_nan() && of(0.5, &[(inf, 0.0), (1.0, 0.0)]).is_nan()
        );
    }

    #[test]
    fn falling_counts_are_raised() {
        let (value, forced) = bucket_quantile(0.5, &mut buckets(&[(1.0, 4.0), (2.0, 3.0), (f64::INFINITY, 8.0)]));
        assert_eq!((value, forced), (1.0, Some((2.0, 2.0, 1.0))));
        let tiny = bucket_quantile(0.5, &mut buckets(&[(1.0, 4.0), (2.0, 4.0 - 1e-15), (f64::INFINITY, 4.0)]));
        assert_eq!(tiny.1, None);
    }

    #[test]
    fn fractions_are_the_inverse() {
        let mut all = buckets(&[(1.0, 4.0), (2.0, 8.0), (f64::INFINITY, 10.0)]);
        assert_eq!(bucket_fraction(0.5, 1.5, &mut all), 0.4);
        assert_eq!(bucket_fraction(f64::NEG_INFINITY, f64::INFINITY, &mut all), 1.0);
        assert_eq!(bucket_fraction(2.0, 1.0, &mut all), 0.0);
        assert_eq!(bucket_fraction(5.0, f64::INFINITY, &mut all), 0.2);
    }
}
