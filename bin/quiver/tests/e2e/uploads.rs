//! Uploads and imports against the real binary: in pieces, through kill -9, and the blocks of a real Prometheus.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::sql;
use crate::support::{self, Program, encode, now_ms, wait_until};

const PATH: &str = "/api/v1/metrics/uploads";

fn status(server: &Program, id: &str) -> Value {
    server.client.get(&format!("{PATH}/{id}")).expect(200).json()
}

fn done(server: &Program, id: &str) -> Value {
    let under_way = |now: &Value| now["status"] == "PROCESSING" || now["status"] == "QUEUED";
    wait_until("the upload is done", || !under_way(&status(server, id)));
    status(server, id)
}

fn csv(rows: i64, from_s: i64) -> String {
    let mut text = "timestamp,metric_name,value,host\n".to_owned();
    for i in 0..rows {
        let _ = writeln!(text, "{},uploaded,{},h{}", from_s + i, i, i % 3);
    }
    text
}

fn counted(server: &Program, name: &str) -> f64 {
    server.client.number(&format!("sum(count_over_time({name}[14d])) or vector(0)"))
}

#[test]
fn uploads_go_on_after_kills_and_count_each_sample_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Ten days old: into blocks of windows that closed long ago.
    let text = csv(200_000, now_ms() / 1000 - 10 * 86_400);
    let (first, second) = text.as_bytes().split_at(text.len() / 2);
    let server = support::quiver(dir.path(), &[]);
    let length = text.len().to_string();
    let headers = [("upload-length", length.as_str()), ("idempotency-key", "k-1")];
    let begin = format!("{PATH}?format=csv&source_id=files");
    let made = server.client.send("POST", &begin, &headers, b"").expect(202).json();
    let id = made["upload_id"].as_str().expect("an id").to_owned();
    assert_eq!((&made["status"], &made["offset"]), (&json!("RECEIVING"), &json!(0)));
    let again = server.client.send("POST", &begin, &headers, b"").expect(202).json();
    assert_eq!(again["upload_id"], id.as_str(), "the same key is the same upload");
    let one = format!("{PATH}/{id}");
    server.client.send("PATCH", &one, &[("upload-offset", "5")], b"x").expect(409);
    server.client.send("PATCH", &one, &[("upload-offset", "0")], first).expect(202);
    server.kill();

    let server = support::quiver(dir.path(), &[]);
    let offset = status(&server, &id)["offset"].as_u64().expect("a number");
    assert_eq!(offset, first.len() as u64, "what was answered is there");
    let range = format!("bytes {offset}-{}/{}", text.len() - 1, text.len());
    server.client.send("PATCH", &one, &[("content-range", &range)], second).expect(202);
    // Killed while it stores, as the case may be at the beginning, in the middle or at the end.
    wait_until("some of it is stored", || status(&server, &id)["processed_bytes"].as_u64() > Some(0));
    server.kill();

    let server = support::quiver(dir.path(), &[]);
    let end = done(&server, &id);
    assert_eq!(end["status"], "DONE", "{end}");
    let result = &end["result"];
    assert_eq!((&result["received"], &result["rejected"]), (&json!(200_000), &json!(0)), "{end}");
    assert_eq!(result["accepted"].as_u64().zip(result["duplicates"].as_u64()).map(|(a, b)| a + b), Some(200_000));
    assert_eq!(counted(&server, "uploaded"), 200_000.0);
    assert_eq!(server.client.number("count(last_over_time(uploaded{job=\"files\"}[14d]))"), 3.0);
    server.client.send("PATCH", &one, &[("upload-offset", &length)], b"more").expect(409);
    assert_eq!(server.terminate(), Some(0));
    let server = support::quiver(dir.path(), &[]);
    assert_eq!(status(&server, &id)["result"], *result, "the result is kept");
    assert_eq!(counted(&server, "uploaded"), 200_000.0);
}

