//! Runs a script and compares what comes out with what is expected.

use model::histogram::{BucketSpan, Histogram, ResetHint};
use model::{Labels, Samples};
use promql::ast::{At, Expr, ExprKind};
use promql::{EvalError, QueryOptions, QueryResult, Value, VectorSample};

use crate::classic;
use crate::script::{Command, Eval, Pattern, When, parse};
use promql::testing::Memory;
use promql::testing::{Point, Slot};

/// What became of an evaluation.
pub enum Outcome {
    Passed,
    Failed(String),
}

/// How far a value may lie from what is expected, relative to both.
const TOLERANCE: f64 = 0.000_001;

/// Runs a script; gives the line and outcome of each evaluation.
pub fn run_script(text: &str) -> Vec<(usize, Outcome)> {
    let commands = match parse(text) {
        Ok(commands) => commands,
        Err(why) => return vec![(0, Outcome::Failed(why))],
    };
    let mut memory = Memory::default();
    let mut outcomes = Vec::new();
    for command in commands {
        match command {
            Command::Clear => memory.clear(),
            Command::Load { step_ms, series, with_native, starts } => {
                let converted = if with_native { classic::native(&series) } else { Vec::new() };
                for (labels, step, point) in converted {
                    memory.push(&labels, step as i64 * step_ms, point);
                }
                for (labels, offsets) in &starts {
                    for (at, offset) in offsets.iter().enumerate() {
                        let ts_ms = at as i64 * step_ms;
                        if let Some(offset) = offset {
                            memory.push_start(labels, ts_ms, ts_ms + offset);
                        }
                    }
                }
                for (labels, slots) in &series {
                    for (at, point) in slots.iter().enumerate() {
                        if let Some(point) = point {
                            memory.push(labels, at as i64 * step_ms, point.clone());
                        }
                    }
                }
            }
            Command::Eval(eval) => {
                let outcome = check(&memory, &eval)
                    .map_or_else(|why| Outcome::Failed(format!("{}: {why}", eval.query)), |()| Outcome::Passed);
                outcomes.push((eval.line, outcome));
            }
        }
    }
    outcomes
}

fn options() -> QueryOptions {
    QueryOptions { samples_max: 10_000, experimental: true, ..QueryOptions::default() }
}

fn check(memory: &Memory, eval: &Eval) -> Result<(), String> {
    let expr = match promql::parse(&eval.query) {
        Ok(expr) => expr,
        Err(error) => return check_failure(eval, &error.to_string()),
    };
    match eval.when {
        When::Range { start_ms, end_ms, step_ms } => {
            let result = promql::range(memory, &expr, start_ms, end_ms, step_ms, &options());
            check_result(eval, result, (start_ms, step_ms))
        }
        When::At(ts_ms) => {
            let times = eval.range_vector.unwrap_or((ts_ms, 1));
            check_result(eval, promql::instant(memory, &expr, ts_ms, &options()), times)?;
            if eval.fail.is_some() {
                return Ok(());
            }
            check_at_other_times(memory, eval, &expr, ts_ms, times)?;
            check_in_range(memory, eval, &expr, ts_ms)
        }
    }
}

/// An expression whose selectors are all fixed to a time gives the same at any other time.
fn check_at_other_times(
    memory: &Memory,
    eval: &Eval,
    expr: &Expr,
    ts_ms: i64,
    times: (i64, i64),
) -> Result<(), String> {
    let mut fixed = expr.clone();
    if !fix(&mut fixed, ts_ms) {
        return Ok(());
    }
    for other in [-10 * ts_ms, 0, ts_ms / 5, ts_ms, 10 * ts_ms, -1000, 1000] {
        let result = promql::instant(memory, &fixed, other, &options());
        check_result(eval, result, times).map_err(|why| format!("with @ {ts_ms} at {other}: {why}"))?;
    }
    Ok(())
}

/// Fixes all selectors to a time; tells whether the expression then no longer depends on it.
fn fix(expr: &mut Expr, ts_ms: i64) -> bool {
    const TIME_DEPENDENT: [&str; 11] = [
        "days_in_month",
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "hour",
        "minute",
        "month",
        "year",
        "predict_linear",
        "time",
        "timestamp",
    ];
    const OF_THE_QUERY: [&str; 4] = ["start", "end", "range", "step"];
    match &mut expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => true,
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => {
            let fixed = selector.at.get_or_insert(At::TimeMs(ts_ms));
            matches!(fixed, At::TimeMs(_))
        }
        ExprKind::Subquery { at, .. } => matches!(at.get_or_insert(At::TimeMs(ts_ms)), At::TimeMs(_)),
        ExprKind::Aggregate(a) => a.param.as_mut().is_none_or(|param| fix(param, ts_ms)) & fix(&mut a.expr, ts_ms),
        ExprKind::Call { name, args } => {
            let fixed = args.iter_mut().fold(true, |all, arg| fix(arg, ts_ms) & all);
            fixed && !TIME_DEPENDENT.contains(name) && !OF_THE_QUERY.contains(name)
        }
        ExprKind::Binary(b) => fix(&mut b.lhs, ts_ms) & fix(&mut b.rhs, ts_ms),
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => fix(expr, ts_ms),
    }
}

