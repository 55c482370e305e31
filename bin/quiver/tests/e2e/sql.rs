//! SQL over blocks and head: it agrees with PromQL, and what tries to get out or to take everything ends alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::{self, Client, Program, now_ms, wait_until};

pub const PATH: &str = "/api/v1/metrics/sql";
const STEP_MS: i64 = 15_000;
const HOSTS: u64 = 8;
const METRICS: u64 = 5;

/// Gives the program that `make analytics` builds.
pub fn analytics() -> PathBuf {
    let default = || {
        let target = std::env::var_os("QUIVER_ANALYTICS_TARGET_DIR").map(PathBuf::from);
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        target.unwrap_or_else(|| home.join(".cache/quiver/analytics-target")).join("debug/quiver-analytics")
    };
    let path = std::env::var_os("QUIVER_ANALYTICS").map_or_else(default, PathBuf::from);
    assert!(path.is_file(), "{} is missing: run make analytics", path.display());
    path
}

pub fn server(dir: &Path, more: &[&str]) -> Program {
    let program = analytics().display().to_string();
    let mut args = vec!["--analytics", &program];
    args.extend(more);
    support::quiver(dir, &args)
}

#[track_caller]
pub fn rows(client: &Client, sql: &str) -> Vec<Value> {
    let answer = client.send("POST", PATH, &[("content-type", "application/sql")], sql.as_bytes());
    assert_eq!(answer.status, 200, "{sql}: {}", answer.body);
    answer.json()["rows"].as_array().expect("rows").clone()
}

#[track_caller]
pub fn one(client: &Client, sql: &str) -> f64 {
    rows(client, sql)[0][0].as_f64().unwrap_or_else(|| panic!("{sql} gives no number"))
}

#[track_caller]
pub fn refused(client: &Client, sql: &str) -> (u16, String) {
    let answer = client.send("POST", PATH, &[("content-type", "application/sql")], sql.as_bytes());
    assert!((400..500).contains(&answer.status), "{sql}: {} {}", answer.status, answer.body);
    let problem = answer.json();
    assert!(problem["detail"].as_str().is_some_and(|d| d.len() > 10), "{sql}: {problem}");
    (answer.status, problem["code"].as_str().unwrap_or_default().to_owned())
}

/// A generator of numbers that are the same in every run.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Writes every `every`th slot from `first` on as CSV.
fn csv(first: i64, slots: std::ops::Range<i64>, every: i64, random: &mut Seeded) -> (String, u64) {
    let mut text = "timestamp,metric_name,value,host,zone\n".to_owned();
    let mut count = 0;
    for slot in slots.step_by(usize::try_from(every).expect("a step")) {
        for series in 0..METRICS * HOSTS {
            let (metric, host) = (series / HOSTS, series % HOSTS);
            // Some do not come.
            if random.next(20) == 0 {
                continue;
            }
            let value = random.next(1 << 20) as f64 / [1.0, 8.0, 10.0, 3.0, 1e9][metric as usize];
            let ms = first + slot * STEP_MS;
            let _ = writeln!(text, "{}.{:03},m{metric},{value},h{host},z{}", ms / 1000, ms % 1000, host % 3);
            count += 1;
        }
    }
    (text, count)
}

pub fn upload(client: &Client, source_id: &str, text: &str) {
    let path = format!("/api/v1/metrics/uploads?format=csv&source_id={source_id}");
    let made = client.send("POST", &path, &[], text.as_bytes());
    let id = made.expect(202).json()["upload_id"].as_str().expect("an id").to_owned();
    let status = || client.get(&format!("/api/v1/metrics/uploads/{id}")).expect(200).json();
    wait_until("the upload is done", || !["PROCESSING", "QUEUED"].map(Value::from).contains(&status()["status"]));
    assert_eq!(status()["status"], "DONE", "{}", status());
}

/// One aggregation, said twice.
struct Twice {
    promql: String,
    sql: String,
    by: Option<&'static str>,
}

