//! Targets, metadata, status, and what every answer has.

use serde_json::json;

use super::*;

fn family(name: &str, metric_type: MetricType, help: &str) -> Family {
    Family { name: name.into(), metric_type, help: help.into(), unit: String::new() }
}

#[tokio::test]
async fn targets_have_prometheus_shape() {
    let world = World::new();
    let all = world.get("/targets").await.data();
    let active = json!([
        {
            "discoveredLabels": {"__address__": "desk:1"}, "labels": {"instance": "desk:1", "job": "desk"},
            "scrapePool": "desk", "scrapeUrl": "http://desk:1/metrics", "globalUrl": "http://desk:1/metrics",
            "lastError": "", "lastScrape": "0001-01-01T00:00:00Z", "lastScrapeDuration": 0.012, "health": "unknown",
            "scrapeInterval": "15s", "scrapeTimeout": "10s",
        },
        {
            "discoveredLabels": {"__address__": "node:9100"}, "labels": {"instance": "node:9100", "job": "node"},
            "scrapePool": "nodes", "scrapeUrl": "http://localhost:9100/metrics?a=1",
            "globalUrl": "http://box:9100/metrics?a=1",
            "lastError": "", "lastScrape": "2025-06-21T09:59:59.75Z", "lastScrapeDuration": 0.012, "health": "up",
            "scrapeInterval": "15s", "scrapeTimeout": "10s",
        },
    ]);
    let dropped = json!([
        {"discoveredLabels": {"__address__": "off:1"}, "scrapePool": "node"},
        {"discoveredLabels": {"__address__": "gone:1"}, "scrapePool": "nodes"},
    ]);
    assert_eq!(all["activeTargets"], active);
    assert_eq!(all["droppedTargets"], dropped);
    assert_eq!(all["droppedTargetCounts"], json!({"node": 1, "nodes": 1}));
    let some = world.get("/targets?state=active&scrapePool=nodes").await.data();
    assert_eq!(some["activeTargets"], json!([active[1]]));
    assert_eq!((&some["droppedTargets"], &some["droppedTargetCounts"]), (&json!([]), &Value::Null));
    let some = world.get("/targets?state=Dropped&scrapePool=nodes").await.data();
    assert_eq!((&some["activeTargets"], &some["droppedTargets"]), (&json!([]), &json!([dropped[1]])));
    assert_eq!(world.get("/scrape_pools").await.data(), json!({"scrapePools": ["desk", "node", "nodes"]}));
}

