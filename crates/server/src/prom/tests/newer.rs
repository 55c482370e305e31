//! What Prometheus has learned since 3.5: searching, blocks, relabeling step by step, notices.

use std::path::PathBuf;

use model::relabel::Rule;
use serde_json::json;
use store::{BlockInfo, Manifest};

use super::*;

pub(super) fn all_blocks() -> Vec<BlockInfo> {
    let manifest =
        Manifest { version: 1, id: 7, min_ms: 1_000, max_ms: 1_999, series: 3, samples: 30, ..Manifest::default() };
    let merged = Manifest { id: 8, replaces: vec![5, 6], balance: Some(Default::default()), ..manifest.clone() };
    [manifest, merged].map(|manifest| BlockInfo { path: PathBuf::from("b"), manifest }).to_vec()
}

pub(super) fn relabel_rules() -> Vec<Rule> {
    vec![Rule { source_labels: vec!["__address__".into()], target_label: "instance".into(), ..Rule::default() }]
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn world() -> World {
    let world = World::new();
    for (name, code) in [("http_requests_total", "200"), ("http_errors_total", "500"), ("up", "")] {
        world.memory.put(&[("__name__", name), ("code", code), ("job", "node")], &[(NOW - 1_000, 1.0)]);
    }
    world.memory.put(&[("__name__", "http_old"), ("job", "node")], &[(NOW - 7_200_000, 1.0)]);
    world
}

#[tokio::test]
async fn names_are_found_in_lines_of_json() {
    let world = world();
    let answer = world.get("/search/metric_names?search[]=http&sort_by=score&include_score=true").await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson; charset=utf-8");
    let results = json!([{"name": "http_errors_total", "score": 1}, {"name": "http_requests_total", "score": 1}]);
    assert_eq!(lines(&answer.text), [json!({"results": results}), json!({"status": "success", "has_more": false})]);
    let cut = world.get("/search/metric_names?search[]=http&limit=1").await;
    assert_eq!(lines(&cut.text)[1]["has_more"], true);
    let batches = world.get("/search/metric_names?batch_size=1").await;
    assert_eq!(lines(&batches.text).len(), 4, "{}", batches.text);
    let wide = world.get(&format!("/search/metric_names?start={}&limit=10", (NOW - 8_000_000) / 1000)).await;
    assert_eq!(lines(&wide.text)[0]["results"].as_array().unwrap().len(), 4, "an hour is the default");
}

#[tokio::test]
async fn labels_and_values_are_found_where_selectors_say() {
    let world = world();
    let names = world.get("/search/label_names?search[]=co&match[]=up").await;
    assert_eq!(lines(&names.text)[0], json!({"results": []}));
    let names = world.get("/search/label_names?search[]=co&match[]=up&match[]=http_errors_total").await;
    assert_eq!(lines(&names.text)[0], json!({"results": [{"name": "code"}]}));
    let values = world.get("/search/label_values?label=code&search[]=5&fuzz_alg=jarowinkler").await;
    assert_eq!(lines(&values.text)[0], json!({"results": [{"name": "500"}]}));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let posted = world.send("POST", "/api/v1/search/label_values", &form, "label=code&search%5B%5D=2").await;
    assert_eq!(lines(&posted.text)[0], json!({"results": [{"name": "200"}]}));
}

#[tokio::test]
async fn metadata_comes_with_the_names_that_asks_for_it() {
    let world = world();
    *world.memory.families.lock() = vec![Family {
        name: "http_requests".into(),
        metric_type: MetricType::Counter,
        help: "Requests.".into(),
        unit: String::new(),
    }];
    let answer = world.get("/search/metric_names?search[]=http_req&include_metadata=true").await;
    let one = json!({"name": "http_requests_total", "type": "counter", "help": "Requests."});
    assert_eq!(lines(&answer.text)[0], json!({"results": [one]}));
}

#[tokio::test]
async fn bad_searches_have_prometheus_errors() {
    let world = world();
    for (path, text) in [
        ("/search/label_values", "missing required parameter \"label\""),
        ("/search/metric_names?fuzz_threshold=x", "invalid fuzz_threshold \"x\": must be 0-100"),
        (
            "/search/metric_names?start=x",
            "invalid parameter \"start\": invalid time value for 'start': cannot parse \"x\" to a valid timestamp",
        ),
        (
            "/search/metric_names?match[]={}",
            "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher",
        ),
    ] {
        world.get(path).await.error(400, "bad_data", text);
    }
    assert_eq!(world.get("/search/metric_names?match[]={").await.status, 400);
    assert_eq!(world.get("/search/nothing").await.status, 404);
}

#[tokio::test]
async fn blocks_are_described_as_prometheus_does() {
    let blocks = World::new().get("/status/tsdb/blocks").await.data();
    let id = |n: u64| format!("{n:026}");
    let head = json!({
        "ulid": id(7), "minTime": 1_000, "maxTime": 2_000, "version": 1,
        "stats": {"numSamples": 30, "numSeries": 3, "numChunks": 3},
        "compaction": {"level": 1, "sources": [id(7)]},
    });
    assert_eq!(blocks["blocks"][0], head);
    assert_eq!(blocks["blocks"][1]["compaction"], json!({"level": 2, "sources": [id(5), id(6)]}));
}

#[tokio::test]
async fn relabeling_is_shown_step_by_step() {
    let world = World::new();
    let path = "/targets/relabel_steps?scrapePool=node&labels=%7B%22__address__%22:%22a:1%22%7D";
    let steps = world.get(path).await.data();
    assert_eq!(steps["steps"][0]["output"], json!({"__address__": "a:1", "instance": "a:1"}));
    assert_eq!(steps["steps"][0]["keep"], true);
    let bad = |query: &'static str| {
        let world = &world;
        async move { world.get(&format!("/targets/relabel_steps?{query}")).await }
    };
    bad("labels=%7B%7D").await.error(400, "bad_data", "no scrapePool parameter provided");
    bad("scrapePool=node").await.error(400, "bad_data", "no labels parameter provided");
    let text = "error retrieving scrape config: scrape pool \"x\" not found";
    bad("scrapePool=x&labels=%7B%7D").await.error(400, "bad_data", text);
    assert_eq!(bad("scrapePool=node&labels=%7B%22a%22:1%7D").await.status, 400);
}

#[tokio::test]
async fn notices_are_a_list_and_a_stream() {
    let world = World::new();
    assert_eq!(world.get("/notifications").await.data(), json!([]));
    let request = Request::get("/api/v1/notifications/live").body(Body::empty()).unwrap();
    let response = world.app.clone().oneshot(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
}