#[test]
fn every_format_is_taken_and_mistakes_are_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let at = now_ms() / 1000 - 3_600;
    let upload = |format: &str, headers: &[(&str, &str)], body: &[u8]| {
        let made = server.client.send("POST", &format!("{PATH}?format={format}"), headers, body).expect(202).json();
        done(&server, made["upload_id"].as_str().expect("an id"))
    };
    let ndjson = format!(
        "{{\"name\":\"nd\",\"metric_type\":\"GAUGE\",\"value\":1,\"timestamp\":{at}}}\nbroken\n\
         {{\"name\":\"nd\",\"metric_type\":\"GAUGE\",\"value\":2,\"timestamp\":{}}}\n",
        at + 1
    );
    let end = upload("ndjson", &[], ndjson.as_bytes());
    assert_eq!(
        (&end["result"]["status"], &end["result"]["accepted"], &end["errors"][0]["line"]),
        (&json!("PARTIAL"), &json!(2), &json!(2))
    );
    assert_eq!(end["result"]["rejections"][0]["reason"], "malformed");
    let text = format!("# TYPE om counter\nom_total{{a=\"b\"}} 5 {at}\nom_total{{a=\"b\"}} 6 {}\n# EOF\n", at + 10);
    let end = upload("openmetrics", &[], text.as_bytes());
    assert_eq!(end["result"]["accepted"], 2, "{end}");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, csv(10, at).as_bytes()).expect("it is in memory");
    let gzip = gzip.finish().expect("it is in memory");
    let end = upload("csv", &[("content-encoding", "gzip")], &gzip);
    assert_eq!(end["result"]["accepted"], 10, "{end}");
    let end = upload("csv", &[("content-encoding", "gzip")], &gzip[..gzip.len() / 2]);
    assert_eq!(end["status"], "FAILED", "{end}");
    let end = upload("parquet", &[], b"PAR1 no parquet PAR1");
    assert!(end["status"] == "FAILED" && end["error"].is_string(), "{end}");
    let end = upload("csv", &[], b"a,b\n1,2\n");
    assert!(end["error"].as_str().is_some_and(|e| e.contains("columns")), "{end}");
    assert_eq!(server.client.number("max_over_time(om_total{a=\"b\"}[2h])"), 6.0);

    server.client.send("POST", PATH, &[], b"x").expect(415);
    server.client.send("POST", &format!("{PATH}?format=csv"), &[("upload-length", "2000000000")], b"").expect(413);
    server.client.send("POST", &format!("{PATH}?format=parquet"), &[("content-encoding", "gzip")], b"x").expect(415);
    server.client.get(&format!("{PATH}/nobody")).expect(404);
    server.client.send("PATCH", &format!("{PATH}/nobody"), &[("upload-offset", "0")], b"x").expect(404);
    let all = server.client.get(PATH).expect(200).json();
    assert_eq!(all.as_array().map(Vec::len), Some(6));
}

fn cli(server: &Program, dir: &Path, words: &[&str]) -> Output {
    let url = format!("http://127.0.0.1:{}", server.port);
    let mut command = Command::new(env!("CARGO_BIN_EXE_quiver"));
    command.current_dir(dir).args(words).args(["--server", &url, "--output", "json"]);
    command.output().expect("the command runs")
}