/// A range query gives at a step what an instant query gives there.
fn check_in_range(memory: &Memory, eval: &Eval, expr: &Expr, ts_ms: i64) -> Result<(), String> {
    let of_the_query = ["start()", "end()", "range()", "step()"].iter().any(|f| eval.query.to_lowercase().contains(f));
    if eval.range_vector.is_some() || eval.text.is_some() || of_the_query {
        return Ok(());
    }
    let result = promql::range(memory, expr, ts_ms - 60_000, ts_ms + 60_000, 60_000, &options());
    let result = result.map_err(|e| format!("as a range query: {e}"))?;
    let Value::Matrix(series) = result.value else { return Err("a range query gave no matrix".to_owned()) };
    if eval.ordered {
        return Ok(());
    }
    let at_step = series.iter().filter_map(|one| Some((one.labels.clone(), point_at(&one.samples, ts_ms)?)));
    let found: Vec<(Labels, Point)> = at_step.collect();
    let compared = match (eval.scalar, found.as_slice()) {
        (Some(want), [(_, Point::Float(value))]) if close(want, *value) => Ok(()),
        (Some(want), _) => Err(format!("expected {want}, found {found:?}")),
        (None, _) => check_vector(eval, &found, false),
    };
    compared.map_err(|why| format!("as a range query: {why}"))
}

fn point_at(samples: &Samples, ts_ms: i64) -> Option<Point> {
    let float = samples.ts_ms.iter().zip(&samples.values).find(|(ts, _)| **ts == ts_ms);
    let histogram = || samples.histograms.iter().find(|(ts, _)| *ts == ts_ms);
    float.map(|(_, value)| Point::Float(*value)).or_else(|| histogram().map(|(_, h)| Point::Histogram(h.clone())))
}

fn check_failure(eval: &Eval, error: &str) -> Result<(), String> {
    match &eval.fail {
        Some(pattern) if pattern.fits(error) => Ok(()),
        _ => Err(format!("failed: {error}")),
    }
}

fn check_result(eval: &Eval, result: Result<QueryResult, EvalError>, times: (i64, i64)) -> Result<(), String> {
    let mut result = match result {
        Ok(_) if eval.fail.is_some() => return Err("did not fail".to_owned()),
        Ok(result) => result,
        Err(error) => return check_failure(eval, &error.to_string()),
    };
    result.place(&eval.query);
    check_notes("warn", &eval.warn, eval.no_warn, &result.warnings)?;
    check_notes("info", &eval.info, eval.no_info, &result.infos)?;
    match result.value {
        Value::Scalar { value, .. } => match eval.scalar {
            Some(want) if close(want, value) => Ok(()),
            want => Err(format!("expected {want:?}, found the scalar {value}")),
        },
        Value::String { value, .. } => match &eval.text {
            Some(want) if *want == value => Ok(()),
            want => Err(format!("expected {want:?}, found the string {value:?}")),
        },
        Value::Vector(vector) => {
            let found: Vec<(Labels, Point)> =
                vector.into_iter().map(|sample| (sample.labels.clone(), point_of(&sample))).collect();
            check_vector(eval, &found, eval.ordered)
        }
        Value::Matrix(series) => {
            let found: Vec<(Labels, Samples)> = series.into_iter().map(|s| (s.labels.clone(), s.samples)).collect();
            check_matrix(eval, &found, times)
        }
    }
}

fn point_of(sample: &VectorSample) -> Point {
    sample.histogram.clone().map_or(Point::Float(sample.value), Point::Histogram)
}

