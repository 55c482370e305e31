//! Whole files: what Prometheus takes is taken, what is wrong is named with its place.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use collect::{Auth, Protocol, Secret};
use discover::Mechanism;

use super::load::LoadError;
use super::{Config, load_file, load_text};

fn good(text: &str) -> Config {
    load_text(text, Path::new("/etc/q/prometheus.yml"), false).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Gives the problems as `line:column: text`.
fn bad(text: &str) -> Vec<String> {
    match load_text(text, Path::new("c.yml"), false) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(e) => e.to_string().lines().map(|l| l.strip_prefix("c.yml:").unwrap_or(l).to_owned()).collect(),
    }
}

/// The shapes of Prometheus' own `conf.good.yml`, as far as they are served.
const LARGE: &str = r#"
global:
  scrape_interval: 15s
  evaluation_interval: 30s
  body_size_limit: 15MB
  sample_limit: 1500
  target_limit: 30
  label_limit: 30
  label_name_length_limit: 200
  label_value_length_limit: 200
  scrape_native_histograms: false
  always_scrape_classic_histograms: false
  external_labels:
    monitor: codelab
    foo: bar
runtime: {gogc: 42}
storage:
  tsdb:
    out_of_order_time_window: 30m
    retention: {time: 1d}
  exemplars: {max_exemplars: 5}