#[tokio::test]
async fn metadata_is_grouped_and_cut() {
    let world = World::new();
    *world.memory.families.lock() = vec![
        family("a", MetricType::Counter, "one <"),
        family("a", MetricType::Gauge, "two"),
        family("b", MetricType::Unknown, ""),
    ];
    let text = world.get("/metadata?metric=a&limit_per_metric=1").await.success();
    let a = r#"{"a":[{"type":"counter","help":"one \u003c","unit":""}]}"#;
    assert_eq!(text, format!(r#"{{"status":"success","data":{a}}}"#));
    assert_eq!(world.get("/metadata").await.data()["a"].as_array().unwrap().len(), 2);
    assert_eq!(world.get("/metadata?limit=1").await.data().as_object().unwrap().len(), 1);
    assert_eq!(world.get("/metadata?limit=0").await.data(), json!({}));
    world.get("/metadata?limit=x").await.error(400, "bad_data", "limit must be a number");
    world.get("/metadata?limit_per_metric=x").await.error(400, "bad_data", "limit_per_metric must be a number");
}

#[tokio::test]
async fn metadata_of_targets_is_that_of_their_series() {
    let world = World::new();
    *world.memory.families.lock() =
        vec![family("a", MetricType::Counter, "A"), family("h", MetricType::Histogram, "H")];
    world.memory.put(&[("__name__", "a_total"), ("job", "node"), ("instance", "node:9100")], &[(NOW, 1.0)]);
    world.memory.put(&[("__name__", "h_bucket"), ("job", "desk"), ("instance", "desk:1")], &[(NOW, 1.0)]);
    let node = json!({"instance": "node:9100", "job": "node"});
    let a = json!({"target": node, "metric": "a", "type": "counter", "help": "A", "unit": ""});
    let all = world.get("/targets/metadata").await.data();
    assert_eq!((all.as_array().unwrap().len(), &all[1]), (2, &a));
    assert_eq!(world.get("/targets/metadata?match_target={job=\"node\"}").await.data(), json!([a]));
    assert_eq!(world.get("/targets/metadata?limit=1").await.data().as_array().unwrap().len(), 1);
    let named = world.get("/targets/metadata?metric=a").await.data();
    assert_eq!(named, json!([{"target": node, "type": "counter", "help": "A", "unit": ""}]));
    world.get("/targets/metadata?limit=x").await.error(400, "bad_data", "limit must be a number");
    assert_eq!(world.get("/targets/metadata?match_target={").await.status, 400);
}

#[tokio::test]
async fn status_pages_have_prometheus_members() {
    let world = World::new();
    let yaml = world.get("/status/config").await.data();
    assert_eq!(yaml, json!({"yaml": "global:\n  scrape_interval: 15s\n"}));
    let flags = world.get("/status/flags").await.success();
    assert!(flags.ends_with(r#"{"config.file":"a\u003cb","web.listen":":9090"}}"#), "{flags}");
    let runtime = world.get("/status/runtimeinfo").await.data();
    assert_eq!(runtime["startTime"], "2025-06-21T09:59:58.5Z");
    assert_eq!(runtime["serverTime"], "2025-06-21T10:00:00Z");
    assert_eq!((&runtime["reloadConfigSuccess"], &runtime["corruptionCount"]), (&json!(true), &json!(0)));
    for name in ["CWD", "hostname", "lastConfigTime", "goroutineCount", "GOMAXPROCS", "storageRetention"] {
        assert!(!runtime[name].is_null(), "{name}");
    }
    let build = world.get("/status/buildinfo").await.data();
    assert!(build["version"].as_str().unwrap().starts_with("3."));
    assert_eq!((&build["application"], &build["quiverVersion"]), (&json!("Quiver"), &json!("0.1.0")));
    assert!(build["features"].is_null());
    let tsdb = world.get("/status/tsdb?limit=1").await.data();
    let head = json!({"numSeries": 5, "numLabelPairs": 9, "chunkCount": 7, "minTime": 1, "maxTime": 2});
    assert_eq!(tsdb["headStats"], head);
    assert_eq!(tsdb["seriesCountByMetricName"], json!([{"name": "up", "value": 3}]));
    assert_eq!(tsdb["labelValueCountByLabelName"], json!([{"name": "job", "value": 2}]));
    assert_eq!(tsdb["memoryInBytesByLabelName"], json!([{"name": "job", "value": 40}]));
    assert_eq!(tsdb["seriesCountByLabelValuePair"], json!([{"name": "job=node", "value": 3}]));
    assert_eq!(world.get("/status/tsdb").await.data()["seriesCountByMetricName"].as_array().unwrap().len(), 2);
    for limit in ["0", "-1", "x"] {
        let answer = world.get(&format!("/status/tsdb?limit={limit}")).await;
        answer.error(400, "bad_data", "limit must be a positive number");
    }
    assert_eq!(world.get("/status/walreplay").await.data(), json!({"min": 0, "max": 0, "current": 0}));
    assert_eq!(world.get("/features").await.data()["promql_functions"]["rate"], true);
}

#[tokio::test]
async fn rules_and_alerts_are_empty_but_there() {
    let world = World::new();
    assert_eq!(world.get("/rules?type=alert").await.data(), json!({"groups": []}));
    assert_eq!(world.get("/alerts").await.data(), json!({"alerts": []}));
    let managers = json!({"activeAlertmanagers": [], "droppedAlertmanagers": []});
    assert_eq!(world.get("/alertmanagers").await.data(), managers);
    let text = "invalid parameter \"type\": not supported value \"x\"";
    world.get("/rules?type=X").await.error(400, "bad_data", text);
    assert_eq!(world.get("/rules?exclude_alerts=x").await.status, 400);
    assert_eq!(world.get("/rules?match[]={").await.status, 400);
    assert_eq!(world.get("/rules?group_next_token=x").await.status, 400);
}

#[tokio::test]
async fn pages_of_other_origins_may_ask() {
    let world = World::new();
    let origin = [("origin", "http://grafana")];
    for (method, status) in [("GET", 200), ("OPTIONS", 204)] {
        let answer = world.send(method, "/api/v1/labels", &origin, Body::empty()).await;
        assert_eq!((answer.status, &answer.headers["access-control-allow-origin"]), (status, &"*".parse().unwrap()));
        assert_eq!(answer.headers["access-control-allow-methods"], "GET, POST, OPTIONS");
    }
    let own = world.get("/labels").await;
    assert!(!own.headers.contains_key("access-control-allow-origin"));
    let write = world.send("OPTIONS", "/api/v1/write", &origin, Body::empty()).await;
    assert_eq!((write.status, write.headers.contains_key("access-control-allow-origin")), (405, false));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let world = World::new();
    for path in ["", "/", "/nothing", "/label/a/values/b", "/status/nothing"] {
        let answer = world.get(path).await;
        assert_eq!((answer.status, answer.text.as_str()), (404, "404 page not found\n"), "{path}");
    }
    let admin = world.send("POST", "/api/v1/admin/tsdb/snapshot", &[], Body::empty()).await;
    admin.error(500, "unavailable", "admin APIs disabled");
    let other = world.send("PUT", "/api/v1/query", &[], Body::empty()).await;
    assert_eq!((other.status, other.text.as_str()), (405, "Method Not Allowed\n"));
    assert_eq!(other.headers["allow"], "GET,HEAD,POST");
}