fn check_notes(kind: &str, wanted: &[Pattern], none: bool, found: &[String]) -> Result<(), String> {
    if none && !found.is_empty() {
        return Err(format!("expected no {kind}, found {found:?}"));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let all_met = wanted.iter().all(|pattern| found.iter().any(|text| pattern.fits(text)));
    let all_wanted = found.iter().all(|text| wanted.iter().any(|pattern| pattern.fits(text)));
    if all_met && all_wanted { Ok(()) } else { Err(format!("not the {kind} that was expected: {found:?}")) }
}

fn check_vector(eval: &Eval, found: &[(Labels, Point)], ordered: bool) -> Result<(), String> {
    if eval.scalar.is_some() {
        return Err(format!("expected a scalar, found {found:?}"));
    }
    for (position, (labels, point)) in found.iter().enumerate() {
        let Some(at) = eval.series.iter().position(|(want, _)| want == labels) else {
            return Err(format!("unexpected {labels} {point:?}"));
        };
        if ordered && at != position {
            return Err(format!("{labels} stands at {position} and not at {at}"));
        }
        match eval.series[at].1.first() {
            Some(Some(want)) if same(want, point) && hint_fits(eval, labels, point) => {}
            want => return Err(format!("{labels}: expected {want:?}, found {point:?}")),
        }
    }
    match eval.series.iter().find(|(want, _)| !found.iter().any(|(labels, _)| labels == want)) {
        Some((missing, _)) => Err(format!("missing {missing}")),
        None => Ok(()),
    }
}

fn check_matrix(eval: &Eval, found: &[(Labels, Samples)], (start_ms, step_ms): (i64, i64)) -> Result<(), String> {
    if found.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err("not sorted by labels".to_owned());
    }
    for (labels, samples) in found {
        let Some((_, want)) = eval.series.iter().find(|(want, _)| want == labels) else {
            return Err(format!("unexpected {labels} {samples:?}"));
        };
        let end_ms = start_ms + step_ms * want.len() as i64;
        let beyond = |ts_ms: &i64| !(start_ms..end_ms).contains(ts_ms) || (ts_ms - start_ms) % step_ms != 0;
        if samples.ts_ms.iter().chain(samples.histograms.iter().map(|(ts, _)| ts)).any(beyond) {
            return Err(format!("{labels}: unexpected times in {samples:?}"));
        }
        for (at, want) in want.iter().enumerate() {
            let point = point_at(samples, start_ms + step_ms * at as i64);
            let hinted = point.as_ref().is_none_or(|point| hint_fits(eval, labels, point));
            if !same_slot(want, &point) || !hinted {
                return Err(format!("{labels} at {at}: expected {want:?}, found {point:?}"));
            }
        }
    }
    match eval.series.iter().find(|(want, _)| !found.iter().any(|(labels, _)| labels == want)) {
        Some((missing, slots)) if slots.iter().any(Option::is_some) => Err(format!("missing {missing}")),
        _ => Ok(()),
    }
}

fn same_slot(want: &Slot, found: &Slot) -> bool {
    match (want, found) {
        (Some(want), Some(found)) => same(want, found),
        (None, None) => true,
        _ => false,
    }
}

/// A hint that was written out as unknown must be unknown; where none was written, any will do.
fn hint_fits(eval: &Eval, labels: &Labels, found: &Point) -> bool {
    let hinted = matches!(found, Point::Histogram(h) if h.reset_hint != ResetHint::Unknown);
    !hinted || !eval.without_hint.contains(labels)
}

fn same(want: &Point, found: &Point) -> bool {
    match (want, found) {
        (Point::Float(want), Point::Float(found)) => close(*want, *found),
        (Point::Histogram(want), Point::Histogram(found)) => same_histogram(want, found),
        _ => false,
    }
}

/// Compares what is in the buckets; the hint only when one was written.
fn same_histogram(want: &Histogram, found: &Histogram) -> bool {
    let side = |spans: &[BucketSpan], counts: &[f64]| -> Vec<(i32, f64)> {
        Histogram::buckets(spans, counts).filter(|(_, count)| *count != 0.0).collect()
    };
    let same_side = |a: Vec<(i32, f64)>, b: Vec<(i32, f64)>| {
        a.len() == b.len() && a.iter().zip(&b).all(|((i, x), (j, y))| i == j && close(*x, *y))
    };
    want.schema == found.schema
        && close(want.count, found.count)
        && close(want.sum, found.sum)
        && want.zero_threshold == found.zero_threshold
        && close(want.zero_count, found.zero_count)
        && want.custom_bounds == found.custom_bounds
        && same_side(side(&want.positive_spans, &want.positive), side(&found.positive_spans, &found.positive))
        && same_side(side(&want.negative_spans, &want.negative), side(&found.negative_spans, &found.negative))
        && (want.reset_hint == ResetHint::Unknown || want.reset_hint == found.reset_hint)
}

fn close(a: f64, b: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, off) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return off < TOLERANCE * f64::MIN_POSITIVE;
    }
    off / sum.min(f64::MAX) < TOLERANCE
}
