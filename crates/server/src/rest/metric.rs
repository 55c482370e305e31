//! `Metric`: one element of `POST /custom`, from JSON to rows of a batch.
//!
//! Invariants: 1. an element that is not understood refuses the request; one that is understood but not acceptable
//! (name, labels, time) is refused alone, and every sample of it is counted; 2. values are kept bit for bit.

use std::collections::{BTreeMap, HashSet};

use model::{
    Batch, BatchExemplar, Family, Labels, LabelsBuf, MetricType, Refusal, SeriesIndex, TypeCounts, Verdict,
    is_legacy_label_name, is_legacy_metric_name,
};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::fields::{Fields, Issues, Severity, join};
use super::registration::SOURCES;

/// Characters of a metric's name: the column's length.
const NAME_CHARS_MAX: usize = 200;
/// Labels of one series, without name, job and source type.
const LABELS_MAX: usize = 64;
/// Bytes of help and unit.
const WORDS_BYTES_MAX: usize = 4_096;
/// Bytes of a label's value.
const LABEL_VALUE_BYTES_MAX: usize = 4_096;
/// Bytes of all rows, about; who reads may allow less.
const ROWS_BYTES_MAX: usize = 32 << 20;
/// How far ahead of our clock a sample may be.
pub const FUTURE_MS_MAX: i64 = 10 * 60 * 1000;
/// Buckets or quantiles of one object.
const PARTS_MAX: usize = 1_000;

const TYPES: [(&str, MetricType); 5] = [
    ("COUNTER", MetricType::Counter),
    ("GAUGE", MetricType::Gauge),
    ("HISTOGRAM", MetricType::Histogram),
    ("SUMMARY", MetricType::Summary),
    ("CUSTOM", MetricType::Unknown),
];

const CUSTOM_TYPES: [(&str, MetricType); 4] = [
    ("unknown", MetricType::Unknown),
    ("info", MetricType::Info),
    ("stateset", MetricType::StateSet),
    ("gaugehistogram", MetricType::GaugeHistogram),
];

/// Collects the rows of a request.
pub struct MetricRows {
    /// The rows.
    pub batch: Batch,
    /// Which element of the request each sample came from.
    pub element_of_sample: Vec<u32>,
    /// Points by type.
    pub points: TypeCounts,
    source_id: String,
    now_ms: i64,
    families: BTreeMap<(String, MetricType), u32>,
    /// What families take, in the batch and here.
    text_bytes: usize,
    /// A row was not made for want of room.
    is_full: bool,
    points_seen: HashSet<u128>,
    labels: LabelsBuf,
}

/// The understood fields of an element.
struct Metric {
    name: String,
    metric_type: MetricType,
    labels: BTreeMap<String, String>,
    source: Option<&'static str>,
    ts_ms: i64,
    start_ms: Option<i64>,
    help: String,
    unit: String,
    parts: Parts,
    exemplar: Option<(Labels, i64, f64)>,
}

enum Parts {
    One(f64),
    Histogram { count: f64, sum: Option<f64>, buckets: Vec<(f64, f64)> },
    Summary { count: f64, sum: Option<f64>, quantiles: Vec<(f64, f64)> },
}

impl MetricRows {
    /// Starts without rows.
    pub fn new(batch: Batch, source_id: &str, now_ms: i64) -> MetricRows {
        MetricRows {
            batch,
            element_of_sample: Vec::new(),
            points: TypeCounts::default(),
            source_id: source_id.to_owned(),
            now_ms,
            families: BTreeMap::new(),
            text_bytes: 0,
            is_full: false,
            points_seen: HashSet::new(),
            labels: LabelsBuf::default(),
        }
    }

    /// Gives about how many bytes the rows take.
    pub fn bytes(&self) -> usize {
        self.batch.bytes()
            + self.text_bytes
            + self.element_of_sample.len() * size_of::<u32>()
            + self.points_seen.len() * 2 * size_of::<u128>()
    }

