//! How far back in the data one step of a range query looks.

use crate::ast::{DurationExpr, Expr, ExprKind, VectorSelector};

/// Gives how many milliseconds of data before a step decide the step's answer, and nothing else does: no later data, no
/// other step, not where the query begins or ends. `None` when that is not so or not known.
///
/// **Takes** an expression that [`crate::parse`] gave; the settings that it is evaluated with.
pub fn reach_ms(expr: &Expr, lookback_ms: i64, default_step_ms: i64) -> Option<i64> {
    let of = |expr: &Expr| reach_ms(expr, lookback_ms, default_step_ms);
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => Some(0),
        ExprKind::Vector(selector) => back(selector)?.checked_add(lookback_ms),
        ExprKind::Matrix { selector, range } => back(selector)?.checked_add(plain(range)?),
        ExprKind::Subquery { expr, range, step, offset, at } => {
            let step_ms = step.as_ref().map_or(Some(default_step_ms), plain)?;
            let offset_ms = offset.as_ref().map_or(Some(0), plain)?;
            let inner = of(expr)?.checked_add(plain(range)?)?.checked_add(step_ms)?;
            if at.is_some() { None } else { inner.checked_add(offset_ms) }
        }
        ExprKind::Aggregate(aggregate) => {
            let param = aggregate.param.as_ref().map_or(Some(0), |param| of(param))?;
            Some(of(&aggregate.expr)?.max(param))
        }
        // Reads other series than the expression names.
        ExprKind::Call { name: "info", .. } => None,
        ExprKind::Call { args, .. } => args.iter().try_fold(0, |most, arg| Some(of(arg)?.max(most))),
        ExprKind::Binary(binary) => Some(of(&binary.lhs)?.max(of(&binary.rhs)?)),
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => of(expr),
    }
}

/// Gives how far a selector is moved into the past.
fn back(selector: &VectorSelector) -> Option<i64> {
    if selector.at.is_some() || selector.extension.is_some() {
        return None;
    }
    selector.offset.as_ref().map_or(Some(0), plain)
}

/// Gives a duration that is the same for every query and points into the past.
fn plain(duration: &DurationExpr) -> Option<i64> {
    match duration {
        DurationExpr::Ms(ms) if *ms >= 0 => Some(*ms),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_selector_counts_and_what_depends_on_more_has_no_reach() {
        let reach = |query: &str| reach_ms(&crate::parse(query).expect(query), 300_000, 60_000);
        for (query, wanted) in [
            ("1", 0),
            ("a", 300_000),
            ("a offset 1h", 3_900_000),
            ("rate(a[1h])", 3_600_000),
            ("sum by (b) (rate(a[5m] offset 5m)) / on () a", 600_000),
            ("topk(scalar(a), -(b offset 10m))", 900_000),
            ("max_over_time(rate(a[1m])[1h:30s] offset 1m)", 60_000 + 3_600_000 + 30_000 + 60_000),
            ("max_over_time(a[1h:])", 300_000 + 3_600_000 + 60_000),
        ] {
            assert_eq!(reach(query), Some(wanted), "{query}");
        }
        for query in ["a @ 5", "rate(a[5m] @ end())", "a offset -1m", "a[5m:1m] @ start()", "sum(a) + b @ 7"] {
            assert_eq!(reach(query), None, "{query}");
        }
    }
}
