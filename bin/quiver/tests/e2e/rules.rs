//! Rules over real data, and alerts that reach a real Alertmanager; states that outlive a crash.

use std::path::Path;

use crate::support::{self, Program, free_port, wait_until};

/// Starts Debian's Alertmanager with nobody to notify.
fn alertmanager(dir: &Path) -> Program {
    let (port, config) = (free_port(), dir.join("alertmanager.yml"));
    let text = "route: {receiver: nobody, group_wait: 1s}\nreceivers: [{name: nobody}]\n";
    std::fs::write(&config, text).expect("the configuration is written");
    let args = [
        format!("--config.file={}", config.display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.path={}", dir.join("alertmanager").display()),
        "--cluster.listen-address=".to_owned(),
        "--log.level=warn".to_owned(),
    ];
    let log = dir.join("alertmanager.log");
    Program::start(Path::new("/usr/bin/prometheus-alertmanager"), &args, port, "/-/ready", &log)
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("the file is written");
}

const RULES: &str = "groups:
- name: g
  interval: 1s
  rules:
  - record: job:one:sum
    expr: sum by (job) (one)
    labels: {made: by_rule}
  - record: twice
    expr: 2 * job:one:sum
  - alert: TooHigh
    expr: twice > 5
    labels: {severity: '{{ if gt $value 5.0 }}page{{ end }}'}
    annotations: {summary: '{{ $labels.job }} is at {{ $value | humanize }}'}
  - alert: Waiting
    expr: one > 0
    for: 2h
  - record: broken
    expr: one * on(job) group_left() (one or twice)
";

#[test]
fn rules_make_series_and_alerts_that_reach_alertmanager() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let manager = alertmanager(dir.path());
    write(dir.path(), "rules.yml", RULES);
    let config = format!(
        "global: {{external_labels: {{cluster: eu}}}}\nrule_files: ['rules*.yml']\nalerting:\n  alert_relabel_configs:\n  \
         - {{regex: secret, action: labeldrop}}\n  alertmanagers:\n  - static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
        manager.port
    );
    write(dir.path(), "config.yml", &config);
    let file = dir.path().join("config.yml").display().to_string();
    let port = free_port();
    let server = support::quiver_on(dir.path(), port, &["--config", &file]);
    let custom = |server: &Program| {
        let metric = serde_json::json!([{"name": "one", "metric_type": "GAUGE", "value": 3, "source": "APPLICATION",
            "labels": {"job": "desk"}}]);
        server.client.post_json("/api/v1/metrics/custom?source_id=desk", &metric).expect(200);
    };
    custom(&server);

    wait_until("the alert fires", || {
        server.client.query("ALERTS{alertname=\"TooHigh\",alertstate=\"firing\"}")[0].is_object()
    });
    assert_eq!(server.client.number("twice{job=\"desk\",made=\"by_rule\"}"), 6.0);
    wait_until("Alertmanager knows", || {
        let alerts = manager.client.get("/api/v2/alerts").expect(200).json();
        alerts.as_array().is_some_and(|alerts| !alerts.is_empty())
    });
    let alert = manager.client.get("/api/v2/alerts").expect(200).json()[0].clone();
    assert_eq!(
        alert["labels"],
        serde_json::json!({"alertname": "TooHigh", "cluster": "eu", "job": "desk", "made": "by_rule", "severity": "page"})
    );
    assert_eq!(alert["annotations"]["summary"], "desk is at 6");
    assert!(
        alert["generatorURL"].as_str().is_some_and(|url| url.ends_with("/graph?g0.expr=twice+%3E+5&g0.tab=1")),
        "{alert}"
    );
    let known = server.client.get("/api/v1/alertmanagers").expect(200).json();
    assert_eq!(
        known["data"]["activeAlertmanagers"][0]["url"],
        format!("http://127.0.0.1:{}/api/v2/alerts", manager.port)
    );

    let groups = server.client.get("/api/v1/rules").expect(200).json()["data"]["groups"].clone();
    let rules = groups[0]["rules"].as_array().cloned().unwrap_or_default();
    let told: Vec<(&str, &str)> =
        rules.iter().filter_map(|rule| Some((rule["name"].as_str()?, rule["health"].as_str()?))).collect();
    assert_eq!(told, [("job:one:sum", "ok"), ("twice", "ok"), ("TooHigh", "ok"), ("Waiting", "ok"), ("broken", "err")]);
    assert!(rules[4]["lastError"].as_str().is_some_and(|text| text.contains("many-to-many")), "{}", rules[4]);
    assert_eq!((&rules[2]["state"], &rules[3]["state"]), (&"firing".into(), &"pending".into()));
    let only = server.client.get("/api/v1/rules?type=alert&rule_name[]=Waiting&exclude_alerts=true").expect(200).json();
    assert_eq!(only["data"]["groups"][0]["rules"].as_array().map(Vec::len), Some(1), "{only}");

    // A crash: what waited goes on waiting.
    let active_at = |server: &Program| {
        let alerts = server.client.get("/api/v1/alerts").expect(200).json();
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let waiting = alerts.into_iter().find(|a| a["labels"]["alertname"] == "Waiting")?;
        waiting["activeAt"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok())
    };
    let before = active_at(&server).expect("the alert waits");
    let waited = "count_over_time(ALERTS_FOR_STATE{alertname=\"Waiting\"}[5m])";
    wait_until("it has waited for fifteen rounds", || {
        server.client.query(waited)[0]["value"][1].as_str().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n >= 15)
    });
    server.kill();
    let restarted = jiff::Timestamp::now();
    let server = support::quiver_on(dir.path(), port, &["--config", &file]);
    custom(&server);
    // Without what was stored it would have begun after the restart, and the time down does not count as waiting.
    wait_until("it is taken up", || active_at(&server).is_some_and(|at| at < restarted && at > before));

    // Rules that are gone end their series; alerts that are gone are not known any more.
    write(dir.path(), "rules.yml", "groups: []\n");
    server.client.send("POST", "/-/reload", &[], b"").expect(200);
    wait_until("the series end", || server.client.query("twice")[0].is_null());
    assert_eq!(server.client.get("/api/v1/rules").expect(200).json()["data"]["groups"], serde_json::json!([]));
    write(dir.path(), "rules.yml", "groups:\n- name: a\n  rules:\n  - record: x\n    expr: sum(\n");
    let refused = server.client.send("POST", "/-/reload", &[], b"").expect(500);
    assert!(refused.body.contains("rules.yml:5:5: could not parse expression"), "{}", refused.body);
}