    /// Reads one element.
    ///
    /// Its labels stand once for each of its buckets: beyond [`ROWS_BYTES_MAX`] no more rows are made of it, which is an issue.
    pub fn add(&mut self, index: u32, value: &Value, issues: &mut Issues) {
        let Some(metric) = read(value, &format!("/{index}"), self.now_ms, issues) else { return };
        if !issues.is_empty() {
            return;
        }
        let refusal = self.refusal(&metric);
        let family = self.family(&metric);
        match &metric.parts {
            Parts::One(value) => self.row(index, &metric, family, "", None, *value, refusal),
            Parts::Histogram { count, sum, buckets } => {
                for (le, n) in buckets {
                    self.row(index, &metric, family, "_bucket", Some(("le", *le)), *n, refusal);
                }
                if buckets.last().is_none_or(|(le, _)| *le != f64::INFINITY) {
                    self.row(index, &metric, family, "_bucket", Some(("le", f64::INFINITY)), *count, refusal);
                }
                self.totals(index, &metric, family, *count, *sum, refusal);
            }
            Parts::Summary { count, sum, quantiles } => {
                for (q, v) in quantiles {
                    self.row(index, &metric, family, "", Some(("quantile", *q)), *v, refusal);
                }
                self.totals(index, &metric, family, *count, *sum, refusal);
            }
        }
        self.count_point(&metric);
        if self.is_full {
            let detail = format!("the samples take more than {ROWS_BYTES_MAX} bytes; send less at a time");
            issues.add(Severity::Refused, format!("/{index}"), "too_long", detail);
        }
    }

    fn totals(&mut self, index: u32, metric: &Metric, family: u32, count: f64, sum: Option<f64>, r: Option<Refusal>) {
        if let Some(sum) = sum {
            self.row(index, metric, family, "_sum", None, sum, r);
        }
        self.row(index, metric, family, "_count", None, count, r);
    }

    #[allow(clippy::too_many_arguments)]
    fn row(
        &mut self,
        index: u32,
        metric: &Metric,
        family: u32,
        suffix: &str,
        part: Option<(&str, f64)>,
        value: f64,
        refusal: Option<Refusal>,
    ) {
        if self.bytes() > ROWS_BYTES_MAX {
            self.is_full = true;
            return;
        }
        let mut buf = std::mem::take(&mut self.labels);
        buf.clear();
        // A map has each name once: looking for it would be work in the square of their number.
        for (name, text) in &metric.labels {
            buf.push(name, text);
        }
        if let Some((name, bound)) = part {
            buf.set(name, &bound_text(bound));
        }
        if !metric.labels.contains_key("job") {
            buf.set("job", &self.source_id);
        }
        if let Some(source) = metric.source.filter(|_| !metric.labels.contains_key("source_type")) {
            buf.set("source_type", source);
        }
        buf.set("__name__", &format!("{}{suffix}", metric.name));
        // Names are unique: they come out of a map, and `set` replaces.
        let sorted = buf.sort();
        debug_assert!(sorted.is_ok());
        let series = self.batch.push_series(&buf, family);
        self.labels = buf;
        match refusal {
            None => self.batch.push_sample(series, metric.ts_ms, value),
            Some(reason) => self.batch.push_decided(series, metric.ts_ms, value, Verdict::Refused(reason)),
        }
        self.element_of_sample.push(index);
        self.extras(series, metric, refusal, suffix);
    }

    fn extras(&mut self, series: SeriesIndex, metric: &Metric, refusal: Option<Refusal>, suffix: &str) {
        if refusal.is_some() {
            return;
        }
        if let Some(start_ms) = metric.start_ms {
            self.batch.start_timestamps.push((series, start_ms));
        }
        let carries = matches!(metric.parts, Parts::One(_)) || suffix == "_count";
        if let Some((labels, ts_ms, value)) = metric.exemplar.as_ref().filter(|_| carries) {
            let (ts_ms, value) = (*ts_ms, *value);
            self.batch.exemplars.push(BatchExemplar { series, labels: labels.clone(), ts_ms, value });
        }
    }

