//! Queries that parse, and how they print; queries that do not, and what Prometheus says of them.

use promql::{MAX_NESTING, ParseOptions, format, parse, parse_selector, parse_with};
use proptest::prelude::*;

/// Query and its printed form; the printed form must print as itself.
const VALID: &[(&str, &str)] = &[
    ("1", "1"),
    ("+Inf", "+Inf"),
    ("-iNf", "-Inf"),
    (".5", "0.5"),
    ("0x1f + 0755", "31 + 493"),
    ("1_000_000", "1000000"),
    ("1e3", "1000"),
    ("5m", "5m"),
    ("-1^2", "-1 ^ 2"),
    ("2 ^ -1 * 3", "2 ^ -1 * 3"),
    ("1 + 2/(3*1)", "1 + 2 / (3 * 1)"),
    ("1 < bool 2 - 1 * 2", "1 < bool 2 - 1 * 2"),
    ("-some_metric", "-some_metric"),
    ("foo # comment\n + bar", "foo + bar"),
    ("foo:bar{a='b',}", "foo:bar{a=\"b\"}"),
    ("{\"my.metric\", \"label.x\"=\"v\"}", "{\"label.x\"=\"v\",__name__=\"my.metric\"}"),
    ("sum(foo) by(bar, \"b z\",)", "sum by (bar, \"b z\") (foo)"),
    ("SUM without () (foo)", "sum without () (foo)"),
    ("sum by () (foo)", "sum(foo)"),
    ("sum + min{by=\"x\"}", "sum + min{by=\"x\"}"),
    ("count_values(\"v\", foo)", "count_values(\"v\", foo)"),
    ("foo * on(a) group_left(b) bar", "foo * on (a) group_left (b) bar"),
    ("foo + ignoring() bar", "foo + bar"),
    ("foo + fill(0) bar", "foo + fill (0) bar"),
    ("fill + fill_left(1) fill_right(-2) fill", "fill + fill_left (1) fill_right (-2) fill"),
    ("foo and on() bar", "foo and on () bar"),
    ("foo atan2 bar </ 3 >/ 2", "foo atan2 bar </ 3 >/ 2"),
    ("foo @ 1.5 offset -5m", "foo @ 1.500 offset -5m"),
    ("foo offset 1w @ end()", "foo @ end() offset 1w"),
    ("rate(foo[5m] @ start())", "rate(foo[5m] @ start())"),
    ("rate(foo[300] anchored)", "rate(foo[5m] anchored)"),
    ("foo smoothed", "foo smoothed"),
    ("sum(rate(foo[5m]))[1h:] offset 3m", "sum(rate(foo[5m]))[1h:] offset 3m"),
    ("foo[1h30m:5m] @ 100", "foo[1h30m:5m] @ 100.000"),
    ("foo[5m*2]", "foo[5m * 2]"),
    ("foo[step()+1m:range()] offset (5m+1m)", "foo[step() + 1m:range()] offset (5m + 1m)"),
    ("foo[max(step(), 5s)] offset -min(1m,2)", "foo[max(step(), 5s)] offset -min(1m, 2)"),
    ("foo offset 2^2", "foo offset 2s ^ 2"),
    ("foo[max_of(step(), 5s)] offset min_of(1m, 2)", "foo[max(step(), 5s)] offset min(1m, 2)"),
    ("min_of(1, 2) + max_of(3, 4)", "min_of(1, 2) + max_of(3, 4)"),
    ("start() + step()", "start() + step()"),
    ("info(foo, {x=~\".*\"})", "info(foo, {x=~\".*\"})"),
    ("'a\\'\\x41\\u00fc' ", "\"a'Aü\""),
    ("\"\\xff\"", "\"\\ufffd\""),
    ("`raw\\n`", "\"raw\\\\n\""),
    ("limit_ratio(0.5, foo)", "limit_ratio(0.5, foo)"),
];

