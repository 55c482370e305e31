//! The same data in Debian's Prometheus and in Quiver, the same questions to both.
//!
//! Samples lie 7 ms off the query grid, and subqueries start off their steps: ranges are closed in Prometheus 2.42 and
//! left-open since 3.0.
//! Known differences between 2.42 and 3.x are listed in [`KNOWN_DIFFERENCES`], each with its reason.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::remote::{self, TimeSeries};
use crate::support::{self, Client, encode, now_ms};

const STEP_MS: i64 = 15_000;
const COUNT: i64 = 240;

/// Questions that 2.42 and 3.x answer differently on purpose.
const KNOWN_DIFFERENCES: &[(&str, &str)] = &[
    ("requests_total atan2 2", ATAN2_NAME),
    ("temperature atan2 2", ATAN2_NAME),
    ("whole atan2 2", ATAN2_NAME),
    ("requests_total{code=~\"2..\"} atan2 2", ATAN2_NAME),
    ("{__name__=~\"temp.*\"} atan2 2", ATAN2_NAME),
    ("rate(requests_total[17m])", ZERO_CLAMP),
    ("increase(requests_total[17m])", ZERO_CLAMP),
    ("rate(sum(requests_total)[10m10s:45s])", ZERO_CLAMP),
    ("increase(sum(requests_total)[10m10s:45s])", ZERO_CLAMP),
];
const ATAN2_NAME: &str = "atan2 with a scalar keeps the metric name in 2.42, not in 3.x";
const ZERO_CLAMP: &str = "a counter that starts near zero: 2.42 limits the way to zero before it looks at the extrapolation threshold, 3.x after";

/// A small generator, so that both sides get the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn times(base_ms: i64) -> impl Iterator<Item = i64> {
    (0..COUNT).map(move |i| base_ms + i * STEP_MS + 7)
}

fn counters(base_ms: i64, n: &mut Numbers, out: &mut Vec<TimeSeries>) {
    for (job, instance, code) in [
        ("api", "a:1", "200"),
        ("api", "a:1", "500"),
        ("api", "b:1", "200"),
        ("web", "c:1", "200"),
        ("web", "c:1", "404"),
    ] {
        let mut total = 0.0;
        let samples: Vec<_> = times(base_ms)
            .filter_map(|t| {
                total = if n.next() < 0.01 { 0.0 } else { total + (n.next() * 50.0).floor() };
                (n.next() > 0.02).then_some((t, total))
            })
            .collect();
        let labels = [("__name__", "requests_total"), ("job", job), ("instance", instance), ("code", code)];
        out.push(remote::series(&labels, samples));
    }
}

fn gauges(base_ms: i64, n: &mut Numbers, out: &mut Vec<TimeSeries>) {
    for (job, instance) in [("api", "a:1"), ("api", "b:1"), ("web", "c:1"), ("db", "d:1")] {
        let samples: Vec<_> = times(base_ms)
            .enumerate()
            .filter(|(i, _)| !(instance == "b:1" && (100..140).contains(i)))
            .map(|(i, t)| match (instance, i) {
                ("d:1", 50) => (t, f64::NAN),
                ("d:1", 60) => (t, f64::INFINITY),
                ("d:1", 61) => (t, f64::NEG_INFINITY),
                ("c:1", 150) => (t, f64::from_bits(0x7ff0_0000_0000_0002)),
                _ => (t, (n.next() - 0.5) * 2000.0),
            })
            .collect();
        out.push(remote::series(&[("__name__", "temperature"), ("job", job), ("instance", instance)], samples));
        let owner = [("__name__", "build_info"), ("job", job), ("instance", instance), ("version", &job[..1])];
        out.push(remote::series(&owner, times(base_ms).map(|t| (t, 1.0))));
    }
    out.push(remote::series(&[("__name__", "whole")], times(base_ms).enumerate().map(|(i, t)| (t, (i % 17) as f64))));
}

fn histograms(base_ms: i64, n: &mut Numbers, out: &mut Vec<TimeSeries>) {
    for instance in ["a:1", "b:1"] {
        let mut rows: BTreeMap<&str, Vec<(i64, f64)>> = BTreeMap::new();
        let mut counts = [0.0f64; 5];
        for t in times(base_ms) {
            for c in &mut counts {
                *c += (n.next() * 9.0).floor();
            }
            let mut sum = 0.0;
            for (le, c) in ["0.1", "0.5", "1", "5", "+Inf"].iter().zip(counts) {
                sum += c;
                rows.entry(le).or_default().push((t, sum));
            }
        }
        for (le, samples) in rows {
            let labels = [("__name__", "latency_bucket"), ("job", "api"), ("instance", instance), ("le", le)];
            out.push(remote::series(&labels, samples));
        }
    }
}

