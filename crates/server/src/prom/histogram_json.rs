//! Native histograms as Prometheus writes them: count, sum, and the buckets that are not empty.

use model::histogram::Histogram;

use super::json;

/// Which ends belong to a bucket.
#[derive(Clone, Copy)]
enum Ends {
    Upper = 0,
    Lower = 1,
    Both = 3,
}

/// Writes `[time,{"count":…,"sum":…,"buckets":[[ends,"lower","upper","count"],…]}]`.
pub fn point(out: &mut Vec<u8>, ts_ms: i64, histogram: &Histogram) {
    out.push(b'[');
    json::timestamp(out, ts_ms);
    out.extend_from_slice(b",{\"count\":");
    json::value(out, histogram.count);
    out.extend_from_slice(b",\"sum\":");
    json::value(out, histogram.sum);
    let buckets = buckets(histogram);
    if !buckets.is_empty() {
        out.extend_from_slice(b",\"buckets\":");
        json::list(out, buckets, |out, (ends, lower, upper, count)| {
            out.push(b'[');
            out.push(b'0' + ends as u8);
            for number in [lower, upper, count] {
                out.push(b',');
                json::value(out, number);
            }
            out.push(b']');
        });
    }
    out.extend_from_slice(b"}]");
}

/// Gives the buckets from the lowest to the highest.
fn buckets(h: &Histogram) -> Vec<(Ends, f64, f64, f64)> {
    let bound = |index: i32| bound(h, index);
    let mut all: Vec<_> = Histogram::buckets(&h.negative_spans, &h.negative)
        .map(|(i, count)| (Ends::Lower, -bound(i), -bound(i.saturating_sub(1)), count))
        .collect();
    all.reverse();
    all.push((Ends::Both, -h.zero_threshold, h.zero_threshold, h.zero_count));
    all.extend(Histogram::buckets(&h.positive_spans, &h.positive).map(|(i, count)| {
        let lower = bound(i.saturating_sub(1));
        let ends = if h.is_custom() && i == 0 { Ends::Both } else { Ends::Upper };
        (ends, lower, bound(i), count)
    }));
    all.retain(|bucket| bucket.3 != 0.0);
    all
}

/// The upper bound of a positive bucket.
fn bound(h: &Histogram, index: i32) -> f64 {
    if h.is_custom() {
        return match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(index) => h.custom_bounds.get(index).copied().unwrap_or(f64::INFINITY),
        };
    }
    let exponent = f64::from(index) * f64::from(-h.schema).exp2();
    // The bucket of the largest double ends there; the one beyond holds the infinite.
    if exponent == 1024.0 { f64::MAX } else { exponent.exp2() }
}

#[cfg(test)]
mod tests {
    use model::histogram::{BucketSpan, CUSTOM_SCHEMA};

    use super::*;

    fn written(histogram: &Histogram) -> String {
        let mut out = Vec::new();
        point(&mut out, 1_500, histogram);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn buckets_rise_and_empty_ones_are_left_out() {
        let span = |offset, length| vec![BucketSpan { offset, length }];
        let both = Histogram {
            schema: 0,
            zero_threshold: 0.5,
            zero_count: 2.0,
            count: 9.0,
            sum: -1.5,
            positive_spans: span(1, 3),
            positive: vec![1.0, 0.0, 3.0],
            negative_spans: span(0, 2),
            negative: vec![1.0, 2.0],
            ..Histogram::default()
        };
        let buckets = r#"[1,"-2","-1","2"],[1,"-1","-0.5","1"],[3,"-0.5","0.5","2"],[0,"1","2","1"],[0,"4","8","3"]"#;
        assert_eq!(written(&both), format!(r#"[1.500,{{"count":"9","sum":"-1.5","buckets":[{buckets}]}}]"#));
        let custom = Histogram {
            schema: CUSTOM_SCHEMA,
            count: 3.0,
            positive_spans: span(0, 3),
            positive: vec![1.0, 1.0, 1.0],
            custom_bounds: vec![1.0, 2.5],
            ..Histogram::default()
        };
        let buckets = r#"[3,"-Inf","1","1"],[0,"1","2.5","1"],[0,"2.5","+Inf","1"]"#;
        assert_eq!(written(&custom), format!(r#"[1.500,{{"count":"3","sum":"0","buckets":[{buckets}]}}]"#));
        assert_eq!(written(&Histogram::default()), r#"[1.500,{"count":"0","sum":"0"}]"#);
    }
}
