//! Functions that change labels or order by them.

use std::cmp::Ordering;

use model::{LABEL_NAME, compile_anchored};

use super::error::EvalError;
use super::evaluator::{Evaluator, impossible};
use super::frame::Frame;
use super::label_set::with_label;
use super::quantile::nan_first;
use super::series::{Series, Vector};
use crate::ast::{Expr, Span};

fn check_name(name: &str, which: &str, function: &str) -> Result<(), EvalError> {
    // A literal that is no UTF-8 arrives with this character in place of the bytes.
    if name.is_empty() || name.contains(char::REPLACEMENT_CHARACTER) {
        return Err(EvalError::Execution(format!("invalid {which} label name in {function}(): {name}")));
    }
    Ok(())
}

/// The longest label value that a query may make. Nested calls multiply, so without it a short query fills all memory.
const LABEL_BYTES_MAX: usize = 64 << 10;

fn check_growth(bytes: usize) -> Result<(), EvalError> {
    if bytes <= LABEL_BYTES_MAX {
        return Ok(());
    }
    Err(EvalError::Execution(format!(
        "label_replace() and label_join() make label values of at most {LABEL_BYTES_MAX} bytes"
    )))
}

impl Evaluator<'_> {
    #[inline(never)]
    pub(super) fn label_replace(&self, arg: &Expr, texts: &[Expr], frame: &Frame) -> Result<Vector<'_>, EvalError> {
        let [dst, replacement, src, pattern] = texts else { return impossible("arguments of label_replace") };
        let (dst, replacement) = (self.text(dst)?, self.text(replacement)?);
        let (src, pattern) = (self.text(src)?, self.text(pattern)?);
        let regex = compile_anchored(pattern)
            .map_err(|_| EvalError::Execution(format!("invalid regular expression in label_replace(): {pattern}")))?;
        check_name(dst, "destination", "label_replace")?;
        let groups = replacement.matches('$').count();
        let mut vector = self.vector(arg, frame)?;
        for series in &mut vector.series {
            self.tick_series()?;
            let value = series.labels.get(src).unwrap_or_default();
            let Some(captures) = regex.captures(value) else { continue };
            check_growth(replacement.len().saturating_add(value.len().saturating_mul(groups)))?;
            let mut new = String::new();
            captures.expand(replacement, &mut new);
            series.labels = with_label(&series.labels, dst, &new);
            series.drop_name &= dst != LABEL_NAME;
        }
        vector.merge()?;
        Ok(vector)
    }

    #[inline(never)]
    pub(super) fn label_join(
        &self,
        arg: &Expr,
        dst: &Expr,
        separator: &Expr,
        src: &[Expr],
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let (dst, separator) = (self.text(dst)?, self.text(separator)?);
        let src: Vec<&str> = src.iter().map(|expr| self.text(expr)).collect::<Result<_, _>>()?;
        src.iter().try_for_each(|name| check_name(name, "source", "label_join"))?;
        check_name(dst, "destination", "label_join")?;
        let mut vector = self.vector(arg, frame)?;
        for series in &mut vector.series {
            self.tick_series()?;
            let values: Vec<&str> = src.iter().map(|name| series.labels.get(name).unwrap_or_default()).collect();
            let separators = separator.len().saturating_mul(values.len());
            check_growth(values.iter().fold(separators, |sum, value| sum.saturating_add(value.len())))?;
            series.labels = with_label(&series.labels, dst, &values.join(separator));
            series.drop_name &= dst != LABEL_NAME;
        }
        vector.merge()?;
        Ok(vector)
    }

    /// Sorts; the answers of range queries have their own order, so that there is nothing to do for them but to say so.
    #[inline(never)]
    pub(super) fn sorted(
        &self,
        name: &str,
        arg: &Expr,
        labels: &[Expr],
        at: Span,
        frame: &Frame,
    ) -> Result<Vector<'_>, EvalError> {
        let labels: Vec<&str> = labels.iter().map(|expr| self.text(expr)).collect::<Result<_, _>>()?;
        let mut vector = self.vector(arg, frame)?;
        if matches!(name, "sort" | "sort_desc") {
            vector.series.iter_mut().for_each(|series| series.histograms.clear());
            vector.prune();
        }
        if frame.steps > 1 {
            self.notes.borrow_mut().sort_in_range(at);
            return Ok(vector);
        }
        self.ordered.set(true);
        let value = |series: &Series| series.values.first().copied().unwrap_or(f64::NAN);
        match name {
            "sort" => vector.series.sort_by(|a, b| nan_last(value(a), value(b))),
            "sort_desc" => vector.series.sort_by(|a, b| nan_last(-value(a), -value(b))),
            "sort_by_label" => vector.series.sort_by(|a, b| by_labels(a, b, &labels)),
            _ => vector.series.sort_by(|a, b| by_labels(b, a, &labels)),
        }
        Ok(vector)
    }
}

/// Orders values; NaN comes last.
fn nan_last(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => nan_first(a, b),
        (a, b) => a.cmp(&b),
    }
}

fn by_labels(a: &Series, b: &Series, names: &[&str]) -> Ordering {
    let value = |series: &Series, name: &str| series.labels.get(name).unwrap_or_default().to_owned();
    names
        .iter()
        .map(|name| natural(&value(a, name), &value(b, name)))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.labels.cmp(&b.labels))
}

/// Orders texts with the numbers in them by their value.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (one, two) = (chunk(&mut left), chunk(&mut right));
        let order = match (one.parse::<u64>(), two.parse::<u64>()) {
            (Ok(one), Ok(two)) => one.cmp(&two),
            _ => one.cmp(two),
        };
        if order.is_ne() {
            return order;
        }
        if one.is_empty() {
            return a.cmp(b);
        }
    }
}

/// Takes the leading digits, or all before the next digit.
fn chunk<'a>(rest: &mut &'a str) -> &'a str {
    let digits = rest.starts_with(|c: char| c.is_ascii_digit());
    let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
    let (head, tail) = rest.split_at(end);
    *rest = tail;
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_texts_count_as_numbers() {
        let mut names = ["4m1000", "4m600", "cpu10", "cpu2", "cpu", "cpu2a", "", "007", "7"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["", "4m600", "4m1000", "007", "7", "cpu", "cpu2", "cpu2a", "cpu10"]);
    }

    #[test]
    fn nan_comes_last_whatever_its_sign() {
        let mut values = [f64::NAN, 2.0, -f64::NAN, 1.0];
        values.sort_by(|a, b| nan_last(*a, *b));
        assert_eq!(values[..2], [1.0, 2.0]);
    }
}
