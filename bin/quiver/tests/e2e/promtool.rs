//! Debian's promtool asks both servers; and Grafana's data source asks as it does, in the shapes that were recorded of it.

use std::process::Command;

use serde_json::{Value, json};

use crate::remote;
use crate::support::{self, Program, encode, now_ms};

struct Pair {
    ours: Program,
    theirs: Program,
    at: i64,
    _dir: tempfile::TempDir,
}

fn pair() -> Pair {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (ours, theirs) = (support::quiver(dir.path(), &[]), support::prometheus(dir.path()));
    let at = now_ms() / 1000 - 5;
    let counter = |job: &str, step: f64| {
        // Off the grid of all questions: ranges are closed in 2.42 and left-open since 3.0.
        let samples = (0..20).map(|i| ((at - 285 + i * 15) * 1000 - 7, i as f64 * step)).collect::<Vec<_>>();
        remote::series(&[("__name__", "http_requests_total"), ("job", job), ("code", "200")], samples)
    };
    let data = vec![
        counter("api", 3.0),
        counter("web", 7.5),
        remote::series(&[("__name__", "up"), ("job", "api"), ("instance", "a:1")], [(at * 1000, 1.0)]),
        remote::series(&[("__name__", "odd"), ("kind", "quote\"\\\n\u{fc}")], [(at * 1000, f64::NAN)]),
    ];
    for server in [&ours, &theirs] {
        let answer = remote::write(&server.client, data.clone());
        assert!(answer.status < 300, "{} {}", answer.status, answer.body);
    }
    Pair { ours, theirs, at, _dir: dir }
}

/// Runs promtool against a server; gives whether it was content and its lines, which have no order among themselves.
fn promtool(server: &Program, words: &[&str]) -> (bool, Vec<String>) {
    let url = format!("http://127.0.0.1:{}", server.port);
    let words = words.iter().map(|word| if *word == "URL" { url.as_str() } else { word });
    let out = Command::new("promtool").args(words).output().expect("promtool is installed");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    (out.status.success(), lines)
}

#[test]
fn promtool_reads_the_same_from_both() {
    let p = pair();
    let (at, from) = (p.at.to_string(), (p.at - 120).to_string());
    let (at, from) = (at.as_str(), from.as_str());
    let range = ["--start", from, "--end", at];
    let asked: Vec<Vec<&str>> = vec![
        vec!["query", "instant", "--time", at, "URL", "up"],
        vec!["query", "instant", "--time", at, "URL", "1 + 1"],
        vec!["query", "instant", "--time", at, "URL", "odd"],
        vec!["query", "instant", "--time", at, "URL", "sum by (job) (rate(http_requests_total[2m]))"],
        vec!["query", "instant", "--time", at, "URL", "http_requests_total[1m]"],
        vec!["query", "instant", "--time", at, "URL", "sum("],
        vec!["query", "instant", "--time", at, "-o", "json", "URL", "up"],
        [&["query", "range"][..], &range, &["--step", "15s", "URL", "sum(http_requests_total)"]].concat(),
        [&["query", "range"][..], &range, &["--step", "1m", "URL", "nothing"]].concat(),
        [&["query", "series"][..], &range, &["--match", "up", "--match", "http_requests_total", "URL"]].concat(),
        [&["query", "series"][..], &range, &["--match", "{job=~\"w.*\"}", "URL"]].concat(),
        [&["query", "labels"][..], &range, &["URL", "job"]].concat(),
        [&["query", "labels"][..], &range, &["--match", "up", "URL", "job"]].concat(),
        [&["query", "labels"][..], &range, &["URL", "nothing"]].concat(),
    ];
    for words in asked {
        let (ours, theirs) = (promtool(&p.ours, &words), promtool(&p.theirs, &words));
        assert_eq!(ours, theirs, "promtool {words:?}");
    }
    // What `promtool check healthy` and `check ready` of later versions ask for.
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(p.ours.client.get(path).status, p.theirs.client.get(path).status, "{path}");
    }
}