const INVALID: &[(&str, &str)] = &[
    ("", "unknown position: parse error: no expression found in input"),
    ("# just a comment\n\n", "1:1: parse error: no expression found in input"),
    ("1+", "1:3: parse error: unexpected end of input"),
    (".", "1:1: parse error: unexpected character: '.'"),
    ("2.5.", "1:1: parse error: bad number or duration syntax: \"2.5.\""),
    ("100..4", "1:1: parse error: bad number or duration syntax: \"100..\""),
    ("(1", "1:3: parse error: unclosed left parenthesis"),
    ("1)", "1:3: parse error: unexpected right parenthesis ')'"),
    ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
    ("1 or 1", "1:1: parse error: set operator \"or\" not allowed in binary scalar expression"),
    ("a - on(b) ignoring(c) d", "1:11: parse error: unexpected <ignoring>"),
    (
        "foo == on(bar) group_left(bar) x",
        "1:5: parse error: label \"bar\" must not occur in ON and GROUP clause at once",
    ),
    ("foo and on(bar) group_left(baz) x", "1:1: parse error: no grouping allowed for \"and\" operation"),
    (
        "-\"string\"",
        "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"string\"",
    ),
    (
        "-test[5m]",
        "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"range vector\"",
    ),
    ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
    ("{x=\"\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
    ("foo{__name__=\"bar\"}", "1:1: parse error: metric name must not be set twice: \"foo\" or \"bar\""),
    ("some_metric{a=b}", "1:15: parse error: unexpected identifier \"b\" in label matching, expected string"),
    ("foo{a>1}", "1:6: parse error: unexpected character inside braces: '>'"),
    ("foo{gibberish}", "1:14: parse error: unexpected \"}\" in label matching, expected label matching operator"),
    ("foo{1}", "1:5: parse error: unexpected character inside braces: '1'"),
    ("foo{", "1:5: parse error: unexpected end of input inside braces"),
    ("foo[5mm]", "1:5: parse error: bad number or duration syntax: \"5mm\""),
    ("foo[0m]", "1:5: parse error: duration must be greater than 0"),
    (
        "foo[]",
        "1:5: parse error: unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
    ),
    ("foo[\"5m\"]", "1:5: parse error: unexpected character in duration expression: '\"'"),
    ("foo[5m", "1:7: parse error: unclosed left bracket"),
    (
        "some_metric[5m] OFFSET",
        "1:23: parse error: unexpected end of input in offset, expected number, duration, step(), or range()",
    ),
    ("some_metric OFFSET 1m[5m]", "1:22: parse error: no offset modifiers allowed before range"),
    ("some_metric @ 1234 [5m]", "1:20: parse error: no @ modifiers allowed before range"),
    ("(foo + bar)[5m]", "1:12: parse error: ranges only allowed for vector selectors"),
    ("foo offset 1m offset 2m", "1:1: parse error: offset may not be set multiple times"),
    (
        "1 offset 1m",
        "1:1: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
    ),
    ("sum(1 1)", "1:7: parse error: unexpected number \"1\" in aggregation"),
    ("sum (some_metric) by test", "1:22: parse error: unexpected identifier \"test\" in grouping opts, expected \"(\""),
    ("sum (some_metric) without (test) by (test)", "1:34: parse error: unexpected <by>"),
    (
        "topk(some_metric)",
        "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1",
    ),
    ("topk(some_metric,)", "1:17: parse error: trailing commas not allowed in function call args"),
    ("count_values(5, other_metric)", "1:14: parse error: expected type string in aggregation parameter, got scalar"),
    (
        "rate(some_metric)",
        "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector",
    ),
    ("floor()", "1:1: parse error: expected 1 argument(s) in call to \"floor\", got 0"),
    ("hour(a, b)", "1:1: parse error: expected at most 1 argument(s) in call to \"hour\", got 2"),
    ("non_existent(x)", "1:1: parse error: unknown function with name \"non_existent\""),
    ("label_join()", "1:1: parse error: expected at least 3 argument(s) in call to \"label_join\", got 0"),
    ("\"\\q\"", "1:1: parse error: unknown escape sequence U+0071 'q'"),
    ("'open", "1:1: parse error: unterminated quoted string"),
    ("foo\n  + bar baz", "2:9: parse error: unexpected identifier \"baz\""),
];

#[test]
fn valid_queries_print_as_prometheus_prints_them() {
    for (query, want) in VALID {
        let printed = parse(query).unwrap_or_else(|e| panic!("{query}: {e}")).to_string();
        assert_eq!(&printed, want, "{query}");
        assert_eq!(&parse(&printed).unwrap_or_else(|e| panic!("{printed}: {e}")).to_string(), want);
    }
}

#[test]
fn invalid_queries_are_told_prometheus_errors() {
    let wrong: Vec<_> = INVALID
        .iter()
        .filter_map(|(query, want)| {
            let got = parse(query).map_or_else(|e| e.to_string(), |expr| expr.to_string());
            (got != *want).then(|| format!("{query:?}\n  got  {got}\n  want {want}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hostile_depth_is_an_error() {
    let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    for query in [
        nested("(", ")", 200_000),
        nested("-", "", 200_000),
        nested("abs(", ")", 100_000),
        nested("1 ^ ", "", 100_000),
        vec!["a"; 300_000].join("+"),
        format!("foo[{}1{}]", "(".repeat(100_000), ")".repeat(100_000)),
        format!("foo[{}]", vec!["1"; 100_000].join("+")),
        format!("foo{}", "[1m:]".repeat(100_000)),
        "x".repeat(2 << 20),
    ] {
        assert!(parse(&query).is_err());
    }
    let n = MAX_NESTING as usize - 1;
    assert!(parse(&nested("(", ")", n)).is_ok());
    assert!(parse(&vec!["a"; 500].join(" or ")).is_ok());
}

#[test]
fn selectors_that_select_everything_are_refused() {
    assert_eq!(parse_selector("foo{a!=\"\"}").map(|m| m.len()), Ok(2));
    assert_eq!(
        parse_selector("{a=~\".*\"}").map_err(|e| e.to_string()),
        Err("match[] must contain at least one non-empty matcher".to_owned())
    );
    assert!(parse_selector("rate(foo[5m])").is_err());
}

#[test]
fn long_queries_break_as_format_query_breaks_them() {
    let long = "a".repeat(60);
    let query = format!("sum by (job) (rate({long}{{x=\"{long}\"}}[5m])) / on (job) ({long} + b)");
    let want = format!(
        "  sum by (job) (\n    rate(\n      {long}{{x=\"{long}\"}}[5m]\n    )\n  )\n/ on (job)\n  ({long} + b)"
    );
    let expr = parse(&query).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(format(&expr), want);
}

#[test]
fn experimental_parts_can_be_refused() {
    let plain = ParseOptions {
        experimental_functions: false,
        duration_expr: false,
        extended_range_selectors: false,
        fill_modifiers: false,
    };
    for query in ["limitk(1, a)", "a[5m*2]", "a anchored", "a + fill(1) b", "mad_over_time(a[5m])"] {
        assert!(parse(query).is_ok(), "{query}");
        assert!(parse_with(query, &plain).is_err(), "{query}");
    }
}

fn token() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "foo",
        "sum",
        "by",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "5m",
        ":",
        "1",
        "-",
        "+",
        "^",
        "==",
        "bool",
        "on",
        "and",
        "offset",
        "@",
        "start()",
        ",",
        "\"x\"",
        "=",
        "=~",
        "rate",
        "topk",
        "step()",
        "group_left",
        "fill",
        "#",
        "\n",
        "é",
        "`",
        "'",
        "0x",
        "1e",
        ".",
        "</",
        "unless",
        "min(",
    ])
}

proptest! {
    #[test]
    fn token_soup_never_panics_and_prints_back(tokens in prop::collection::vec(token(), 0..12)) {
        if let Ok(expr) = parse(&tokens.join(" ")) {
            let printed = expr.to_string();
            prop_assert_eq!(parse(&printed).map(|e| e.to_string()), Ok(printed));
            let broken = format(&expr);
            prop_assert_eq!(parse(&broken).map(|e| e.to_string()), Ok(expr.to_string()));
        }
    }

    #[test]
    fn any_text_never_panics(text in ".{0,60}") {
        let _ = parse(&text);
        let _ = parse_selector(&text);
    }
}

/// A few letters compile to megabytes: many of them share what one may have.
#[test]
fn regular_expressions_are_bounded_together() {
    let many = |pattern: &str, n: usize| format!("up{{{}}}", format!("a=~{pattern:?},").repeat(n));
    assert!(promql::parse(&many("b0.*", promql::MAX_PATTERNS)).is_ok());
    let error = promql::parse(&many("b", promql::MAX_PATTERNS + 1)).expect_err("too many");
    assert!(error.to_string().contains("1001 regular expressions"), "{error}");
    assert!(promql::parse(&many("\\pL{60}", 2)).is_ok());
    let error = promql::parse(&many("\\pL{60}", 100)).expect_err("too large together");
    assert!(error.to_string().contains("size"), "{error}");
    let (one, all) = (many("\\pL{60}", 1), vec!["up{a=~\"\\\\pL{60}\"}"; 100]);
    assert!(promql::parse_selector(&one).is_ok());
    assert!(promql::parse_selectors(&all).is_err());
    assert_eq!(promql::parse_selectors(&["up", "{a=~\"b.*\"}"]).map(|sets| sets.len()), Ok(2));
}
