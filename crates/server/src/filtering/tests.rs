use std::sync::Arc;

use collect::Sums;
use model::filter::{Action, Filter, FilterSet, Function};
use model::histogram::Histogram;
use model::{Batch, Family, Labels, LabelsBuf, MatchOp, Matcher, MetricType, NO_FAMILY, Refusal, Verdict};

use super::KnownType;
use super::source::SourceState;

const NOW_MS: i64 = 10_000_000;
const NEWEST_MS: i64 = NOW_MS + 600_000;

fn filter(action: Action, labels: &[&str]) -> Filter {
    Filter { labels: labels.iter().map(|l| (*l).to_owned()).collect(), ..Filter::new(action) }
}

fn source(filters: Vec<Filter>, sums: &Sums) -> SourceState {
    SourceState::new(Arc::new(FilterSet::new(filters)), sums.of("x"))
}

/// A push of one family: host, time and value of each sample.
fn batch(metric_type: MetricType, samples: &[(&str, i64, f64)]) -> Batch {
    let mut batch = Batch::default();
    batch.families.push(Family { name: "m".into(), metric_type, ..Family::default() });
    for (host, ts_ms, value) in samples {
        let series = batch.push_labels(&Labels::from_pairs([("__name__", "m"), ("host", host)]), 0);
        batch.push_sample(series, *ts_ms, *value);
    }
    batch
}

/// Passes a push through; the store takes what is not of the future. Gives time and value of what is stored, and the verdicts.
fn push(source: &SourceState, mut batch: Batch) -> (Vec<(i64, f64)>, Vec<Verdict>) {
    let filtering = source.apply(&mut batch, NOW_MS, NEWEST_MS, &|_| KnownType::default());
    for (sample, verdict) in batch.samples.iter().zip(&mut batch.verdicts).filter(|(_, v)| **v == Verdict::Pending) {
        *verdict = match sample.ts_ms > NEWEST_MS {
            true => Verdict::Refused(Refusal::TooNew),
            false => Verdict::Stored,
        };
    }
    filtering.commit(&batch);
    let stored = batch.samples.iter().zip(&batch.verdicts).filter(|(_, v)| **v == Verdict::Stored);
    (stored.map(|(s, _)| (s.ts_ms, s.value)).collect(), batch.verdicts.clone())
}

#[test]
fn one_sample_of_the_future_stops_no_sum() {
    let sums = Sums::default();
    let source = source(vec![filter(Action::AggregateAway, &["host"])], &sums);
    let counter = |samples: &[(&str, i64, f64)]| push(&source, batch(MetricType::Counter, samples));
    let (stored, verdicts) = counter(&[("a", NOW_MS, 5.0), ("b", NOW_MS * 9, 1.0)]);
    assert_eq!(stored, [(NOW_MS, 5.0)]);
    assert_eq!(verdicts[1], Verdict::Refused(Refusal::TooNew));
    // The last time that is allowed, which may need one more for a part that comes later.
    assert_eq!(counter(&[("a", NEWEST_MS, 6.0)]).0, [(NEWEST_MS, 6.0)]);
    assert_eq!(counter(&[("b", NEWEST_MS, 1.0)]).1, [Verdict::Refused(Refusal::TooNew)]);
    assert_eq!(counter(&[("c", NEWEST_MS - 1, 1.0)]).1, [Verdict::Refused(Refusal::TooNew)]);
}

#[test]
fn late_gauges_are_refused_and_late_counters_counted() {
    let sums = Sums::default();
    let source = source(vec![filter(Action::AggregateAway, &["host"])], &sums);
    let gauge = |samples: &[(&str, i64, f64)]| push(&source, batch(MetricType::Gauge, samples));
    assert_eq!(gauge(&[("a", NOW_MS, 5.0), ("b", NOW_MS, 1.0)]).0, [(NOW_MS, 6.0)]);
    let (stored, verdicts) = gauge(&[("c", NOW_MS - 400_000, 7.0), ("c", NOW_MS - 1, 2.0)]);
    assert_eq!((stored, verdicts[0]), (vec![(NOW_MS + 1, 8.0)], Verdict::Refused(Refusal::TooOld)));
    assert_eq!(gauge(&[("a", NOW_MS - 5, 1.0)]).1, [Verdict::Refused(Refusal::TooOld)], "behind its own last sample");
    let sums = Sums::default();
    let source = self::source(vec![filter(Action::AggregateAway, &["host"])], &sums);
    let counter = |samples: &[(&str, i64, f64)]| push(&source, batch(MetricType::Counter, samples));
    counter(&[("a", NOW_MS, 5.0)]);
    assert_eq!(counter(&[("b", NOW_MS - 4_000_000, 7.0)]).0, [(NOW_MS + 1, 12.0)]);
}