/// As `grafana-prometheus` sends: forms with POST, its own headers, times with decimals; GET after a POST was refused.
#[test]
fn grafana_is_answered_as_by_prometheus() {
    let p = pair();
    let (at, from) = (p.at, p.at - 3_600);
    let form = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("accept", "application/json"),
        ("user-agent", "Grafana/12.1.0"),
        ("x-grafana-user", "admin"),
        ("x-dashboard-uid", "d1"),
    ];
    let rate = encode("sum by (job) (rate(http_requests_total{code=~\"2..\"}[1m15s]))");
    let posted = [
        // What "Save & test" asks.
        ("/api/v1/query", format!("query=1%2B1&time={at}.25")),
        ("/api/v1/query_range", format!("query={rate}&start={}&end={at}&step=15", at - 300)),
        ("/api/v1/query_range", format!("end={at}.000&query=up&start={from}.000&step=15.000")),
        ("/api/v1/query", format!("query={}&time={at}", encode("topk(5, http_requests_total)"))),
        ("/api/v1/labels", format!("end={at}&start={from}&match%5B%5D={}", encode("http_requests_total"))),
        ("/api/v1/labels", format!("end={at}&start={from}")),
        ("/api/v1/series", format!("end={at}&match%5B%5D={}&start={from}&limit=40000", encode("{__name__=\"up\"}"))),
        ("/api/v1/query_exemplars", format!("query={rate}&start={from}&end={at}")),
    ];
    for (path, body) in posted {
        let both = [&p.ours, &p.theirs].map(|server| server.client.send("POST", path, &form, body.as_bytes()));
        let [ours, theirs] = &both;
        assert_eq!((ours.status, &ours.content_type), (theirs.status, &theirs.content_type), "{path} {body}");
        assert_eq!(sorted(ours.json()), sorted(theirs.json()), "{path} {body}");
    }
    let asked = [
        format!(
            "/api/v1/label/job/values?end={at}&start={from}&match%5B%5D={}",
            encode("http_requests_total{code=\"200\"}")
        ),
        format!("/api/v1/label/__name__/values?end={at}&start={from}&limit=40000"),
        format!("/api/v1/labels?match[]={}&start={from}&end={at}", encode("{job=\"api\"}")),
        "/api/v1/metadata?limit=5000".to_owned(),
        "/api/v1/rules".to_owned(),
        "/api/v1/rules?type=alert".to_owned(),
        "/api/v1/alerts".to_owned(),
        "/api/v1/targets?state=active".to_owned(),
        "/api/v1/scrape_pools".to_owned(),
        "/api/v1/alertmanagers".to_owned(),
        "/api/v1/status/walreplay".to_owned(),
    ];
    for path in asked {
        let (ours, theirs) = (p.ours.client.get(&path), p.theirs.client.get(&path));
        // Debian's 2.42 is older than scrape pools.
        if theirs.status != 404 {
            assert_eq!((ours.status, &ours.content_type), (theirs.status, &theirs.content_type), "{path}");
            assert_same_shape(&path, &sorted(ours.json()), &sorted(theirs.json()));
        }
        let head = p.ours.client.send("HEAD", &path, &[], b"");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
    }
    let build = p.ours.client.get("/api/v1/status/buildinfo").expect(200).json();
    // By these Grafana tells Prometheus from Mimir, and which functions it may offer.
    assert_eq!((&build["data"]["features"], build["data"]["version"].is_string()), (&Value::Null, true));
    let features = p.ours.client.get("/api/v1/features").expect(200).json();
    assert_eq!(features["data"]["api"]["search"], json!(true));
}

/// Everything that theirs has ours has, too, and of the same kind; what we add they leave alone.
fn assert_same_shape(path: &str, ours: &Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, value) in theirs {
                let here = ours.get(name).unwrap_or_else(|| panic!("{path}: no {name} in {ours:?}"));
                assert_same_shape(&format!("{path} {name}"), here, value);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => assert_eq!(ours, theirs, "{path}"),
        (Value::Number(_), Value::Number(_)) => {}
        _ => assert_eq!(ours, theirs, "{path}"),
    }
}

fn sorted(mut value: Value) -> Value {
    for path in ["/data", "/data/result"] {
        if let Some(list) = value.pointer_mut(path).and_then(Value::as_array_mut) {
            list.sort_by_key(ToString::to_string);
        }
    }
    value
}
