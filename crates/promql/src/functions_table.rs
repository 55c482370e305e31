//! The functions of PromQL: names, argument types, result types.

use crate::ast::ValueType::{self, Matrix, Scalar, String as Text, Vector};

/// The signature of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FunctionSpec {
    /// Its name.
    pub name: &'static str,
    /// The types of its arguments; the last one repeats when `variadic` is not 0.
    pub args: &'static [ValueType],
    /// 0: exactly `args`; n > 0: the last argument may stand 0 to n times; -1: any number of times.
    pub variadic: i8,
    /// The type of its result.
    pub returns: ValueType,
    /// Whether Prometheus hides it behind `promql-experimental-functions`.
    pub experimental: bool,
}

/// Finds a function by its exact name.
pub fn lookup(name: &str) -> Option<&'static FunctionSpec> {
    let at = FUNCTIONS.binary_search_by(|spec| spec.name.cmp(name)).ok()?;
    FUNCTIONS.get(at)
}

/// Gives all functions, sorted by name.
pub fn all() -> &'static [FunctionSpec] {
    FUNCTIONS
}

const fn f(
    name: &'static str,
    args: &'static [ValueType],
    variadic: i8,
    returns: ValueType,
    experimental: bool,
) -> FunctionSpec {
    FunctionSpec { name, args, variadic, returns, experimental }
}

/// A function of an instant vector.
const fn v(name: &'static str) -> FunctionSpec {
    f(name, &[Vector], 0, Vector, false)
}

/// A function of a range vector.
const fn m(name: &'static str) -> FunctionSpec {
    f(name, &[Matrix], 0, Vector, false)
}

/// A part of the date: of the evaluation time when no vector is given.
const fn date(name: &'static str) -> FunctionSpec {
    f(name, &[Vector], 1, Vector, false)
}

/// An experimental function of a range vector.
const fn xm(name: &'static str) -> FunctionSpec {
    f(name, &[Matrix], 0, Vector, true)
}

static FUNCTIONS: &[FunctionSpec] = &[
    v("abs"),
    v("absent"),
    m("absent_over_time"),
    v("acos"),
    v("acosh"),
    v("asin"),
    v("asinh"),
    v("atan"),
    v("atanh"),
    m("avg_over_time"),
    v("ceil"),
    m("changes"),
    f("clamp", &[Vector, Scalar, Scalar], 0, Vector, false),
    f("clamp_max", &[Vector, Scalar], 0, Vector, false),
    f("clamp_min", &[Vector, Scalar], 0, Vector, false),
    v("cos"),
    v("cosh"),
    m("count_over_time"),
    date("day_of_month"),
    date("day_of_week"),
    date("day_of_year"),
    date("days_in_month"),
    v("deg"),
    m("delta"),
    m("deriv"),
    f("double_exponential_smoothing", &[Matrix, Scalar, Scalar], 0, Vector, true),
    f("end", &[], 0, Scalar, true),
    v("exp"),
    m("first_over_time"),
    v("floor"),
    v("histogram_avg"),
    v("histogram_count"),
    f("histogram_fraction", &[Scalar, Scalar, Vector], 0, Vector, false),
    f("histogram_quantile", &[Scalar, Vector], 0, Vector, false),
    f("histogram_quantiles", &[Vector, Text, Scalar, Scalar], 9, Vector, true),
    v("histogram_stddev"),
    v("histogram_stdvar"),
    v("histogram_sum"),
    date("hour"),
    m("idelta"),
    m("increase"),
    f("info", &[Vector, Vector], 1, Vector, true),
    f("integral", &[Matrix, Scalar], 1, Vector, true),
    m("irate"),
    f("label_join", &[Vector, Text, Text, Text], -1, Vector, false),
    f("label_replace", &[Vector, Text, Text, Text, Text], 0, Vector, false),
    m("last_over_time"),
    v("ln"),
    v("log10"),
    v("log2"),
    xm("mad_over_time"),
    f("max_of", &[Scalar, Scalar], 0, Scalar, true),
    m("max_over_time"),
    f("min_of", &[Scalar, Scalar], 0, Scalar, true),
    m("min_over_time"),
    date("minute"),
    date("month"),
    f("pi", &[], 0, Scalar, false),
    f("predict_linear", &[Matrix, Scalar], 0, Vector, false),
    m("present_over_time"),
    f("quantile_over_time", &[Scalar, Matrix], 0, Vector, false),
    v("rad"),
    f("range", &[], 0, Scalar, true),
    m("rate"),
    m("resets"),
    f("round", &[Vector, Scalar], 1, Vector, false),
    f("scalar", &[Vector], 0, Scalar, false),
    v("sgn"),
    v("sin"),
    v("sinh"),
    v("sort"),
    f("sort_by_label", &[Vector, Text], -1, Vector, true),
    f("sort_by_label_desc", &[Vector, Text], -1, Vector, true),
    v("sort_desc"),
    v("sqrt"),
    f("start", &[], 0, Scalar, true),
    f("start_timestamp", &[Vector], 0, Vector, true),
    m("stddev_over_time"),
    m("stdvar_over_time"),
    f("step", &[], 0, Scalar, true),
    m("sum_over_time"),
    v("tan"),
    v("tanh"),
    f("time", &[], 0, Scalar, false),
    v("timestamp"),
    xm("ts_of_first_over_time"),
    xm("ts_of_last_over_time"),
    xm("ts_of_max_over_time"),
    xm("ts_of_min_over_time"),
    f("vector", &[Scalar], 0, Vector, false),
    date("year"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert!(FUNCTIONS.windows(2).all(|w| w[0].name < w[1].name));
        for spec in FUNCTIONS {
            assert_eq!(lookup(spec.name), Some(spec));
        }
        assert_eq!(lookup("Rate"), None);
    }
}