#[test]
fn a_series_that_stands_twice_is_added_once() {
    let sums = Sums::default();
    let source = source(vec![filter(Action::AggregateAway, &["host"])], &sums);
    let twice = [("a", NOW_MS, 5.0), ("a", NOW_MS, 5.0), ("a", NOW_MS, 4.0)];
    let (stored, verdicts) = push(&source, batch(MetricType::Gauge, &twice));
    assert_eq!(stored, [(NOW_MS, 5.0)]);
    assert_eq!(verdicts[1..], [Verdict::Duplicate, Verdict::Refused(Refusal::DuplicateConflict)]);
}

#[test]
fn a_histogram_that_comes_twice_is_one_and_another_at_its_time_none() {
    let sums = Sums::default();
    let source = source(vec![filter(Action::AggregateAway, &["host"])], &sums);
    let push_of = |count: f64| {
        let mut batch = batch(MetricType::Histogram, &[]);
        let series = batch.push_labels(&Labels::from_pairs([("__name__", "m"), ("host", "a")]), 0);
        batch.push_histogram(series, NOW_MS, Arc::new(Histogram { count, zero_count: count, ..Histogram::default() }));
        let filtering = source.apply(&mut batch, NOW_MS, NEWEST_MS, &|_| KnownType::default());
        let verdict = &mut batch.histograms[0].verdict;
        if *verdict == Verdict::Pending {
            *verdict = Verdict::Stored;
        }
        filtering.commit(&batch);
        batch.histograms[0].verdict
    };
    let conflict = Verdict::Refused(Refusal::DuplicateConflict);
    assert_eq!([push_of(5.0), push_of(5.0), push_of(6.0)], [Verdict::Stored, Verdict::Duplicate, conflict]);
}

#[test]
fn the_first_time_is_since_when_a_sum_counts() {
    let sums = Sums::default();
    let source = source(vec![Filter { function: Function::Sum, ..filter(Action::AggregateAway, &["host"]) }], &sums);
    let push_of = |value: f64, host: &str| {
        let mut batch = Batch::default();
        let series = batch.push_labels(&Labels::from_pairs([("__name__", "m_created"), ("host", host)]), NO_FAMILY);
        batch.push_sample(series, NOW_MS, value);
        let known = |name: &str| KnownType { metric_type: MetricType::Counter, created: name.ends_with("_created") };
        source.apply(&mut batch, NOW_MS, NEWEST_MS, &known).commit(&batch);
        batch.samples[0].value
    };
    assert_eq!((push_of(90.5, "a"), push_of(100.5, "b")), (90.5, 90.5));
}

#[test]
fn places_are_kept_for_those_alone_that_can_collide() {
    let sums = Sums::default();
    let only_http = Matcher::new("__name__", MatchOp::Regex, "http_.*").unwrap();
    let source = source(vec![Filter { matchers: vec![only_http], ..filter(Action::DropLabel, &["host"]) }], &sums);
    let mut labels = LabelsBuf::default();
    // More than there are places, of a name that no filter changes.
    for round in 0..3 {
        let mut batch = Batch::default();
        for i in 0..100_000 {
            labels.clear();
            labels.push("__name__", "other");
            labels.push("i", &(round * 100_000 + i).to_string());
            let series = batch.push_series(&labels, NO_FAMILY);
            batch.push_sample(series, NOW_MS, 1.0);
        }
        let (stored, _) = push(&source, batch);
        assert_eq!(stored.len(), 100_000);
    }
    // Those that can, still do.
    let mut batch = Batch::default();
    for host in ["a", "b"] {
        let labels = Labels::from_pairs([("__name__", "http_x"), ("host", host)]);
        let series = batch.push_labels(&labels, NO_FAMILY);
        batch.push_sample(series, NOW_MS, 1.0);
    }
    assert_eq!(push(&source, batch).1, [Verdict::Stored, Verdict::Refused(Refusal::LabelCollision)]);
}
