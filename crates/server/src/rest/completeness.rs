//! How complete an answer is: the share of scheduled scrapes that are stored for the targets a query may read from, and
//! the targets with none.
//!
//! A target counts when one selector of the query accepts all labels that the target gives its series; labels that come
//! from the body are not known here and exclude nothing.

use axum::body::{Body, to_bytes};
use axum::response::Response;
use http::header;
use model::{CollectionMethod, Health, Labels, Matcher, TimeRange};
use promql::ast::{DurationExpr, Expr, ExprKind, VectorSelector};
use serde::Serialize;
use utoipa::ToSchema;

use super::Rest;
use super::integrity::add_tail;
use crate::prom::params::Params;

/// Targets that are named; the fraction is about all.
const MISSING_MAX: usize = 100;
/// An instant sees samples of this age.
const LOOKBACK_MS: i64 = 300_000;

/// How complete an answer is.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct Completeness {
    /// Stored by expected scrapes, over the query's time in steps of the ledger (five minutes for the last two hours); 1
    /// when none was expected.
    pub fraction: f64,
    /// Targets that should have delivered and did not at all; at most 100.
    pub missing_targets: Vec<String>,
    /// Always 0 on a single node.
    pub shards_failed: u32,
}

/// Adds `completeness` to a good answer; one that cannot be read is given as it is.
pub async fn add(rest: Rest, params: &Params, answer: Response) -> Response {
    let Some((selectors, range)) = asked(params, rest.now_ms()) else { return answer };
    let Ok(completeness) = tokio::task::spawn_blocking(move || of(&rest, &selectors, range)).await else {
        return answer;
    };
    let (mut parts, body) = answer.into_parts();
    // Our own answer, made in memory a moment ago: there is nothing to bound.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else { return Response::from_parts(parts, Body::empty()) };
    let member = serde_json::to_vec(&completeness).unwrap_or_default();
    let joined = match bytes.strip_suffix(b"}") {
        Some(object) if object.len() > 1 => [object, b",\"completeness\":", &member, b"}"].concat(),
        _ => bytes.to_vec(),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(joined))
}

/// Gives the share for the targets that the selectors may read from.
pub fn of(rest: &Rest, selectors: &[Vec<Matcher>], range: TimeRange) -> Completeness {
    let (mut expected, mut stored, mut missing) = (0, 0, Vec::new());
    let found = rest.ledger.integrity(range, &|_, _| true);
    let now_ms = rest.now_ms();
    for mut account in found.accounts.into_iter().filter(|a| a.method == CollectionMethod::PullScraping) {
        let Some(spec) = rest.collector.spec(&account.target_id) else { continue };
        if !selectors.iter().any(|matchers| may_match(matchers, &spec.labels)) {
            continue;
        }
        if let Some(status) = rest.collector.status(&account.target_id).filter(|s| s.health != Health::Disabled) {
            add_tail(&mut account, &status, range, now_ms);
        }
        expected += account.slots.expected;
        stored += account.slots.stored.min(account.slots.expected);
        if account.slots.expected > 0 && account.slots.stored == 0 && missing.len() < MISSING_MAX {
            missing.push(account.target_id);
        }
    }
    let fraction = if expected == 0 { 1.0 } else { stored as f64 / expected as f64 };
    Completeness { fraction, missing_targets: missing, shards_failed: 0 }
}

/// Labels that the target does not set may come from the body.
fn may_match(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|m| labels.get(m.name()).is_none_or(|value| m.matches(value)))
}

/// Reads selectors and time of a query; `None` for one that is wrong, which its answer says.
fn asked(params: &Params, now_ms: i64) -> Option<(Vec<Vec<Matcher>>, TimeRange)> {
    let tree = promql::parse(params.get("query")).ok()?;
    let (mut selectors, mut reach_ms) = (Vec::new(), LOOKBACK_MS);
    collect(&tree, 0, &mut selectors, &mut reach_ms);
    let range = if params.get("start").is_empty() {
        let at_ms = params.time_ms_or("time", now_ms).ok()?;
        TimeRange { start_ms: at_ms, end_ms: at_ms }
    } else {
        TimeRange { start_ms: params.time_ms("start").ok()?, end_ms: params.time_ms("end").ok()? }
    };
    Some((selectors, TimeRange { start_ms: range.start_ms.saturating_sub(reach_ms), end_ms: range.end_ms }))
}

/// Collects the selectors, and how far behind the query's time they reach.
fn collect(expr: &Expr, behind_ms: i64, out: &mut Vec<Vec<Matcher>>, reach_ms: &mut i64) {
    let mut select = |selector: &VectorSelector, range_ms: i64| {
        let back_ms = behind_ms + range_ms + selector.offset.as_ref().map_or(0, ms);
        *reach_ms = (*reach_ms).max(back_ms);
        out.push(selector.matchers.clone());
    };
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => {}
        ExprKind::Vector(selector) => select(selector, LOOKBACK_MS),
        ExprKind::Matrix { selector, range } => select(selector, ms(range)),
        ExprKind::Subquery { expr, range, offset, .. } => {
            collect(expr, behind_ms + ms(range) + offset.as_ref().map_or(0, ms), out, reach_ms);
        }
        ExprKind::Aggregate(aggregate) => collect(&aggregate.expr, behind_ms, out, reach_ms),
        ExprKind::Call { args, .. } => args.iter().for_each(|arg| collect(arg, behind_ms, out, reach_ms)),
        ExprKind::Binary(binary) => {
            collect(&binary.lhs, behind_ms, out, reach_ms);
            collect(&binary.rhs, behind_ms, out, reach_ms);
        }
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => collect(expr, behind_ms, out, reach_ms),
    }
}

/// A computed duration counts as none: the answer is about a little less time then.
fn ms(duration: &DurationExpr) -> i64 {
    // Longer ones than a century are errors of the query.
    if let DurationExpr::Ms(ms) = duration { (*ms).clamp(0, 100 * 366 * 86_400_000) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_and_reach_come_from_the_whole_tree() {
        let params = Params::parse(
            "query=sum(rate(a{job=\"x\"}[10m]))/ignoring(y)max_over_time(b[1h:5m] offset 1h)&time=100000",
        );
        let (selectors, range) = asked(&params, 0).unwrap();
        let names: Vec<Vec<&str>> = selectors.iter().map(|s| s.iter().map(Matcher::name).collect()).collect();
        assert_eq!(names, [vec!["job", "__name__"], vec!["__name__"]]);
        assert_eq!(range, TimeRange { start_ms: 100_000_000 - 7_500_000, end_ms: 100_000_000 });
        assert!(asked(&Params::parse("query=sum("), 0).is_none());
    }

    #[test]
    fn a_target_counts_unless_its_own_labels_exclude_it() {
        let labels = Labels::from_pairs([("job", "node"), ("instance", "a:1")]);
        let matchers = |text: &str| asked(&Params::parse(&format!("query={text}")), 0).unwrap().0.remove(0);
        assert!(may_match(&matchers("up{job=\"node\",mode=\"idle\"}"), &labels));
        assert!(!may_match(&matchers("up{job=\"db\"}"), &labels));
    }
}
