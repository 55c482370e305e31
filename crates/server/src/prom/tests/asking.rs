//! Queries and look-ups.

use serde_json::json;

use super::*;

fn filled() -> World {
    let world = World::new();
    let seconds = |from: i64, n: i64| (0..n).map(|i| (NOW - from * 1000 + i * 1000, i as f64)).collect::<Vec<_>>();
    world.memory.put(&[("__name__", "a"), ("job", "x")], &seconds(10, 11));
    world.memory.put(&[("__name__", "a"), ("job", "y<&>")], &[(NOW, f64::NAN)]);
    world.memory.put(&[("__name__", "b.c"), ("job", "x")], &[(NOW - 1_500, 1e-7)]);
    world
}

#[tokio::test]
async fn instant_queries_have_prometheus_shape() {
    let world = filled();
    let at = NOW / 1000;
    let x = format!(r#"{{"metric":{{"__name__":"a","job":"x"}},"value":[{at},"10"]}}"#);
    let one = world.get("/query?query=a{job=\"x\"}").await.success();
    assert_eq!(one, format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{x}]}}}}"#));
    let escaped = world.get("/query?query=a{job!=\"x\"}").await.success();
    assert!(escaped.contains(r#""job":"y<&>"},"value":["#) && escaped.contains("\"NaN\"]"), "{escaped}");
    let matrix = world.get(&format!("/query?query={{__name__=\"b.c\"}}[1m]&time={at}.5")).await.success();
    assert!(matrix.contains(r#"{"resultType":"matrix","result":[{"metric":{"__name__":"b.c","job":"x"},"values":[["#));
    assert!(matrix.contains(r#".500,"1e-07"]]}"#), "{matrix}");
    let scalar = world.get("/query?query=1/0&time=1.5").await.success();
    assert_eq!(scalar, r#"{"status":"success","data":{"resultType":"scalar","result":[1.500,"+Inf"]}}"#);
    let text = world.get("/query?query=\"a\"&time=1").await.success();
    assert_eq!(text, r#"{"status":"success","data":{"resultType":"string","result":[1,"a"]}}"#);
    let stats = world.get("/query?query=a&stats=all").await.data();
    assert!(stats["stats"]["timings"]["execTotalTime"].is_f64(), "{stats}");
    assert!(stats["stats"]["samples"]["totalQueryableSamples"].as_u64().unwrap() >= 2, "{stats}");
    let cut: Value = serde_json::from_str(&world.get("/query?query=a&limit=1").await.success()).unwrap();
    assert_eq!(cut["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(cut["warnings"], json!(["results truncated due to limit"]));
    let short = world.get(&format!("/query?query=a&time={}&lookback_delta=10s", at + 60)).await.data();
    assert_eq!(short["result"], json!([]));
}

#[tokio::test]
async fn a_form_body_asks_like_a_url() {
    let world = filled();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for path in ["/api/v1/query", "/api/v1/query_range"] {
        let body = format!("query=vector(1)&start={0}&end={0}&step=15", NOW / 1000);
        let posted = world.send("POST", path, &form, body).await.success();
        assert!(posted.contains("\"1\"]"), "{posted}");
    }
    let posted = world.send("POST", "/api/v1/series", &form, "match[]=a").await.data();
    assert_eq!(posted.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn range_queries_have_prometheus_shape() {
    let world = filled();
    let (start, end) = (NOW / 1000 - 10, NOW / 1000);
    let answer = world.get(&format!("/query_range?query=a{{job=\"x\"}}&start={start}&end={end}&step=5s")).await;
    let values = format!(r#"[[{start},"0"],[{},"5"],[{end},"10"]]"#, start + 5);
    let series = format!(r#"[{{"metric":{{"__name__":"a","job":"x"}},"values":{values}}}]"#);
    let expected = format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":{series}}}}}"#);
    assert_eq!(answer.success(), expected);
    let all = world.get(&format!("/query_range?query=a&start={start}&end={end}&step=0.001")).await;
    assert_eq!(all.status, 200);
}

#[tokio::test]
async fn bad_queries_get_prometheus_sentences() {
    let world = filled();
    let points =
        "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)";
    let zero = "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer";
    let bad = [
        ("query?query=", "invalid parameter \"query\": unknown position: parse error: no expression found in input"),
        (
            "query?query=a&time=x",
            "invalid parameter \"time\": invalid time value for 'time': cannot parse \"x\" to a valid timestamp",
        ),
        ("query?query=a&timeout=x", "invalid parameter \"timeout\": cannot parse \"x\" to a valid duration"),
        ("query?query=a&limit=-1", "invalid parameter \"limit\": limit must be non-negative"),
        (
            "query?query=a&lookback_delta=x",
            "error parsing lookback delta duration: cannot parse \"x\" to a valid duration",
        ),
        ("query_range?query=a", "invalid parameter \"start\": cannot parse \"\" to a valid timestamp"),
        ("query_range?query=a&start=1", "invalid parameter \"end\": cannot parse \"\" to a valid timestamp"),
        (
            "query_range?query=a&start=2&end=1&step=1",
            "invalid parameter \"end\": end timestamp must not be before start time",
        ),
        ("query_range?query=a&start=1&end=2", "invalid parameter \"step\": cannot parse \"\" to a valid duration"),
        ("query_range?query=a&start=1&end=2&step=0", zero),
        ("query_range?query=a&start=1&end=2&step=-5", zero),
        ("query_range?query=a&start=0&end=11001&step=1", points),
        (
            "query_range?query=a[5m]&start=0&end=1&step=1",
            "invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
        ),
        ("query_exemplars?query=a&start=2&end=1", "end timestamp must not be before start timestamp"),
        ("query_exemplars?query=", "unknown position: parse error: no expression found in input"),
        (
            "format_query?query=",
            "invalid parameter \"query\": unknown position: parse error: no expression found in input",
        ),
        (
            "parse_query?query=",
            "invalid parameter \"query\": unknown position: parse error: no expression found in input",
        ),
        ("series", "no match[] parameter provided"),
        (
            "series?match[]={a=\"\"}",
            "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher",
        ),
        ("labels?match[]={a=\"\"}", "match[] must contain at least one non-empty matcher"),
        ("labels?limit=x", "invalid parameter \"limit\": strconv.Atoi: parsing \"x\": invalid syntax"),
        (
            "labels?start=x",
            "invalid parameter \"start\": invalid time value for 'start': cannot parse \"x\" to a valid timestamp",
        ),
        ("label/%FF/values", "invalid label name: not UTF-8"),
        ("label/U__/values", "invalid label name: \"\""),
    ];
    for (path, text) in bad {
        world.get(&format!("/{path}")).await.error(400, "bad_data", text);
    }
    assert_eq!(world.get("/query_range?query=a&start=0&end=11000&step=1").await.status, 200);
    world.memory.broken.store(true, Ordering::SeqCst);
    world.get("/query?query=a").await.error(500, "internal", "block 7 is damaged");
    world.get("/labels").await.error(422, "execution", "block 7 is damaged");
}

#[tokio::test]
async fn look_ups_are_joined_cut_and_bounded_in_time() {
    let world = filled();
    assert_eq!(world.get("/labels").await.data(), json!(["__name__", "job"]));
    assert_eq!(world.get("/labels?match[]=nothing").await.data(), json!([]));
    assert_eq!(world.get("/label/__name__/values").await.data(), json!(["a", "b.c"]));
    assert_eq!(world.get("/label/__name__/values?match[]=a&match[]={job=\"x\"}").await.data(), json!(["a", "b.c"]));
    assert_eq!(world.get("/label/U__job/values?match[]={\"b.c\"}").await.data(), json!(["x"]));
    assert_eq!(world.get("/label/nothing/values").await.data(), json!([]));
    let cut: Value = serde_json::from_str(&world.get("/label/job/values?limit=1").await.success()).unwrap();
    assert_eq!(cut, json!({"status": "success", "data": ["x"], "warnings": ["results truncated due to limit"]}));
    let series = world.get("/series?match[]=a&match[]={job=\"x\"}").await.success();
    let all = r#"{"__name__":"a","job":"x"},{"__name__":"a","job":"y<&>"},{"__name__":"b.c","job":"x"}"#;
    assert_eq!(series, format!(r#"{{"status":"success","data":[{all}]}}"#));
    let cut: Value =
        serde_json::from_str(&world.get("/series?match[]={job=~\".*x.*\"}&limit=1").await.success()).unwrap();
    assert_eq!(cut["data"], json!([{"__name__": "a", "job": "x"}]));
    assert_eq!(cut["warnings"], json!(["results truncated due to limit"]));
    let late = world.get(&format!("/series?match[]=a&start={}", NOW / 1000 + 1)).await.data();
    assert_eq!(late, json!([]));
    world.send("DELETE", "/api/v1/series", &[], Body::empty()).await.error(500, "internal", "not implemented");
}

#[tokio::test]
async fn exemplars_come_with_their_series() {
    let world = filled();
    let answer = world.get("/query_exemplars?query=rate(a{job=\"x\"}[5m])").await.success();
    let exemplar = r#"{"labels":{"trace_id":"abc"},"value":"6","timestamp":1750499999.979}"#;
    let series = format!(r#"{{"seriesLabels":{{"__name__":"a","job":"x"}},"exemplars":[{exemplar}]}}"#);
    assert_eq!(answer, format!(r#"{{"status":"success","data":[{series}]}}"#));
    assert_eq!(world.get("/query_exemplars?query=a&end=1").await.data(), json!([]));
    assert_eq!(world.get("/query_exemplars?query=1").await.status, 204);
}

#[tokio::test]
async fn queries_are_printed_and_taken_apart() {
    let world = World::new();
    let printed = world.get("/format_query?query=foo/bar{a=\"<\"}").await.success();
    assert_eq!(printed, r#"{"status":"success","data":"foo / bar{a=\"\u003c\"}"}"#);
    let tree = world.get("/parse_query?query=sum(foo)").await.data();
    assert_eq!((&tree["type"], &tree["expr"]["name"]), (&json!("aggregation"), &json!("foo")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_query() {
    let world = filled();
    world.memory.closed.store(true, Ordering::SeqCst);
    let request = Request::builder().uri("/api/v1/query?query=a").body(Body::empty()).unwrap();
    let call = tokio::spawn(world.app.clone().oneshot(request));
    until(|| world.memory.selecting.load(Ordering::SeqCst)).await;
    assert_eq!(world.api.queries.stats().active(), 1);
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    world.memory.closed.store(false, Ordering::SeqCst);
    until(|| world.api.queries.stats().active() == 0).await;
    let figures = world.figures();
    assert!(figures.contains("quiver_queries_total{outcome=\"canceled\"} 1\n"), "{figures}");
    assert!(figures.contains("quiver_queries_total{outcome=\"success\"} 0\n"), "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_seat_in_time_is_told_so() {
    let limits = QueryLimits { concurrency: 1, ..QueryLimits::default() };
    let world = World::with(limits, WriteLimits::default());
    world.memory.put(&[("__name__", "a")], &[(NOW, 1.0)]);
    world.memory.closed.store(true, Ordering::SeqCst);
    let request = Request::builder().uri("/api/v1/query?query=a").body(Body::empty()).unwrap();
    let call = tokio::spawn(world.app.clone().oneshot(request));
    until(|| world.memory.selecting.load(Ordering::SeqCst)).await;
    let waited = world.get("/query?query=1&timeout=20ms").await;
    waited.error(503, "timeout", "query timed out in query queue");
    world.memory.closed.store(false, Ordering::SeqCst);
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    assert!(world.figures().contains("quiver_queries_total{outcome=\"timeout\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_past_its_deadline_is_a_timeout() {
    let world = filled();
    let queued = world.get("/query?query=a&timeout=0").await;
    queued.error(503, "timeout", "query timed out in query queue");
    world.memory.closed.store(true, Ordering::SeqCst);
    let request = Request::builder().uri("/api/v1/query?query=a&timeout=200ms").body(Body::empty()).unwrap();
    let call = tokio::spawn(world.app.clone().oneshot(request));
    until(|| world.memory.selecting.load(Ordering::SeqCst)).await;
    tokio::time::sleep(Duration::from_millis(201)).await;
    world.memory.closed.store(false, Ordering::SeqCst);
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), 503);
    let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("query timed out in expression evaluation"), "{body:?}");
}