#[test]
fn rules_are_checked_and_tested_without_a_server() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path(), "rules.yml", RULES.split("  - record: broken").next().expect("the first part"));
    write(
        dir.path(),
        "test.yml",
        "rule_files: [rules.yml]
evaluation_interval: 1m
tests:
- name: high
  interval: 1m
  input_series:
  - {series: 'one{job=\"desk\"}', values: '1+1x10 _x3 stale'}
  alert_rule_test:
  - {eval_time: 1m, alertname: TooHigh, exp_alerts: []}
  - eval_time: 4m
    alertname: TooHigh
    exp_alerts:
    - exp_labels: {job: desk, made: by_rule, severity: page}
      exp_annotations: {summary: desk is at 10}
  promql_expr_test:
  - {expr: twice, eval_time: 2m, exp_samples: [{labels: 'twice{job=\"desk\",made=\"by_rule\"}', value: 6}]}
  - {expr: one, eval_time: 14m, exp_samples: []}
",
    );
    let quiver = |args: &[&str]| {
        let args = args.iter().map(|arg| {
            if arg.ends_with(".yml") { dir.path().join(arg).display().to_string() } else { (*arg).to_owned() }
        });
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_quiver")).args(args).output().expect("it runs");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    let (code, text) = quiver(&["check-rules", "rules.yml"]);
    assert!(code == Some(0) && text.contains("1 groups, 4 rules"), "{text}");
    let (code, text) = quiver(&["test-rules", "test.yml"]);
    assert!(code == Some(0) && text.contains("SUCCESS"), "{text}");

    let wrong = std::fs::read_to_string(dir.path().join("test.yml"))
        .expect("the file is there")
        .replace("value: 6", "value: 7");
    write(dir.path(), "wrong.yml", &wrong.replace("is at 10", "is at 11"));
    let (code, text) = quiver(&["test-rules", "wrong.yml"]);
    assert_eq!(code, Some(1), "{text}");
    for part in ["FAILED", "name: high", "alertname: TooHigh, time: 4m", "desk is at 11", "expr: \"twice\", time: 2m"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    write(dir.path(), "bad.yml", "groups:\n- name: a\n  rules:\n  - record: x\n");
    let (code, text) = quiver(&["check-rules", "bad.yml", "rules.yml"]);
    assert!(code == Some(1) && text.contains("bad.yml:4:5: field 'expr' must be set in rule"), "{text}");
    assert_eq!(quiver(&["check-rules", "none.yml"]).0, Some(1));
}
