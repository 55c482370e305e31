//! Every route asked by everybody.

use server::access::role::Need;
use server::access::table::ROWS;

use super::world::{Head, World, ask};
use crate::support::quiver;

/// A path that a pattern matches.
fn filled(pattern: &str) -> String {
    pattern
        .replace("{target_id}", "nobody")
        .replace("{upload_id}", "none")
        .replace("{name}", "job")
        .replace("{verb}", "clean_tombstones")
        .replace("/metrics/job/{*rest}", "/metrics/job/mine")
        .replace("/metrics/job@base64/{*rest}", "/metrics/job@base64/bWluZQ")
        .replace("{*rest}", "nowhere")
}

fn is_let_in(answer: &Head) -> bool {
    assert_ne!(answer.status, 0, "{answer:?}");
    !matches!(answer.status, 401 | 403)
}

#[test]
fn every_route_lets_in_whom_its_row_says_and_nobody_else() {
    let world = World::start(&["--web.enable-admin-api"]);
    let port = world.server.port;
    for row in ROWS.iter().filter(|row| !row.path.starts_with("/opentelemetry")) {
        let path = filled(row.path);
        for (method, need) in row.needs {
            let (method, headers): (&str, &[(&str, &str)]) = match *method {
                "UPGRADE" => (
                    "GET",
                    &[
                        ("Upgrade", "websocket"),
                        ("Connection", "Upgrade"),
                        ("Sec-WebSocket-Version", "13"),
                        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                    ],
                ),
                other => (other, &[]),
            };
            let what = format!("{method} {path} {headers:?}");
            for stranger in ["", "qvr_wrong", &world.expired] {
                let answer = world.ask_with(stranger, method, &path, headers, b"");
                assert_eq!(is_let_in(&answer), *need == Need::Nothing, "{what} by a stranger: {answer:?}");
                if answer.status == 401 {
                    assert!(answer.header("www-authenticate").is_some_and(|c| c.starts_with("Bearer")), "{answer:?}");
                }
            }
            for (token, name, meets) in [
                (&world.read, "read", matches!(need, Need::Nothing | Need::Anybody | Need::Read)),
                (&world.write, "write", matches!(need, Need::Nothing | Need::Anybody | Need::Write | Need::Manage)),
                (&world.admin, "admin", true),
            ] {
                let answer = world.ask_with(token, method, &path, headers, b"");
                assert_eq!(is_let_in(&answer), meets, "{what} by {name}, needs {need:?}: {answer:?}");
            }
            // Methods that no row names are for admins.
            let answer = world.ask(&world.read, "TRACE", &path, b"");
            assert!(!is_let_in(&answer) || *need == Need::Nothing, "TRACE {path}: {answer:?}");
        }
    }
    assert_eq!(ask(port, "GET", "/-/healthy", &[], b"").status, 200);
}

#[test]
fn who_is_turned_away_is_told_in_the_shape_of_the_path() {
    let world = World::start(&[]);
    for (method, path, kind, holds) in [
        ("GET", "/api/v1/metrics/targets", "application/problem+json", "\"code\":\"unauthorized\""),
        ("GET", "/api/v1/query?query=up", "application/json", "\"errorType\":\"unauthorized\""),
        ("POST", "/api/v1/write", "text/plain; charset=utf-8", "show who you are"),
        ("PUT", "/metrics/job/a", "text/plain; charset=utf-8", "show who you are"),
        ("GET", "/", "text/plain; charset=utf-8", "show who you are"),
    ] {
        let answer = world.ask("", method, path, b"");
        assert_eq!((answer.status, answer.header("content-type")), (401, Some(kind)), "{path}: {answer:?}");
        assert!(answer.text.contains(holds), "{path}: {answer:?}");
    }
    let answer = world.ask(&world.read, "POST", "/api/v1/metrics/custom", b"[]");
    assert_eq!(answer.status, 403);
    assert!(answer.text.contains("token:r has the role read; POST /api/v1/metrics/custom needs write"), "{answer:?}");
}

