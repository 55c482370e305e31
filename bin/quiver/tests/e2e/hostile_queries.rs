//! Questions that mean harm: each is answered in time with a reason, costs little memory, and keeps nobody else from asking.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::remote;
use crate::support::{self, Program, encode, now_ms};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
/// What one question may cost.
const GROWTH_BYTES_MAX: f64 = 64.0 * 1024.0 * 1024.0;
/// The paths that take a question, and what must be in it.
const ASKING: [(&str, &str); 9] = [
    ("/api/v1/query", "query=up"),
    ("/api/v1/query_range", "query=up&start=0&end=10&step=1"),
    ("/api/v1/query_exemplars", "query=up"),
    ("/api/v1/format_query", "query=up"),
    ("/api/v1/parse_query", "query=up"),
    ("/api/v1/series", "match[]=up"),
    ("/api/v1/labels", ""),
    ("/api/v1/search/metric_names", ""),
    ("/api/v1/metrics/query", "query=up"),
];

fn own(server: &Program, metric: &str) -> f64 {
    let page = server.client.get("/metrics").expect(200).body;
    let line = page.lines().find_map(|l| l.strip_prefix(metric)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {metric}"))
}

fn started(dir: &std::path::Path) -> Program {
    let server = support::quiver(dir, &[]);
    let now = now_ms();
    let series = (0..50).map(|i| {
        let value = i.to_string();
        remote::series(&[("__name__", "up"), ("instance", value.as_str())], [(now - 1_000, 1.0)])
    });
    assert!(remote::write(&server.client, series.collect()).status < 300);
    server
}

fn matchers(one: &str, n: usize) -> String {
    format!("up{{{}}}", format!("{one},").repeat(n))
}

fn numbered_matchers(n: usize) -> String {
    format!("nothing{{{}}}", (0..n).map(|i| format!("a{i}=\"b\",")).collect::<String>())
}

fn many_selectors(n: usize) -> String {
    (0..n).map(|i| format!("match[]={}&", encode(&format!("{{a=~\"\\\\pL{{60}}{i}\"}}")))).collect()
}

/// It lives, and answers others.
#[track_caller]
fn fine(server: &Program) {
    assert_eq!(server.client.number("count(up)"), 50.0);
    assert_eq!(own(server, "quiver_http_panics_total"), 0.0, "{}", server.log_text());
}

#[test]
fn questions_out_of_all_proportion_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = started(dir.path());
    let mut before = own(&server, "process_resident_memory_bytes");
    let at = now_ms() / 1000;
    let deep = |open: &str, close: &str, n: usize| encode(&format!("{}1{}", open.repeat(n), close.repeat(n)));
    let questions: Vec<(u16, &str, String)> = vec![
        (400, "/api/v1/query", format!("query={}", deep("(", ")", 200_000))),
        (400, "/api/v1/query", format!("query={}", deep("abs(", ")", 100_000))),
        (400, "/api/v1/query", format!("query={}", deep("-", "", 300_000))),
        (400, "/api/v1/query", format!("query={}", encode(&format!("up{}", "[1m:]".repeat(50_000))))),
        (400, "/api/v1/query", format!("query={}", encode(&"up + ".repeat(300_000)))),
        (400, "/api/v1/parse_query", format!("query={}", deep("(", ")", 200_000))),
        (400, "/api/v1/format_query", format!("query={}", deep("sum(", ")", 100_000))),
        (400, "/api/v1/query", format!("query={}", encode("up{a=~\"(((((((((a{1000}){1000}){1000})\"}"))),
        (400, "/api/v1/query_range", "query=up&start=0&end=1e18&step=1".to_owned()),
        (400, "/api/v1/query_range", format!("query=up&start=-1e15&end={at}&step=1ms")),
        (400, "/api/v1/query_range", format!("query=up&start=0&end={at}&step=1e-12")),
        (400, "/api/v1/query_range", "query=up&start=0&end=1&step=1e300".to_owned()),
        (400, "/api/v1/query_range", "query=up&start=NaN&end=1&step=1".to_owned()),
        (400, "/api/v1/query_range", "query=up&start=0&end=Inf&step=1".to_owned()),
        (400, "/api/v1/query", "query=up&time=1e300".to_owned()),
        (400, "/api/v1/query", "query=up&timeout=1e300".to_owned()),
        (400, "/api/v1/query", "query=up&limit=99999999999999999999999".to_owned()),
        (400, "/api/v1/query", "query=up&lookback_delta=-5m".to_owned()),
        (400, "/api/v1/search/metric_names", "limit=10001".to_owned()),
        (400, "/api/v1/series", format!("match[]={}", encode(&format!("{{{}}}", "a=~\"(.+)+\",".repeat(100_000))))),
        (422, "/api/v1/query", format!("query={}", encode("max_over_time(vector(1)[100y:1ms])"))),
        (422, "/api/v1/query", format!("query={}", encode("sum_over_time(sum_over_time(vector(1)[1y:1s])[1y:1s])"))),
        (200, "/api/v1/query_range", "query=up&start=0&end=1e13&step=1e9".to_owned()),
        (200, "/api/v1/query", "query=up&limit=9223372036854775807".to_owned()),
        (200, "/api/v1/query", "query=up&timeout=292y".to_owned()),
        (200, "/api/v1/query", format!("query=up&time={at}&{}", "query=nothing&".repeat(5_000))),
        (413, "/api/v1/query", "a=1&".repeat(10_001)),
        // Sixty letters that compile to a third of a megabyte each.
        (400, "/api/v1/format_query", format!("query={}", encode(&matchers("a=~\"\\\\pL{60}\"", 1_000)))),
        (400, "/api/v1/query", format!("query={}", encode(&matchers("a=~\"b.*\"", 20_000)))),
        (
            400,
            "/api/v1/series",
            format!("match[]={}&", encode("{a=~\"\\\\pL{60}\"}")).repeat(20) + &many_selectors(990),
        ),
        (200, "/api/v1/query", format!("query={}", encode(&format!("absent({})", numbered_matchers(20_000))))),
    ];
    for (status, path, body) in questions {
        let answer = server.client.send("POST", path, &[FORM], body.as_bytes());
        let shown: String = body.chars().take(120).collect();
        assert_eq!(answer.status, status, "{path} {shown}: {}", answer.body.chars().take(300).collect::<String>());
        let json = answer.json();
        if status != 200 {
            assert!(json["error"].as_str().is_some_and(|e| !e.is_empty() && e.len() < 10_000), "{path} {shown}");
        }
        fine(&server);
        // Each for itself: what the allocator keeps of one is there for the next.
        let now = own(&server, "process_resident_memory_bytes");
        assert!(now - before < GROWTH_BYTES_MAX, "{path} {shown}: {} bytes more than before", now - before);
        before = now;
    }
}