scrape_configs:
  - job_name: prometheus
    honor_labels: true
    # scrape_interval is defined by the configured global (15s).
    # scrape_timeout is defined by the global default (10s).
    fallback_scrape_protocol: PrometheusText0.0.4
    file_sd_configs:
      - files:
          - foo/*.slow.json
          - foo/*.slow.yml
          - single/file.yml
        refresh_interval: 10m
      - files:
          - bar/*.yaml
    static_configs:
      - targets: ['localhost:9090', 'localhost:9191']
        labels:
          my: label
          your: label
    relabel_configs:
      - source_labels: [job, __meta_dns_name]
        regex: (.*)some-[regex]
        target_label: job
        replacement: foo-${1}
        # action defaults to 'replace'
      - source_labels: [abc]
        target_label: cde
      - replacement: static
        target_label: abc
      - regex:
        replacement: static
        target_label: abc
      - source_labels: [foo]
        target_label: abc
        action: keepequal
    authorization:
      credentials_file: valid_token_file
    tls_config:
      min_version: TLS10
  - job_name: service-x
    basic_auth:
      username: admin_name
      password: "multiline\nmysecret\ntest"
    scrape_interval: 50s
    scrape_timeout: 5s
    scrape_protocols: ["PrometheusText0.0.4", "PrometheusProto"]
    body_size_limit: 10MB
    sample_limit: 1000
    params:
      module: [a, b]
    metrics_path: /my_path
    scheme: https
    metric_relabel_configs:
      - source_labels: [__tmp_hash]
        regex: ^1$
        action: keep
      - regex: (.*)
        action: labeldrop
  - job_name: service-y
    http_headers:
      X-Scope: {values: [one]}
    follow_redirects: false
    enable_http2: false
    enable_compression: false
    authorization: {type: APIKEY, credentials: mysecret}
    track_timestamps_staleness: true
    honor_timestamps: false
"#;

#[test]
fn native_histograms_bring_protobuf_to_the_front_unless_the_protocols_are_given() {
    let jobs = |global: &str, job: &str| {
        let config = good(&format!("global:\n  scrape_interval: 15s\n{global}scrape_configs:\n  - job_name: a\n{job}"));
        let scrape = config.jobs[0].scrape.clone();
        (scrape.native_histograms, scrape.always_classic_histograms, scrape.protocols)
    };
    let on = "  scrape_native_histograms: true\n";
    assert_eq!(jobs("", ""), (false, false, Protocol::DEFAULT.to_vec()));
    assert_eq!(jobs(on, ""), (true, false, Protocol::PROTO_FIRST.to_vec()));
    assert_eq!(jobs("", &format!("  {on}")), (true, false, Protocol::PROTO_FIRST.to_vec()));
    assert_eq!(jobs(on, "    scrape_native_histograms: false\n"), (false, false, Protocol::DEFAULT.to_vec()));
    let classic = "    always_scrape_classic_histograms: true\n    scrape_protocols: [PrometheusProto]\n";
    assert_eq!(jobs(on, classic), (true, true, vec![Protocol::Proto]));
    let given = format!("{on}  scrape_protocols: [PrometheusText0.0.4]\n");
    assert_eq!(jobs(&given, ""), (true, false, vec![Protocol::Text004]));
    let fallback = good("scrape_configs: [{job_name: a, fallback_scrape_protocol: PrometheusProto}]");
    assert_eq!(fallback.jobs[0].scrape.fallback_protocol, Some(Protocol::Proto));
}

#[test]
fn limits_of_native_histograms_are_not_yet_where_native_histograms_are_taken() {
    let job = |native: bool| {
        format!(
            "scrape_configs: [{{job_name: a, scrape_native_histograms: {native}, native_histogram_bucket_limit: 100}}]"
        )
    };
    good(&job(false));
    assert!(
        bad(&job(true)).iter().any(|e| e.contains("native_histogram_bucket_limit") && e.contains("not supported yet"))
    );
}

#[test]
fn the_shapes_of_a_real_file_are_taken() {
    let config = good(LARGE);
    assert_eq!((config.settings.retention_ms, config.settings.exemplars_max), (Some(86_400_000), Some(5)));
    assert_eq!(config.global.external_labels.len(), 2);
    let [first, second, third] = &config.jobs[..] else { panic!("{}", config.jobs.len()) };

    assert_eq!((first.scrape.interval_ms, first.scrape.timeout_ms), (15_000, 10_000));
    assert_eq!(first.scrape.limits.body_bytes, 15 << 20);
    assert_eq!((first.target_limit, first.scrape.relabel.len()), (30, 5));
    assert_eq!(first.scrape.fallback_protocol, Some(Protocol::Text004));
    let [Mechanism::Static(groups), Mechanism::Files(files), Mechanism::Files(more)] = &first.mechanisms[..] else {
        panic!("{:?}", first.mechanisms)
    };
    assert_eq!(groups[0].targets.len(), 2);
    assert_eq!(groups[0].labels.get("your"), Some("label"));
    assert_eq!(files.files[0], "/etc/q/foo/*.slow.json");
    assert_eq!((files.refresh_ms, more.refresh_ms), (600_000, 300_000));
    let Auth::Bearer { kind, token: Secret::File(path) } = &first.scrape.http.options().auth else { panic!() };
    assert_eq!((kind.as_str(), path.display().to_string().as_str()), ("Bearer", "/etc/q/valid_token_file"));

    assert_eq!((second.scrape.interval_ms, second.scrape.timeout_ms), (50_000, 5_000));
    assert_eq!(second.scrape.limits.sample, 1000);
    assert_eq!(second.scrape.protocols, [Protocol::Text004, Protocol::Proto]);
    assert!(!second.scrape.native_histograms && !second.scrape.always_classic_histograms);
    assert_eq!(second.scrape.params["module"], ["a", "b"]);
    assert_eq!((second.scrape.scheme.as_str(), second.scrape.metrics_path.as_str()), ("https", "/my_path"));
    assert_eq!(second.scrape.metric_relabel.len(), 2);
    assert!(matches!(&second.scrape.http.options().auth, Auth::Basic { username, .. } if username == "admin_name"));

    let options = third.scrape.http.options();
    assert!(!options.follow_redirects && !options.enable_http2 && !options.enable_compression);
    assert_eq!(options.headers, [("X-Scope".to_owned(), "one".to_owned())]);
    assert!(third.scrape.track_timestamps_staleness && !third.scrape.honor_timestamps);
    assert_eq!(third.scrape.limits.sample, 1500);

    assert!(!config.printed.contains("mysecret"), "{}", config.printed);
    assert!(config.printed.contains("job_name: service-x"));
}

#[test]
fn empty_files_and_empty_sections_are_fine() {
    for text in
        ["", "# nothing\n", "global:\nscrape_configs:\nrule_files: []\nalerting: {alertmanagers: []}\nquiver:\n"]
    {
        assert!(good(text).jobs.is_empty());
    }
    let config = good("scrape_configs: [{job_name: a, static_configs: []}]");
    assert_eq!((config.jobs[0].scrape.interval_ms, config.jobs[0].mechanisms.len()), (60_000, 0));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let job = |rest: &str| format!("scrape_configs:\n  - job_name: a\n    {rest}\n");
    for (text, expected) in [
        ("scrape_configs:\n  - static_configs: []\n".to_owned(), "2:5: job_name is empty"),
        ("scrape_configs:\n  -\n".to_owned(), "2:4: empty or null scrape config section"),
        (
            "scrape_configs:\n- job_name: a\n- job_name: a\n".to_owned(),
            "3:3: found multiple scrape configs with job name \"a\"",
        ),
        (
            job("scrape_timeout: 2m"),
            "3:5: scrape timeout greater than scrape interval for scrape config with job name \"a\"",
        ),
        (job("scrape_interval: 5x"), "3:22: scrape_interval: not a valid duration string: \"5x\""),
        (
            job("scrape_intervall: 5s"),
            "3:5: unknown key \"scrape_intervall\" in scrape config with job name \"a\"; did you mean \"scrape_interval\"?",
        ),
        (job("static_configs: [{targets: ['http://x/y']}]"), "3:33: \"http://x/y\" is not a valid hostname"),
        (
            job("static_configs: [{target: [x]}]"),
            "3:23: unknown key \"target\" in static_configs; did you mean \"targets\"?",
        ),
        (job("static_configs: [null]"), "3:22: empty or null section in static_configs"),
        (
            job("file_sd_configs: [{files: []}]"),
            "3:23: file service discovery config must contain at least one path name",
        ),
        (
            job("file_sd_configs: [{files: ['x/*/y.json']}]"),
            "3:32: path name \"x/*/y.json\" is not valid for file discovery",
        ),
        (
            job("relabel_configs: [{action: hashmod, target_label: x}]"),
            "3:23: relabel configuration for hashmod requires non-zero modulus",
        ),
        (
            job("relabel_configs: [null]"),
            "3:23: empty or null relabeling rule in relabel_configs of scrape config with job name \"a\"",
        ),
        (
            job("basic_auth: {username: u}\n    bearer_token: t"),
            "2:5: at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured",
        ),
        (
            job("authorization: {type: Basic}"),
            "3:21: authorization type cannot be set to \"basic\", use \"basic_auth\" instead",
        ),
        (
            job("tls_config: {ca_file: /does/not/exist.pem}"),
            "3:18: ca_file: cannot read /does/not/exist.pem: No such file or directory (os error 2)",
        ),
        (
            job("http_headers: {Host: {values: [x]}}"),
            "2:5: setting header \"Host\" is not allowed for scrape config with job name \"a\"",
        ),
        (
            job("consul_sd_configs: [{server: 'x'}]"),
            "3:5: \"consul_sd_configs\" in scrape config with job name \"a\" is not supported yet",
        ),
        (job("oauth2: {client_id: x}"), "3:13: oauth2 token_url must be configured"),
        (
            "remote_read: [{url: 'http://x'}]\n".to_owned(),
            "1:1: \"remote_read\" in the configuration is not supported yet",
        ),
        ("global: {scrape_timeout: 2m}\n".to_owned(), "1:10: global scrape timeout greater than scrape interval"),
        ("globals: {}\n".to_owned(), "1:1: unknown key \"globals\" in the configuration; did you mean \"global\"?"),
        ("a: 1\na: 2\n".to_owned(), "2:1: key \"a\" already set in map"),
        ("scrape_configs: {}\n".to_owned(), "1:17: scrape_configs must be a list, not a mapping"),
        ("[1]\n".to_owned(), "1:1: the configuration must be a mapping, not a list"),
        ("scrape_config_files: ['a*/b.yml']\n".to_owned(), "1:1: invalid scrape config file path \"a*/b.yml\""),
        (
            "quiver: {filters: [{source: a, filters: []}, {source: a, filters: []}]}\n".to_owned(),
            "1:46: quiver.filters has two entries for \"a\": put them into one list",
        ),
        (
            "quiver: {collectors: [{name: a, http_json: {url: 'http://u:p@h/', metrics: [{name: x, value: /v}]}}]}\n"
                .to_owned(),
            "1:45: name and password do not stand in the URL: see basic_auth",
        ),
        ("quiver: {listn: x}\n".to_owned(), "1:10: unknown key \"listn\" in quiver; did you mean \"listen\"?"),
    ] {
        assert!(bad(&text).iter().any(|line| line == expected), "{text}\nwanted {expected}\ngot    {:#?}", bad(&text));
    }
}

