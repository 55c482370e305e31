use model::LabelsBuf;
use proptest::prelude::*;

use super::*;
use crate::scrape::{BodyParser, Item, Value as Read};

/// Reads a body and gives a line for each item: metadata, and `series value @time st@start # exemplars`.
fn items(body: &str) -> Vec<String> {
    let families = to_families(body.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{body}"));
    let mut parser = BodyParser::new(Format::Protobuf, &families, true);
    let mut out = Vec::new();
    while let Some(item) = parser.next() {
        let text = match item.unwrap() {
            Item::Type { name, metric_type } => format!("type {name} {}", metric_type.as_str()),
            Item::Help { name, help } => format!("help {name} {help}"),
            Item::Unit { name, unit } => format!("unit {name} {unit}"),
            Item::Nothing => continue,
            Item::Sample { reading, .. } => {
                let mut labels = LabelsBuf::default();
                parser.labels(&mut labels).unwrap();
                labels.sort().unwrap();
                let value = match reading.value {
                    Read::Float(value) => value.to_string(),
                    Read::Histogram => {
                        let h = parser.histogram().unwrap();
                        format!("[{} {} {} {:?} {:?}]", h.schema, h.count, h.zero_count, h.positive_spans, h.positive)
                    }
                };
                let mut line = format!("{} {value}", labels.to_labels());
                line += &reading.ts_ms.map_or(String::new(), |ms| format!(" @{ms}"));
                line += &reading.start_ms.map_or(String::new(), |ms| format!(" st@{ms}"));
                parser
                    .exemplars(|labels, value, ts_ms| line += &format!(" # {} {value} {ts_ms:?}", labels.to_labels()));
                line
            }
        };
        out.push(text);
    }
    out
}

#[test]
fn numbers_start_times_exemplars_and_quoted_names_are_read() {
    let body = "# TYPE foo_total counter\n# UNIT foo_total seconds\n# HELP foo_total a \\\"b\\\" \\n c\n\
        foo_total{a=\"x}\"} 17.0 1520879607.789 st@1520430000.123 # {trace_id=\"K\"} 0.67 1520879606.1\n\
        foo_total{a=\"y\"} 3 st@1\n# TYPE \"b.c\" gauge\n{\"b.c\",\"d.e\"=\"f\"} -Inf\nplain 4 5\nplain 5 6\n\
        # TYPE s stateset\ns{s=\"on\"} 1\n# EOF\n";
    let wanted = [
        "type foo_total counter",
        "help foo_total a \"b\" \n c",
        "unit foo_total seconds",
        "foo_total{a=\"x}\"} 17 @1520879607789 st@1520430000123 # {trace_id=\"K\"} 0.67 Some(1520879606100)",
        "foo_total{a=\"y\"} 3 st@1000",
        "type b.c gauge",
        "{__name__=\"b.c\", \"d.e\"=\"f\"} -inf",
        "type plain unknown",
        "plain 4 @5000",
        "plain 5 @6000",
        "type s gauge",
        "s{s=\"on\"} 1",
    ];
    assert_eq!(items(body), wanted);
}

#[test]
fn histograms_and_summaries_of_one_line_are_read() {
    let body = "# TYPE h histogram\n\
        h{m=\"GET\"} {count:2,sum:1.2e2,schema:0,zero_threshold:1e-4,zero_count:0,positive_spans:[1:2],positive_buckets:[1,1],bucket:[0.5:1,1:2,+Inf:2]} st@5\n\
        # TYPE c histogram\nc {count:3,sum:4,bucket:[1:1,+Inf:3]} # {t=\"a\"} 0.5 1 # {t=\"b\"} 9 2\n\
        # TYPE s summary\ns {count:7,sum:9,quantile:[0.5:1,0.99:NaN]} 8\n\
        # TYPE g gaugehistogram\n\
        g {gcount:0.5,gsum:2,schema:0,zero_threshold:0,zero_count:0.0,positive_spans:[1:1],positive_buckets:[0.5]}\n\
        e {count:0,sum:0,schema:3,zero_threshold:0,zero_count:0}\n# EOF";
    let all = items(body);
    let native = "h{m=\"GET\"} [0 2 0 [BucketSpan { offset: 1, length: 2 }] [1.0, 1.0]] st@5000";
    assert_eq!(all[..2], ["type h histogram", native]);
    for line in [
        "h_bucket{le=\"0.5\", m=\"GET\"} 1 st@5000",
        "c_bucket{le=\"1.0\"} 1 # {t=\"a\"} 0.5 Some(1000)",
        "c_bucket{le=\"+Inf\"} 3 # {t=\"b\"} 9 Some(2000)",
        "c_count 3",
        "s_sum 9 @8000",
        "s{quantile=\"0.99\"} NaN @8000",
        "g [0 0.5 0 [BucketSpan { offset: 1, length: 1 }] [0.5]]",
        "type e histogram",
    ] {
        let without_start = |l: &String| l == line || l.replace(" st@5000", "") == line.replace(" st@5000", "");
        assert!(all.iter().any(without_start), "{line}\n{all:#?}");
    }
    assert!(all.iter().any(|line| line.starts_with("e [3 0 0 ")), "{all:#?}");
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (body, line, column, text) in [
        ("a 1\n", 2, 1, "does not end with # EOF"),
        ("a 1\n# EOF\nb 1\n", 3, 1, "behind # EOF"),
        ("a 1\n\n# EOF", 2, 1, "no blank lines"),
        ("a x\n# EOF", 1, 3, "expected a number"),
        ("a 1 x\n# EOF", 1, 5, "time in seconds"),
        ("a 1 2 3\n# EOF", 1, 6, "expected \" # \""),
        ("a 1\nb 1\na 1\n# EOF", 3, 1, "not in one place"),
        ("a 1\n# TYPE a gauge\n# EOF", 2, 1, "before its samples"),
        ("# TYPE a gauge\n# TYPE a gauge\n# EOF", 2, 1, "stands twice"),
        ("# TYPE a gage\n# EOF", 1, 10, "no type"),
        ("# a comment\n# EOF", 1, 1, "expected # TYPE"),
        ("# TYPE a histogram\na 1\n# EOF", 2, 3, "no value of a family of type histogram"),
        ("# TYPE a counter\na {count:1,sum:1,bucket:[+Inf:1]}\n# EOF", 2, 3, "no value of a family of type counter"),
        ("a {count:1,sum:1}\n# EOF", 1, 4, "neither buckets nor quantiles"),
        ("a {count:1,sum:1,bucket:[1:1]}\n# EOF", 1, 4, "not that of +Inf"),
        ("a {count:1,sum:1,bucket:[2:1,1:1,+Inf:1]}\n# EOF", 1, 4, "do not rise"),
        ("a {count:1,sum:1,bucket:[+Inf:1}\n# EOF", 1, 32, "expected \",\""),
        (
            "a {count:1,sum:1,schema:0,zero_threshold:0,zero_count:0,positive_spans:[0:9],positive_buckets:[1]}\n# EOF",
            1,
            72,
            "do not go together",
        ),
        ("a 1 # {t=\"x\"} 1\n# EOF", 1, 16, "expected \" \""),
    ] {
        let error = to_families(body.as_bytes()).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{body}: {error}");
        assert!(error.message.contains(text), "{body}: {error}");
    }
    assert!(to_families(b"a\xff 1\n# EOF").is_err());
}

proptest! {
    #[test]
    fn hostile_bodies_never_panic_and_what_is_taken_is_read(body in "[a-c#{}\\[\\]:,.0-9 \"\\\\=@stEOFcounmigh+\\n-]{0,80}") {
        if let Ok(families) = to_families(format!("{body}\n# EOF").as_bytes()) {
            let mut parser = BodyParser::new(Format::Protobuf, &families, true);
            while let Some(item) = parser.next() {
                prop_assert!(item.is_ok());
            }
        }
    }
}
