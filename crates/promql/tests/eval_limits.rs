//! Whatever parses is evaluated without a panic and within its limits.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use model::Labels;
use promql::testing::Memory;
use promql::testing::Point;
use promql::{EvalError, QueryOptions, Value, functions_table};
use proptest::prelude::*;

fn memory() -> Memory {
    let mut memory = Memory::default();
    let histogram =
        promql::testing::parse_series("x {{schema:0 count:4 sum:5 z_bucket:1 z_bucket_w:0.1 buckets:[1 2]}}")
            .unwrap_or_default();
    for (name, host) in [("a", "1"), ("a", "2"), ("b_total", "1"), ("c_bucket", "1"), ("target_info", "1")] {
        let labels = Labels::from_pairs([("__name__", name), ("host", host), ("job", "j"), ("le", "0.5")]);
        for step in 0..20_i64 {
            let value = [1.0, f64::NAN, -3.5, f64::INFINITY, 1e308][(step as usize + name.len()) % 5];
            memory.push(&labels, step * 15_000, Point::Float(value));
        }
    }
    let labels = Labels::from_pairs([("__name__", "h"), ("host", "1")]);
    for step in 0..20_i64 {
        histogram.1.iter().flatten().for_each(|point| memory.push(&labels, step * 15_000, point.clone()));
    }
    memory
}

fn options(samples_max: u64) -> QueryOptions {
    QueryOptions { samples_max, experimental: true, ..QueryOptions::default() }
}