fn twice(random: &mut Seeded, end_ms: i64) -> Twice {
    let metric = format!("m{}", random.next(METRICS));
    let minutes = 1 + random.next(150) as i64;
    let at_ms = end_ms - random.next(100) as i64 * 60_000;
    let at = format!("{}.{:03}", at_ms / 1000, at_ms % 1000);
    let by = [None, Some("zone"), Some("host")][random.next(3) as usize];
    let grouped = by.map_or(String::new(), |label| format!(" by ({label})"));
    let key = by.map_or("''".to_owned(), |label| format!("labels->>'{label}'"));
    let within = |ms: i64| {
        format!(
            "metric_name = '{metric}' AND timestamp > make_timestamptz({}000) AND timestamp <= make_timestamptz({at_ms}000)",
            at_ms - ms
        )
    };
    let window = within(minutes * 60_000);
    let range = format!("{metric}[{minutes}m] @ {at}");
    let of_all =
        |function: &str| format!("SELECT {key} AS k, {function} AS v FROM metrics_ts WHERE {window} GROUP BY 1");
    let of_series = |outer: &str, inner: &str| {
        format!(
            "SELECT k, {outer}(v) AS v FROM (SELECT {key} AS k, labels, {inner} AS v FROM metrics_ts WHERE {window} \
             GROUP BY labels, k) GROUP BY k"
        )
    };
    let (promql, sql) = match random.next(8) {
        0 => (format!("sum{grouped} (sum_over_time({range}))"), of_all("sum(value)")),
        1 => (format!("sum{grouped} (count_over_time({range}))"), of_all("count(*)")),
        2 => (format!("max{grouped} (max_over_time({range}))"), of_all("max(value)")),
        3 => (format!("min{grouped} (min_over_time({range}))"), of_all("min(value)")),
        4 => (format!("max{grouped} (avg_over_time({range}))"), of_series("max", "avg(value)")),
        5 => (format!("sum{grouped} (last_over_time({range}))"), of_series("sum", "arg_max(value, timestamp)")),
        6 => (format!("count{grouped} (stddev_over_time({range}))"), of_series("count", "stddev_pop(value)")),
        _ => {
            let instant = within(300_000);
            let sql = format!(
                "SELECT k, sum(v) AS v FROM (SELECT {key} AS k, labels, arg_max(value, timestamp) AS v FROM metrics_ts \
                 WHERE {instant} GROUP BY labels, k) GROUP BY k"
            );
            (format!("sum{grouped} ({metric} @ {at})"), sql)
        }
    };
    Twice { promql, sql, by }
}

fn in_promql(client: &Client, question: &Twice) -> BTreeMap<String, f64> {
    let found = client.query(&question.promql);
    let rows = found.as_array().expect("a vector").iter();
    rows.map(|row| {
        let key = question.by.map_or("", |label| row["metric"][label].as_str().unwrap_or_default());
        let value = row["value"][1].as_str().and_then(|v| v.parse().ok()).expect("a number");
        (key.to_owned(), value)
    })
    .collect()
}

#[track_caller]
fn agree(client: &Client, questions: &[Twice]) {
    let all: Vec<String> = questions
        .iter()
        .enumerate()
        .map(|(n, q)| format!("SELECT {n} AS n, k, CAST(v AS DOUBLE) AS v FROM ({})", q.sql))
        .collect();
    let mut in_sql: Vec<BTreeMap<String, f64>> = vec![BTreeMap::new(); questions.len()];
    for row in rows(client, &all.join(" UNION ALL ")) {
        let n = row[0].as_u64().expect("a number") as usize;
        in_sql[n].insert(row[1].as_str().expect("a key").to_owned(), row[2].as_f64().expect("a value"));
    }
    for (question, in_sql) in questions.iter().zip(in_sql) {
        let in_promql = in_promql(client, question);
        let keys = |m: &BTreeMap<String, f64>| m.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&in_promql), keys(&in_sql), "{} / {}", question.promql, question.sql);
        for (key, value) in &in_promql {
            // Sums are added up in another order.
            let difference = (value - in_sql[key]).abs();
            assert!(difference <= 1e-9 * value.abs(), "{} {key}: {value} / {}", question.promql, in_sql[key]);
        }
    }
}

