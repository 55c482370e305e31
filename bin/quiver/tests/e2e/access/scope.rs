//! A token that writes as some sources writes as no other.

use std::io::Write as _;

use prost::Message;
use serde_json::json;

use super::world::{World, ask_whole};
use crate::support::{encode, wait_until};

fn metric(name: &str, job: Option<&str>) -> Vec<u8> {
    let labels = job.map_or(json!({}), |job| json!({"job": job}));
    json!([{"name": name, "metric_type": "GAUGE", "value": 1, "labels": labels, "source": "APPLICATION"}])
        .to_string()
        .into_bytes()
}

/// A request of remote write 1.0, by hand.
mod remote {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Request {
        #[prost(message, repeated, tag = "1")]
        pub series: Vec<Series>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Series {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
    }
}

fn written(name: &str, job: &str) -> Vec<u8> {
    let label = |name: &str, value: &str| remote::Label { name: name.into(), value: value.into() };
    let labels = vec![label("__name__", name), label("job", job)];
    let samples = vec![remote::Sample { value: 1.0, timestamp: crate::support::now_ms() }];
    let request = remote::Request { series: vec![remote::Series { labels, samples }] };
    snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).expect("it compresses")
}

#[test]
fn who_writes_for_some_sources_writes_as_no_other() {
    let world = World::start(&[]);
    let custom = "/api/v1/metrics/custom";
    let send = |method: &str, path: &str, body: &[u8]| {
        world.ask_with(&world.scoped, method, path, &[("Content-Type", "application/json")], body)
    };
    // The source is named, or must be: there are two.
    assert_eq!(send("POST", custom, &metric("a", None)).status, 403);
    assert_eq!(send("POST", &format!("{custom}?source_id=mine"), &metric("a", None)).status, 200);
    assert_eq!(send("POST", &format!("{custom}?source_id=other"), &metric("a", None)).status, 403);
    assert_eq!(send("POST", &format!("{custom}?source_id=mine&source_id=other"), &metric("a", None)).status, 403);
    // The label says another source than the request.
    let answer = send("POST", &format!("{custom}?source_id=mine"), &metric("a", Some("other")));
    assert_eq!(answer.status, 403);
    assert!(answer.text.contains("\\\"other\\\""), "{answer:?}");
    assert_eq!(send("POST", &format!("{custom}?source_id=mine"), &metric("a", Some("ours"))).status, 200);
    // Pushes, streams, remote write, InfluxDB, OTLP.
    assert_eq!(send("PUT", "/metrics/job/mine/a/b", b"p 1\n").status, 200);
    assert_eq!(send("PUT", "/metrics/job/other", b"p 1\n").status, 403);
    assert_eq!(send("PUT", "/metrics/job@base64/b3RoZXI", b"p 1\n").status, 403);
    assert_eq!(send("PUT", "/metrics/job/%6ft%68er", b"p 1\n").status, 403);
    assert_eq!(send("DELETE", "/metrics/job/other", b"").status, 403);
    let write = |source: &str, job: &str| {
        let path = format!("/api/v1/write?source_id={source}");
        world.ask_with(&world.scoped, "POST", &path, &[("Content-Encoding", "snappy")], &written("rw", job)).status
    };
    assert_eq!((write("mine", "mine"), write("mine", "other"), write("other", "mine")), (204, 403, 403));
    // Also when the labels are known from somebody who may.
    let all = world.ask(&world.write, "POST", "/api/v1/write?source_id=mine", &written("known", "other"));
    assert_eq!(all.status, 204, "{all:?}");
    let again = world.ask(&world.scoped, "POST", "/api/v1/write?source_id=mine", &written("known", "other"));
    assert_eq!(again.status, 403, "{again:?}");
    assert_eq!(send("POST", "/write?db=x", b"m v=1\n").status, 403);
    assert_eq!(send("POST", "/write?db=x&source_id=mine", b"m v=1\n").status, 204);
    assert_eq!(send("POST", "/write?db=x&source_id=mine", b"m,job=other v=1\n").status, 403);
    // Targets are for those who write as everybody.
    assert_eq!(send("POST", "/api/v1/metrics/targets", b"{}").status, 403);
    // Nothing of the others' came in.
    let query = format!("/api/v1/query?query={}", encode("count({job=\"other\",__name__!=\"known\"})"));
    let answer = world.ask(&world.read, "GET", &query, b"");
    assert!(answer.text.contains("\"result\":[]"), "{answer:?}");
}

#[test]
fn streams_and_uploads_of_others_are_out_of_reach() {
    let world = World::start(&[]);
    let path = "/api/v1/metrics/stream?source_id=mine";
    let frame = |job: &str| {
        let metric = json!({"name": "s", "metric_type": "GAUGE", "value": 1, "labels": {"job": job}});
        json!({"seq": 1, "metrics": [metric]}).to_string().into_bytes()
    };
    let stream = |id: &str, job: &str| {
        let bearer = format!("Bearer {}", world.scoped);
        let headers = [("Content-Type", "application/x-ndjson"), ("Authorization", &*bearer)];
        ask_whole(world.server.port, "POST", &format!("{path}&stream_id={id}"), &headers, &frame(job))
    };
    assert_eq!(stream("everybodys", "mine").status, 403);
    let answer = stream("mine:1", "mine");
    assert!(answer.text.contains("\"ack\":1"), "{answer:?}");
    let answer = stream("mine:2", "other");
    assert!(answer.text.contains("\"closed\":\"failed\"") && answer.text.contains("forbidden"), "{answer:?}");
    // An upload of somebody else is not there; one of its own that writes as another fails.
    let upload = |token: &str, source: &str, body: &[u8]| {
        let path = format!("/api/v1/metrics/uploads?format=ndjson&source_id={source}");
        let answer = world.ask(token, "POST", &path, body);
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("location").expect("a place").to_owned()
    };
    let mut line = Vec::new();
    writeln!(
        line,
        "{}",
        json!({"name": "u", "metric_type": "GAUGE", "value": 1, "timestamp": 1.7e9, "labels": {"job": "other"}})
    )
    .expect("a line");
    let theirs = upload(&world.write, "theirs", &line);
    for method in ["GET", "DELETE", "PATCH"] {
        assert_eq!(world.ask(&world.scoped, method, &theirs, b"").status, 404, "{method}");
    }
    let own = upload(&world.scoped, "mine", &line);
    wait_until("the upload is judged", || world.ask(&world.scoped, "GET", &own, b"").text.contains("FAILED"));
    assert!(world.ask(&world.scoped, "GET", &own, b"").text.contains("none of the sources"));
    // One that somebody else began for a source of its own is judged by who adds to it.
    let length = line.len().to_string();
    let path = "/api/v1/metrics/uploads?format=ndjson&source_id=mine";
    let begun = world.ask_with(&world.write, "POST", path, &[("Upload-Length", &length)], b"");
    let begun = begun.header("location").expect("a place").to_owned();
    let added = world.ask_with(&world.scoped, "PATCH", &begun, &[("Upload-Offset", "0")], &line);
    assert_eq!(added.status, 202, "{added:?}");
    wait_until("the upload is judged", || world.ask(&world.scoped, "GET", &begun, b"").text.contains("FAILED"));
}
