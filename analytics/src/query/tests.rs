use super::*;

fn refused(sql: &str) -> String {
    match plan(sql) {
        Err(text) => text,
        Ok(plan) => panic!("{sql} is taken: {plan}"),
    }
}

#[test]
fn one_select_over_our_views_is_taken_and_nothing_else() {
    for sql in [
        "SELECT 1",
        "select count(*) from metrics_ts",
        "FROM METRICS_TS",
        "WITH a AS (SELECT * FROM series), b AS (SELECT 1 FROM a) SELECT * FROM b JOIN targets ON true",
        "SELECT * FROM promql('up') p, range(3), unnest([1, 2]) u, (VALUES (1)) v",
        "DESCRIBE metrics_ts",
        "SELECT avg(value) OVER (PARTITION BY metric_name) FROM rollups_5m_ts UNION ALL SELECT 1",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r",
    ] {
        plan(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    for sql in [
        "SELECT * FROM read_parquet('x')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'x.parquet'",
        "SELECT * FROM (SELECT * FROM \"/etc/passwd\")",
        "SELECT (SELECT count(*) FROM read_blob('/etc/passwd'))",
        "SELECT * FROM metrics_ts WHERE EXISTS (FROM duckdb_settings())",
        "WITH \"/etc/passwd\" AS (SELECT 1) SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_secrets()",
        // A name given in one place is another table's everywhere else.
        "SELECT * FROM duckdb_views, (WITH duckdb_views AS (SELECT 1) SELECT * FROM duckdb_views)",
        "SELECT * FROM Head_Samples, (WITH head_samples AS (SELECT 1) SELECT * FROM head_samples)",
        "SELECT * FROM sqlite_master, (WITH sqlite_master AS (SELECT 1) SELECT * FROM sqlite_master)",
        "WITH pg_class AS (SELECT 1) SELECT * FROM pg_class",
        "WITH pragma_database_list AS (SELECT 1) SELECT * FROM pragma_database_list",
        "WITH RECURSIVE promql_rows_0 AS (SELECT 1) SELECT * FROM promql_rows_0",
        "WITH metrics_ts AS (SELECT 1) SELECT * FROM metrics_ts",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM main.metrics_ts",
        "SELECT * FROM memory.main.head_samples",
        "SELECT * FROM head_samples",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM query_table('hidden')",
        "SELECT current_setting('memory_limit')",
        "SELECT getenv('HOME')",
        "SHOW TABLES",
        "SELECT $1",
        "SELECT 1; SELECT 2",
        "ATTACH 'x.db'",
        "COPY (SELECT 1) TO 'x.csv'",
        "COPY metrics_ts FROM 'x.csv'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET memory_limit = '100GB'",
        "RESET memory_limit",
        "CALL duckdb_settings()",
        "CREATE TABLE x (a INT)",
        "INSERT INTO hidden VALUES (1, 1, 1)",
        "DROP VIEW metrics_ts",
        "EXPORT DATABASE 'x'",
        "VACUUM",
        "EXPLAIN ANALYZE SELECT 1",
        "BEGIN TRANSACTION",
        "",
    ] {
        refused(sql);
    }
    assert!(refused("SELECT * FRM metrics_ts").contains("syntax error"));
    assert!(refused(&format!("SELECT {}", ["1"; 3_000].join(" + "))).len() < 400);
}

#[test]
fn every_table_that_duckdb_brings_has_a_name_that_cannot_be_given() {
    let connection = duckdb::Connection::open_in_memory().unwrap();
    let sql = "SELECT view_name FROM duckdb_views() WHERE schema_name <> 'information_schema'
               UNION SELECT table_name FROM duckdb_tables()";
    let mut names = connection.prepare(sql).unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(names.iter().any(|name| name == "duckdb_views"), "{names:?}");
    for name in names {
        assert!(crate::statement::is_reserved(&name), "{name}");
    }
}

#[test]
fn long_errors_are_cut() {
    assert_eq!(cut("ü".repeat(4_000)), "ü".repeat(4_000));
    assert_eq!(cut("ü".repeat(4_001)), "ü".repeat(4_000) + "...");
}

#[test]
fn names_and_times_follow_from_the_conditions() {
    let samples = |sql: &str| plan(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))["metrics"].clone();
    let needs = |start: Option<i64>, end: Option<i64>, names: Option<&[&str]>| json!({"start_ms": start, "end_ms": end, "names": names});
    let day = 1_577_836_800_000_i64; // 2020-01-01
    for (condition, expected) in [
        ("true", needs(None, None, None)),
        ("timestamp >= '2020-01-01'", needs(Some(day), None, None)),
        ("TIMESTAMP '2020-01-01' < m.timestamp AND metric_name = 'up'", needs(Some(day), None, Some(&["up"]))),
        ("m.timestamp BETWEEN '2020-01-01' AND DATE '2020-01-02'", needs(Some(day), Some(day + 86_400_000), None)),
        ("timestamp <= to_timestamp(1577836800)", needs(None, Some(day), None)),
        (
            "timestamp = '2020-01-01' AND metric_name IN ('a', 'b') AND metric_name = 'b'",
            needs(Some(day), Some(day), Some(&["b"])),
        ),
        ("timestamp >= '2020-01-01' OR metric_name = 'up'", needs(None, None, None)),
        ("NOT (timestamp >= '2020-01-01' AND value > 1)", needs(None, None, None)),
        ("timestamp >= to_timestamp(value)", needs(None, None, None)),
        ("timestamp >= (SELECT max(timestamp) FROM series)", needs(None, None, None)),
        ("metric_name NOT IN ('a')", needs(None, None, None)),
        ("metric_name LIKE 'a'", needs(None, None, None)),
        ("timestamp >= '2020-01-01' AND timestamp >= to_timestamp(random() * 1e9)", needs(Some(day), None, None)),
    ] {
        assert_eq!(samples(&format!("SELECT * FROM metrics_ts m WHERE {condition}")), expected, "{condition}");
    }
    // Two places: what both need.
    let both = "SELECT 1 FROM metrics_ts WHERE timestamp >= '2020-01-01' AND metric_name = 'a' UNION ALL \
                SELECT 1 FROM metrics_ts WHERE timestamp >= '2020-01-02' AND metric_name = 'b'";
    assert_eq!(samples(both), needs(Some(day), None, Some(&["a", "b"])));
    // What a join looks at without showing it is needed whole.
    let all = needs(None, None, None);
    let old = "m.timestamp >= '2020-01-01' AND n.timestamp >= '2020-01-02'";
    for (join, condition, expected) in [
        ("JOIN metrics_ts n ON true", old, needs(Some(day), None, None)),
        ("LEFT JOIN metrics_ts n ON true", old, needs(Some(day), None, None)),
        ("FULL JOIN metrics_ts n ON true", old, needs(Some(day), None, None)),
        (", metrics_ts n", old, needs(Some(day), None, None)),
        ("ANTI JOIN metrics_ts n ON m.labels = n.labels", "timestamp >= '2020-01-01'", all.clone()),
        ("SEMI JOIN metrics_ts n ON m.labels = n.labels", "metric_name = 'up'", all.clone()),
        ("ANTI JOIN series n ON m.labels = n.labels", "metric_name = 'up'", needs(None, None, Some(&["up"]))),
        ("ASOF JOIN metrics_ts n ON m.timestamp >= n.timestamp", old, all.clone()),
        ("ASOF JOIN series n ON true", "m.timestamp >= '2020-01-01'", needs(Some(day), None, None)),
        ("POSITIONAL JOIN metrics_ts n", old, all.clone()),
        ("POSITIONAL JOIN series n", "m.timestamp >= '2020-01-01'", all.clone()),
    ] {
        assert_eq!(samples(&format!("SELECT 1 FROM metrics_ts m {join} WHERE {condition}")), expected, "{join}");
    }
    assert_eq!(samples("SELECT 1 FROM metrics_ts TABLESAMPLE 5 ROWS WHERE metric_name = 'a'"), all);
    assert_eq!(samples("SELECT 1 FROM metrics_ts WHERE metric_name = 'a' USING SAMPLE 5 ROWS"), all);
    // A condition outside of the place binds nothing; nor one on columns that got other names.
    assert_eq!(samples("SELECT * FROM (SELECT * FROM metrics_ts) WHERE metric_name = 'a'"), needs(None, None, None));
    let renamed = "SELECT * FROM metrics_ts AS m(metric_name, timestamp) WHERE metric_name = 'a'";
    assert_eq!(samples(renamed), needs(None, None, None));
    let present =
        samples("SELECT * FROM metrics_ts WHERE timestamp > now() - INTERVAL '1 hour' AND timestamp <= now()");
    let span = present["end_ms"].as_i64().unwrap() - present["start_ms"].as_i64().unwrap();
    assert_eq!(span, 3_600_000, "there is one present");
    let whole = "timestamp >= date_trunc('day', now() - INTERVAL 2 DAY) AND timestamp < date_trunc('day', now())";
    let days = samples(&format!("SELECT * FROM metrics_ts WHERE {whole}"));
    assert_eq!(days["end_ms"].as_i64().unwrap() - days["start_ms"].as_i64().unwrap(), 2 * 86_400_000);
    for written in
        ["INTERVAL 1 HOUR", "INTERVAL (90) MINUTE", "to_days(1)", "INTERVAL '2 days 3 hours'", "INTERVAL (1.5) HOUR"]
    {
        let one = samples(&format!("SELECT * FROM metrics_ts WHERE timestamp > now() - {written}"));
        assert!(one["start_ms"].is_i64(), "{written}: {one}");
    }
    for written in ["today()", "current_date", "current_timestamp", "today() - 1"] {
        let one = samples(&format!("SELECT * FROM metrics_ts WHERE timestamp < {written}"));
        assert!(one["end_ms"].is_i64(), "{written}: {one}");
    }
    let column = "FROM metrics_ts, (SELECT DATE '2020-01-01' AS Current_Date) x WHERE timestamp < current_date";
    assert_eq!(samples(&format!("SELECT 1 {column}")), needs(None, None, None));
    // What cannot be computed bounds nothing, and what comes behind it is computed all the same.
    let wrong = "timestamp > CAST('no time' AS TIMESTAMP) AND timestamp > '2020-01-01'";
    assert_eq!(samples(&format!("SELECT * FROM metrics_ts WHERE {wrong}")), needs(Some(day), None, None));
    assert_eq!(samples("SELECT 1"), Value::Null);
}

#[test]
fn promql_is_taken_out_with_its_arguments() {
    let calls = |sql: &str| plan(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))["promql"].clone();
    let two = "SELECT * FROM promql('up', '2020-01-01', TIMESTAMP '2020-01-02', '15s') JOIN promql(query := 'a + b', start := 60)";
    assert_eq!(
        calls(&format!("{two} b ON true")),
        json!([
            {"query": "up", "start_ms": 1_577_836_800_000_i64, "end_ms": 1_577_923_200_000_i64, "step": "15s"},
            {"query": "a + b", "start_ms": 60_000, "end_ms": null, "step": null},
        ])
    );
    assert_eq!(calls("FROM promql('up', 0, 10, INTERVAL '1 minute')")[0]["step"], "60000ms");
    let decimals = calls("FROM promql('up', 1577836800.25, 1577836800 + 60.5, 0.5)");
    let expected =
        json!([{"query": "up", "start_ms": 1_577_836_800_250_i64, "end_ms": 1_577_836_860_500_i64, "step": "500ms"}]);
    assert_eq!(decimals, expected);
    assert_eq!(calls("FROM promql('up', -1.5)")[0]["start_ms"], -1_500);
    assert_eq!(calls("FROM promql('up', 1e9)")[0]["start_ms"], 1_000_000_000_000_i64);
    for sql in [
        "FROM promql()",
        "FROM promql(1)",
        "FROM promql('a' || 'b')",
        "FROM metrics_ts, promql(metric_name)",
        "FROM promql((SELECT max(metric_name) FROM metrics_ts))",
        "FROM promql('up', random())",
        "FROM promql('up', 0, 10)",
        "FROM promql('up', 0, 10, 0)",
        "FROM promql('up', 0, 10, -1)",
        "FROM promql('up', true)",
        "FROM promql('up', 0, 10, 1, 2)",
        "FROM promql('up', what := 1)",
    ] {
        assert!(refused(sql).contains("promql("), "{sql}");
    }
    let many = ["promql('up')"; 9].join(", ");
    assert!(refused(&format!("FROM {many}")).contains("8 times"));
}