    fn refusal(&self, metric: &Metric) -> Option<Refusal> {
        let longest_suffix = if matches!(metric.parts, Parts::One(_)) { 0 } else { "_bucket".len() };
        if !is_legacy_metric_name(&metric.name) || metric.name.len() + longest_suffix > NAME_CHARS_MAX {
            return Some(Refusal::InvalidName);
        }
        if metric.labels.len() > LABELS_MAX {
            return Some(Refusal::LabelLimit);
        }
        for (name, value) in &metric.labels {
            if !is_legacy_label_name(name) || name.starts_with("__") {
                return Some(Refusal::InvalidName);
            }
            if name.len() > NAME_CHARS_MAX || value.len() > LABEL_VALUE_BYTES_MAX {
                return Some(Refusal::LabelLimit);
            }
        }
        (metric.ts_ms > self.now_ms.saturating_add(FUTURE_MS_MAX)).then_some(Refusal::TooNew)
    }

    fn family(&mut self, metric: &Metric) -> u32 {
        let name = family_name(&metric.name, metric.metric_type).to_owned();
        let next = self.batch.families.len() as u32;
        let at = *self.families.entry((name.clone(), metric.metric_type)).or_insert(next);
        if at == next {
            let (help, unit) = (metric.help.clone(), metric.unit.clone());
            self.text_bytes += 2 * name.len() + help.len() + unit.len() + 2 * size_of::<Family>();
            self.batch.families.push(Family { name, metric_type: metric.metric_type, help, unit });
        } else if let Some(family) = self.batch.families.get_mut(at as usize) {
            if family.help.is_empty() {
                family.help.clone_from(&metric.help);
            }
            if family.unit.is_empty() {
                family.unit.clone_from(&metric.unit);
            }
        }
        at
    }

    /// Counts a point; the parts of a flattened histogram or summary are one point together.
    fn count_point(&mut self, metric: &Metric) {
        let counts = &mut self.points;
        let flat = matches!(metric.parts, Parts::One(_));
        match metric.metric_type {
            MetricType::Counter => counts.counters += 1,
            MetricType::Gauge => counts.gauges += 1,
            MetricType::Histogram | MetricType::Summary => {
                if flat && !self.points_seen.insert(point_hash(metric)) {
                    return;
                }
                if metric.metric_type == MetricType::Histogram { counts.histograms += 1 } else { counts.summaries += 1 }
            }
            _ => counts.others += 1,
        }
    }
}

fn point_hash(metric: &Metric) -> u128 {
    let mut hasher = Xxh3::new();
    let mut put = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    put(metric.metric_type.as_str());
    put(family_name(&metric.name, metric.metric_type));
    put(&metric.ts_ms.to_string());
    for (name, value) in metric.labels.iter().filter(|(n, _)| *n != "le" && *n != "quantile") {
        put(name);
        put(value);
    }
    hasher.digest128()
}

/// Takes the suffix of a flattened histogram's or summary's part off.
fn family_name(name: &str, metric_type: MetricType) -> &str {
    let suffixes: &[&str] = match metric_type {
        MetricType::Histogram => &["_bucket", "_sum", "_count"],
        MetricType::Summary => &["_sum", "_count"],
        _ => &[],
    };
    suffixes.iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name)
}

/// Writes a bound as the exposition formats do: `0.5`, `1`, `+Inf`.
fn bound_text(bound: f64) -> String {
    let mut out = Vec::new();
    crate::prom::json::float(&mut out, bound);
    String::from_utf8(out).unwrap_or_default()
}

