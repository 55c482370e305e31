//! Own traces and metrics over OTLP: a collector of spans, and a second Quiver that takes the first one's metrics.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use prost::Message;

use crate::support::{encode, free_port, quiver, quiver_on, wait_until};

/// The parts of `opentelemetry.proto.trace.v1` that are looked at.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Attributes>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(int64, optional, tag = "3")]
    number: Option<i64>,
}

impl Span {
    fn trace(&self) -> String {
        hex(&self.trace_id)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.attributes.iter().find(|pair| pair.key == key)?.value.as_ref()?.text.clone()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A collector of traces that is a target and a store as well: it remembers who came with which `traceparent`.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
    parents: Arc<Mutex<Vec<(String, String)>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (spans, parents) = (Arc::<Mutex<Vec<Span>>>::default(), Arc::<Mutex<Vec<(String, String)>>>::default());
        let (heard, came) = (spans.clone(), parents.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, came) = (heard.clone(), came.clone());
                std::thread::spawn(move || while serve(&stream, &heard, &came).is_some() {});
            }
        });
        Collector { port, spans, parents }
    }

    fn find(&self, is_it: impl Fn(&Span) -> bool) -> Option<Span> {
        self.spans.lock().expect("a lock").iter().find(|span| is_it(span)).cloned()
    }

    /// Waits for a span.
    #[track_caller]
    fn wait(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        wait_until(what, || self.find(&is_it).is_some());
        self.find(is_it).expect("it was there")
    }

    /// Gives the traces that requests for a path came in.
    fn traces_at(&self, path: &str) -> HashSet<String> {
        let parents = self.parents.lock().expect("a lock");
        parents
            .iter()
            .filter(|(at, _)| at == path)
            .filter_map(|(_, p)| p.split('-').nth(1).map(str::to_owned))
            .collect()
    }
}

