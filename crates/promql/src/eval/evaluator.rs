//! The walk over the syntax tree: from an expression and the steps to the series it gives.
//!
//! Every node is evaluated for all steps at once; what does not depend on the step is evaluated for the first one and
//! spread. Trees are at most [`crate::MAX_DEPTH`] high, and the functions on the way down keep little on the stack.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use model::{Matcher, Select, SeriesReader, TimeRange};

use super::annotations::Annotations;
use super::budget::Budget;
use super::error::EvalError;
use super::frame::{Frame, QueryTimes};
use super::native;
use super::options::QueryOptions;
use super::scalars::Scalars;
use super::series::{Point, Series, Vector};
use crate::ast::{Expr, ExprKind, ValueType};
use crate::check::value_type;

/// How many samples may be looked at between two looks at the clock.
const SAMPLES_PER_CHECK: usize = 50_000;
/// What a series counts for in that, however few samples it has.
const SERIES_COST: usize = 500;

/// One query at work.
pub(super) struct Evaluator<'a> {
    select: &'a dyn Select,
    pub(super) options: &'a QueryOptions,
    pub(super) times: QueryTimes,
    pub(super) budget: Budget,
    pub(super) notes: RefCell<Annotations>,
    queryable: Cell<u64>,
    unchecked: Cell<usize>,
    /// Whether histograms are read for their counts and sums only, and get hints about resets on the way.
    pub(super) hints: Cell<bool>,
    /// Whether the order of an instant vector means something, because `sort` or `topk` made it.
    pub(super) ordered: Cell<bool>,
}

/// Expressions whose value depends on the time of evaluation even when their arguments do not.
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

/// Tells whether an expression has the same value at each step.
fn is_invariant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => true,
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => selector.at.is_some(),
        ExprKind::Subquery { at, .. } => at.is_some(),
        ExprKind::Aggregate(aggregate) => {
            aggregate.param.as_ref().is_none_or(|param| is_invariant(param)) && is_invariant(&aggregate.expr)
        }
        // Where it reads the info series may depend on the step all the same.
        ExprKind::Call { name: "info", .. } => false,
        ExprKind::Call { name, args } => !TIME_DEPENDENT.contains(name) && args.iter().all(is_invariant),
        ExprKind::Binary(binary) => is_invariant(&binary.lhs) && is_invariant(&binary.rhs),
        ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => is_invariant(expr),
    }
}

/// Takes the parentheses off.
pub(super) fn bare(expr: &Expr) -> &Expr {
    let mut expr = expr;
    while let ExprKind::Paren(inner) = &expr.kind {
        expr = inner;
    }
    expr
}