fn read(value: &Value, pointer: &str, now_ms: i64, issues: &mut Issues) -> Option<Metric> {
    let mut f = Fields::open(value, pointer, issues)?;
    let name = f.string("name");
    let name = f.require("name", name);
    let metric_type = f.word("metric_type", &TYPES);
    let mut metric_type = f.require("metric_type", metric_type);
    if let Some(custom) = f.string("custom_type") {
        metric_type = custom_type(&mut f, metric_type, custom);
    }
    let parts = read_parts(&mut f, metric_type);
    let labels = f.strings("labels").unwrap_or_default();
    let source = f.word("source", &SOURCES);
    let ts_ms = f.time_ms("timestamp");
    let start_ms = f.time_ms("start_timestamp");
    let help = words(&mut f, "help_text");
    let unit = words(&mut f, "unit");
    let exemplar = read_exemplar(&mut f, ts_ms.unwrap_or(now_ms));
    f.finish();
    Some(Metric {
        name: name?.to_owned(),
        metric_type: metric_type?,
        labels,
        source,
        ts_ms: ts_ms.unwrap_or(now_ms),
        start_ms,
        help,
        unit,
        parts: parts?,
        exemplar,
    })
}

fn custom_type(f: &mut Fields, given: Option<MetricType>, custom: &str) -> Option<MetricType> {
    if given != Some(MetricType::Unknown) {
        f.issue(Severity::Refused, "custom_type", "not_applicable", "custom_type goes with metric_type CUSTOM");
        return given;
    }
    let known = CUSTOM_TYPES.iter().find(|(word, _)| word.eq_ignore_ascii_case(custom)).map(|(_, t)| *t);
    if known.is_none() {
        let detail = "custom types other than unknown, info, stateset, gaugehistogram are not kept yet";
        f.issue(Severity::NotYet, "custom_type", "not_yet", detail);
    }
    known
}

fn read_parts(f: &mut Fields, metric_type: Option<MetricType>) -> Option<Parts> {
    let histogram = f.value("histogram");
    let summary = f.value("summary");
    let value = f.value("value");
    let wanted = [("histogram", histogram, MetricType::Histogram), ("summary", summary, MetricType::Summary)];
    for (name, object, object_type) in wanted {
        let Some(object) = object else { continue };
        if metric_type.is_some_and(|t| t != object_type)
            || value.is_some()
            || (histogram.is_some() && summary.is_some())
        {
            let detail = format!("{name} goes with metric_type {} and without value", object_type.as_spec_str());
            f.issue(Severity::Refused, name, "not_applicable", detail);
            return None;
        }
        let pointer = f.at(name);
        let mut object = Fields::open(object, pointer, f.issues)?;
        return match object_type {
            MetricType::Histogram => read_histogram(&mut object),
            _ => read_summary(&mut object),
        };
    }
    let pointer = f.at("value");
    f.require("value", value)?;
    number(value?, pointer, f.issues).map(Parts::One)
}

fn read_histogram(f: &mut Fields) -> Option<Parts> {
    let native = ["schema", "zero_threshold", "zero_count", "positive", "negative"];
    for name in native {
        if f.value(name).is_some() {
            f.issue(Severity::NotYet, name, "not_yet", "native histograms are not built yet");
        }
    }
    let (count, sum) = read_count_and_sum(f);
    let mut buckets = read_pairs(f, "buckets")?;
    f.note_unknown();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    Some(Parts::Histogram { count: count?, sum, buckets })
}

fn read_summary(f: &mut Fields) -> Option<Parts> {
    let (count, sum) = read_count_and_sum(f);
    let quantiles = read_pairs(f, "quantiles")?;
    f.note_unknown();
    Some(Parts::Summary { count: count?, sum, quantiles })
}

fn read_count_and_sum(f: &mut Fields) -> (Option<f64>, Option<f64>) {
    let count = f.value("count");
    f.require("count", count);
    let count = count.and_then(|v| number(v, f.at("count"), f.issues));
    let sum = f.value("sum").and_then(|v| number(v, f.at("sum"), f.issues));
    (count, sum)
}