/// Several hundred questions: each function, aggregation, operator and modifier over fitting series.
fn questions() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let range_functions = [
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "deriv",
        "resets",
        "changes",
        "avg_over_time",
        "min_over_time",
        "max_over_time",
        "sum_over_time",
        "count_over_time",
        "stddev_over_time",
        "stdvar_over_time",
        "last_over_time",
        "present_over_time",
        "absent_over_time",
    ];
    for f in range_functions {
        for series in ["requests_total", "temperature", "whole"] {
            for window in ["1m", "5m", "17m"] {
                all.push(format!("{f}({series}[{window}])"));
            }
        }
        all.push(format!("sum by (job) ({f}(requests_total[3m]))"));
        all.push(format!("{f}(requests_total[5m] offset 4m)"));
        all.push(format!("{f}(sum(requests_total)[10m10s:45s])"));
    }
    for f in [
        "abs",
        "ceil",
        "floor",
        "exp",
        "ln",
        "log2",
        "log10",
        "sqrt",
        "sgn",
        "round",
        "sin",
        "cos",
        "tanh",
        "deg",
        "rad",
        "timestamp",
        "absent",
        "sort",
        "sort_desc",
        "day_of_month",
        "day_of_week",
        "hour",
        "minute",
        "month",
        "year",
        "days_in_month",
        "day_of_year",
        "scalar",
        "-",
        "+",
    ] {
        all.push(format!("{f}(temperature)"));
        all.push(format!("{f}(whole)"));
    }
    for op in ["sum", "avg", "count", "min", "max", "group", "stddev", "stdvar"] {
        for series in ["requests_total", "temperature", "latency_bucket"] {
            all.push(format!("{op}({series})"));
            all.push(format!("{op} by (job) ({series})"));
            all.push(format!("{op} without (instance, le) ({series})"));
        }
    }
    for op in [
        "topk(2, @)",
        "bottomk(2, @)",
        "quantile(0.3, @)",
        "quantile(1.2, @)",
        "count_values(\"v\", @)",
        "topk by (job) (1, @)",
        "clamp(@, -100, 100)",
        "clamp_min(@, 3)",
        "clamp_max(@, 3)",
        "round(@, 5)",
        "label_replace(@, \"x\", \"$1-$2\", \"instance\", \"(.*):(.*)\")",
        "label_join(@, \"x\", \"-\", \"job\", \"instance\")",
        "@ offset 5m",
        "@ offset -5m",
        "@ > 3",
        "@ > bool 3",
        "3 < bool @",
        "@ == @",
        "@ != @",
        "@ % 7",
        "@ ^ 2",
        "@ / 0",
        "@ and on (job) build_info",
        "@ or build_info",
        "@ unless on (instance) build_info{job=\"api\"}",
        "@ * on (instance, job) group_left (version) build_info",
        "-@",
        "vector(1) + on () group_right sum(@)",
        "sum(@) / count(@)",
        "@ - @ offset 1m",
        "@ atan2 2",
    ] {
        for series in
            ["requests_total", "temperature", "whole", "requests_total{code=~\"2..\"}", "{__name__=~\"temp.*\"}"]
        {
            all.push(op.replace('@', series));
        }
    }
    for matcher in [
        "{job=\"api\"}",
        "{job!=\"api\"}",
        "{job=~\"a.*|db\"}",
        "{job!~\"a.*\"}",
        "{code=\"\"}",
        "{code!=\"\"}",
        "{instance=~\"[ab]:1\",code=~\".+\"}",
        "{code=~\"200|404\"}",
        "{job=~\"\"}",
        "{missing=\"\"}",
        "{job=~\".*i\"}",
    ] {
        for name in ["requests_total", "temperature"] {
            all.push(format!("{name}{matcher}"));
            all.push(format!("sum(rate({name}{matcher}[5m]))"));
        }
    }
    for q in ["0", "0.5", "0.9", "0.99", "1", "-1", "2", "NaN"] {
        all.push(format!("histogram_quantile({q}, latency_bucket)"));
        all.push(format!("histogram_quantile({q}, sum by (le) (rate(latency_bucket[5m])))"));
        all.push(format!("quantile_over_time({q}, temperature[5m])"));
    }
    all.extend(
        [
            "1 + 2 * 3 ^ 2 ^ 0.5",
            "-1 ^ 2",
            "time()",
            "vector(time())",
            "1 > bool 2",
            "pi()",
            "\"text\"",
            "predict_linear(temperature[10m], 600)",
            "max_over_time(rate(requests_total[2m])[10m10s:1m])",
            "min_over_time(sum(rate(requests_total[1m]))[10m10s:])",
            "absent(nothing{a=\"b\",c=~\"d\"})",
            "absent_over_time(nothing{a=\"b\"}[5m])",
            "sum(nothing)",
            "count(nothing) or vector(0)",
            "requests_total @ start()",
            "rate(requests_total[5m] @ end())",
            "sum_over_time(temperature[5m10s:1m] @ end())",
        ]
        .map(str::to_owned),
    );
    all
}

