//! Calls of functions.

use model::Labels;
use model::histogram::Histogram;

use super::date_fn;
use super::error::EvalError;
use super::evaluator::{Evaluator, bare, impossible};
use super::frame::Frame;
use super::go_math;
use super::math_fn;
use super::native;
use super::quantile;
use super::scalars::Scalars;
use super::selector::Take;
use super::series::{Point, Series, Vector, is_absent};
use super::window::RangeCall;
use crate::ast::{Expr, ExprKind, Span, ValueType};
use crate::functions_table;

impl Evaluator<'_> {
    /// Evaluates a call that gives an instant vector.
    #[inline(never)]
    pub(super) fn call(
        &self,
        name: &'static str,
        args: &[Expr],
        at: Span,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        self.check_enabled(name)?;
        let spec = functions_table::lookup(name);
        if spec.is_some_and(|spec| spec.args.contains(&ValueType::Matrix)) {
            return self.call_over_range(name, args, frame);
        }
        match (name, args) {
            (_, args) if date_fn::lookup(name).is_some() => self.date_call(name, args, frame),
            ("absent", [arg]) => self.absent(arg, frame),
            ("clamp", [arg, low, high]) => self.clamp(arg, Some(low), Some(high), frame),
            ("clamp_max", [arg, high]) => self.clamp(arg, None, Some(high), frame),
            ("clamp_min", [arg, low]) => self.clamp(arg, Some(low), None, frame),
            ("histogram_quantile", [q, arg]) => self.histogram_quantile(q, arg, frame),
            ("histogram_quantiles", [arg, label, qs @ ..]) => self.histogram_quantiles(arg, label, qs, frame),
            ("histogram_fraction", [low, high, arg]) => self.histogram_fraction(low, high, arg, frame),
            ("info", [base, rest @ ..]) => self.info(base, rest.first(), frame),
            ("label_join", [arg, dst, separator, src @ ..]) => self.label_join(arg, dst, separator, src, frame),
            ("label_replace", [arg, texts @ ..]) => self.label_replace(arg, texts, frame),
            ("round", [arg, nearest @ ..]) => self.round(arg, nearest.first(), frame),
            ("sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc", [arg, labels @ ..]) => {
                self.sorted(name, arg, labels, at, frame)
            }
            ("start_timestamp", [arg]) => self.start_timestamp(arg, frame),
            ("timestamp", [arg]) => self.timestamp(arg, frame),
            ("vector", [arg]) => self.vector_of([constant(self.scalar(arg, frame)?.into_values())]),
            (_, [arg]) => self.plain_call(name, arg, frame),
            _ => impossible("arguments of a function"),
        }
    }

    fn check_enabled(&self, name: &str) -> Result<(), EvalError> {
        let experimental = functions_table::lookup(name).is_some_and(|spec| spec.experimental);
        match experimental && !self.options.experimental {
            true => Err(EvalError::Execution(format!("function \"{name}\" is not enabled"))),
            false => Ok(()),
        }
    }

    fn call_over_range(&self, name: &'static str, args: &[Expr], frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let mut scalars = Vec::new();
        let mut matrix = None;
        for arg in args {
            match self.is_scalar(arg) {
                true => scalars.push(self.scalar(arg, frame)?),
                false => matrix = Some(arg),
            }
        }
        let Some(matrix) = matrix else { return impossible("call without a range vector") };
        let call = RangeCall { name, matrix, scalars };
        let vector = self.range_call(&call, frame)?;
        match name {
            "absent_over_time" => self.absent_of(vector, matrix, frame),
            "quantile_over_time" => {
                self.note_quantiles(call.scalars.first(), args.first(), &vector);
                Ok(vector)
            }
            _ => Ok(vector),
        }
    }

    fn note_quantiles(&self, qs: Option<&Scalars<'_>>, arg: Option<&Expr>, vector: &Vector<'_>) {
        let (Some(qs), Some(arg)) = (qs, arg) else { return };
        for (step, q) in qs.iter().enumerate().filter(|(_, q)| !quantile::is_valid(**q)) {
            if vector.series.iter().any(|series| series.float(step).is_some()) {
                self.notes.borrow_mut().invalid_quantile(*q, bare(arg).span);
            }
        }
    }

    /// Calls a function of one value.
    fn plain_call(&self, name: &str, arg: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        if let Some(function) = histogram_part(name) {
            let stats = matches!(name, "histogram_count" | "histogram_sum" | "histogram_avg");
            let mut vector = self.with_hints(stats, || self.vector(arg, frame))?;
            for series in &mut vector.series {
                series.drop_name = true;
                series.map(|_, _| super::series::ABSENT);
                series.map_histograms(|_, h| Some(Point::Float(function(h))));
            }
            vector.prune();
            return Ok(vector);
        }
        let Some(function) = math_fn::lookup(name) else { return impossible("function") };
        self.mapped(arg, frame, |_, value| function(value))
    }

    /// Replaces each double by a function of step and value; the name goes, and so do histograms.
    pub(super) fn mapped(
        &self,
        arg: &Expr,
        frame: &Frame,
        mut function: impl FnMut(usize, f64) -> f64,
    ) -> Result<Vector<'_>, EvalError> {
        let mut vector = self.vector(arg, frame)?;
        for series in &mut vector.series {
            self.tick(series.values.len())?;
            series.drop_name = true;
            series.histograms.clear();
            series.map(&mut function);
        }
        vector.prune();
        Ok(vector)
    }

    fn clamp(
        &self,
        arg: &Expr,
        low: Option<&Expr>,
        high: Option<&Expr>,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let bound = |expr: Option<&Expr>, default: f64| match expr {
            Some(expr) => self.scalar(expr, frame),
            None => self.scalars(frame, |_| default),
        };
        let (low, high) = (bound(low, f64::NEG_INFINITY)?, bound(high, f64::INFINITY)?);
        let at = |column: &[f64], step: usize| column.get(step).copied().unwrap_or(f64::NAN);
        self.mapped(arg, frame, |step, value| match (at(&low, step), at(&high, step)) {
            (low, high) if high < low => super::series::ABSENT,
            (low, high) => go_math::max(low, go_math::min(high, value)),
        })
    }

    fn round(&self, arg: &Expr, nearest: Option<&Expr>, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let nearest = nearest.map_or_else(|| self.scalars(frame, |_| 1.0), |expr| self.scalar(expr, frame))?;
        self.mapped(arg, frame, |step, value| {
            let inverse = 1.0 / nearest.get(step).copied().unwrap_or(1.0);
            (value * inverse + 0.5).floor() / inverse
        })
    }

    fn timestamp(&self, arg: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        if let ExprKind::Vector(selector) = &bare(arg).kind {
            let mut vector = self.latest(selector, frame, Take::Seconds)?;
            vector.series.iter_mut().for_each(|series| series.drop_name = true);
            return Ok(vector);
        }
        let mut vector = self.vector(arg, frame)?;
        let seconds = |step: usize| frame.at(step) as f64 / 1000.0;
        for series in &mut vector.series {
            series.drop_name = true;
            series.map(|step, _| seconds(step));
            series.map_histograms(|step, _| Some(Point::Float(seconds(step))));
        }
        Ok(vector)
    }

    /// When the counting began that the samples belong to: 0 where nobody said. Only selectors know it.
    fn start_timestamp(&self, arg: &Expr, frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let ExprKind::Vector(selector) = &bare(arg).kind else {
            self.vector(arg, frame)?;
            return self.empty();
        };
        let mut vector = self.latest(selector, frame, Take::Start)?;
        vector.series.iter_mut().for_each(|series| series.drop_name = true);
        Ok(vector)
    }

    fn date_call(&self, name: &str, args: &[Expr], frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let Some(part) = date_fn::lookup(name) else { return impossible("date function") };
        match args.first() {
            Some(arg) => self.mapped(arg, frame, |_, value| part(value as i64)),
            None => {
                let values = (0..frame.steps).map(|step| part(frame.at(step) / 1000)).collect();
                self.vector_of([constant(values)])
            }
        }
    }

    /// Evaluates a call that gives a scalar.
    #[inline(never)]
    pub(super) fn scalar_call(
        &self,
        name: &'static str,
        args: &[Expr],
        frame: &Frame,
    ) -> Result<Scalars<'_>, EvalError> {
        self.check_enabled(name)?;
        let all = |value: f64| self.scalars(frame, |_| value);
        let times = self.times;
        match (name, args) {
            ("pi", []) => all(std::f64::consts::PI),
            ("time", []) => self.scalars(frame, |step| frame.at(step) as f64 / 1000.0),
            ("start", []) => all(times.start_ms as f64 / 1000.0),
            ("end", []) => all(times.end_ms as f64 / 1000.0),
            ("range", []) => all(times.end_ms.saturating_sub(times.start_ms) as f64 / 1000.0),
            ("step", []) => all(times.step_ms as f64 / 1000.0),
            ("min_of", [a, b]) => self.both(a, b, frame, go_math::min),
            ("max_of", [a, b]) => self.both(a, b, frame, go_math::max),
            ("scalar", [arg]) => self.scalar_of(arg, frame),
            _ => impossible("function that gives a scalar"),
        }
    }

    /// Combines two scalars step by step.
    pub(super) fn both(
        &self,
        a: &Expr,
        b: &Expr,
        frame: &Frame,
        combine: impl Fn(f64, f64) -> f64,
    ) -> Result<Scalars<'_>, EvalError> {
        let (mut left, right) = (self.scalar(a, frame)?, self.scalar(b, frame)?);
        left.iter_mut().zip(right.iter()).for_each(|(left, right)| *left = combine(*left, *right));
        Ok(left)
    }

    /// The value of the only series; NaN where there is none or more than one.
    fn scalar_of(&self, arg: &Expr, frame: &Frame) -> Result<Scalars<'_>, EvalError> {
        let vector = self.vector(arg, frame)?;
        let mut values = self.scalars(frame, |_| f64::NAN)?;
        let mut found = vec![false; frame.steps];
        for series in &vector.series {
            for ((to, found), from) in values.iter_mut().zip(&mut found).zip(&series.values) {
                if is_absent(*from) {
                    continue;
                }
                *to = if std::mem::replace(found, true) { f64::NAN } else { *from };
            }
        }
        Ok(values)
    }
}

/// A series without labels.
pub(super) fn constant(values: Vec<f64>) -> Series {
    Series::floats(Labels::empty(), false, values)
}

/// What a function takes out of a native histogram.
fn histogram_part(name: &str) -> Option<fn(&Histogram) -> f64> {
    Some(match name {
        "histogram_avg" => |h| h.sum / h.count,
        "histogram_count" => |h| h.count,
        "histogram_stddev" => |h| native::variance(h).sqrt(),
        "histogram_stdvar" => native::variance,
        "histogram_sum" => |h| h.sum,
        _ => return None,
    })
}