/// Reads `[[bound, value], ...]`; no bound twice.
fn read_pairs(f: &mut Fields, name: &'static str) -> Option<Vec<(f64, f64)>> {
    let pointer = f.at(name);
    let list = f.array(name)?;
    if list.len() > PARTS_MAX {
        f.issue(Severity::Refused, name, "too_long", format!("{name}: at most {PARTS_MAX}"));
        return None;
    }
    let mut out: Vec<(f64, f64)> = Vec::with_capacity(list.len());
    for (i, pair) in list.iter().enumerate() {
        let pointer = join(&pointer, &i.to_string());
        let Some([bound, value]) = pair.as_array().map(Vec::as_slice) else {
            f.issues.add(Severity::Malformed, pointer, "wrong_type", "expected a pair of numbers");
            continue;
        };
        let bound = number(bound, join(&pointer, "0"), f.issues);
        let value = number(value, join(&pointer, "1"), f.issues);
        let (Some(bound), Some(value)) = (bound, value) else { continue };
        if bound.is_nan() || out.iter().any(|(b, _)| *b == bound) {
            f.issues.add(Severity::Refused, pointer, "invalid_value", "a bound is NaN or stands twice");
            continue;
        }
        out.push((bound, value));
    }
    Some(out)
}

/// Reads what is kept in memory for each family.
fn words(f: &mut Fields, name: &'static str) -> String {
    let text = f.string(name).unwrap_or_default();
    if text.len() > WORDS_BYTES_MAX {
        let detail = format!("{name} has {} bytes, {WORDS_BYTES_MAX} are allowed", text.len());
        f.issue(Severity::Refused, name, "too_long", detail);
        return String::new();
    }
    text.to_owned()
}

fn read_exemplar(f: &mut Fields, ts_ms: i64) -> Option<(Labels, i64, f64)> {
    let pointer = f.at("exemplar");
    let value = f.value("exemplar")?;
    let mut f = Fields::open(value, pointer, f.issues)?;
    let labels = f.strings("labels").unwrap_or_default();
    let length: usize = labels.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum();
    if length > 128 {
        f.issue(Severity::Refused, "labels", "too_long", "an exemplar's labels have at most 128 characters");
    }
    let number = f.value("value").and_then(|v| number(v, f.at("value"), f.issues));
    let number = f.require("value", number);
    let ts_ms = f.time_ms("timestamp").unwrap_or(ts_ms);
    f.finish();
    Some((Labels::from_pairs(labels.iter()), ts_ms, number?))
}

