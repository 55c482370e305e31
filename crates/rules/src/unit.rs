//! Unit tests of rules, as `promtool test rules` runs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::histogram::Histogram;
use model::{Labels, LabelsBuf, Samples, Select, TimeRange};
use parking_lot::RwLock;
use promql::ast::Expr;
use promql::testing::{Memory, Point, Slot};
use promql::{QueryOptions, Value, VectorSample};

use crate::alert::State;
use crate::definition::GroupDefinition;
use crate::group::{AlertTimes, Group, Health};
use crate::host::{Host, Rows, Stored};

/// Rounds of evaluation that one test may take.
pub const ROUNDS_MAX: i64 = 1_000_000;

/// One test. Times are milliseconds from its start, which is `start_ms`.
#[derive(Clone, Debug, Default)]
pub struct UnitTest {
    /// Its name; may be empty.
    pub name: String,
    /// When it starts; milliseconds since 1970.
    pub start_ms: i64,
    /// Time between the values of a series.
    pub interval_ms: i64,
    /// Time between evaluations of the rules.
    pub evaluation_interval_ms: i64,
    /// The series.
    pub series: Vec<(Labels, Vec<Slot>)>,
    /// Alerts that must fire.
    pub alerts: Vec<AlertTest>,
    /// Queries and their answers.
    pub queries: Vec<QueryTest>,
    /// `external_labels`
    pub external_labels: Vec<(String, String)>,
    /// `external_url`
    pub external_url: String,
    /// Whether values need only be nearly equal.
    pub fuzzy: bool,
}

/// The alerts that must fire at a time.
#[derive(Clone, Debug)]
pub struct AlertTest {
    /// When.
    pub at_ms: i64,
    /// Which.
    pub name: String,
    /// Labels, with or without `alertname`, and annotations.
    pub expected: Vec<(Labels, Labels)>,
}

/// A query and its answer.
#[derive(Clone, Debug)]
pub struct QueryTest {
    /// The text.
    pub text: String,
    /// When.
    pub at_ms: i64,
    /// The samples.
    pub expected: Vec<(Labels, Point)>,
}

/// Runs a test over groups, in their order.
///
/// **Gives** what is not as it should be, each a text of several lines; nothing when all is well.
pub fn run(test: &UnitTest, groups: &[GroupDefinition]) -> Vec<String> {
    let host = Room::load(test);
    let mut failures = Vec::new();
    let mut groups: Vec<Group> = groups.iter().map(|definition| Group::new(definition.clone(), false)).collect();
    let last = test.alerts.iter().map(|t| t.at_ms).chain(test.queries.iter().map(|t| t.at_ms)).max().unwrap_or(0);
    let step = test.evaluation_interval_ms.max(1);
    if last / step > ROUNDS_MAX {
        return vec![format!("    it needs {} rounds of evaluation, more than {ROUNDS_MAX}", last / step)];
    }
    let mut at_ms = 0;
    while at_ms <= last {
        for group in &mut groups {
            group.evaluate(test.start_ms + at_ms, &host, &AlertTimes::default(), &|| false);
        }
        let broken =
            groups.iter().flat_map(|g| g.definition.rules.iter().zip(&g.rules)).filter_map(
                |(rule, state)| match &state.health {
                    Health::Bad(text) => Some(format!("    rule: {}, time: {}, err: {text}", rule.name(), ago(at_ms))),
                    _ => None,
                },
            );
        let before = failures.len();
        failures.extend(broken);
        if failures.len() > before {
            return failures;
        }
        let due = test.alerts.iter().filter(|t| at_ms <= t.at_ms && t.at_ms < at_ms + step);
        failures.extend(due.filter_map(|alert_test| check_alerts(alert_test, &groups)));
        at_ms += step;
    }
    failures.extend(test.queries.iter().filter_map(|query| check_query(query, test, &host)));
    failures
}

fn ago(ms: i64) -> String {
    promql::go_text::duration(ms)
}

fn check_alerts(test: &AlertTest, groups: &[Group]) -> Option<String> {
    let firing = groups
        .iter()
        .flat_map(|group| group.definition.rules.iter().zip(&group.rules))
        .filter(|(rule, _)| rule.is_alert() && rule.name() == test.name)
        .flat_map(|(_, state)| state.alerts.values())
        .filter(|alert| alert.state == State::Firing);
    let mut got: Vec<(Labels, Labels)> =
        firing.map(|a| (a.labels.clone(), Labels::from_pairs(a.annotations.iter().map(|(n, v)| (n, v))))).collect();
    let named = |labels: &Labels| {
        let mut labels = LabelsBuf::from_labels(labels);
        labels.set("alertname", &test.name);
        labels.to_labels()
    };
    let mut expected: Vec<(Labels, Labels)> = test.expected.iter().map(|(l, a)| (named(l), a.clone())).collect();
    got.sort();
    expected.sort();
    (got != expected).then(|| {
        let list = |alerts: &[(Labels, Labels)]| {
            let lines = alerts.iter().enumerate();
            let lines = lines.map(|(i, (labels, annotations))| {
                format!("            {i}:\n              Labels:{labels}\n              Annotations:{annotations}\n")
            });
            format!("[\n{}            ]", lines.collect::<String>())
        };
        let (name, at) = (&test.name, ago(test.at_ms));
        format!("    alertname: {name}, time: {at}, \n        exp:{}, \n        got:{}", list(&expected), list(&got))
    })
}

