//! What a Prometheus client (Grafana's data source, promtool) asks, answered as Prometheus answers it, errors included.

use serde_json::{Value, json};

use crate::remote;
use crate::support::{self, Answer, Client, Program, encode, now_ms};

struct Pair {
    ours: Program,
    theirs: Program,
    now_ms: i64,
    _dir: tempfile::TempDir,
}

fn pair() -> Pair {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (ours, theirs) = (support::quiver(dir.path(), &[]), support::prometheus(dir.path()));
    let now_ms = now_ms() / 1000 * 1000;
    let data = vec![
        remote::series(
            &[("__name__", "up"), ("job", "api"), ("instance", "a:1")],
            [(now_ms - 15_000, 1.0), (now_ms, 1.0)],
        ),
        remote::series(&[("__name__", "up"), ("job", "web"), ("instance", "b:1")], [(now_ms, 0.0)]),
        remote::series(&[("__name__", "odd"), ("kind", "big")], [(now_ms, 1e21)]),
        remote::series(&[("__name__", "odd"), ("kind", "small")], [(now_ms, 1e-7)]),
        remote::series(&[("__name__", "odd"), ("kind", "third")], [(now_ms, 1.0 / 3.0)]),
        remote::series(&[("__name__", "odd"), ("kind", "inf")], [(now_ms, f64::NEG_INFINITY)]),
        remote::series(&[("__name__", "odd"), ("kind", "quote\"\\\n<&>\u{fc}")], [(now_ms, -0.0)]),
    ];
    for server in [&ours, &theirs] {
        let answer = remote::write(&server.client, data.clone());
        assert!(answer.status == 204 || answer.status == 200, "{} {}", answer.status, answer.body);
    }
    Pair { ours, theirs, now_ms, _dir: dir }
}

/// Sorts what has no order in either server: lists of series and results by their text.
fn normal(mut value: Value) -> Value {
    for path in ["/data", "/data/result"] {
        if let Some(list) = value.pointer_mut(path).and_then(Value::as_array_mut) {
            list.sort_by_key(ToString::to_string);
        }
    }
    value
}

#[track_caller]
fn same(question: &str, ours: Answer, theirs: Answer) {
    assert_eq!(ours.status, theirs.status, "{question}: {} for {}", ours.body, theirs.body);
    assert_eq!(ours.content_type, theirs.content_type, "{question}");
    assert_eq!(normal(ours.json()), normal(theirs.json()), "{question}");
}

#[test]
fn answers_are_equal_to_prometheus() {
    let p = pair();
    let at = p.now_ms / 1000;
    let range = format!("start={}&end={at}", at - 60);
    let paths = [
        format!("/api/v1/query?query=up&time={at}"),
        format!("/api/v1/query?query=odd&time={at}"),
        format!("/api/v1/query?query=up&time={at}.123"),
        format!("/api/v1/query?query=1%2B1&time={at}"),
        format!("/api/v1/query?query=%22text%22&time={at}"),
        format!("/api/v1/query?query={}&time={at}", encode("up[5m]")),
        format!("/api/v1/query?query=nothing&time={at}"),
        format!("/api/v1/query_range?query=up&{range}&step=15"),
        format!("/api/v1/query_range?query=up&{range}&step=15s"),
        format!("/api/v1/query_range?query=sum(up)&{range}&step=1m"),
        format!("/api/v1/query_range?query=nothing&{range}&step=15"),
        format!("/api/v1/series?match[]=up&{range}"),
        format!("/api/v1/series?match[]=up&match[]=odd&{range}"),
        format!("/api/v1/series?match[]={}&{range}", encode("{job=~\"a.*\"}")),
        format!("/api/v1/labels?{range}"),
        format!("/api/v1/labels?match[]=odd&{range}"),
        format!("/api/v1/label/job/values?{range}"),
        format!("/api/v1/label/__name__/values?{range}"),
        format!("/api/v1/label/job/values?match[]={}&{range}", encode("up{instance=\"a:1\"}")),
        format!("/api/v1/label/nothing/values?{range}"),
        "/api/v1/format_query?query=sum%20by(a)(rate(foo[5m]))".to_owned(),
        "/api/v1/rules".to_owned(),
        "/api/v1/alerts".to_owned(),
        "/api/v1/metadata?metric=nothing".to_owned(),
    ];
    for path in paths {
        same(&path, p.ours.client.get(&path), p.theirs.client.get(&path));
    }
    posted_forms_work(&p, at);
}