/// Makes expressions that mostly parse.
fn expressions() -> impl Strategy<Value = String> {
    let number =
        prop_oneof![Just("0"), Just("1.5"), Just("-2"), Just("NaN"), Just("Inf"), Just("1e300"), Just("time()")];
    let selector = prop_oneof![
        Just("a"),
        Just("b_total"),
        Just("h"),
        Just("{job=\"j\"}"),
        Just("a offset 1m"),
        Just("a @ 60"),
        Just("a smoothed"),
        Just("h @ end() offset -9y"),
        Just("a offset 290y"),
        Just("c_bucket"),
        Just("vector(1)"),
        Just("a @ -9e15"),
    ];
    let range = prop_oneof![
        Just("a[1m]"),
        Just("b_total[5m] anchored"),
        Just("h[2m]"),
        Just("a[1m:7s]"),
        Just("{job=\"j\"}[90s] offset 1m"),
        Just("(a + h)[3m:20s] @ 100"),
        Just("h[290y]"),
        Just("a[1y:1m]"),
        Just("c_bucket[1m] smoothed"),
    ];
    let functions: Vec<&'static str> = functions_table::all().iter().map(|spec| spec.name).collect();
    let leaf =
        prop_oneof![number.prop_map(str::to_owned), selector.prop_map(str::to_owned), range.prop_map(str::to_owned)];
    leaf.prop_recursive(4, 24, 3, move |inner| {
        let operators = vec![
            "+",
            "-",
            "*",
            "/",
            "%",
            "^",
            "==",
            "!= bool",
            "> bool",
            "<",
            "and",
            "or",
            "unless",
            "atan2",
            "</",
            ">/",
            "+ on (host) group_left (le)",
            "/ ignoring (le) group_right",
            "- on () fill (1)",
            "> ignoring (host)",
        ];
        let aggregations = vec![
            "sum",
            "avg by (host)",
            "max without (le)",
            "quantile by (job) (0.5,",
            "topk(2,",
            "bottomk(time(),",
            "limitk(1,",
            "limit_ratio(-0.5,",
            "count_values(\"v\",",
            "stddev",
            "group",
            "min",
            "count",
            "stdvar",
        ];
        prop_oneof![
            (inner.clone(), prop::sample::select(operators), inner.clone())
                .prop_map(|(left, op, right)| format!("({left}) {op} ({right})")),
            (prop::sample::select(functions.clone()), prop::collection::vec(inner.clone(), 0..4))
                .prop_map(|(name, args)| format!("{name}({})", args.join(", "))),
            (prop::sample::select(functions.clone()), inner.clone(), inner.clone())
                .prop_map(|(name, a, b)| format!("{name}({a}, \"host\", \"$1\", \"job\", \"(.*)\") + {b}")),
            (prop::sample::select(aggregations), inner.clone()).prop_map(|(op, arg)| {
                if op.ends_with(',') { format!("{op} {arg})") } else { format!("{op} ({arg})") }
            }),
            inner.prop_map(|inner| format!("max_over_time(({inner})[2m:13s])")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_parses_panics(text in expressions(), start in -100_000_i64..400_000, step in 1_i64..100_000) {
        let Ok(expr) = promql::parse(&text) else { return Err(TestCaseError::reject("does not parse")) };
        let memory = memory();
        for samples_max in [100_000, 40] {
            let _ = promql::instant(&memory, &expr, start, &options(samples_max));
            let end = start.saturating_add(step.saturating_mul(7));
            let result = promql::range(&memory, &expr, start, end, step, &options(samples_max));
            if let Ok(result) = result {
                prop_assert!(result.stats.peak_samples <= samples_max);
            }
        }
        let _ = promql::instant(&memory, &expr, i64::MAX, &options(100_000));
        let _ = promql::instant(&memory, &expr, i64::MIN, &options(100_000));
        let _ = promql::range(&memory, &expr, i64::MIN, i64::MAX, i64::MAX / 2, &options(100_000));
    }
}

#[test]
fn a_query_stops_when_told_or_when_its_time_is_over() {
    let expr = promql::parse("sum(a)").unwrap();
    let canceled = QueryOptions { cancel: Arc::new(AtomicBool::new(true)), ..options(1000) };
    assert_eq!(promql::instant(&memory(), &expr, 0, &canceled), Err(EvalError::Canceled));
    let late = QueryOptions { deadline: Some(Instant::now()), ..options(1000) };
    assert_eq!(promql::instant(&memory(), &expr, 0, &late), Err(EvalError::Timeout));
    // A long evaluation notices in the middle.
    let long = promql::parse("sum_over_time(quantile_over_time(0.5, a[5m:1ms])[5m:10ms])").unwrap();
    let soon = QueryOptions { deadline: Some(Instant::now() + Duration::from_millis(50)), ..options(10_000_000) };
    let started = Instant::now();
    assert_eq!(promql::instant(&memory(), &long, 300_000, &soon), Err(EvalError::Timeout));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn labels_do_not_grow_without_end() {
    let mut text = "label_replace(a, \"x\", \"0123456789\", \"job\", \".*\")".to_owned();
    for _ in 0..8 {
        text = format!("label_replace({text}, \"x\", \"$1$1$1$1$1$1$1$1\", \"x\", \"(.*)\")");
    }
    let expr = promql::parse(&text).unwrap();
    match promql::instant(&memory(), &expr, 0, &options(1000)) {
        Err(EvalError::Execution(text)) => assert!(text.contains("65536"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn samples_and_points_have_limits() {
    let expr = promql::parse("a").unwrap();
    let error = promql::range(&memory(), &expr, 0, 300_000, 15_000, &options(20)).unwrap_err();
    assert_eq!(error, EvalError::TooManySamples(20));
    assert_eq!(error.to_string(), "query processing would load too many samples into memory in query execution");
    let error = promql::range(&memory(), &expr, 0, 300_000, 1, &options(1_000_000)).unwrap_err().to_string();
    assert!(error.starts_with("exceeded maximum resolution of 11,000 points per timeseries."), "{error}");
    let text = promql::parse("'x'").unwrap();
    let error = promql::range(&memory(), &text, 0, 1, 1, &options(1000)).unwrap_err().to_string();
    assert_eq!(error, "invalid expression type \"string\" for range query, must be Scalar or instant Vector");
    let zero = promql::range(&memory(), &expr, 0, 1, 0, &options(1000)).unwrap_err().to_string();
    assert!(zero.starts_with("zero or negative query resolution step widths are not accepted."), "{zero}");
}

#[test]
fn samples_are_counted_per_step() {
    let expr = promql::parse("sum(a)").unwrap();
    let result = promql::range(&memory(), &expr, 0, 60_000, 15_000, &options(1000)).unwrap();
    assert_eq!(result.stats.total_queryable_samples, 10);
    let expr = promql::parse("sum_over_time(a[30s])").unwrap();
    let result = promql::instant(&memory(), &expr, 60_000, &options(1000)).unwrap();
    assert_eq!(result.stats.total_queryable_samples, 4);
}

#[test]
fn the_highest_trees_fit_on_the_stack_of_a_thread() {
    let deep = "-(".repeat(60) + "a" + &")".repeat(60);
    let chain = vec!["a"; 500].join(" + ignoring (x) ");
    let scalars = vec!["1"; 500].join(" + ");
    for text in [deep, chain, scalars] {
        let expr = promql::parse(&text).unwrap();
        let result = promql::instant(&memory(), &expr, 60_000, &options(1_000_000));
        assert!(result.is_ok(), "{}: {result:?}", text.len());
        let result = promql::range(&memory(), &expr, 0, 60_000, 15_000, &options(1_000_000)).unwrap();
        assert!(matches!(result.value, Value::Matrix(_)));
    }
}