type Series = BTreeMap<String, Vec<(f64, f64)>>;

/// Reads `data.result` into one shape for scalars, vectors and matrices.
fn flatten(data: &Value) -> Series {
    let pair =
        |v: &Value| (v[0].as_f64().unwrap_or(f64::NAN), v[1].as_str().and_then(|s| s.parse().ok()).unwrap_or(f64::MIN));
    match data["resultType"].as_str() {
        Some("scalar" | "string") => BTreeMap::from([(String::new(), vec![pair(&data["result"])])]),
        _ => data["result"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .map(|s| {
                let points = match s["values"].as_array() {
                    Some(values) => values.iter().map(pair).collect(),
                    None => vec![pair(&s["value"])],
                };
                (s["metric"].to_string(), points)
            })
            .collect(),
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3)
}

/// Says how two answers differ; `None` when they agree.
fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    if ours["status"] != theirs["status"] {
        return Some(format!(
            "status {} ({}) for {} ({})",
            ours["status"], ours["error"], theirs["status"], theirs["error"]
        ));
    }
    if ours["status"] == "error" {
        return None;
    }
    if ours["data"]["resultType"] != theirs["data"]["resultType"] {
        return Some(format!("type {} for {}", ours["data"]["resultType"], theirs["data"]["resultType"]));
    }
    let (a, b) = (flatten(&ours["data"]), flatten(&theirs["data"]));
    if a.keys().ne(b.keys()) {
        return Some(format!("series {:?} for {:?}", a.keys(), b.keys()));
    }
    for (labels, points) in &a {
        let others = &b[labels];
        if points.len() != others.len() {
            return Some(format!("{labels}: {} points for {}", points.len(), others.len()));
        }
        for (p, o) in points.iter().zip(others) {
            if p.0 != o.0 || !close(p.1, o.1) {
                return Some(format!("{labels} at {}: {} for {}", p.0, p.1, o.1));
            }
        }
    }
    None
}

fn ask(client: &Client, path: &str) -> Value {
    client.get(path).json()
}

#[test]
fn answers_are_those_of_prometheus() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (ours, theirs) = (support::quiver(dir.path(), &[]), support::prometheus(dir.path()));
    let base_ms = (now_ms() / 60_000 - 61) * 60_000;
    let mut data = Vec::new();
    let mut numbers = Numbers(42);
    counters(base_ms, &mut numbers, &mut data);
    gauges(base_ms, &mut numbers, &mut data);
    histograms(base_ms, &mut numbers, &mut data);
    for server in [&ours, &theirs] {
        let answer = remote::write(&server.client, data.clone());
        assert!(answer.status == 204 || answer.status == 200, "{} {}", answer.status, answer.body);
    }

    let end = base_ms / 1000 + COUNT * STEP_MS / 1000;
    let instants = [end - 60, end - 1800 + 30, end + 200];
    let mut asked = 0;
    let mut differences = Vec::new();
    for question in questions() {
        let q = encode(&question);
        let mut paths: Vec<String> = instants.iter().map(|t| format!("/api/v1/query?query={q}&time={t}")).collect();
        paths.push(format!("/api/v1/query_range?query={q}&start={}&end={end}&step=60", end - 3000));
        for path in paths {
            asked += 1;
            let found = difference(&ask(&ours.client, &path), &ask(&theirs.client, &path));
            if let Some(difference) = found
                && !KNOWN_DIFFERENCES.iter().any(|(known, _)| *known == question)
            {
                differences.push(format!("{question}   [{}]: {difference}", &path[..24.min(path.len())]));
            }
        }
    }
    println!("{asked} questions asked, {} answered differently", differences.len());
    assert!(asked > 1000, "only {asked} questions");
    assert!(differences.is_empty(), "{} of {asked} differ:\n{}", differences.len(), differences.join("\n"));
}
