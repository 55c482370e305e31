//! `info`: labels of info series are put to the series of the same job and instance.

use hashbrown::HashMap;
use model::{LABEL_NAME, Labels, LabelsBuf, MatchOp, Matcher};

use super::error::EvalError;
use super::evaluator::{Evaluator, bare};
use super::frame::{Frame, QueryTimes, Reference};
use super::label_set::go_string;
use super::selector::Take;
use super::series::{Series, Vector};
use crate::ast::{Expr, ExprKind, ValueType};
use crate::check::value_type;

/// The info metric when none is named.
const TARGET_INFO: &str = "target_info";
/// The labels by which info series and others find each other.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// What the second argument asks for.
struct Wanted {
    /// Which info metrics.
    names: Vec<Matcher>,
    /// Which of their labels; empty means all.
    data: Vec<Matcher>,
}

impl Wanted {
    fn new(selector: Option<&Expr>) -> Wanted {
        let matchers: &[Matcher] = match selector.map(|expr| &bare(expr).kind) {
            Some(ExprKind::Vector(selector)) => &selector.matchers,
            _ => &[],
        };
        let (mut names, data): (Vec<_>, Vec<_>) = matchers.iter().cloned().partition(|m| m.name() == LABEL_NAME);
        if names.is_empty() {
            names.push(Matcher::equal(LABEL_NAME, TARGET_INFO));
        } else if !names.iter().any(|m| matches!(m.op(), MatchOp::Equal | MatchOp::Regex)) {
            // Names that are only excluded are excluded among those of info metrics.
            names.extend(Matcher::new(LABEL_NAME, MatchOp::Regex, ".+_info"));
        }
        Wanted { names, data }
    }

    fn is_info(&self, labels: &Labels) -> bool {
        self.names.iter().all(|matcher| matcher.matches(labels.metric_name()))
    }

    fn wants(&self, label: &str) -> bool {
        self.data.is_empty() || self.data.iter().any(|matcher| matcher.name() == label)
    }

    /// Series without an info series stay unless a label is asked for that must have a value.
    fn stays_alone(&self) -> bool {
        self.data.iter().all(Matcher::matches_empty)
    }
}

/// The identifying labels of a series with the name of an info metric.
type Signature = (String, Labels);

fn identity(labels: &Labels) -> Labels {
    super::label_set::filtered(labels, |name| IDENTIFYING.contains(&name))
}

impl Evaluator<'_> {
    #[inline(never)]
    pub(super) fn info(&self, base: &Expr, selector: Option<&Expr>, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let wanted = Wanted::new(selector);
        let input = self.vector(base, frame)?;
        let infos = self.info_series(&wanted, &input, base, frame)?;
        let mut by_signature: HashMap<Signature, Vec<&Series>> = HashMap::new();
        let mut names: Vec<String> = Vec::new();
        for series in &infos.series {
            if !series.histograms.is_empty() {
                let text = format!("this should be an info metric, with float samples: {}", go_string(&series.labels));
                return Err(EvalError::Execution(text));
            }
            let name = series.labels.metric_name().to_owned();
            if !names.contains(&name) {
                names.push(name.clone());
            }
            by_signature.entry((name, identity(&series.labels))).or_default().push(series);
        }
        names.sort();
        let mut vector = self.empty()?;
        for series in &input.series {
            self.tick_series()?;
            if wanted.is_info(&series.labels) {
                vector.push(series.clone())?;
                continue;
            }
            let identity = identity(&series.labels);
            let sources: Vec<&[&Series]> = names
                .iter()
                .filter_map(|name| by_signature.get(&(name.clone(), identity.clone())))
                .map(Vec::as_slice)
                .collect();
            self.enrich(series, &sources, &wanted, &mut vector)?;
        }
        vector.merge()?;
        Ok(vector)
    }

    /// Finds the info series of the jobs and instances that occur; their values are the times of their samples.
    fn info_series(
        &self,
        wanted: &Wanted,
        input: &Vector<'_>,
        base: &Expr,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let reference = reference_of(&self.times, base)?.unwrap_or(Reference::Moving { offset_ms: 0 });
        // Series with a job alone are none of those with an instance, too: each kind is looked for by itself.
        let mut kinds: HashMap<[bool; 2], [Vec<String>; 2]> = HashMap::new();
        for series in input.series.iter().filter(|series| !wanted.is_info(&series.labels)) {
            let values = IDENTIFYING.map(|label| series.labels.get(label));
            let kind = kinds.entry(values.map(|value| value.is_some())).or_default();
            for (all, value) in kind.iter_mut().zip(values) {
                all.extend(value.map(regex_syntax::escape));
            }
        }
        kinds.remove(&[false, false]);
        let mut infos = self.empty()?;
        for values in kinds.into_values() {
            let mut matchers = wanted.names.clone();
            for (label, mut values) in IDENTIFYING.into_iter().zip(values) {
                values.sort();
                values.dedup();
                let matcher = Matcher::new(label, MatchOp::Regex, values.join("|"));
                matchers.push(matcher.map_err(|e| EvalError::Execution(e.to_string()))?);
            }
            matchers.extend(wanted.data.iter().cloned());
            infos.append(self.latest_at(&matchers, reference, frame, Take::Milliseconds)?)?;
        }
        Ok(infos)
    }

    /// Puts the labels that info series have at each step to a series.
    fn enrich(
        &self,
        series: &Series,
        sources: &[&[&Series]],
        wanted: &Wanted,
        vector: &mut Vector<'_>,
    ) -> Result<(), EvalError> {
        // The steps with the same info series have the same labels.
        let mut columns: Vec<(Vec<Option<usize>>, Option<Series>)> = Vec::new();
        for step in 0..series.values.len() {
            let Some(point) = series.point(step) else { continue };
            let found: Vec<Option<usize>> =
                sources.iter().map(|source| newest(source, step)).collect::<Result<_, _>>()?;
            let at = match columns.iter().position(|(known, ..)| *known == found) {
                Some(at) => at,
                None => {
                    let infos = sources.iter().zip(&found).filter_map(|(source, at)| source.get((*at)?).copied());
                    let labels = enriched(&series.labels, infos, wanted)?;
                    let empty = |labels| Series::absent(labels, series.drop_name, series.values.len());
                    columns.push((found, labels.map(empty)));
                    columns.len() - 1
                }
            };
            if let Some((_, Some(column))) = columns.get_mut(at) {
                column.set(step, point);
            }
        }
        columns.into_iter().filter_map(|(_, column)| column).try_for_each(|column| vector.push(column))
    }
}

