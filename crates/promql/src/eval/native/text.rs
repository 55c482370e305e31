//! A histogram as text, as `count_values` labels it.

use model::histogram::Histogram;

use super::layout::{Bucket, Side, all};
use crate::go_text::general;

/// Prints a histogram as Prometheus does.
pub(in crate::eval) fn text(h: &Histogram) -> String {
    let mut out = format!("{{count:{}, sum:{}", general(h.count), general(h.sum));
    for bucket in all(h).into_iter().filter(|bucket| bucket.count != 0.0) {
        out += &format!(", {}", bucket_text(&bucket));
    }
    out + "}"
}

fn bucket_text(bucket: &Bucket) -> String {
    let (open, close) = match bucket.side {
        Side::Negative => ('[', ')'),
        Side::Zero => ('[', ']'),
        Side::Positive if bucket.lower == f64::NEG_INFINITY => ('[', ']'),
        Side::Positive => ('(', ']'),
    };
    format!("{open}{},{}{close}:{}", general(bucket.lower), general(bucket.upper), general(bucket.count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::BucketSpan;

    #[test]
    fn sides_have_their_brackets() {
        let h = Histogram {
            count: 20.0,
            sum: 10.0,
            zero_threshold: 0.001,
            zero_count: 2.0,
            positive: vec![1.0, 0.0, 2.0],
            positive_spans: vec![BucketSpan { offset: 0, length: 3 }],
            negative: vec![1.0],
            negative_spans: vec![BucketSpan { offset: 1, length: 1 }],
            ..Histogram::default()
        };
        assert_eq!(text(&h), "{count:20, sum:10, [-2,-1):1, [-0.001,0.001]:2, (0.5,1]:1, (2,4]:2}");
    }
}