#[test]
fn all_problems_are_told_in_order() {
    let lines =
        bad("globl: {}\nscrape_configs:\n- job_name: a\n  scrape_interval: x\n  kuma_sd_configs: [{a: b}]\n- {}\n");
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let starts: Vec<&str> = lines.iter().filter_map(|l| l.split(':').next()).collect();
    assert_eq!(starts, ["1", "4", "5", "6"]);
}

#[test]
fn unsupported_keys_become_warnings_on_demand_and_unknown_ones_never() {
    let text = "tracing: {endpoint: x}\nscrape_configs: [{job_name: a, dns_sd_configs: [{names: [x]}]}]\n";
    let config = load_text(text, Path::new("c.yml"), true).unwrap();
    assert_eq!((config.jobs.len(), config.warnings.len()), (1, 2));
    assert!(config.warnings[1].to_string().starts_with("c.yml:2:32: "), "{}", config.warnings[1]);
    let error = load_text("tracing: {endpoint: x}\nzzz: 1\n", Path::new("c.yml"), true).unwrap_err();
    assert_eq!(error.to_string(), "c.yml:2:1: unknown key \"zzz\" in the configuration");
}

#[test]
fn jobs_of_other_files_are_read_with_their_own_places() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let main = dir.path().join("prometheus.yml");
    write("prometheus.yml", "scrape_config_files: ['more/*.yml']\nscrape_configs: [{job_name: a}]\n");
    write("more/b.yml", "scrape_configs: [{job_name: b, file_sd_configs: [{files: [t.json]}]}]\n");
    let config = load_file(&main, false).unwrap();
    assert_eq!(config.jobs.len(), 2);
    let Mechanism::Files(files) = &config.jobs[1].mechanisms[0] else { panic!() };
    assert_eq!(files.files[0], dir.path().join("more/t.json").display().to_string());

    write("more/c.yml", "scrape_configs:\n- job_name: a\n");
    let error = load_file(&main, false).unwrap_err().to_string();
    assert!(error.ends_with("more/c.yml:2:3: found multiple scrape configs with job name \"a\""), "{error}");
    assert!(matches!(load_file(&dir.path().join("none.yml"), false), Err(LoadError::Read { .. })));
}
