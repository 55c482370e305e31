//! Filters on the way from body to batch: what is kept, what collides, what is added up.

use std::collections::HashMap;
use std::sync::Arc;

use collect::{BodyReader, OnExceed, TargetSpec};
use model::filter::{Action, Filter, FilterSet};
use model::{Batch, Labels, MatchOp, Matcher, MetricType, Refusal, SeriesId, SeriesIndex, Verdict, is_stale};
use wire::Format;

/// A reader with a store that only gives ids.
struct Body {
    reader: BodyReader,
    ids: HashMap<Vec<u8>, u64>,
    names: HashMap<u64, String>,
    at_ms: i64,
}

fn filter(action: Action, matchers: Vec<Matcher>, labels: &[&str]) -> Filter {
    Filter { matchers, labels: labels.iter().map(|l| (*l).to_owned()).collect(), ..Filter::new(action) }
}

impl Body {
    fn new(filters: Vec<Filter>) -> Body {
        let mut spec = TargetSpec::new("t", "http://h/m".parse().unwrap(), Labels::from_pairs([("job", "j")]));
        spec.filters = Arc::new(FilterSet::new(filters));
        Body { reader: BodyReader::new(spec), ids: HashMap::new(), names: HashMap::new(), at_ms: 0 }
    }

    /// Reads a body; gives the rows that are to be stored, and the batch.
    fn take(&mut self, body: &str) -> (Vec<(String, f64)>, Batch) {
        self.take_as(Format::Text, body)
    }

    fn take_as(&mut self, format: Format, body: &str) -> (Vec<(String, f64)>, Batch) {
        self.at_ms += 1_000;
        let (mut batch, result) = self.reader.read(format, body.as_bytes(), self.at_ms, 0);
        result.unwrap();
        for at in 0..batch.series.len() {
            let bytes = batch.label_bytes(SeriesIndex(at as u32)).to_vec();
            if bytes.is_empty() {
                continue;
            }
            let next = self.ids.len() as u64 + 1;
            let id = *self.ids.entry(bytes.clone()).or_insert(next);
            self.names.insert(id, Labels::from_bytes(&bytes).unwrap().to_string());
            batch.series[at].id = SeriesId(id);
        }
        let pending = |(s, v): (&model::BatchSample, &Verdict)| {
            (*v == Verdict::Pending && !is_stale(s.value))
                .then(|| (self.names[&batch.series[s.series.0 as usize].id.0].clone(), s.value))
        };
        let rows = batch.samples.iter().zip(&batch.verdicts).filter_map(pending).collect();
        let stored = batch.clone();
        self.reader.stored(&mut batch);
        (rows, stored)
    }
}

fn verdicts(batch: &Batch, verdict: Verdict) -> usize {
    batch.verdicts.iter().filter(|v| **v == verdict).count()
}

fn stale(batch: &Batch) -> usize {
    batch.samples.iter().filter(|s| is_stale(s.value)).count()
}

fn row(name: &str, value: f64) -> (String, f64) {
    (name.to_owned(), value)
}

