//! A native histogram as remote write has it: whole counts as deltas, others as doubles.

use model::coding::put_varint;
use model::histogram::{BucketSpan, Histogram};

use super::encode::{put_bytes, put_double, put_int};

/// Up to here a double holds every whole number.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Appends the fields of a histogram, without its time.
pub(super) fn put_histogram(out: &mut Vec<u8>, scratch: &mut Vec<u8>, histogram: &Histogram) {
    let whole = is_whole(histogram);
    if whole {
        put_whole(out, 1, histogram.count as u64);
    } else {
        put_float(out, 2, histogram.count);
    }
    put_double(out, 3, histogram.sum);
    put_int(out, 4, fold(i64::from(histogram.schema)));
    put_double(out, 5, histogram.zero_threshold);
    if whole {
        put_whole(out, 6, histogram.zero_count as u64);
    } else {
        put_float(out, 7, histogram.zero_count);
    }
    put_side(out, scratch, 8, &histogram.negative_spans, &histogram.negative, whole);
    put_side(out, scratch, 11, &histogram.positive_spans, &histogram.positive, whole);
    put_int(out, 14, i64::from(histogram.reset_hint as u8));
    put_doubles(out, scratch, 16, &histogram.custom_bounds);
}

/// Tells whether all counts are whole, exact and add up, as the form with deltas needs it.
fn is_whole(histogram: &Histogram) -> bool {
    let counts = [histogram.count, histogram.zero_count];
    let mut all = counts.iter().chain(&histogram.positive).chain(&histogram.negative);
    let whole = |c: &f64| (0.0..=EXACT_MAX).contains(c) && c.fract() == 0.0 && c.is_sign_positive();
    let buckets: f64 = histogram.positive.iter().chain(&histogram.negative).sum::<f64>() + histogram.zero_count;
    let fits = if histogram.sum.is_nan() { buckets <= histogram.count } else { buckets == histogram.count };
    fits && all.all(whole)
}

fn put_side(out: &mut Vec<u8>, scratch: &mut Vec<u8>, first: u64, spans: &[BucketSpan], counts: &[f64], whole: bool) {
    for span in spans {
        scratch.clear();
        put_int(scratch, 1, fold(i64::from(span.offset)));
        put_int(scratch, 2, i64::from(span.length));
        put_bytes(out, first, scratch);
    }
    if !whole {
        return put_doubles(out, scratch, first + 2, counts);
    }
    scratch.clear();
    let mut last = 0;
    for count in counts {
        put_varint(scratch, fold(*count as i64 - last) as u64);
        last = *count as i64;
    }
    if !counts.is_empty() {
        put_bytes(out, first + 1, scratch);
    }
}

fn put_doubles(out: &mut Vec<u8>, scratch: &mut Vec<u8>, number: u64, values: &[f64]) {
    if values.is_empty() {
        return;
    }
    scratch.clear();
    values.iter().for_each(|value| scratch.extend_from_slice(&value.to_le_bytes()));
    put_bytes(out, number, scratch);
}

/// A member of a `oneof` is written even if it is 0: it says which of the two it is.
fn put_whole(out: &mut Vec<u8>, number: u64, count: u64) {
    put_varint(out, number << 3);
    put_varint(out, count);
}

fn put_float(out: &mut Vec<u8>, number: u64, count: f64) {
    put_varint(out, number << 3 | 1);
    out.extend_from_slice(&count.to_le_bytes());
}

/// Folds the sign into the lowest bit.
fn fold(n: i64) -> i64 {
    (n << 1) ^ (n >> 63)
}