fn posted_forms_work(p: &Pair, at: i64) {
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let bodies = [
        ("/api/v1/query", format!("query=up&time={at}")),
        ("/api/v1/query_range", format!("query=up&start={}&end={at}&step=15", at - 30)),
        ("/api/v1/series", format!("match[]=up&start={}&end={at}", at - 30)),
        ("/api/v1/labels", format!("start={}&end={at}", at - 30)),
    ];
    for (path, body) in bodies {
        let send = |c: &Client| c.send("POST", path, &form, body.as_bytes());
        same(&format!("POST {path} {body}"), send(&p.ours.client), send(&p.theirs.client));
    }
}

/// The status and the kind of error must be those of Prometheus; texts differ between 2.42 and 3.x.
#[test]
fn errors_are_those_of_prometheus() {
    let p = pair();
    let paths = [
        "/api/v1/query",
        "/api/v1/query?query=",
        "/api/v1/query?query=sum(",
        "/api/v1/query?query=up{",
        "/api/v1/query?query=rate(up)",
        "/api/v1/query?query=nofunction(up)",
        "/api/v1/query?query=up&time=abc",
        "/api/v1/query?query=up&timeout=abc",
        "/api/v1/query?query=up%2Bon(x)up",
        "/api/v1/query_range?query=up&start=1&end=0&step=1",
        "/api/v1/query_range?query=up&start=0&end=10&step=0",
        "/api/v1/query_range?query=up&start=0&end=10&step=-1",
        "/api/v1/query_range?query=up&start=0&end=100000000&step=1",
        "/api/v1/query_range?query=up&start=abc&end=10&step=1",
        "/api/v1/query_range?query=up&start=0&end=10&step=abc",
        "/api/v1/query_range?query=up[5m]&start=0&end=10&step=1",
        "/api/v1/query_range?query=%22a%22&start=0&end=10&step=1",
        "/api/v1/series",
        "/api/v1/series?match[]={}",
        "/api/v1/series?match[]=up{",
        "/api/v1/labels?match[]=up{",
        "/api/v1/label/a/values?match[]=up{",
        "/api/v1/label/bad-name/values?start=10&end=0",
        "/api/v1/format_query?query=sum(",
        "/api/v1/query?query=label_replace(up,%22x%22,%22y%22,%22job%22,%22(%22)",
    ];
    // Since 3.0 any UTF-8 label name is valid, and 2.42 refuses one with a dash.
    for path in paths.into_iter().filter(|p| !p.contains("bad-name")) {
        let (ours, theirs) = (p.ours.client.get(path), p.theirs.client.get(path));
        assert_eq!(ours.status, theirs.status, "{path}: {} for {}", ours.body, theirs.body);
        let (ours, theirs) = (ours.json(), theirs.json());
        assert_eq!(ours["status"], "error", "{path}");
        assert_eq!(ours["errorType"], theirs["errorType"], "{path}: {ours} for {theirs}");
        assert!(ours["error"].as_str().is_some_and(|e| !e.is_empty()), "{path}: {ours}");
    }
    for (path, text) in [
        (
            "/api/v1/query_range?query=up&start=1&end=0&step=1",
            "invalid parameter \"end\": end timestamp must not be before start time",
        ),
        ("/api/v1/query?query=sum(", "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"),
        (
            "/api/v1/query?query=rate(up)",
            "invalid parameter \"query\": 1:6: parse error: expected type range vector in call to function \"rate\", got instant vector",
        ),
    ] {
        assert_eq!(p.ours.client.get(path).expect(400).json()["error"], text);
    }
}

/// The shapes Grafana reads when it connects.
#[test]
fn status_pages_have_the_shapes_grafana_reads() {
    let p = pair();
    for name in ["buildinfo", "config", "flags", "runtimeinfo", "tsdb"] {
        let path = format!("/api/v1/status/{name}");
        let (ours, theirs) =
            (p.ours.client.get(&path).expect(200).json(), p.theirs.client.get(&path).expect(200).json());
        assert_eq!(ours["status"], "success", "{path}");
        let keys = |v: &Value| v["data"].as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        if name == "flags" {
            assert!(!keys(&ours).is_empty());
            continue;
        }
        for key in keys(&theirs) {
            assert!(ours["data"].get(&key).is_some(), "{path} has no {key}: {ours}");
        }
    }
    let version = p.ours.client.get("/api/v1/status/buildinfo").json()["data"]["version"].clone();
    assert!(version.as_str().is_some_and(|v| v.split('.').count() == 3), "{version}");
    let targets = p.ours.client.get("/api/v1/targets").expect(200).json();
    assert_eq!(targets["data"]["activeTargets"], json!([]));
    assert!(targets["data"]["droppedTargets"].is_array());
    let metadata = p.ours.client.get("/api/v1/metadata").expect(200).json();
    assert!(metadata["data"].is_object());
}
