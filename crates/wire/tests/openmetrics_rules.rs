//! Each rule of OpenMetrics 1.0 with bodies that keep and break it. `# EOF` is added.

use wire::openmetrics::validate;

#[track_caller]
fn valid(bodies: &[&str]) {
    for body in bodies {
        let body = format!("{body}\n# EOF\n");
        if let Err(e) = validate(body.as_bytes()) {
            panic!("refused: {e}\n{body}");
        }
    }
}

#[track_caller]
fn invalid(bodies: &[&str]) {
    for body in bodies {
        let body = format!("{body}\n# EOF\n");
        assert!(validate(body.as_bytes()).is_err(), "accepted:\n{body}");
    }
}

/// A family of the type `t` named `a`, with these samples.
fn of_type(t: &str, samples: &str) -> String {
    format!("# TYPE a {t}\n{samples}")
}

#[track_caller]
fn valid_of(t: &str, samples: &[&str]) {
    samples.iter().for_each(|s| valid(&[&of_type(t, s)]));
}

#[track_caller]
fn invalid_of(t: &str, samples: &[&str]) {
    samples.iter().for_each(|s| invalid(&[&of_type(t, s)]));
}

#[test]
fn the_end_is_marked_once() {
    for body in ["# EOF\n", "# EOF", "a 1\n# EOF"] {
        assert_eq!(validate(body.as_bytes()), Ok(()), "{body}");
    }
    for body in [
        "",
        "a 1\n",
        "a 1",
        "a 1\n# EOF\nblah",
        "a 1\n# EOFblah",
        "# EOF\n# EOF\n",
        "# EOF\n\n",
        "# EOF \n",
        "\n# EOF\n",
    ] {
        assert!(validate(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn lines_have_their_form() {
    invalid(&[
        "a 1\n\nb 1",
        " a 1",
        "a  1",
        "a 1 ",
        "a 1\t",
        "a\t1",
        "a 1\r",
        "a",
        "a ",
        "#a 1",
        "# a 1",
        "# FOO a x",
        "#",
    ]);
    invalid(&["0a 1", "a.b 1", "a-b 1", "{} 1", "\u{feff}a 1"]);
    invalid(&["a{a=1} 1", "a{a=\"1} 1", "a{a='1'} 1", "a{a} 1", "a{a\"v\"} 1", "a{\"\"} 1", "a{a=} 1", "a{a=\"} 1"]);
    invalid(&[
        "a{a=\"1\"}1",
        "a{a=\"1\"b=\"2\"} 1",
        "a{a=\"1\",,b=\"2\"} 1",
        "a{a=\"1\",} 1",
        "a{,} 1",
        "a{a=\"1\", b=\"2\"} 1",
    ]);
    invalid(&[
        "a{1=\"1\"} 1",
        "a{a=\"1\",a=\"1\"} 1",
        "a{a=\"1\"b} 1",
        "a{1=\" # \"} 1",
        "a{a=\" # \",b=}1",
        "a{a=\" # \"}1",
    ]);
    valid(&[
        "a 1",
        "a{} 1",
        "a{a=\"}\"} 1",
        "a{a=\" # {\"} 1",
        "a{a=\"\\\"\\\\\\n\\z\"} 1",
        "a{a=\"\"} 1",
        "{\"a.b\",c=\"d\"} 1",
    ]);
}

#[test]
fn values_and_timestamps_are_decimal() {
    valid(&[
        "a NaN",
        "a nan",
        "a +Inf",
        "a -inf",
        "a Infinity",
        "a 01.50e-07",
        "a .5",
        "a 5.",
        "a +1",
        "a 9223372036854775808",
    ]);
    valid(&["a 1 000", "a 1 0.0", "a 1 -1.1", "a 1 12345678901234567890.1234567890", "a 1 1.5e3"]);
    invalid(&[
        "a a", "a 1_2", "a 0x1p-3", "a 0x1P-3", "a 0b1", "a 0B1", "a 0x1", "a 0X1", "a 0o1", "a 0O1", "a 1e", "a -NaN",
    ]);
    invalid(&[
        "a 1 z",
        "a 1 1z",
        "a 1 1_2",
        "a 1 1.1.1",
        "a 1 NaN",
        "a 1 Inf",
        "a 1 +Inf",
        "a 1 -Inf",
        "a 1  Inf",
        "a 1 0x1p-3",
    ]);
}

#[test]
fn metadata_stands_once_before_the_samples() {
    valid(&["# HELP a x\n# TYPE a gauge\n# UNIT a \na 1", "# UNIT a_s s\n# TYPE a_s gauge\n# HELP a_s \na_s 1"]);
    invalid(&[
        "# HELP",
        "# HELP ",
        "# HELP a",
        "# HELP a\t",
        " # HELP a x",
        "# HELP 0 x",
        "# TYPE",
        "# TYPE a",
        "# TYPE a\t",
    ]);
    valid(&["# HELP a \\\\", "# HELP a \\x", "# HELP a \"x\"", "# HELP a x\\\\\n# TYPE a gauge"]);
    invalid(&["# HELP a \\", "# HELP a x\\", "# HELP a \\\\\\\n# TYPE a gauge"]);
    invalid(&["# TYPE a meh", "# TYPE a gauge ", "# TYPE a untyped", "# TYPE a  gauge", "# TYPE a Gauge"]);
    invalid(&[
        "# UNIT",
        "# UNIT ",
        "# UNIT a",
        "# UNIT a\t",
        "# UNIT a s",
        "# UNIT a_s s ",
        "# UNIT as s",
        "# UNIT s s",
    ]);
    invalid(&["# TYPE a_u info\n# UNIT a_u u", "# TYPE a_u stateset\n# UNIT a_u u"]);
    invalid(&[
        "# HELP a x\na 1\n# TYPE a gauge",
        "# TYPE a gauge\na 1\n# HELP a x",
        "# TYPE a_s gauge\na_s 1\n# UNIT a_s s",
    ]);
    invalid(&["# HELP a \n# HELP a ", "# TYPE a gauge\n# TYPE a gauge", "# UNIT a_s s\n# UNIT a_s s"]);
}

#[test]
fn names_do_not_clash() {
    invalid(&[
        "# TYPE a info\n# TYPE a counter",
        "# TYPE a_created gauge\n# TYPE a counter",
        "# TYPE a counter\n# TYPE a_total gauge",
    ]);
    invalid(&[
        "a 1\nb 1\na 1",
        "# TYPE a counter\na 1",
        "# TYPE a info\na 1",
        "# TYPE a histogram\na 1",
        "# TYPE a_total counter\na_total 1",
    ]);
    invalid(&["# TYPE a summary\nq{quantile=\"0\"} 0\na_sum{a=\"1\"} 0\nq{quantile=\"1\"} 0", "_a 1", "a{_b=\"c\"} 1"]);
    valid(&["# TYPE a gauge\na 1\na_total 2", "# TYPE a counter\na_total 1\nab 1\n# TYPE b gauge"]);
}

#[test]
fn metrics_stand_together_and_their_timestamps_rise() {
    valid_of("gauge", &["a 0 1\na 0 1\na 0 2", "a{b=\"1\"} 1 5\na{b=\"2\"} 1 1"]);
    invalid_of(
        "gauge",
        &["a 0 -1\na 0 -2", "a 0 -1\na 0 -1.1", "a 0 1\na 0 -1", "a 0 1.1\na 0 1", "a 0 1.000000001\na 0 1"],
    );
    invalid_of("gauge", &["a 0\na 0 0", "a 0 0\na 0", "a 0\na 0", "a{b=\"1\"} 1\na{b=\"2\"} 1\na{b=\"1\"} 1 1"]);
    invalid_of("histogram", &["a_sum{a=\"1\"} 0\na_sum{a=\"2\"} 0\na_count{a=\"1\"} 0"]);
    invalid_of("gaugehistogram", &["a_gsum{a=\"1\"} 0\na_gsum{a=\"2\"} 0\na_gcount{a=\"1\"} 0"]);
    invalid_of(
        "histogram",
        &["a_bucket{a=\"1\",le=\"1\"} 0\na_bucket{a=\"2\",le=\"+Inf\"} 0\na_bucket{a=\"1\",le=\"+Inf\"} 0"],
    );
    valid_of("info", &["a_info{a=\"1\"} 1 1\na_info{a=\"2\"} 1 0"]);
}

#[test]
fn counters_only_rise() {
    valid_of("counter", &["a_total 1", "a_total 1.5\na_created 123.456", "a_total{b=\"c\"} +Inf"]);
    invalid_of("counter", &["a_total NaN", "a_total -1", "a_created NaN"]);
    invalid_of("counter", &["a_total 1\na_created NaN", "a_total 1\na_created +Inf", "a_total 1\na_created -Inf"]);
    valid_of("counter", &["a_created -1.5\na_total 1", "a_total 1 1\na_created 0 1\na_total 2 2"]);
    let no_total = [
        "a_created 1",
        "a_total{b=\"1\"} 1\na_created{b=\"2\"} 1",
        "a_total 1 1\na_created 1 2",
        "a_created 1 1\na_total 1 2",
    ];
    invalid_of("counter", &no_total);
}

#[test]
fn states_are_0_or_1_and_infos_are_1() {
    valid_of("stateset", &["a{a=\"x\"} 0\na{a=\"y\"} 1.0"]);
    invalid_of("stateset", &["a 0", "a{a=\"x\"} 2", "a{a=\"x\"} 0.5", "a{a=\"x\"} NaN", "a{b=\"x\"} 1"]);
    valid_of("info", &["a_info{x=\"y\"} 1", "a_info 1.0"]);
    invalid_of("info", &["a_info{x=\"y\"} 2", "a_info 0", "a_info NaN"]);
}

#[test]
fn summaries_have_quantiles_from_0_to_1() {
    valid_of(
        "summary",
        &["a_count 1\na_sum 2\na{quantile=\"0.5\"} 0.7\na{quantile=\"1\"} NaN\na_created 1", "a_sum 1"],
    );
    invalid_of(
        "summary",
        &["a 0", "a{quantile=\"-1\"} 0", "a{quantile=\"foo\"} 0", "a{quantile=\"1.01\"} 0", "a{quantile=\"NaN\"} 0"],
    );
    let quantile_of_the_metric =
        ["a_sum{quantile=\"0.5\"} 1", "a_count{quantile=\"0.5\"} 1", "a_created{quantile=\"0.5\"} 1"];
    invalid_of("summary", &quantile_of_the_metric);
    invalid_of(
        "summary",
        &["a_sum NaN", "a_sum -1", "a_count NaN", "a_count -1", "a_count 0.5", "a{quantile=\"0.5\"} -1"],
    );
}

#[test]
fn histograms_are_whole() {
    valid_of(
        "histogram",
        &[
            "a_bucket{le=\"1\"} 0\na_bucket{le=\"1e+05\"} 2.0\na_bucket{le=\"+Inf\"} 3\na_count 3\na_sum 2\na_created 1",
            "a_bucket{le=\"+Inf\"} 3",
            "a_count 3\na_sum 2\na_bucket{le=\"+Inf\"} 3",
            "a_bucket{le=\"-1.0\"} 0\na_bucket{le=\"+Inf\"} 3",
            "a_bucket{le=\"1\"} 0 1\na_bucket{le=\"+Inf\"} 3 1\na_bucket{le=\"1\"} 1 2\na_bucket{le=\"+Inf\"} 4 2",
        ],
    );
    invalid_of(
        "histogram",
        &[
            "a_bucket 0",
            "a_bucket{le=\"\"} 0",
            "a_bucket{le=\"NaN\"} 0",
            "a_bucket{le=\"+INF\"} 0",
            "a_bucket{le=\"Inf\"} 0",
        ],
    );
    invalid_of(
        "histogram",
        &["a_sum 1", "a_count 1", "a_created 1", "a_bucket{le=\"1\"} 1", "a_sum NaN", "a_sum -1", "a_count -1"],
    );
    let inf = "a_bucket{le=\"+Inf\"}";
    for rest in [
        " NaN",
        " -1",
        " 0.5",
        " 0.5\na_count 0.5\na_sum 0",
        " +Inf",
        " 0\na_sum 0",
        " 0\na_count 0",
        " 0\na_count 1\na_sum 0",
    ] {
        invalid_of("histogram", &[&format!("{inf}{rest}")]);
    }
    invalid_of("histogram", &["a_count 1\na_bucket{le=\"+Inf\"} 0"]);
    invalid_of("histogram", &["a_bucket{le=\"2\"} 0\na_bucket{le=\"1\"} 0\na_bucket{le=\"+Inf\"} 0"]);
    invalid_of("histogram", &["a_bucket{le=\"1\"} 1\na_bucket{le=\"2\"} 1\na_bucket{le=\"+Inf\"} 0"]);
    for sum in ["1", "-1"] {
        let body = format!("a_bucket{{le=\"-1.0\"}} 1\na_bucket{{le=\"+Inf\"}} 2\na_sum {sum}\na_count 2");
        invalid_of("histogram", &[&body]);
    }
}

#[test]
fn gauge_histograms_may_have_negative_sums_of_negative_buckets() {
    valid_of(
        "gaugehistogram",
        &[
            "a_bucket{le=\"1.0\"} 0\na_bucket{le=\"+Inf\"} 3\na_gcount 3\na_gsum 2",
            "a_bucket{le=\"-1.0\"} 1\na_bucket{le=\"+Inf\"} 3\na_gcount 3\na_gsum -5",
            "a_bucket{le=\"+Inf\"} 3",
        ],
    );
    invalid_of("gaugehistogram", &["a_gsum 1", "a_gcount 0", "a_bucket 0", "a_sum 1 # {b=\"c\"} 0.5"]);
    let inf = "a_bucket{le=\"+Inf\"}";
    for rest in
        [" NaN", " -1", " 0.5", " -1\na_gcount -1", " 1\na_gsum -1", " 1\na_gsum NaN", " 0\na_gsum 0", " 0\na_gcount 0"]
    {
        invalid_of("gaugehistogram", &[&format!("{inf}{rest}")]);
    }
    invalid_of(
        "gaugehistogram",
        &["a_bucket{le=\"+Inf\"} 1\na_gsum -1\na_gcount 1", "a_bucket{le=\"+Inf\"} 1\na_gsum 0.5\na_gcount 0"],
    );
}

#[test]
fn exemplars_are_short_and_only_on_buckets_and_totals() {
    let long = "x".repeat(127);
    let too_long = "ü".repeat(128);
    let bucket = |exemplar: &str| format!("a_bucket{{le=\"+Inf\"}} 1{exemplar}");
    for exemplar in [" # {} 1", " # {b=\"c\"} 0.5", " # {b=\"c d # e\"} NaN 123", " 5 # {b=\"c\"} 1 1.5"] {
        valid_of("histogram", &[&bucket(exemplar)]);
    }
    valid_of("histogram", &[&bucket(&format!(" # {{b=\"{long}\"}} 1"))]);
    valid_of("counter", &["a_total{} 0 123 # {b=\"c\"} 0.5"]);
    invalid_of("histogram", &[&bucket(&format!(" # {{b=\"{too_long}\"}} 1"))]);
    for exemplar in [
        " #",
        "# {} 1",
        " #{} 1",
        " # {}1",
        " # {} 1 ",
        " # {} 1 1 ",
        " # {} 0x1p-3",
        " # {} 1 0x1p-3",
        " # {} ",
        " # {}",
    ] {
        invalid_of("histogram", &[&bucket(exemplar)]);
    }
    for exemplar in [
        " # {b} 1",
        " # {\"b\"} 1",
        " # {b=\"c\",} 1",
        " # {b=\"c\",b=\"c\"} 1",
        " # {} 1 Inf",
        " # {} 1 -Inf",
        " # {} 1 NaN",
    ] {
        invalid_of("histogram", &[&bucket(exemplar)]);
    }
    invalid_of(
        "counter",
        &[
            "a_total 1 1 # {b=\"c\"}  ",
            "a_total 1 1 # b=\"c\"} 1",
            "a_total 1 1 #b=\" # \"} 1",
            "a_total 1 1 b=\" # \"} 1",
        ],
    );
    for exemplar in [" # {_b=\"c\"} 1", " # {__name__=\"c\"} 1"] {
        invalid_of("histogram", &[&bucket(exemplar)]);
    }
    let within = |value: &str| format!("a_bucket{{le=\"1\"}} 1 # {{}} {value}\na_bucket{{le=\"+Inf\"}} 1 # {{}} +Inf");
    for t in ["histogram", "gaugehistogram"] {
        valid_of(t, &[&within("1"), &within("-2"), &within("-Inf")]);
        invalid_of(t, &[&within("1.0000001"), &within("+Inf")]);
    }
    invalid_of("counter", &["a_total 1\na_created 1 # {b=\"c\"} 0.5"]);
    invalid_of("gauge", &["a 1 # {b=\"c\"} 1"]);
    invalid_of("info", &["a_info 1 # {b=\"c\"} 1"]);
    invalid_of("stateset", &["a{a=\"x\"} 1 # {b=\"c\"} 1"]);
    invalid(&["# TYPE a_bucket gauge\na_bucket 1 # {b=\"c\"} 0.5", "a 1 # {b=\"c\"} 1"]);
    invalid_of("histogram", &["a_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1 # {b=\"c\"} 0.5"]);
}

#[test]
fn the_error_says_where() {
    let error = validate(b"# TYPE a counter\na_total 1\na_total{b=\"c\"} -1\n# EOF\n").unwrap_err();
    assert_eq!((error.line, error.column, error.offset), (3, 1, 27));
    assert_eq!(
        error.to_string(),
        "line 3, column 1: a_total: a value that only rises is not negative in \"a_total{b=\"c\"} -1\""
    );
}
