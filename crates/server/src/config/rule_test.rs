//! Files of unit tests for rules, as `promtool test rules` reads them.

use std::path::{Path, PathBuf};

use model::Labels;
use promql::testing::{Point, parse_labels, parse_series};
use rules::GroupDefinition;
use rules::unit::{AlertTest, QueryTest, UnitTest};

use super::fields::{Fields, Problems};
use super::load::FILES_MAX;
use super::yaml::Node;

/// What a test file says.
#[derive(Clone, Debug, Default)]
pub struct RuleTests {
    /// The tests.
    pub tests: Vec<UnitTest>,
    /// The groups of the rule files, in the order of evaluation.
    pub groups: Vec<GroupDefinition>,
}

/// What the file says beside the tests.
pub struct TestFile {
    /// Rule files.
    pub files: Vec<PathBuf>,
    /// The time between evaluations.
    pub interval_ms: i64,
    /// Groups that go first, in this order.
    pub order: Vec<String>,
    /// The tests.
    pub tests: Vec<UnitTest>,
}

/// Reads a test file.
pub fn read(root: &Node, dir: &Path, problems: &mut Problems) -> TestFile {
    let mut fields = Fields::open(root, "a file of rule tests", problems);
    let interval_ms = fields.duration_ms("evaluation_interval", problems).filter(|ms| *ms > 0).unwrap_or(60_000);
    let fuzzy = fields.bool("fuzzy_compare", problems).unwrap_or(false);
    let start_ms = fields.parsed("start_timestamp", problems, crate::prom::params::parse_time_ms).unwrap_or(0);
    let order = fields.strings("group_eval_order", problems).unwrap_or_default();
    let mut files = Vec::new();
    let at = fields.place_of("rule_files");
    for text in fields.strings("rule_files", problems).unwrap_or_default() {
        let full = dir.join(&text).display().to_string();
        match discover::glob(&full, FILES_MAX) {
            Ok(found) if found.is_empty() => problems.error(at, format!("no file matches pattern {full}")),
            Ok(found) => files.extend(found),
            Err(e) => problems.error(at, format!("{full:?}: {e}")),
        }
    }
    let shared = Shared { interval_ms, fuzzy, start_ms };
    let nodes = fields.list("tests", problems).unwrap_or_default();
    let tests = nodes.iter().map(|node| read_test(node, shared, problems)).collect();
    fields.finish(problems);
    TestFile { files, interval_ms, order, tests }
}

#[derive(Clone, Copy)]
struct Shared {
    interval_ms: i64,
    fuzzy: bool,
    start_ms: i64,
}

fn read_test(node: &Node, shared: Shared, problems: &mut Problems) -> UnitTest {
    let mut fields = Fields::open(node, "a test", problems);
    let mut test = UnitTest {
        name: fields.string("name", problems).unwrap_or_default(),
        start_ms: fields
            .parsed("start_timestamp", problems, crate::prom::params::parse_time_ms)
            .unwrap_or(shared.start_ms),
        interval_ms: fields.duration_ms("interval", problems).filter(|ms| *ms > 0).unwrap_or(shared.interval_ms),
        evaluation_interval_ms: shared.interval_ms,
        external_labels: fields.string_map("external_labels", problems).unwrap_or_default(),
        external_url: fields.string("external_url", problems).unwrap_or_default(),
        fuzzy: shared.fuzzy,
        ..UnitTest::default()
    };
    for node in fields.list("input_series", problems).unwrap_or_default() {
        let mut series = Fields::open(node, "input_series", problems);
        let name = series.string("series", problems).unwrap_or_default();
        let values = series.string("values", problems).unwrap_or_default();
        match parse_series(&format!("{} {values}", name.trim())) {
            Ok(read) => test.series.push(read),
            Err(text) => problems.error(node.at, text),
        }
        series.finish(problems);
    }
    for node in fields.list("alert_rule_test", problems).unwrap_or_default() {
        test.alerts.push(read_alert(node, problems));
    }
    for node in fields.list("promql_expr_test", problems).unwrap_or_default() {
        test.queries.push(read_query(node, problems));
    }
    fields.finish(problems);
    test
}

fn read_alert(node: &Node, problems: &mut Problems) -> AlertTest {
    let mut fields = Fields::open(node, "alert_rule_test", problems);
    let name = fields.string("alertname", problems).unwrap_or_default();
    if name.is_empty() {
        problems.error(fields.at(), "an item under alert_rule_test misses required attribute alertname");
    }
    let at_ms = fields.duration_ms("eval_time", problems).unwrap_or(0);
    let mut expected = Vec::new();
    for node in fields.list("exp_alerts", problems).unwrap_or_default() {
        let mut alert = Fields::open(node, "exp_alerts", problems);
        let mut set = |key| Labels::from_pairs(alert.string_map(key, problems).unwrap_or_default());
        expected.push((set("exp_labels"), set("exp_annotations")));
        alert.finish(problems);
    }
    fields.finish(problems);
    AlertTest { at_ms, name, expected }
}

fn read_query(node: &Node, problems: &mut Problems) -> QueryTest {
    let mut fields = Fields::open(node, "promql_expr_test", problems);
    let text = fields.string("expr", problems).unwrap_or_default();
    let at_ms = fields.duration_ms("eval_time", problems).unwrap_or(0);
    let mut expected = Vec::new();
    for node in fields.list("exp_samples", problems).unwrap_or_default() {
        let mut sample = Fields::open(node, "exp_samples", problems);
        let labels = sample.parsed("labels", problems, parse_labels_or_none).unwrap_or_default();
        let histogram = sample.parsed("histogram", problems, parse_point);
        let value = sample.parsed("value", problems, parse_value);
        expected.push((labels, histogram.unwrap_or(Point::Float(value.unwrap_or(0.0)))));
        sample.finish(problems);
    }
    fields.finish(problems);
    QueryTest { text, at_ms, expected }
}

fn parse_labels_or_none(text: &str) -> Result<Labels, String> {
    if text.trim().is_empty() { Ok(Labels::empty()) } else { parse_labels(text.trim()) }
}

fn parse_point(text: &str) -> Result<Point, String> {
    let (_, mut slots) = parse_series(&format!("x {text}"))?;
    slots.pop().flatten().ok_or_else(|| format!("{text:?} is no histogram"))
}

/// YAML's own spellings of infinity and of what is no number count too.
fn parse_value(text: &str) -> Result<f64, String> {
    match text.to_ascii_lowercase().as_str() {
        ".nan" => Ok(f64::NAN),
        ".inf" | "+.inf" => Ok(f64::INFINITY),
        "-.inf" => Ok(f64::NEG_INFINITY),
        _ => promql::testing::number(text).map(|(value, _)| value),
    }
}
