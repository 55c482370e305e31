//! TLS to PostgreSQL, Redis and NATS: with the right authority they are used, with another one not a byte goes to them.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::access::tls::Authority;
use crate::nats::{self, Nats};
use crate::postgres::{self, Postgres};
use crate::redis::{self, Redis};
use crate::support::{Program, free_port, quiver_on, wait_until};

/// Writes a configuration that trusts an authority.
fn config(dir: &Path, authority: &str, pg: u16, cache: u16, bus: u16) -> String {
    for (name, password) in [("pg", postgres::PASSWORD), ("redis", redis::PASSWORD), ("nats", nats::PASSWORD)] {
        std::fs::write(dir.join(name), password).expect("a file");
    }
    let ca = dir.join(format!("{authority}.pem")).display().to_string();
    let catalog = match pg {
        0 => String::new(),
        pg => format!(
            "  catalog:\n    url: postgres://quiver@localhost:{pg}/targets?sslmode=verify-full&sslrootcert={ca}\n    password_file: pg\n"
        ),
    };
    let text = format!(
        "quiver:\n{catalog}  cache: {{url: 'rediss://localhost:{cache}/0', password_file: redis, ca_file: '{ca}'}}\n  events:\n    nats:\n    \
         - {{name: bus, url: 'tls://localhost:{bus}', user: quiver, password_file: nats, ca_file: '{ca}', create_stream: true}}\n"
    );
    let path = dir.join(format!("{authority}.yml"));
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

fn figure(server: &Program, name: &str) -> Option<f64> {
    let page = server.client.get("/metrics").expect(200).body;
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn send(server: &Program) {
    let metric = json!([{"name": "one", "metric_type": "GAUGE", "value": 1}]);
    server.client.post_json("/api/v1/metrics/custom?source_id=desk", &metric).expect(200);
}

#[test]
fn what_is_beside_is_reached_over_tls_and_nobody_else_is_taken_for_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (ours, _theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    ours.sign("server", "server");
    let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let pg = Postgres::start_with_tls(&certificate, &key);
    let cache = Redis::start_with_tls(&certificate, &key);
    let bus = Nats::start_with_tls(&certificate, &key);
    pg.create("targets");

    let right = config(dir.path(), "ours", pg.port, cache.tls_port(), bus.port);
    let server = quiver_on(dir.path(), free_port(), &["--config", &right]);
    let in_tls = "SELECT count(*) > 0, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                  WHERE application_name = 'quiver'";
    assert_eq!(pg.ask("targets", in_tls), "t|t");
    wait_until("statistics are in Redis", || cache.ask(&["GET", "collection_stats"]).is_some());
    send(&server);
    let delivered = "quiver_event_sink_delivered_total{sink=\"bus\"}";
    wait_until("the event is with NATS", || figure(&server, delivered) == Some(1.0));
    assert_eq!(server.terminate(), Some(0));

    // The catalog's certificate is another authority's: the start ends and says so.
    let wrong = config(dir.path(), "theirs", pg.port, cache.tls_port(), bus.port);
    let refused = Command::new("timeout")
        .args([
            "60",
            env!("CARGO_BIN_EXE_quiver"),
            "serve",
            "--listen",
            &format!("127.0.0.1:{}", free_port()),
            "--config",
            &wrong,
            "--data-dir",
        ])
        .arg(dir.path().join("other"))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("TLS") && said.contains("certificate") && !said.contains(postgres::PASSWORD), "{said}");

    // Cache and receiver are done without.
    cache.ask(&["FLUSHALL"]);
    let wrong = config(dir.path(), "theirs", 0, cache.tls_port(), bus.port);
    std::fs::create_dir(dir.path().join("third")).expect("a folder");
    let server = quiver_on(&dir.path().join("third"), free_port(), &["--config", &wrong]);
    send(&server);
    wait_until("both are known to be out of reach", || {
        figure(&server, "quiver_cache_up{kind=\"redis\"}") == Some(0.0)
            && figure(&server, "quiver_event_sink_up{sink=\"bus\"}") == Some(0.0)
    });
    send(&server);
    assert_eq!((figure(&server, delivered), cache.ask(&["DBSIZE"]).as_deref()), (Some(0.0), Some("0")));
    let log = server.log_text();
    assert!(log.contains("certificate") && !log.contains(redis::PASSWORD) && !log.contains(nats::PASSWORD), "{log}");
    assert_eq!(server.terminate(), Some(0));
}