#[test]
fn what_is_dropped_is_filtered_by_type_and_name() {
    let mut drop_gauges = filter(Action::Drop, vec![], &[]);
    drop_gauges.types = model::filter::TypeSet::of(&[MetricType::Gauge]);
    let keep = filter(Action::Keep, vec![Matcher::new("__name__", MatchOp::Regex, "a.*").unwrap()], &[]);
    let mut body = Body::new(vec![drop_gauges, keep]);
    let text = "# TYPE a_total counter\na_total 1\n# TYPE ag gauge\nag 2\n# TYPE b_total counter\nb_total 3\n";
    for _ in 0..3 {
        let (rows, batch) = body.take(text);
        assert_eq!(rows, [row(r#"a_total{job="j"}"#, 1.0)]);
        assert_eq!(verdicts(&batch, Verdict::Filtered), 2);
    }
    // Its type changes: from the next scrape on the filter sees it so.
    let text = text.replace("# TYPE ag gauge", "# TYPE ag counter");
    body.take(&text);
    assert_eq!(body.take(&text).0.len(), 2);
}

#[test]
fn series_that_become_one_collide_and_the_first_goes_on() {
    let mut body = Body::new(vec![filter(Action::DropLabel, vec![], &["pod"])]);
    for _ in 0..3 {
        let (rows, batch) = body.take("m{pod=\"a\"} 1\nm{pod=\"b\"} 2\n");
        assert_eq!(rows, [row(r#"m{job="j"}"#, 1.0)]);
        assert_eq!(verdicts(&batch, Verdict::Refused(Refusal::LabelCollision)), 1);
        assert_eq!(batch.examples[0].1.to_string(), r#"m{job="j", pod="b"}"#);
        assert!(batch.advice.as_deref().is_some_and(|a| a.contains("AGGREGATE_AWAY")), "{:?}", batch.advice);
    }
    // Where the first is gone, the second takes its place, without an end in between.
    let (rows, batch) = body.take("m{pod=\"b\"} 2\n");
    assert_eq!((rows, stale(&batch)), (vec![row(r#"m{job="j"}"#, 2.0)], 0));
    // One that comes back is refused, wherever it stands.
    let (rows, batch) = body.take("m{pod=\"a\"} 1\nm{pod=\"b\"} 2\n");
    assert_eq!(rows, [row(r#"m{job="j"}"#, 2.0)]);
    assert_eq!(verdicts(&batch, Verdict::Refused(Refusal::LabelCollision)), 1);
    // Another spelling of the same labels is no collision.
    let mut body = Body::new(vec![filter(Action::DropLabel, vec![], &["pod"])]);
    let (_, batch) = body.take("m{pod=\"a\",x=\"1\"} 1\nm{x=\"1\",pod=\"a\"} 1\n");
    assert_eq!(verdicts(&batch, Verdict::Refused(Refusal::LabelCollision)), 0);
}

#[test]
fn counters_are_added_up_and_every_sample_is_counted_once() {
    let mut body = Body::new(vec![filter(Action::AggregateAway, vec![], &["user"])]);
    let text = |values: &[(&str, f64)]| -> String {
        let lines = values.iter().map(|(user, value)| format!("r_total{{user=\"{user}\"}} {value}\n"));
        format!(
            "# TYPE r_total counter\n{}# TYPE q gauge\nq{{user=\"a\"}} 1\nq{{user=\"b\"}} 2\n",
            lines.collect::<String>()
        )
    };
    let sum = |rows: &[(String, f64)]| {
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!(rows[1], row(r#"q{job="j"}"#, 3.0));
        assert_eq!(rows[0].0, r#"r_total{job="j"}"#);
        rows[0].1
    };
    let (rows, batch) = body.take(&text(&[("a", 10.0), ("b", 5.0)]));
    assert_eq!((sum(&rows), verdicts(&batch, Verdict::Filtered), batch.verdicts.len()), (15.0, 2, 4));
    let (rows, _) = body.take(&text(&[("a", 11.0), ("b", 2.0)]));
    assert_eq!(sum(&rows), 18.0, "b began again");
    let (rows, batch) = body.take(&text(&[("a", 12.0)]));
    assert_eq!((sum(&rows), stale(&batch)), (19.0, 0), "b is gone, and no end is written");
    let (rows, _) = body.take(&text(&[("b", 3.0), ("c", 1.0), ("a", 12.0)]));
    assert_eq!(sum(&rows), 21.0);
    let (_, batch) = body.take("# TYPE x gauge\nx 1\n");
    assert_eq!(stale(&batch), 2, "the sums have ended");
}

#[test]
fn a_series_that_is_there_already_is_no_sum() {
    let pod = Matcher::new("pod", MatchOp::NotEqual, "").unwrap();
    let mut body = Body::new(vec![filter(Action::AggregateAway, vec![pod], &["pod"])]);
    for text in ["m 7\nm{pod=\"a\"} 1\nm{pod=\"b\"} 2\n", "m{pod=\"a\"} 1\nm{pod=\"b\"} 2\nm 7\n"] {
        let (rows, batch) = body.take(text);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert!(verdicts(&batch, Verdict::Refused(Refusal::LabelCollision)) > 0);
        body = Body::new(vec![filter(
            Action::AggregateAway,
            vec![Matcher::new("pod", MatchOp::NotEqual, "").unwrap()],
            &["pod"],
        )]);
    }
}

#[test]
fn a_series_that_stands_twice_is_added_once() {
    let mut body = Body::new(vec![filter(Action::AggregateAway, vec![], &["user"])]);
    for _ in 0..2 {
        let (rows, batch) =
            body.take("# TYPE q gauge\nq{user=\"a\"} 1\nq{user=\"a\"} 1\nq{user=\"b\"} 2\nq{user=\"b\"} 3\n");
        assert_eq!(rows, [row(r#"q{job="j"}"#, 3.0)]);
        assert_eq!(verdicts(&batch, Verdict::Duplicate), 1);
        assert_eq!(verdicts(&batch, Verdict::Refused(Refusal::DuplicateConflict)), 1);
        assert_eq!(verdicts(&batch, Verdict::Filtered), 1);
    }
}

#[test]
fn the_time_since_when_counters_count_is_not_added_up() {
    let mut body = Body::new(vec![filter(Action::AggregateAway, vec![], &["user"])]);
    let text = |lines: &str| format!("# TYPE r counter\n{lines}# EOF\n");
    let first =
        text("r_total{user=\"a\"} 4\nr_created{user=\"a\"} 100.5\nr_total{user=\"b\"} 3\nr_created{user=\"b\"} 90.5\n");
    let again =
        text("r_total{user=\"a\"} 1\nr_created{user=\"a\"} 120\nr_total{user=\"b\"} 3\nr_created{user=\"b\"} 90.5\n");
    for (text, sum) in [(first, 7.0), (again, 8.0)] {
        let (rows, _) = body.take_as(Format::OpenMetrics, &text);
        assert_eq!(rows, [row(r#"r_total{job="j"}"#, sum), row(r#"r_created{job="j"}"#, 90.5)]);
    }
    // A counter whose own name ends so is one.
    let (rows, _) =
        body.take("# TYPE users_created counter\nusers_created{user=\"a\"} 4\nusers_created{user=\"b\"} 3\n");
    assert_eq!(rows, [row(r#"users_created{job="j"}"#, 7.0)]);
}

#[test]
fn what_a_limit_took_out_does_not_collide_as_well() {
    let mut spec = TargetSpec::new("t", "http://h/m".parse().unwrap(), Labels::from_pairs([("job", "j")]));
    spec.filters = Arc::new(FilterSet::new(vec![filter(Action::DropLabel, vec![], &["pod"])]));
    (spec.limits.sample, spec.limits.on_exceed) = (2, OnExceed::KeepExisting);
    let mut body = Body { reader: BodyReader::new(spec), ..Body::new(vec![]) };
    body.take("m{pod=\"a\"} 1\n");
    // b takes the place of a, for whose family there is no room with the next line, and then a comes after all.
    let (rows, batch) = body.take("m{pod=\"b\"} 2\nm{pod=\"c\",x=\"1\"} 3\nm{pod=\"a\"} 1\n");
    assert_eq!(rows, [row(r#"m{job="j"}"#, 1.0)]);
    assert_eq!(verdicts(&batch, Verdict::Refused(Refusal::SampleLimit)), 2);
}