/// Reads a number, or the words for what JSON numbers cannot be.
fn number(value: &Value, pointer: String, issues: &mut Issues) -> Option<f64> {
    let found = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "nan" => Some(f64::NAN),
            "inf" | "+inf" | "infinity" | "+infinity" => Some(f64::INFINITY),
            "-inf" | "-infinity" => Some(f64::NEG_INFINITY),
            _ => text.parse().ok(),
        },
        _ => None,
    };
    if found.is_none() {
        let detail = "expected a number, or one of \"NaN\", \"+Inf\", \"-Inf\"";
        issues.add(Severity::Malformed, pointer, "wrong_type", detail);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::problem::Problem;
    use super::*;

    const NOW: i64 = 1_750_500_000_000;

    fn rows(list: Value) -> Result<MetricRows, Problem> {
        let mut rows = MetricRows::new(Batch::default(), "desk", NOW);
        let mut issues = Issues::new(true);
        for (i, value) in list.as_array().expect("a list").iter().enumerate() {
            rows.add(i as u32, value, &mut issues);
        }
        issues.into_result().map(|()| rows)
    }

    fn text(rows: &MetricRows) -> Vec<String> {
        let row = |s: &model::BatchSample| {
            let labels = rows.batch.labels(s.series).map(|l| l.to_string()).unwrap_or_default();
            format!("{labels} {} {}", s.value, s.ts_ms - NOW)
        };
        rows.batch.samples.iter().map(row).collect()
    }

    #[test]
    fn labels_cost_what_they_are_and_not_their_square_or_more() {
        let labels =
            |n: usize, value: &str| (0..n).map(|i| (format!("l{i}"), json!(value))).collect::<serde_json::Map<_, _>>();
        let mut rows = MetricRows::new(Batch::default(), "desk", NOW);
        let mut issues = Issues::new(true);
        rows.add(
            0,
            &json!({"name": "a", "metric_type": "GAUGE", "value": 1, "labels": labels(100_000, "v")}),
            &mut issues,
        );
        assert!(issues.is_empty() && rows.batch.counts().refused[Refusal::LabelLimit as usize] == 1);
        let mut rows = MetricRows::new(Batch::default(), "desk", NOW);
        let buckets: Vec<_> = (0..1_000).map(|i| json!([i, i])).collect();
        let histogram = json!({"count": 1_000, "sum": 1, "buckets": buckets});
        let big = labels(60, &"v".repeat(4_000));
        rows.add(
            0,
            &json!({"name": "h", "metric_type": "HISTOGRAM", "histogram": histogram, "labels": big}),
            &mut issues,
        );
        assert!(!issues.is_empty() && rows.bytes() > ROWS_BYTES_MAX, "{}", rows.bytes());
        assert!(rows.bytes() < 2 * ROWS_BYTES_MAX, "{}", rows.bytes());
    }

    #[test]
    fn plain_metrics_keep_their_bits() {
        let r = rows(json!([
            {"name": "a", "metric_type": "gauge", "value": 0.1, "labels": {"x": "y", "e": ""}, "source": "application", "timestamp": 1_750_499_999},
            {"name": "b", "metric_type": "CUSTOM", "value": "-Inf"},
            {"name": "c", "metric_type": "COUNTER", "value": -0.0, "labels": {"job": "mine"}},
        ]))
        .expect("fine");
        assert_eq!(
            text(&r),
            [
                r#"a{job="desk", source_type="APPLICATION", x="y"} 0.1 -1000"#,
                r#"b{job="desk"} -inf 0"#,
                r#"c{job="mine"} -0 0"#
            ]
        );
        assert_eq!(r.batch.samples[2].value.to_bits(), (-0.0f64).to_bits());
        assert_eq!((r.points.gauges, r.points.counters, r.points.others), (1, 1, 1));
    }

    #[test]
    fn objects_become_classic_series_and_count_once() {
        let r = rows(json!([
            {"name": "h", "metric_type": "HISTOGRAM", "histogram": {"count": 3, "sum": 4.5, "buckets": [[1, 2], [0.5, 1]]}},
            {"name": "s", "metric_type": "SUMMARY", "summary": {"count": 2, "sum": 1, "quantiles": [[0.99, 7]]}},
        ]))
        .expect("fine");
        assert_eq!(
            text(&r),
            [
                r#"h_bucket{job="desk", le="0.5"} 1 0"#,
                r#"h_bucket{job="desk", le="1"} 2 0"#,
                r#"h_bucket{job="desk", le="+Inf"} 3 0"#,
                r#"h_sum{job="desk"} 4.5 0"#,
                r#"h_count{job="desk"} 3 0"#,
                r#"s{job="desk", quantile="0.99"} 7 0"#,
                r#"s_sum{job="desk"} 1 0"#,
                r#"s_count{job="desk"} 2 0"#,
            ]
        );
        assert_eq!((r.points.histograms, r.points.summaries, r.points.total()), (1, 1, 2));
        let names: Vec<_> = r.batch.families.iter().map(|f| (f.name.as_str(), f.metric_type)).collect();
        assert_eq!(names, [("h", MetricType::Histogram), ("s", MetricType::Summary)]);
    }

    #[test]
    fn flattened_parts_are_one_point() {
        let part =
            |name: &str, le: &str| json!({"name": name, "metric_type": "HISTOGRAM", "value": 1, "labels": {"le": le}});
        let r = rows(json!([part("h_bucket", "1"), part("h_bucket", "+Inf"), part("h_sum", ""), part("h_count", "")]))
            .expect("fine");
        // The same point with and without le: an empty label is no label.
        assert_eq!((r.points.histograms, r.batch.families.len(), r.batch.samples.len()), (1, 1, 4));
    }

    #[test]
    fn unacceptable_ones_are_refused_alone() {
        let gauge = |name: &str, labels: Value, at: i64| json!({"name": name, "metric_type": "GAUGE", "value": 1, "labels": labels, "timestamp": at});
        let at = NOW / 1000;
        let r = rows(json!([
            gauge("fine", json!({}), at),
            gauge("not fine", json!({}), at),
            gauge("", json!({}), at),
            gauge(&"x".repeat(201), json!({}), at),
            gauge("a", json!({"__x": "1"}), at),
            gauge("a", json!({"x": "y".repeat(5_000)}), at),
            gauge("a", json!({}), at + 601),
            gauge("a", json!({}), at + 599),
        ]))
        .expect("understood");
        use Refusal::*;
        let refused = |r| Verdict::Refused(r);
        assert_eq!(
            r.batch.verdicts,
            [
                Verdict::Pending,
                refused(InvalidName),
                refused(InvalidName),
                refused(InvalidName),
                refused(InvalidName),
                refused(LabelLimit),
                refused(TooNew),
                Verdict::Pending
            ]
        );
        assert_eq!(r.element_of_sample, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn what_is_not_understood_refuses_the_request_with_pointers() {
        for (metric, status, pointer) in [
            (json!({}), 400, "/0/name"),
            (json!(7), 400, "/0"),
            (json!({"name": 1, "metric_type": "GAUGE", "value": 1}), 400, "/0/name"),
            (json!({"name": "a", "metric_type": "METER", "value": 1}), 400, "/0/metric_type"),
            (json!({"name": "a", "metric_type": "GAUGE"}), 400, "/0/value"),
            (json!({"name": "a", "metric_type": "GAUGE", "value": "much"}), 400, "/0/value"),
            (json!({"name": "a", "metric_type": "GAUGE", "value": 1, "labels": {"x": 1}}), 400, "/0/labels/x"),
            (json!({"name": "a", "metric_type": "GAUGE", "value": 1, "timestamp": "now"}), 400, "/0/timestamp"),
            (json!({"name": "a", "metric_type": "GAUGE", "value": 1, "timestamp": 1e300}), 400, "/0/timestamp"),
            (json!({"name": "a", "metric_type": "GAUGE", "value": 1, "colour": 1}), 400, "/0/colour"),
            (json!({"name": "a", "metric_type": "GAUGE", "value": 1, "source": "MARS"}), 400, "/0/source"),
            (
                json!({"name": "a", "metric_type": "GAUGE", "histogram": {"count": 1, "buckets": []}}),
                422,
                "/0/histogram",
            ),
            (
                json!({"name": "a", "metric_type": "HISTOGRAM", "histogram": {"count": 1, "buckets": [[1]]}}),
                400,
                "/0/histogram/buckets/0",
            ),
            (
                json!({"name": "a", "metric_type": "HISTOGRAM", "histogram": {"count": 1, "schema": 3, "buckets": []}}),
                501,
                "/0/histogram/schema",
            ),
            (
                json!({"name": "a", "metric_type": "HISTOGRAM", "histogram": {"count": 1, "x": 3, "buckets": []}}),
                400,
                "/0/histogram/x",
            ),
            (json!({"name": "a", "metric_type": "CUSTOM", "custom_type": "meter", "value": 1}), 501, "/0/custom_type"),
        ] {
            let problem = rows(json!([metric])).map(drop).expect_err("it is refused");
            assert_eq!(problem.status, status, "{metric}: {problem:?}");
            assert!(problem.errors.iter().any(|e| e.pointer == pointer), "{metric}: {problem:?}");
        }
    }
}