#[test]
fn the_command_imports_files_and_the_blocks_of_a_prometheus() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &[]);
    let at = now_ms() / 1000 - 5 * 86_400;
    std::fs::write(dir.path().join("old.csv"), csv(1_000, at)).expect("the file is written");
    let out = cli(&server, dir.path(), &["import", "old.csv"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let shown: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(shown["result"]["accepted"], 1_000);
    let out = cli(&server, dir.path(), &["import", "nothing.csv"]);
    assert_eq!(out.status.code(), Some(1));

    let mut text = "# TYPE tsdb counter\n".to_owned();
    for i in 0..5_000 {
        let _ = writeln!(text, "tsdb_total{{lane=\"{}\"}} {} {}", i % 4, f64::from(i) * 0.1, at + i64::from(i) * 7);
    }
    text.push_str("# EOF\n");
    std::fs::write(dir.path().join("in.om"), text).expect("the file is written");
    let made = Command::new("promtool")
        .current_dir(dir.path())
        .args(["tsdb", "create-blocks-from", "openmetrics", "in.om", "tsdb"])
        .output()
        .expect("promtool is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for _ in 0..2 {
        let out = cli(&server, dir.path(), &["import", "prometheus", "tsdb"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let shown: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        assert_eq!((&shown["samples"], &shown["refused"]), (&json!(5_000), &json!([])), "{shown}");
        assert_eq!(counted(&server, "tsdb_total"), 5_000.0, "sent twice it counts once");
    }
    let last = server.client.number("max(max_over_time(tsdb_total{lane=\"3\"}[14d]))");
    assert_eq!(last.to_bits(), (4999.0 * 0.1f64).to_bits());
}

/// A table as people keep them: a decimal comma, days first, a column for each metric, `NA` for nothing.
fn dirty(rows: i64, from_s: i64) -> String {
    let mut text = "At,Room, Temp ,Load\n".to_owned();
    for i in 0..rows {
        let at = jiff::Timestamp::from_second(from_s + i * 10).expect("a time").strftime("%d.%m.%Y %H:%M:%S");
        let temp = if i % 10 == 0 { "NA".to_owned() } else { format!("\"{},5\"", i % 50) };
        let room = if i % 2 == 0 { "Hall" } else { " HALL " };
        let _ = writeln!(text, "{at},{room},{temp},{i}");
    }
    text + "soon,hall,1,1\n"
}

const STEPS: &str = "trim;null:NA;lower:Room;decimal_comma:Temp;time:At:%d.%m.%Y %H:%M:%S;scale:Temp:2:1;\
                     rename:Temp:temp;scale:Load:1;rename:Load:load;unpivot:name:value:temp+load;drop_empty:value;keep:value::99999";

#[test]
fn tables_are_cleaned_up_in_their_own_process_and_counted_once_over_a_kill() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = sql::server(dir.path(), &[]);
    let rows = 60_000;
    let text = dirty(rows, now_ms() / 1000 - 9 * 86_400);
    let path = format!("{PATH}?format=csv&source_id=house&columns=At:time,Room:label:room,name:name,value:value");
    let with = |steps: &str| format!("{path}&clean={}", encode(steps));
    let refused = server.client.send("POST", &with("trim;blur:x"), &[], b"a\n").expect(400).json();
    assert!(refused["detail"].as_str().is_some_and(|d| d.contains("\"blur:x\" is no step")), "{refused}");
    server.fresh_client().send("POST", &format!("{PATH}?format=ndjson&clean=trim"), &[], b"{}").expect(400);
    let made = server.fresh_client().send("POST", &with(STEPS), &[], text.as_bytes()).expect(202).json();
    let id = made["upload_id"].as_str().expect("an id").to_owned();
    wait_until("some of it is stored", || status(&server, &id)["processed_bytes"].as_u64() > Some(0));
    server.kill();

    let server = sql::server(dir.path(), &[]);
    let end = done(&server, &id);
    assert_eq!(end["status"], "DONE", "{end}");
    let (result, nothing) = (&end["result"], rows / 10);
    assert_eq!(end["left_out"], json!({"drop_empty:value": nothing}), "{end}");
    assert_eq!((&result["received"], &result["rejected"]), (&json!(2 * rows - nothing + 1), &json!(1)), "{end}");
    assert_eq!(
        result["accepted"].as_u64().zip(result["duplicates"].as_u64()).map(|(a, b)| a + b),
        Some((2 * rows - nothing) as u64)
    );
    let told = (&end["errors"][0]["line"], &end["errors"][0]["detail"]);
    assert_eq!(told, (&json!(rows + 2), &json!("At: no time of that form")));
    assert_eq!(counted(&server, "temp{room=\"hall\",job=\"house\"}"), (rows - nothing) as f64);
    assert_eq!(counted(&server, "load{room=\"hall\"}"), rows as f64);
    assert_eq!(server.client.number("max(max_over_time(temp[14d]))"), 2.0 * 49.5 + 1.0);

    // What cannot be done to the columns there are is said.
    let made = server.client.send("POST", &with("drop:Nothing"), &[], b"At,value\n1,2\n").expect(202).json();
    let end = done(&server, made["upload_id"].as_str().expect("an id"));
    assert_eq!(end["status"], "FAILED");
    assert!(end["error"].as_str().is_some_and(|e| e.contains("\"Nothing\", but At, value")), "{end}");
    let from_s = now_ms() / 1000;
    std::fs::write(dir.path().join("t.csv"), format!("t,v\n{from_s},7\n")).expect("the file is written");
    let out =
        cli(&server, dir.path(), &["import", "t.csv", "--columns", "t:time,v:metric:seven", "--clean", "scale:v:3"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(server.client.number("seven"), 21.0);
}

#[test]
fn without_the_program_a_clean_up_says_what_is_missing_and_all_else_works() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = support::quiver(dir.path(), &["--analytics", "/nowhere/quiver-analytics"]);
    let body = csv(10, now_ms() / 1000 - 60);
    let refused =
        server.client.send("POST", &format!("{PATH}?format=csv&clean=trim"), &[], body.as_bytes()).expect(501);
    assert!(
        refused.body.contains("analytics_missing") && refused.body.contains("/nowhere/quiver-analytics"),
        "{}",
        refused.body
    );
    let made =
        server.fresh_client().send("POST", &format!("{PATH}?format=csv"), &[], body.as_bytes()).expect(202).json();
    assert_eq!(done(&server, made["upload_id"].as_str().expect("an id"))["result"]["accepted"], 10);
}
