//! Those who try.

use super::world::{World, ask};

#[test]
fn ten_thousand_wrong_tokens_let_nobody_in_and_keep_nobody_out() {
    use std::io::{BufRead, BufReader, Write};
    let world = World::start(&[]);
    let stream = std::net::TcpStream::connect(("127.0.0.1", world.server.port)).expect("a connection");
    let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
    let mut writer = stream;
    let (mut wrong, mut sent) = (0, 0);
    while sent < 10_000 {
        let batch: String = (sent..sent + 100)
            .map(|n| {
                format!("GET /api/v1/query?query=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer qvr_{n:043}\r\n\r\n")
            })
            .collect();
        writer.write_all(batch.as_bytes()).expect("it is sent");
        sent += 100;
        let mut answered = 0;
        let mut line = String::new();
        while answered < 100 {
            line.clear();
            assert!(reader.read_line(&mut line).expect("an answer") > 0, "the connection ended");
            // Bodies end without a line break: the next answer begins on their line.
            if line.contains("HTTP/1.1 ") {
                answered += 1;
                wrong += usize::from(line.contains("HTTP/1.1 401"));
            }
        }
    }
    assert_eq!(wrong, 10_000);
    assert_eq!(world.ask(&world.read, "GET", "/api/v1/query?query=1", b"").status, 200);
    let metrics = world.ask(&world.read, "GET", "/metrics", b"");
    assert_eq!(metrics.status, 200);
    let log = world.server.log_text();
    assert!(!log.contains("qvr_"), "a credential is in the log");
    let lines = log.lines().filter(|line| line.contains("was turned away")).count();
    assert!((1..100).contains(&lines), "{lines} lines of 10,000 failures");
}

#[test]
fn credentials_of_all_shapes_are_judged_and_nothing_breaks() {
    let world = World::start_with("    oidc: {issuer: 'http://127.0.0.1:1', audience: q, roles: {a: read}}\n", &[]);
    let port = world.server.port;
    let status = |value: &str| ask(port, "GET", "/metrics", &[("Authorization", value)], b"").status;
    let bomb = format!("Bearer {}.{}.{}", "W1tb".repeat(1_000), "W1tb".repeat(1_000), "AAAA");
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "Basic",
        "Basic Og==",
        "Basic ////",
        "Bearer a.b.c",
        "Bearer ...",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Negotiate x",
        &bomb,
        &format!("Bearer {}", "a".repeat(17 << 10)),
        &format!("Bearer {}", ".".repeat(15_000)),
    ] {
        assert_eq!(status(value), 401, "{}", &value[..value.len().min(60)]);
    }
    // A head that is too large ends with the connection or a word about it.
    let huge = format!("Bearer {}", "a".repeat(100 << 10));
    assert!(matches!(status(&huge), 0 | 401 | 431));
    let many: Vec<(String, String)> = (0..500).map(|n| (format!("X-{n}"), "y".repeat(100))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert!(matches!(ask(port, "GET", "/metrics", &many, b"").status, 0 | 400 | 401 | 431));
    // Two credentials are none, whichever is good.
    let good = format!("Bearer {}", world.admin);
    let twice = [("Authorization", good.as_str()), ("Authorization", "Bearer qvr_x")];
    assert_eq!(ask(port, "GET", "/metrics", &twice, b"").status, 401);
    assert_eq!(status(&good), 200);
    // A large body of one who is not known is not kept.
    let body = vec![b'x'; 4 << 20];
    assert!(matches!(ask(port, "POST", "/api/v1/metrics/custom", &[], &body).status, 0 | 401));
}
