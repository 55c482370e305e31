use proptest::prelude::*;

use super::*;

fn entries(format: Format, body: &str) -> Vec<Entry<'_>> {
    Parser::new(format, body.as_bytes()).map(|entry| entry.unwrap_or_else(|e| panic!("{e}"))).collect()
}

/// The samples of a body as (series, timestamp, value).
fn samples(format: Format, body: &str) -> Vec<(&str, Option<i64>, f64)> {
    let sample = |entry| match entry {
        Entry::Sample { series, ts_ms, value, .. } => Some((series, ts_ms, value)),
        _ => None,
    };
    entries(format, body).into_iter().filter_map(sample).collect()
}

fn refused(format: Format, body: &[u8]) -> ParseError {
    match check(format, body) {
        Ok(_) => panic!("accepted: {}", String::from_utf8_lossy(body)),
        Err(e) => e,
    }
}

const NODE_EXPORTER_LIKE: &str = "\
# HELP go_gc_duration_seconds A summary of the \\\"pause\\\" duration\\nof cycles \\\\ more.
# TYPE go_gc_duration_seconds summary
go_gc_duration_seconds{quantile=\"0\"} 4.9351e-05
go_gc_duration_seconds_sum 1.5
# a comment
#another
# HELPX not metadata
#

# TYPE \"my.metric\" gauge
 {\"my.metric\" , \"l.x\"=\"}\"}\t-3e-7\t1395066363000\x20
http_requests_total{method=\"post\",code=\"200\",} 1027 -1395066363000
\tspaced { a = \"b\" } +Inf
no_space{a=\"b\"}7
nan NaN
last 12";

#[test]
fn the_text_format_is_read_as_leniently_as_prometheus_does() {
    let read = samples(Format::Text, NODE_EXPORTER_LIKE);
    let expected = [
        ("go_gc_duration_seconds{quantile=\"0\"}", None, 4.9351e-05),
        ("go_gc_duration_seconds_sum", None, 1.5),
        ("{\"my.metric\" , \"l.x\"=\"}\"}", Some(1_395_066_363_000), -3e-7),
        ("http_requests_total{method=\"post\",code=\"200\",}", Some(-1_395_066_363_000), 1027.0),
        ("spaced { a = \"b\" }", None, f64::INFINITY),
        ("no_space{a=\"b\"}", None, 7.0),
    ];
    assert_eq!(&read[..6], &expected);
    assert_eq!((read[6].0, read[6].2.to_bits()), ("nan", 0x7ff8_0000_0000_0001));
    assert_eq!(&read[7..], &[("last", None, 12.0)]);
    assert_eq!(check(Format::Text, NODE_EXPORTER_LIKE.as_bytes()), Ok(8));
}

#[test]
fn metadata_and_comments_are_entries() {
    let all = entries(Format::Text, NODE_EXPORTER_LIKE);
    let help = "A summary of the \\\"pause\\\" duration\nof cycles \\ more.";
    assert_eq!(all[0], Entry::Help { name: "go_gc_duration_seconds", help: help.into() });
    assert_eq!(all[1], Entry::Type { name: "go_gc_duration_seconds", metric_type: MetricType::Summary });
    assert_eq!(&all[4..8], &[Entry::Comment, Entry::Comment, Entry::Comment, Entry::Comment]);
    assert_eq!(all[8], Entry::Type { name: "my.metric", metric_type: MetricType::Gauge });
    let line = |entry: &Entry<'_>| matches!(entry, Entry::Sample { series: "last", line: 16, .. });
    assert!(all.last().is_some_and(line), "{:?}", all.last());
    let body = "# UNIT a_s s\n# HELP a_s \\\"x\\\"\\n\\z\na_s 1 1.5 # {b=\"c\"} 2 3\n# EOF";
    let exemplar = RawExemplar { labels: "{b=\"c\"}", value: 2.0, ts_ms: Some(3000) };
    assert_eq!(
        entries(Format::OpenMetrics, body),
        [
            Entry::Unit { name: "a_s", unit: "s" },
            Entry::Help { name: "a_s", help: "\"x\"\n\\z".into() },
            Entry::Sample { series: "a_s", ts_ms: Some(1500), value: 1.0, exemplar: Some(exemplar), line: 3 },
            Entry::Eof,
        ]
    );
    let mut labels = LabelsBuf::default();
    exemplar.read_labels(&mut labels);
    assert_eq!(labels.get("b"), Some("c"));
}

#[test]
fn what_prometheus_refuses_in_text_is_refused_with_its_place() {
    let cases: [(&[u8], u32, u32, &str); 24] = [
        (b"a", 1, 2, "expected a value after the series"),
        (b"ok 1\na{b='c'} 1\n", 2, 5, "expected a label value in double quotes"),
        (b"a{b=\n", 1, 5, "the closing brace is missing"),
        (b"a{\xff=\"foo\"} 1\n", 1, 3, "the bytes are not UTF-8"),
        (b"ok 1\na{b=\"\xff\"} 1\n", 2, 6, "the bytes are not UTF-8"),
        (b"{\"a\", \"b = \"c\"} 1", 1, 13, "expected an equals sign after the label name"),
        (b"{\"a\",b\nc=\"d\"} 1", 1, 7, "the closing brace is missing"),
        (b"a true\n", 1, 3, "expected a number"),
        (b"s{problem=\"\n# EOF\n", 1, 12, "the closing brace is missing"),
        (b"e{=\"\"} 0", 1, 3, "expected a label name"),
        (b"foo 1_2\n", 1, 5, "expected a number"),
        (b"foo 0x1p-3\n", 1, 5, "expected a number"),
        (b"foo 0x1P-3\n", 1, 5, "expected a number"),
        (b"foo 1e400\n", 1, 5, "expected a number"),
        (b"foo 0 1_2\n", 1, 8, "expected the end of the line"),
        (b"foo 0 1.5\n", 1, 8, "expected the end of the line"),
        (b"foo 0 99999999999999999999\n", 1, 7, "expected a timestamp in whole milliseconds or the end of the line"),
        (b"{a=\"ok\"} 1", 1, 1, "the metric name is missing"),
        (b"a{b=\x00\"ssss\"} 1\n", 1, 5, "expected a label value in double quotes"),
        (b"a\x00{b=\"ddd\"} 1", 1, 2, "expected a metric name or an opening brace"),
        (b"a 1\r\n", 1, 3, "expected a number"),
        (b"# TYPE a meh\n", 1, 10, "expected one of the types counter, gauge, histogram, summary and untyped"),
        (b"# HELP \n", 1, 8, "expected a metric name"),
        (b"a{b=\"1\",b=\"2\"} 1", 1, 1, "label name \"b\" is not unique"),
    ];
    for (body, line, column, message) in cases {
        let error = refused(Format::Text, body);
        let place = (error.line, error.column, error.message.as_str());
        assert_eq!(place, (line, column, message), "{}", String::from_utf8_lossy(body));
    }
    for body in ["a_b0.5", "a_b0.5 1\n", "a+Inf\n", "b-Inf 1\n", "a{b=\"\",b=\"c\"} 1\n"] {
        refused(Format::Text, body.as_bytes());
    }
    for body in
        ["a{b=\"\x00\"} 1\n", "a{b=\"x\x00y\"} 1", "# c \x00\na 1", "# HELP a \x00", "", "\n\n", "#", "# HELP a"]
    {
        assert!(check(Format::Text, body.as_bytes()).is_ok(), "{body:?}");
    }
}

#[test]
fn what_prometheus_refuses_in_openmetrics_is_refused() {
    let eof = [
        "\n",
        "a\n",
        " a 1\n",
        "9\n",
        "# TYPE u untyped\n",
        "# TYPE c counter \n",
        "#  TYPE c counter\n",
        "# HELP m\n",
        "# UNIT metric suffix\n",
        "# UNIT metric_suffix_other suffix\n",
        "# UNIT m m\n",
        "# HELP c\t x\n",
        "a 1 1 1\n",
        "a{b='c'} 1\n",
        "a{b=\"c\",  d=\"e\"} 1\n",
        "a{b=\"c\",,d=\"e\"} 1\n",
        "a{b=\"c\"d=\"e\"} 1\n",
        "a{b=\"c\",} 1  \n",
        "a true\n",
        "a 1_2\n",
        "a 0x1p-3\n",
        "a 1 0x1p-3\n",
        "a 1 NaN\n",
        "a 1 -Inf\n",
        "{b=\"c\"} 1\n",
        "{\"a\",\"b\"} 1\n",
        "a 1 # {b=\"c\"}\n",
        "a 1 # {b=\"c\"} true\n",
        "a 1 # {b=\"c\"} 1 NaN\n",
        "a 1 # {b} 1\n",
        "a 1 # {\"b\"} 1\n",
        "a 1 # {b='c'} 1\n",
        "a 1 # {b=\"c\",,} 1\n",
        "a 1 # {b=\"c\",d} 1\n",
        "a 1 # {b=\"c\"} 1 1 1\n",
        "a 1 #\n",
        "a 1 # comment\n",
        "a\x00 1\n",
        "a 1 1\x00\n",
    ];
    for body in eof {
        refused(Format::OpenMetrics, format!("{body}# EOF\n").as_bytes());
    }
    for body in ["", "a 1", "a 1\n", "# EOF\n# EOF\n", "# EOF\n\n", "# EOF\nx", "#EOF\n", "a 1 # {b=\"c\"} 1\n"] {
        refused(Format::OpenMetrics, body.as_bytes());
    }
    let ok = [
        "a{b=\"c\",} 1\n",
        "a{} 1 # {} 1\n",
        "a 1 5 # {b=\"c\",} 1 1\n",
        "# UNIT a \n",
        "# HELP a \n",
        "a_sum -1\n_a 1\n",
    ];
    for body in ok {
        let body = format!("{body}# EOF\n");
        assert!(check(Format::OpenMetrics, body.as_bytes()).is_ok(), "{body}");
    }
}

#[test]
fn nothing_follows_an_error() {
    let mut parser = Parser::new(Format::Text, b"a 1\nb x\nc 1\n");
    assert!(parser.next().is_some_and(|e| e.is_ok()));
    assert!(parser.next().is_some_and(|e| e.is_err()));
    assert!(parser.next().is_none());
    assert_eq!(parser.next_known("c"), None);
}

#[test]
fn labels_are_spelled_by_the_type_given_last() {
    let body = b"# TYPE h histogram\nh_bucket{le=\"1\"} 1\n# TYPE g gauge\ng{le=\"1\"} 1\n";
    let mut parser = Parser::new(Format::Text, body);
    let mut found = Vec::new();
    while let Some(entry) = parser.next() {
        if let Entry::Sample { .. } = entry.unwrap() {
            let mut labels = LabelsBuf::default();
            parser.labels(&mut labels).unwrap();
            found.push(labels.get("le").unwrap().to_owned());
        }
    }
    assert_eq!(found, ["1.0", "1"]);
}

#[test]
fn a_known_series_is_found_at_its_place_only() {
    let body = b"a{b=\"c\"} 1\na 2 5\na{b=\"c\"} 3 \na {b=\"d\"} 4\nab 5\na\t6\na 7";
    let mut parser = Parser::new(Format::Text, body);
    assert_eq!(parser.next_known("a"), None);
    assert_eq!(parser.next_known("a{b=\"d\"}"), None);
    assert_eq!(parser.next_known(""), None);
    assert_eq!(parser.next_known("a{b=\"c\"}"), Some((None, 1.0)));
    assert_eq!((parser.line(), parser.series), (1, "a{b=\"c\"}"));
    assert_eq!(parser.next_known("a"), Some((Some(5), 2.0)));
    assert_eq!(parser.next_known("a{b=\"c\"}"), Some((None, 3.0)));
    // A blank before the brace, another name, a tab, a last line without its newline: the long way finds out.
    for _ in 0..4 {
        assert_eq!(parser.next_known("a"), None);
        assert!(parser.next().is_some_and(|e| e.is_ok()));
    }
    assert_eq!(parser.next_known("a"), None);
    assert!(parser.next().is_none());
    let mut parser = Parser::new(Format::OpenMetrics, b"a 1 1.5\na 2 # {} 1\n# EOF\n");
    assert_eq!(parser.next_known("a"), Some((Some(1500), 1.0)));
    assert_eq!(parser.next_known("a"), None);
    assert!(matches!(parser.next(), Some(Ok(Entry::Sample { exemplar: Some(_), line: 2, .. }))));
}

#[test]
fn comments_need_not_be_utf8_in_the_text_format() {
    let body = b"# \xff\xfe\n#\xff\na 1\n# caf\xe9\nb 2 # \n";
    let mut parser = Parser::new(Format::Text, body);
    let mut values = Vec::new();
    let error = loop {
        match parser.next().unwrap() {
            Ok(Entry::Sample { value, line, .. }) => values.push((value, line)),
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(values, [(1.0, 3)]);
    assert_eq!((error.line, error.column, error.offset), (5, 5, 23));
    refused(Format::Text, b"# HELP a \xff\n");
    refused(Format::OpenMetrics, b"# HELP a \xff\n# EOF\n");
}

#[test]
fn large_and_hostile_bodies_are_read_in_linear_time() {
    let megabyte = "x".repeat(1 << 20);
    assert_eq!(check(Format::Text, format!("{megabyte} 1\n").as_bytes()), Ok(1));
    assert_eq!(check(Format::Text, format!("a{{b=\"{megabyte}\"}} 1\n").as_bytes()), Ok(1));
    let backslashes = "\\".repeat(1 << 20);
    assert_eq!(check(Format::OpenMetrics, format!("a{{b=\"{backslashes}\"}} 1\n# EOF").as_bytes()), Ok(1));
    refused(Format::OpenMetrics, format!("a{{b=\"{backslashes}\\\"}} 1\n# EOF").as_bytes());
    refused(Format::Text, format!("a{{{megabyte}").as_bytes());
    refused(Format::OpenMetrics, "{".repeat(1 << 20).as_bytes());
    refused(Format::OpenMetrics, "a{#\n".repeat(1 << 18).as_bytes());
    let digits = "9".repeat(1 << 20);
    refused(Format::Text, format!("a {digits}").as_bytes());
    assert_eq!(check(Format::Text, format!("a 0.{digits}").as_bytes()), Ok(1));
    let comments = b"#\xff\n".repeat(1 << 18);
    assert_eq!(check(Format::Text, &comments), Ok(0));
    let error = refused(Format::Text, format!("{megabyte}\n").as_bytes());
    assert_eq!(error.text.len(), 40);
}

/// Bodies that are almost right.
fn body_strategy() -> impl Strategy<Value = String> {
    let name = prop_oneof![4 => "[a-c]{1,2}", 1 => "[a-z0-9 .{}\"]{0,4}"];
    let label =
        (prop_oneof![4 => "[a-c]", 1 => "\"[^\n]{0,3}\""], prop_oneof![4 => "[a-z #{}]{0,3}", 1 => "[^\n]{0,4}"])
            .prop_map(|(name, value)| format!("{name}=\"{value}\""));
    let labels = proptest::collection::vec(label, 0..3).prop_map(|labels| match labels.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", labels.join(",")),
    });
    let value = prop_oneof![any::<f64>().prop_map(|v| v.to_string()), "[0-9.eE+Inaf-]{0,5}"];
    let tail =
        prop_oneof![4 => Just(String::new()), 1 => " [0-9.]{1,4}", 1 => " # \\{a=\"b\"\\} 1", 1 => "[ #{}0-9\t]{0,4}"];
    let sample = (name, labels, value, tail).prop_map(|(n, l, v, t)| format!("{n}{l} {v}{t}\n"));
    let meta = prop_oneof![
        "# (TYPE|HELP|UNIT) [ab]{1,2} (counter|gauge|histogram|x)\n",
        "#[^\n]{0,5}\n",
        Just("\n".to_owned()),
        Just("# EOF\n".to_owned())
    ];
    let line = prop_oneof![5 => sample, 1 => meta];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

/// The samples of a body until its first error, with their lines.
fn samples_until_error(format: Format, body: &[u8]) -> Vec<(String, Option<i64>, u64, u32)> {
    let good = Parser::new(format, body).map_while(Result::ok);
    good.filter_map(|entry| match entry {
        Entry::Sample { series, ts_ms, value, line, .. } => Some((series.to_owned(), ts_ms, value.to_bits(), line)),
        _ => None,
    })
    .collect()
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = check(Format::Text, &body);
        let _ = check(Format::OpenMetrics, &body);
        let _ = openmetrics::validate(&body);
    }

    #[test]
    fn almost_right_bodies_never_panic_and_errors_point_into_them(body in body_strategy()) {
        for format in [Format::Text, Format::OpenMetrics] {
            if let Err(e) = check(format, body.as_bytes()) {
                prop_assert!(e.offset <= body.len());
                prop_assert!(e.line as usize <= body.lines().count() + 1);
                prop_assert!(e.text.chars().count() <= 100);
            }
        }
        // The strict reader accepts nothing that the lenient one refuses.
        if openmetrics::validate(body.as_bytes()).is_ok() {
            prop_assert_eq!(check(Format::OpenMetrics, body.as_bytes()).err(), None);
        }
    }

    #[test]
    fn the_short_way_finds_what_the_long_way_finds(body in body_strategy(), skip in 0usize..3) {
        for format in [Format::Text, Format::OpenMetrics] {
            let all = samples_until_error(format, body.as_bytes());
            // Series whose labels do not read are no part of a cache.
            let known: Vec<_> = all.iter().map(|s| s.0.clone())
                .filter(|s| series_labels(format, s)).skip(skip).collect();
            let mut parser = Parser::new(format, body.as_bytes());
            let mut found = Vec::new();
            loop {
                let hit = known.iter().find_map(|s| parser.next_known(s).map(|(ts, v)| (s.clone(), ts, v.to_bits(), parser.line())));
                if let Some(hit) = hit {
                    found.push(hit);
                    continue;
                }
                match parser.next() {
                    Some(Ok(Entry::Sample { series, ts_ms, value, line, .. })) => {
                        found.push((series.to_owned(), ts_ms, value.to_bits(), line));
                    }
                    Some(Ok(_)) => {}
                    _ => break,
                }
            }
            prop_assert_eq!(&found, &all);
        }
    }
}

fn series_labels(format: Format, series: &str) -> bool {
    crate::series_labels(format, series, &mut LabelsBuf::default()).is_ok()
}