fn serve(stream: &TcpStream, heard: &Mutex<Vec<Span>>, came: &Mutex<Vec<(String, String)>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut path, mut length, mut parent) = (String::new(), 0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value)) {
            Some((name, value)) if name == "content-length" => length = value.parse().ok()?,
            Some((name, value)) if name == "traceparent" => value.clone_into(&mut parent),
            Some(_) => {}
            None => path = line.split(' ').nth(1)?.to_owned(),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if path == "/v1/traces" {
        assert!(parent.is_empty(), "telling of spans makes no spans");
        let request = Request::decode(&body[..]).expect("it is a request");
        let all = request.resource_spans.into_iter().flat_map(|resource| {
            let name = resource.resource.and_then(|r| r.attributes.into_iter().find(|pair| pair.key == "service.name"));
            assert_eq!(name.and_then(|pair| pair.value?.text).as_deref(), Some("quiver"));
            resource.scope_spans.into_iter().flat_map(|scope| scope.spans)
        });
        heard.lock().expect("a lock").extend(all);
    } else {
        came.lock().expect("a lock").push((path, parent));
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\na 1\n";
    (&mut &*stream).write_all(head.as_bytes()).ok()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn a_request_is_followed_from_who_asks_to_who_is_asked() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().expect("a folder");
    let port = collector.port;
    let config = format!(
        "quiver:\n  telemetry:\n    traces: {{url: 'http://127.0.0.1:{port}/v1/traces', sampling_fraction: 1}}\n\
         scrape_configs:\n- {{job_name: j, scrape_interval: 1s, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n\
         remote_write:\n- {{url: 'http://127.0.0.1:{port}/write', queue_config: {{batch_send_deadline: 100ms}}}}\n"
    );
    let file = folder.path().join("quiver.yml");
    std::fs::write(&file, config).expect("it is written");
    let server = quiver(folder.path(), &["--config", &file.display().to_string()]);
    let ask = |path: &str, parent: &str| {
        let headers = [("traceparent", parent)];
        server.client.send("GET", path, if parent.is_empty() { &[] } else { &headers }, b"")
    };
    // Who brings a trace along finds it in the error, and our span below his.
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let error = ask("/api/v1/metrics/targets/nobody", &parent).expect(404).json();
    assert_eq!(error["trace_id"], TRACE);
    let span = collector.wait("the request's span", |span| span.trace() == TRACE);
    assert_eq!(span.name, "GET /api/v1/metrics/targets/{target_id}");
    assert_eq!((hex(&span.parent_span_id).as_str(), span.kind), ("b7ad6b7169203331", 2));
    assert!(span.start > 1_600_000_000_000_000_000 && span.end >= span.start);
    // Who brings none gets one.
    let error = ask("/api/v1/metrics/targets/nobody", "").expect(404).json();
    let trace = error["trace_id"].as_str().expect("a trace").to_owned();
    collector
        .wait("the span of a trace that begins here", |span| span.trace() == trace && span.parent_span_id.is_empty());
    // A query lies below its request.
    let parent = format!("00-{}-b7ad6b7169203331-01", TRACE.replace('0', "1"));
    ask(&format!("/api/v1/query?query={}", encode("vector(1)")), &parent).expect(200);
    let query = collector.wait("the query's span", |span| span.name == "query");
    let above = collector.wait("its request", |span| span.span_id == query.parent_span_id);
    assert_eq!((above.name.as_str(), query.trace()), ("GET /api/v1/query", TRACE.replace('0', "1")));
    assert_eq!(query.text("db.query.text").as_deref(), Some("vector(1)"));
    // Targets and stores are told in which trace they are asked.
    let scrape = collector.wait("a scrape's span", |span| span.name == "scrape");
    assert!(collector.traces_at("/metrics").contains(&scrape.trace()));
    let post = collector.wait("a sink's request", |span| span.name == "POST");
    let sink = collector.wait("its window", |span| span.span_id == post.parent_span_id);
    assert!(sink.name == "sink" && collector.traces_at("/write").contains(&sink.trace()));
    // What is not sampled is no span, and still the trace of its error.
    let parent = format!("00-{}-b7ad6b7169203331-00", TRACE.replace('0', "2"));
    let error = ask("/api/v1/metrics/targets/nobody", &parent).expect(404).json();
    assert_eq!(error["trace_id"], TRACE.replace('0', "2"));
    let parent = format!("00-{}-b7ad6b7169203331-01", TRACE.replace('0', "3"));
    ask("/api/v1/metrics/targets/last", &parent).expect(404);
    collector.wait("a later span", |span| span.trace() == TRACE.replace('0', "3"));
    assert!(collector.find(|span| span.trace() == TRACE.replace('0', "2")).is_none());
    // What was under way when it stops is told, too.
    let parent = format!("00-{}-b7ad6b7169203331-01", TRACE.replace('0', "4"));
    ask("/api/v1/metrics/targets/last", &parent).expect(404);
    server.terminate();
    assert!(collector.find(|span| span.trace() == TRACE.replace('0', "4")).is_some());
}

#[test]
fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nothing listens there, and nothing will.
    let dead = free_port();
    let config = format!(
        "quiver:\n  telemetry:\n    traces: {{url: 'http://127.0.0.1:{dead}/v1/traces', sampling_fraction: 1, queue_size: 5}}\n"
    );
    let file = folder.path().join("quiver.yml");
    std::fs::write(&file, config).expect("it is written");
    let server = quiver(folder.path(), &["--config", &file.display().to_string()]);
    let counted = |outcome: &str| -> f64 {
        let page = server.client.get("/metrics").body;
        let name = format!("quiver_telemetry_spans_total{{outcome=\"{outcome}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.and_then(|n| n.parse().ok()).expect("it is counted")
    };
    // At most 512 are on their way, and 5 wait.
    for _ in 0..600 {
        server.client.get("/-/healthy");
        server.client.get("/api/v1/metrics/targets").expect(200);
    }
    wait_until("spans are dropped", || counted("dropped") > 0.0);
    assert_eq!(counted("sent"), 0.0);
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_second_server_takes_the_metrics_of_the_first() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let receiver = quiver_on(folders[0].path(), free_port(), &[]);
    let config = format!(
        "quiver:\n  node: first\n  telemetry:\n    metrics: {{url: 'http://127.0.0.1:{}/api/v1/otlp/v1/metrics', interval: 1s}}\n",
        receiver.port
    );
    let file = folders[1].path().join("quiver.yml");
    std::fs::write(&file, config).expect("it is written");
    let server = quiver(folders[1].path(), &["--config", &file.display().to_string()]);
    let who = "job=\"quiver\",instance=\"first\"";
    let asked = format!("quiver_http_requests_total{{{who},handler=\"/metrics\",method=\"get\",code=\"200\"}}");
    for _ in 0..3 {
        server.client.get("/metrics").expect(200);
    }
    wait_until("the count has come", || {
        receiver.client.query(&asked)[0]["value"][1].as_str().is_some_and(|n| n == "3")
    });
    assert_eq!(receiver.client.number(&format!("quiver_build_info{{{who}}}")), 1.0);
    let bucket = format!("quiver_http_request_duration_seconds_bucket{{{who},handler=\"/metrics\",le=\"+Inf\"}}");
    assert_eq!(receiver.client.number(&bucket), 3.0);
    let page = server.client.get("/metrics").expect(200).body;
    // Every family that has samples is there under its name.
    let names = page.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
    let names: HashSet<&str> = names.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let found = receiver.client.get("/api/v1/label/__name__/values").expect(200).json();
    let found: HashSet<&str> = found["data"].as_array().expect("names").iter().filter_map(|n| n.as_str()).collect();
    let missing: Vec<_> = names.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