fn check_query(query: &QueryTest, test: &UnitTest, host: &Room) -> Option<String> {
    let failed =
        |what: String| Some(format!("    expr: {:?}, time: {}, \n        {what}", query.text, ago(query.at_ms)));
    let got = match promql::parse(&query.text).map_err(|e| e.to_string()) {
        Ok(expr) => host.ask(&expr, test.start_ms + query.at_ms),
        Err(text) => Err(text),
    };
    let got = match got {
        Ok(got) => got,
        Err(text) => return failed(format!("err: {text}")),
    };
    let has = |labels: &Labels, point: &Point| got.iter().any(|s| s.labels == *labels && equal(s, point, test.fuzzy));
    // Label sets of an answer are unique: equal numbers and one of each is all.
    if got.len() == query.expected.len() && query.expected.iter().all(|(labels, point)| has(labels, point)) {
        return None;
    }
    let expected: Vec<String> = query.expected.iter().map(|(l, p)| format!("{l} {}", point_text(p))).collect();
    let got: Vec<String> = got.iter().map(|s| format!("{} {}", s.labels, point_text(&point_of(s)))).collect();
    let list = |mut items: Vec<String>| {
        items.sort();
        items.iter().map(|item| format!("\n            {item}")).collect::<String>()
    };
    failed(format!("exp:{}\n        got:{}", list(expected), list(got)))
}

fn point_of(sample: &VectorSample) -> Point {
    match &sample.histogram {
        Some(histogram) => Point::Histogram(histogram.clone()),
        None => Point::Float(sample.value),
    }
}

fn point_text(point: &Point) -> String {
    match point {
        Point::Float(value) => promql::go_text::float(*value),
        Point::Histogram(h) => format!("{{{{count:{} sum:{} schema:{}}}}}", h.count, h.sum, h.schema),
    }
}

fn equal(sample: &VectorSample, point: &Point, fuzzy: bool) -> bool {
    match (&sample.histogram, point) {
        (None, Point::Float(expected)) => same_float(sample.value, *expected, fuzzy),
        (Some(got), Point::Histogram(expected)) => same_histogram(got, expected),
        _ => false,
    }
}

fn same_float(a: f64, b: f64, fuzzy: bool) -> bool {
    let near = || (a - b).abs() <= 1e-15_f64.max(1e-9 * a.abs().max(b.abs()));
    a == b || a.is_nan() && b.is_nan() || fuzzy && near()
}

fn same_histogram(a: &Histogram, b: &Histogram) -> bool {
    let side = |h: &Histogram, positive: bool| -> BTreeMap<i32, u64> {
        let (spans, counts) =
            if positive { (&h.positive_spans, &h.positive) } else { (&h.negative_spans, &h.negative) };
        Histogram::buckets(spans, counts).filter(|(_, n)| *n != 0.0).map(|(i, n)| (i, n.to_bits())).collect()
    };
    (a.schema, a.count.to_bits(), a.sum.to_bits(), a.zero_count.to_bits())
        == (b.schema, b.count.to_bits(), b.sum.to_bits(), b.zero_count.to_bits())
        && a.zero_threshold == b.zero_threshold
        && a.custom_bounds == b.custom_bounds
        && side(a, true) == side(b, true)
        && side(a, false) == side(b, false)
}

/// A store in memory with the surroundings of a test.
pub(crate) struct Room {
    memory: Arc<RwLock<Memory>>,
    external_labels: Vec<(String, String)>,
    external_url: String,
}

impl Room {
    pub(crate) fn load(test: &UnitTest) -> Room {
        let mut memory = Memory::default();
        for (labels, slots) in &test.series {
            for (step, slot) in slots.iter().enumerate() {
                if let Some(point) = slot {
                    memory.push(labels, test.start_ms + step as i64 * test.interval_ms, point.clone());
                }
            }
        }
        let memory = Arc::new(RwLock::new(memory));
        Room { memory, external_labels: test.external_labels.clone(), external_url: test.external_url.clone() }
    }
}

impl Host for Room {
    fn ask(&self, expr: &Expr, ts_ms: i64) -> Result<Vec<VectorSample>, String> {
        let answer = promql::instant(&*self.memory.read(), expr, ts_ms, &QueryOptions::default());
        match answer.map_err(|e| e.to_string())?.value {
            Value::Vector(samples) => Ok(samples),
            Value::Scalar { ts_ms, value } => Ok(vec![VectorSample::new(Labels::empty(), ts_ms, value)]),
            _ => Err("rule result is not a vector or scalar".to_owned()),
        }
    }

    fn history(&self, selector: &str, start_ms: i64, end_ms: i64) -> Result<Vec<(Labels, Samples)>, String> {
        let matchers = promql::parse_selector(selector).map_err(|e| e.to_string())?;
        let range = TimeRange { start_ms, end_ms };
        let found = self.memory.read().select(&matchers, range).map_err(|e| e.to_string())?;
        let read = found.iter().map(|reader| {
            let mut samples = Samples::default();
            reader.read(range, &mut samples).map(|()| (reader.labels().clone(), samples)).map_err(|e| e.to_string())
        });
        read.collect()
    }

    fn store(&self, rows: Rows) -> Stored {
        let mut memory = self.memory.write();
        for (labels, ts_ms, value) in rows.samples {
            memory.push(&labels, ts_ms, Point::Float(value));
        }
        for (labels, ts_ms, histogram) in rows.histograms {
            memory.push(&labels, ts_ms, Point::Histogram(histogram));
        }
        Box::new(|| Ok(()))
    }

    fn external_labels(&self) -> Vec<(String, String)> {
        self.external_labels.clone()
    }

    fn external_url(&self) -> String {
        self.external_url.clone()
    }
}