#[test]
fn sql_and_promql_agree_over_blocks_and_head() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = server(dir.path(), &["--web.enable-admin-api"]);
    let client = &server.client;
    let mut random = Seeded(7);
    let end_ms = now_ms() / STEP_MS * STEP_MS;
    let first = end_ms - 400 * STEP_MS;
    // Even slots lie in blocks; of the odd ones, which come later, the head has some and late blocks the rest.
    let (text, in_blocks) = csv(first, 0..400, 2, &mut random);
    upload(client, "files", &text);
    client.send("POST", "/api/v1/admin/tsdb/snapshot", &[], b"").expect(200);
    let blocks = std::fs::read_dir(dir.path().join("data/blocks")).expect("blocks").count();
    assert!(blocks > 0, "nothing is in blocks");
    assert_eq!(one(client, "SELECT count(*) FROM metrics_ts"), in_blocks as f64);
    let (text, later) = csv(first, 1..400, 2, &mut random);
    upload(client, "files", &text);
    let total = in_blocks + later;
    assert_eq!(one(client, "SELECT count(*) FROM metrics_ts"), total as f64);
    let stored = client.get("/api/v1/metrics/integrity").expect(200).json()["lifetime"]["accepted"].clone();
    assert_eq!(stored, json!(total), "the ledger says otherwise");
    let questions: Vec<Twice> = (0..200).map(|_| twice(&mut random, end_ms)).collect();
    questions.chunks(50).for_each(|some| agree(client, some));
    // The same times again with other values: what was written first counts, here as there.
    let (text, _) = csv(first, 0..400, 7, &mut random);
    upload(client, "files", &text);
    assert!(one(client, "SELECT count(*) FROM metrics_ts") >= total as f64);
    let questions: Vec<Twice> = (0..25).map(|_| twice(&mut random, end_ms)).collect();
    agree(client, &questions);
    // Deleted samples are gone at once, though they lie in the files still.
    let doomed = format!("/api/v1/admin/tsdb/delete_series?match[]={}", support::encode("m1{host=\"h2\"}"));
    client.send("POST", &doomed, &[], b"").expect(204);
    let left = one(client, "SELECT count(*) FROM metrics_ts WHERE metric_name = 'm1' AND (labels->>'host') = 'h2'");
    assert_eq!(left, 0.0);
    let questions: Vec<Twice> = (0..25).map(|_| twice(&mut random, end_ms)).collect();
    agree(client, &questions);
    the_other_views_and_shapes(client, end_ms);
    exported_and_reported(&server, dir.path(), first, end_ms);
}

fn the_other_views_and_shapes(client: &Client, end_ms: i64) {
    let series = METRICS * HOSTS - 1;
    assert_eq!(one(client, "SELECT count(*) FROM series"), series as f64);
    assert_eq!(one(client, "SELECT count(*) FROM targets"), 0.0);
    assert_eq!(one(client, "SELECT count(*) FROM rollups"), 0.0);
    // PromQL within SQL, beside the samples.
    let at = end_ms / 1000;
    let joined = format!(
        "SELECT count(*) FROM promql('sum by (zone) (m0)', {}, {at}, '1m') p JOIN promql('m0', {at}) q \
         ON (p.labels->>'zone') = (q.labels->>'zone') AND p.timestamp = q.timestamp",
        at - 600
    );
    assert_eq!(one(client, &joined), HOSTS as f64);
    let sql = b"SELECT metric_name, count(*) AS n FROM metrics_ts GROUP BY 1 ORDER BY 1".as_slice();
    let ask = |accept: &str| client.send("POST", PATH, &[("content-type", "text/plain"), ("accept", accept)], sql);
    let csv = ask("text/csv").expect(200);
    assert!(csv.body.starts_with("metric_name,n\r\nm0,"), "{}", csv.body);
    let as_json = client.post_json(PATH, &json!({"query": "SELECT 'a' AS x, 0.5 AS y, NULL AS z"})).expect(200).json();
    assert_eq!(as_json["rows"], json!([["a", 0.5, null]]), "{as_json}");
    let query = "/api/v1/metrics/query?lang=sql&query=SELECT%2041%20%2B%201%20AS%20n";
    assert_eq!(client.get(query).expect(200).json()["rows"], json!([[42]]));
    assert_eq!(ask("image/png").status, 406);
    let accepted = client.send("GET", query, &[("accept", "text/csv")], b"").expect(200);
    assert_eq!(accepted.body, "n\r\n42\r\n");
    // An error that repeats a long statement is told all the same.
    let long = format!("SELECT CAST('{}' AS INTEGER)", "x".repeat(90_000));
    assert_eq!(refused(client, &long), (422, "sql_failed".to_owned()));
    // An hour in any writing bounds the time.
    for written in ["INTERVAL 1 HOUR", "to_hours(1)", "INTERVAL '60' MINUTE"] {
        let recent = format!("SELECT count(*) FROM metrics_ts WHERE timestamp > now() - {written}");
        assert!(one(client, &recent) > 0.0, "{written}");
    }
    assert_eq!(refused(client, "SELECT * FRM metrics_ts"), (400, "sql_syntax".to_owned()));
    assert_eq!(refused(client, "SELECT nonsense FROM metrics_ts").1, "sql_failed");
    assert_eq!(refused(client, "SELECT * FROM promql('sum(')").1, "invalid_query");
    client.post_json(PATH, &json!({"query": "SELECT 1", "more": 1})).expect(400);
}

