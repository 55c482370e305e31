//! The functions of range vectors by name.

use super::error::EvalError;
use super::over_time as over;
use super::regression;
use super::window::Window;
use super::{extended, rate};

pub(super) use super::extended::extended_samples;

/// Computes the value at a step from its window and the scalar arguments; `None` when there is none.
pub(super) type RangeFn = fn(&Window<'_>, &[f64]) -> Result<Option<f64>, EvalError>;

/// Finds a function; the names are those of the table of functions.
pub(super) fn lookup(name: &str) -> Option<RangeFn> {
    Some(match name {
        "absent_over_time" | "present_over_time" => |_, _| Ok(Some(1.0)),
        "avg_over_time" => |w, _| Ok(Some(over::avg(w))),
        "changes" => |w, _| Ok(extended::anchored(w).map(|w| over::changes(&w))),
        "count_over_time" => |w, _| Ok(Some(w.values.len() as f64)),
        "delta" => |w, _| Ok(rate::delta(w)),
        "deriv" => |w, _| Ok(regression::deriv(w)),
        "double_exponential_smoothing" => regression::smoothing,
        "first_over_time" => |w, _| Ok(w.values.first().copied()),
        "idelta" => |w, _| Ok(rate::idelta(w)),
        "increase" => |w, _| Ok(rate::increase(w)),
        "integral" => |w, s| Ok(over::integral(w, s.first().copied().unwrap_or(2.0))),
        "irate" => |w, _| Ok(rate::irate(w)),
        "last_over_time" => |w, _| Ok(w.values.last().copied()),
        "mad_over_time" => |w, _| Ok(Some(over::mad(w))),
        "max_over_time" => |w, _| Ok(over::extreme(w, |new, best| new > best).map(|(_, value)| value)),
        "min_over_time" => |w, _| Ok(over::extreme(w, |new, best| new < best).map(|(_, value)| value)),
        "predict_linear" => |w, s| Ok(regression::predict(w, s.first().copied().unwrap_or(f64::NAN))),
        "quantile_over_time" => |w, s| Ok(Some(over::quantile_of(w, s.first().copied().unwrap_or(f64::NAN)))),
        "rate" => |w, _| Ok(rate::rate(w)),
        "resets" => |w, _| Ok(extended::anchored(w).map(|w| over::resets(&w))),
        "stddev_over_time" => |w, _| Ok(Some(over::variance(w).sqrt())),
        "stdvar_over_time" => |w, _| Ok(Some(over::variance(w))),
        "sum_over_time" => |w, _| Ok(Some(over::sum(w))),
        "ts_of_first_over_time" => |w, _| Ok(w.ts_ms.first().map(|ts| *ts as f64 / 1000.0)),
        "ts_of_last_over_time" => |w, _| Ok(w.ts_ms.last().map(|ts| *ts as f64 / 1000.0)),
        "ts_of_max_over_time" => |w, _| Ok(over::extreme(w, |new, best| new >= best).map(|(ts, _)| ts)),
        "ts_of_min_over_time" => |w, _| Ok(over::extreme(w, |new, best| new <= best).map(|(ts, _)| ts)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::ValueType;
    use crate::functions_table;

    #[test]
    fn every_function_of_a_range_vector_is_here() {
        for spec in functions_table::all() {
            let has_matrix = spec.args.contains(&ValueType::Matrix);
            assert_eq!(lookup(spec.name).is_some(), has_matrix, "{}", spec.name);
        }
    }
}