/// Tells where the series of an expression are read, if all are read at the same time; `None` when there is no one such time:
/// then info series are read where the expression is evaluated.
fn reference_of(times: &QueryTimes, expr: &Expr) -> Result<Option<Reference>, EvalError> {
    let of = |expr: &Expr| reference_of(times, expr);
    let both = |a: Option<Reference>, b: Option<Reference>| a.filter(|a| Some(*a) == b);
    let makes_series = |expr: &&Expr| matches!(value_type(expr), ValueType::Vector | ValueType::Matrix);
    Ok(match &expr.kind {
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => {
            Some(times.reference(selector.offset.as_ref(), selector.at)?)
        }
        ExprKind::Subquery { expr, offset, at, .. } => match of(expr)? {
            Some(Reference::Moving { offset_ms: inner_ms }) => Some(match times.reference(offset.as_ref(), *at)? {
                Reference::Moving { offset_ms } => Reference::Moving { offset_ms: offset_ms.saturating_add(inner_ms) },
                Reference::Fixed { ts_ms } => Reference::Fixed { ts_ms: ts_ms.saturating_sub(inner_ms) },
            }),
            fixed => fixed,
        },
        ExprKind::Aggregate(aggregate) => of(&aggregate.expr)?,
        ExprKind::Call { name: "info", args } => args.first().map_or(Ok(None), of)?,
        ExprKind::Call { args, .. } => {
            let mut all = args.iter().filter(makes_series);
            let first = all.next().map_or(Ok(None), of)?;
            all.try_fold(first, |found, arg| of(arg).map(|next| both(found, next)))?
        }
        ExprKind::Binary(binary) => match [&*binary.lhs, &*binary.rhs].map(|side| makes_series(&side)) {
            [true, true] => both(of(&binary.lhs)?, of(&binary.rhs)?),
            [true, false] => of(&binary.lhs)?,
            [false, _] => of(&binary.rhs)?,
        },
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => of(expr)?,
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => None,
    })
}

/// Finds the info series with the newest sample at a step.
fn newest(source: &[&Series], step: usize) -> Result<Option<usize>, EvalError> {
    let mut best: Option<(usize, f64)> = None;
    for (index, series) in source.iter().enumerate() {
        let Some(time) = series.float(step) else { continue };
        match best {
            Some((other, newest)) if newest == time => {
                let name = |index: usize| source.get(index).map_or(String::new(), |s| go_string(&s.labels));
                return Err(EvalError::Execution(format!(
                    "found duplicate series for info metric: existing {} @ {}, new {} @ {}",
                    name(other),
                    newest as i64,
                    name(index),
                    time as i64
                )));
            }
            Some((_, newest)) if newest > time => {}
            _ => best = Some((index, time)),
        }
    }
    Ok(best.map(|(index, _)| index))
}

/// Gives the labels with those of the info series; `None` when the series is left out.
fn enriched<'s>(
    base: &Labels,
    infos: impl Iterator<Item = &'s Series>,
    wanted: &Wanted,
) -> Result<Option<Labels>, EvalError> {
    let mut labels = LabelsBuf::from_labels(base);
    let mut any = false;
    for info in infos {
        any = true;
        for (name, value) in info.labels.iter().filter(|(name, _)| *name != LABEL_NAME && wanted.wants(name)) {
            if base.get(name).is_some() {
                continue;
            }
            match labels.get(name) {
                Some(known) if known != value => {
                    return Err(EvalError::Execution(format!("conflicting label: {name}")));
                }
                Some(_) => {}
                None => labels.push(name, value),
            }
        }
    }
    Ok((any || wanted.stays_alone()).then(|| labels.to_labels()))
}