#[test]
fn spellings_of_a_path_lead_nowhere_else() {
    let world = World::start(&["--web.enable-admin-api"]);
    let admin_only = ["/api/v1/admin/tsdb/clean_tombstones", "/-/reload", "/api/v1/metrics/tokens"];
    for path in admin_only {
        let doubled = format!("/{path}");
        let encoded = path.replace('i', "%69").replace('m', "%6D");
        let (dotted, climbing) = (format!("/.{path}"), format!("/api/v1/query/../../..{path}"));
        let (slashed, escaped) = (format!("{path}/"), path.replacen('/', "%2f", 2));
        let (absolute, upper) = (format!("http://x{path}"), path.to_uppercase());
        for spelling in [
            doubled,
            encoded,
            dotted,
            climbing,
            slashed,
            escaped,
            absolute,
            upper,
            format!("{path};x"),
            format!("{path}?x#y"),
        ] {
            for token in ["", &world.read, &world.write] {
                let answer = world.ask(token, "POST", &spelling, b"{}");
                assert!(matches!(answer.status, 400 | 401 | 403 | 404 | 405), "POST {spelling}: {answer:?}");
                assert!(!token.is_empty() || matches!(answer.status, 400 | 401), "POST {spelling}: {answer:?}");
            }
        }
        for headers in [
            [("X-HTTP-Method-Override", "POST"), ("X-Original-URL", path)],
            [("X-Forwarded-For", "127.0.0.1"), ("X-Rewrite-URL", path)],
            [("X-Method-Override", "POST"), ("Forwarded", "for=127.0.0.1")],
        ] {
            let answer = world.ask_with(&world.read, "GET", &format!("{path}?_method=POST"), &headers, b"");
            assert!(matches!(answer.status, 403..=405), "{path} {headers:?}: {answer:?}");
        }
    }
    for method in ["HEAD", "OPTIONS", "PATCH", "CONNECT", "BREW"] {
        let answer = world.ask("", method, "/api/v1/query?query=up", b"");
        assert!(matches!(answer.status, 400 | 401), "{method}: {answer:?}");
    }
    // A page of another site makes a browser ask, and change nothing.
    let cross = [("Sec-Fetch-Site", "cross-site")];
    assert_eq!(world.ask_with(&world.admin, "POST", "/-/reload", &cross, b"").status, 403);
    assert_eq!(world.ask_with(&world.admin, "GET", "/metrics", &cross, b"").status, 200);
    // What may be asked without a credential says nothing of what is there.
    assert_eq!(world.ask("", "GET", "/-/ready", b"").status, 200);
    assert_eq!(world.ask("", "GET", "//-/ready", b"").status, 401);
}

#[test]
fn a_server_that_others_reach_does_not_start_without_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").display().to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_quiver"))
        .args(["serve", "--listen", "0.0.0.0:0", "--data-dir", &data])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for hint in ["quiver token create", "--web.config.file", "--web.insecure-open"] {
        assert!(text.contains(hint), "{text}");
    }
    let open = quiver(folder.path(), &["--otlp-grpc-listen", "0.0.0.0:0", "--web.insecure-open"]);
    assert_eq!(ask(open.port, "GET", "/metrics", &[], b"").status, 200);
}

#[test]
fn calls_of_grpc_are_judged_in_its_own_words() {
    let grpc = crate::support::free_port();
    let world = World::start(&["--otlp-grpc-listen", &format!("127.0.0.1:{grpc}")]);
    let body = world.folder.path().join("call");
    // An empty request behind its five bytes.
    std::fs::write(&body, [0; 5]).expect("it is written");
    let call = |token: &str, more: &[&str]| {
        let authorization = format!("authorization: Bearer {token}");
        let mut command = std::process::Command::new("curl");
        command.args([
            "-sS",
            "-i",
            "--max-time",
            "30",
            "--http2-prior-knowledge",
            "-H",
            "content-type: application/grpc",
        ]);
        if !token.is_empty() {
            command.args(["-H", &authorization]);
        }
        let url = format!("http://127.0.0.1:{grpc}{}", server::otlp::grpc::PATH);
        command.args(more).arg("--data-binary").arg(format!("@{}", body.display())).arg(url);
        let output = command.output().expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        let line = text.lines().find_map(|line| line.strip_prefix("grpc-status: "));
        line.map_or_else(|| format!("none in {text}"), |status| status.trim().to_owned())
    };
    assert_eq!(call("", &[]), "16");
    assert_eq!(call("qvr_wrong", &[]), "16");
    assert_eq!(call(&world.read, &[]), "7");
    assert_eq!(call(&world.scoped, &["-H", "x-source-id: other"]), "7");
    // Who may is answered with a message, and the status comes behind it.
    let let_in = call(&world.write, &[]);
    assert!(let_in == "0" || let_in.contains("200"), "{let_in}");
}