/// Runs a command of the binary; gives its standard output.
fn command(server: &Program, words: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_quiver"))
        .args(words)
        .args(["--server", &format!("http://127.0.0.1:{}", server.port)])
        .env("QUIVER_ANALYTICS", analytics())
        .output()
        .expect("quiver runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn exported_and_reported(server: &Program, dir: &Path, first: i64, end_ms: i64) {
    let (start, end) = (format!("{}", first / 1000), format!("{}", end_ms / 1000 + 1));
    let folder = dir.join("exported").display().to_string();
    let whole = one(&server.client, "SELECT count(*) FROM metrics_ts");
    let done = command(server, &["export", &folder, "--start", &start, "--end", &end, "-o", "json"]);
    let done: Value = serde_json::from_slice(&done).expect("JSON");
    assert_eq!(done["rows"].as_f64(), Some(whole));
    assert!(done["files"].as_u64().is_some_and(|n| n >= 5), "{done}");
    let report = command(server, &["quality", "--start", &start, "--end", &end, "-o", "json"]);
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!((report["samples"].as_f64(), &report["duplicates"]), (Some(whole), &json!(0)), "{report}");
    assert!(report["gaps"].as_u64().is_some_and(|n| n > 0), "one in twenty does not come: {report}");
    let shown = String::from_utf8(command(server, &["sql", "SELECT 1 AS one, 'ü' AS two"])).expect("text");
    assert!(shown.contains("one") && shown.contains('ü'), "{shown}");
    let file = dir.join("answer.parquet").display().to_string();
    command(server, &["sql", "SELECT * FROM metrics_ts LIMIT 10", "--format", "parquet", "--out", &file]);
    let bytes = std::fs::read(&file).expect("a file");
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "no Parquet");
}

/// Posts samples one after the other until it is told to stop.
fn post_until(client: Client, stop: &AtomicBool, accepted: &AtomicU64) {
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let sample = json!([{"name": "beside", "value": n, "metric_type": "COUNTER", "timestamp": now_ms() as f64 / 1000.0,
            "labels": {"n": n.to_string()}}]);
        client.post_json("/api/v1/metrics/custom", &sample).expect(200);
        accepted.fetch_add(1, Ordering::Relaxed);
        n += 1;
    }
}

#[test]
fn what_a_query_must_not_do_ends_with_it_while_collection_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = server(dir.path(), &["--sql.timeout", "3s", "--sql.memory", "48MiB"]);
    let client = &server.client;
    let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let beside = {
        let (client, stop, accepted) = (client.clone(), stop.clone(), accepted.clone());
        std::thread::spawn(move || post_until(client, &stop, &accepted))
    };
    let out = dir.path().join("out.csv").display().to_string();
    for sql in [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM duckdb_settings()",
        "SELECT current_setting('memory_limit')",
        "ATTACH '/tmp/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '100GB'",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
    ] {
        assert_eq!(refused(client, sql).1, "sql_refused", "{sql}");
    }
    assert_eq!(refused(client, &format!("COPY (SELECT 1) TO '{out}'")).1, "sql_refused");
    assert!(!Path::new(&out).exists());
    for (sql, codes) in [
        ("SELECT i FROM range(100000000) t(i) ORDER BY hash(i)", &["sql_memory", "sql_timeout"][..]),
        ("SELECT string_agg(repeat('x', 1000000), ',') FROM range(1000)", &["sql_memory", "sql_failed", "sql_limit"]),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
            &["sql_timeout", "sql_limit"],
        ),
        (
            "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7",
            &["sql_timeout", "sql_limit", "sql_memory"],
        ),
    ] {
        let (status, code) = refused(client, sql);
        assert!(status == 422 && codes.contains(&&*code), "{sql}: {status} {code}");
        // The next one works.
        assert_eq!(one(client, "SELECT 1"), 1.0);
    }
    let before = accepted.load(Ordering::Relaxed);
    wait_until("collection goes on", || accepted.load(Ordering::Relaxed) > before);
    stop.store(true, Ordering::Relaxed);
    beside.join().expect("every sample was taken");
    let total = accepted.load(Ordering::Relaxed);
    assert_eq!(one(client, "SELECT count(*) FROM metrics_ts WHERE metric_name = 'beside'"), total as f64);
    let own = client.get("/metrics").expect(200).body;
    for name in ["quiver_sql_queries_total{outcome=\"sql_refused\"} 15", "quiver_sql_active 0"] {
        assert!(own.contains(name), "{name} is not told");
    }
}

#[test]
fn without_the_program_the_server_says_how_to_get_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &["--analytics", "/nowhere/quiver-analytics"]);
    let problem = server.client.post_json(PATH, &json!({"query": "SELECT 1"})).expect(501).json();
    assert_eq!(problem["code"], "analytics_missing");
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("/nowhere/quiver-analytics")), "{problem}");
}