#[test]
fn parameters_that_are_no_text_or_come_twice_are_told_apart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = started(dir.path());
    // The first value of a name counts, as in Go; bytes that are no UTF-8 are no query.
    for (path, status) in [
        ("/api/v1/query?query=up&query=sum(", 200),
        ("/api/v1/query?query=sum(&query=up", 400),
        ("/api/v1/query?query=%FF%FE", 400),
        ("/api/v1/query?query=up&time=%FF", 400),
        ("/api/v1/query?query=up%00", 400),
        ("/api/v1/query?query=up&%FF=1", 400),
        ("/api/v1/query?query=%", 400),
        ("/api/v1/query?query=up%zz", 400),
        ("/api/v1/query?&&&=&=&query=up&&", 200),
        ("/api/v1/label/%FF/values", 400),
        ("/api/v1/label/U__zz_/values", 200),
        ("/api/v1/series?match[]=%FF", 400),
        ("/api/v1/series?match[]=up&match[]=%FF", 400),
        ("/api/v1/search/label_values?label=%FF", 400),
        ("/api/v1/search/metric_names?search[]=%FF", 400),
        ("/api/v1/metrics/query?query=%FF", 400),
        ("/api/v1/targets/relabel_steps?scrapePool=%FF&labels=%7B%7D", 400),
        ("/api/v1/targets/relabel_steps?scrapePool=a&labels=%7B%22a%22:%7B%7D%7D", 400),
    ] {
        let answer = server.client.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
    for (path, query) in ASKING {
        let url = format!("{path}?{query}");
        let head = server.client.send("HEAD", &url, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "HEAD {url}");
        let options = server.client.send("OPTIONS", &url, &[("origin", "http://x")], b"");
        let expected = if path.starts_with("/api/v1/metrics") { 405 } else { 204 };
        assert_eq!(options.status, expected, "OPTIONS {url}");
        for method in ["PUT", "DELETE", "PATCH", "TRACE"] {
            let answer = server.client.try_send(method, &url, &[], b"");
            // Who asks for series to be dropped is told that it was never built, as in Prometheus.
            let expected: &[u16] = if (method, path) == ("DELETE", "/api/v1/series") { &[500] } else { &[405] };
            if let Ok(answer) = answer {
                assert!(expected.contains(&answer.status), "{method} {url}: {} {}", answer.status, answer.body);
            }
        }
    }
    fine(&server);
}

/// Forms that never end: in pieces, or announced and not sent. They hold a place of their own and end with their sender, and the
/// others are answered.
#[test]
fn forms_that_never_end_keep_nobody_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = started(dir.path());
    let before = own(&server, "process_resident_memory_bytes");
    let mut slow = Vec::new();
    for n in 0..300 {
        let (path, _) = ASKING[n % 8];
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
        let length = if n % 2 == 0 { "transfer-encoding: chunked" } else { "content-length: 10000000" };
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\n{length}\r\n\r\n", FORM.1);
        stream.write_all(head.as_bytes()).expect("a request");
        stream.write_all(if n % 2 == 0 { b"6\r\nquery=\r\n" } else { b"query=" }).expect("a piece");
        slow.push(stream);
    }
    for _ in 0..5 {
        fine(&server);
        for stream in slow.iter_mut().step_by(2) {
            // Who is refused meanwhile has closed.
            let _ = stream.write_all(b"2\r\nup\r\n");
        }
    }
    let grown = own(&server, "process_resident_memory_bytes") - before;
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
    // One that grows without end is cut off at the limit of a form.
    let mut endless = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
    endless.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let head = format!(
        "POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        FORM.1
    );
    endless.write_all(head.as_bytes()).expect("a request");
    let chunk = [b"10000\r\n".to_vec(), vec![b'a'; 1 << 16], b"\r\n".to_vec()].concat();
    let mut sent = 0;
    while endless.write_all(&chunk).is_ok() {
        sent += 1 << 16;
        assert!(sent < 256 << 20, "nobody stops a form of {sent} bytes");
    }
    let mut answer = Vec::new();
    let _ = endless.read_to_end(&mut answer);
    drop(slow);
    fine(&server);
}