/// What the parser's checks rule out.
pub(super) fn impossible<T>(what: &str) -> Result<T, EvalError> {
    Err(EvalError::Execution(format!("unexpected {what}")))
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(select: &'a dyn Select, options: &'a QueryOptions, times: QueryTimes) -> Evaluator<'a> {
        Evaluator {
            select,
            options,
            times,
            budget: Budget::new(options.samples_max, options.memory.clone()),
            notes: RefCell::default(),
            queryable: Cell::new(0),
            unchecked: Cell::new(0),
            hints: Cell::new(false),
            ordered: Cell::new(false),
        }
    }

    /// Gives how many samples the steps used.
    pub(super) fn queryable(&self) -> u64 {
        self.queryable.get()
    }

    /// Counts samples that steps used.
    pub(super) fn used(&self, samples: u64) {
        self.queryable.set(self.queryable.get().saturating_add(samples));
    }

    /// Evaluates with or without hints about resets.
    pub(super) fn with_hints<T>(&self, hints: bool, evaluate: impl FnOnce() -> T) -> T {
        let before = self.hints.replace(hints);
        let result = evaluate();
        self.hints.set(before);
        result
    }

    /// Counts work and now and then looks whether the query may go on.
    pub(super) fn tick(&self, samples: usize) -> Result<(), EvalError> {
        let work = self.unchecked.get().saturating_add(samples);
        if work < SAMPLES_PER_CHECK {
            self.unchecked.set(work);
            return Ok(());
        }
        self.unchecked.set(0);
        self.options.check()
    }

    /// Counts the work that comes with one more series.
    pub(super) fn tick_series(&self) -> Result<(), EvalError> {
        self.tick(SERIES_COST)
    }

    /// Starts an empty vector.
    pub(super) fn empty(&self) -> Result<Vector<'_>, EvalError> {
        Ok(Vector::new(self.budget.hold(0)?))
    }

    /// Makes a vector of finished series.
    pub(super) fn vector_of(&self, series: impl IntoIterator<Item = Series>) -> Result<Vector<'_>, EvalError> {
        let mut vector = self.empty()?;
        series.into_iter().try_for_each(|one| vector.push(one))?;
        Ok(vector)
    }

    /// Finds series, in an order that makes the same query over the same data give the same answer, bit for bit.
    pub(super) fn readers(
        &self,
        matchers: &[Matcher],
        range: TimeRange,
    ) -> Result<Vec<Box<dyn SeriesReader>>, EvalError> {
        self.options.check()?;
        let mut readers = self.select.select(matchers, range)?;
        readers.sort_by(|a, b| a.labels().as_bytes().cmp(b.labels().as_bytes()));
        self.options.check()?;
        Ok(readers)
    }

    /// Evaluates what gives an instant vector.
    pub(super) fn vector(&self, expr: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        self.tick_series()?;
        if frame.steps > 1 && is_invariant(expr) {
            return self.spread(expr, frame);
        }
        match &expr.kind {
            ExprKind::Vector(selector) => self.instant_selector(selector, expr.span, frame),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, expr.span, frame),
            ExprKind::Call { name, args } => self.call(name, args, expr.span, frame),
            ExprKind::Binary(binary) => self.binary(binary, expr.span, frame),
            ExprKind::Unary { negative, expr } => self.signed(*negative, expr, frame),
            ExprKind::Paren(inner) => self.vector(inner, frame),
            _ => impossible("expression where a vector stands"),
        }
    }

    /// Evaluates once and gives the value to each step.
    #[inline(never)]
    fn spread(&self, expr: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let before = self.queryable();
        let once = self.vector(expr, &frame.first())?;
        let used = self.queryable() - before;
        self.used(used.saturating_mul(frame.steps as u64 - 1));
        let mut vector = self.empty()?;
        for series in &once.series {
            self.tick_series()?;
            let mut all = Series::absent(series.labels.clone(), series.drop_name, frame.steps);
            match series.point(0) {
                Some(Point::Float(value)) => all.values.fill(value),
                Some(point) => (0..frame.steps).for_each(|step| all.set(step, point.clone())),
                None => continue,
            }
            vector.push(all)?;
        }
        Ok(vector)
    }

    #[inline(never)]
    fn signed(&self, negative: bool, expr: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let mut vector = self.vector(expr, frame)?;
        if negative {
            for series in &mut vector.series {
                series.drop_name = true;
                series.map(|_, value| -value);
                series.map_histograms(|_, h| Some(Point::Histogram(Arc::new(native::scaled(h, true, |v| -v)))));
            }
        }
        Ok(vector)
    }

    /// Evaluates what gives a scalar: a number for each step.
    pub(super) fn scalar(&self, expr: &Expr, frame: &Frame) -> Result<Scalars<'_>, EvalError> {
        self.tick_series()?;
        match &expr.kind {
            ExprKind::Number(value) | ExprKind::Duration(value) => self.scalars(frame, |_| *value),
            ExprKind::Paren(inner) => self.scalar(inner, frame),
            ExprKind::Unary { negative, expr } => {
                let mut values = self.scalar(expr, frame)?;
                if *negative {
                    values.iter_mut().for_each(|value| *value = -*value);
                }
                Ok(values)
            }
            ExprKind::Binary(binary) => self.scalar_binary(binary, frame),
            ExprKind::Call { name, args } => self.scalar_call(name, args, frame),
            _ => impossible("expression where a scalar stands"),
        }
    }

    /// Gives a string literal.
    pub(super) fn text<'e>(&self, expr: &'e Expr) -> Result<&'e str, EvalError> {
        match &bare(expr).kind {
            ExprKind::String(text) => Ok(text),
            _ => impossible("expression where a string stands"),
        }
    }

    /// Tells whether an expression gives a scalar.
    pub(super) fn is_scalar(&self, expr: &Expr) -> bool {
        value_type(expr) == ValueType::Scalar
    }
}
