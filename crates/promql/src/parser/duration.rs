//! Windows, steps and offsets, plain or computed.

use super::{Parsed, Parser, Result};
use crate::ast::{DurationExpr, DurationNode, DurationOp, Expr, ExprKind, Span};
use crate::lexer::{Keyword, Kind};

const RANGE_CONTEXT: (&str, &str) = ("subquery or range selector", "number, duration, step(), or range()");
const STEP_CONTEXT: (&str, &str) = ("subquery selector", "number, duration, step(), range(), or \"]\"");
const OFFSET_CONTEXT: (&str, &str) = ("offset", "number, duration, step(), or range()");

/// Seconds beyond which Go's nanoseconds overflow.
const MAX_SECONDS: f64 = 9_223_372_036.854_775;

/// The construct an error is told of.
type Context = (&'static str, &'static str);

impl Parser<'_> {
    pub(super) fn brackets(&mut self, left: Parsed) -> Result<Parsed> {
        let open = self.take();
        let range = self.positive_duration(RANGE_CONTEXT)?;
        if self.accept(":").is_some() {
            return self.subquery(left, range);
        }
        let Some(close) = self.accept("]") else {
            return Err(self.unexpected_in("subquery or range", "\":\" or \"]\""));
        };
        let brackets = Span { start: open.span.start, end: close.span.end };
        let span = Span { start: left.expr.span.start, end: close.span.end };
        let ExprKind::Vector(selector) = left.expr.kind else {
            return Err(self.fail(brackets, "ranges only allowed for vector selectors"));
        };
        if selector.offset.as_ref().is_some_and(|offset| *offset != DurationExpr::Ms(0)) {
            return Err(self.fail(brackets, "no offset modifiers allowed before range"));
        }
        if selector.at.is_some() {
            return Err(self.fail(brackets, "no @ modifiers allowed before range"));
        }
        Ok(Parsed { expr: Expr { span, kind: ExprKind::Matrix { selector, range } }, depth: left.depth })
    }

    fn subquery(&mut self, left: Parsed, range: DurationExpr) -> Result<Parsed> {
        let step = if self.is_mark("]") { None } else { Some(self.positive_duration(STEP_CONTEXT)?) };
        let Some(close) = self.accept("]") else {
            return Err(self.unexpected_in("subquery selector", "\"]\""));
        };
        let span = Span { start: left.expr.span.start, end: close.span.end };
        let kind = ExprKind::Subquery { expr: Box::new(left.expr), range, step, offset: None, at: None };
        self.bounded(Expr { span, kind }, left.depth + 1)
    }

    fn positive_duration(&mut self, context: Context) -> Result<DurationExpr> {
        let start = self.peek().span.start;
        let node = self.duration_node(0, context)?;
        let span = Span { start, end: self.last_end() };
        if literal(&node).is_some_and(|seconds| seconds.is_nan() || seconds <= 0.0) {
            return Err(self.fail(span, "duration must be greater than 0"));
        }
        self.settle(node, span)
    }

    pub(super) fn offset(&mut self, expr: &mut Expr) -> Result<()> {
        let start = self.peek().span.start;
        let node = self.duration_operand(OFFSET_CONTEXT)?;
        let offset = self.settle(node, Span { start, end: self.last_end() })?;
        let span = expr.span;
        let slot = match &mut expr.kind {
            ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => &mut selector.offset,
            ExprKind::Subquery { offset, .. } => offset,
            _ => {
                let message = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return Err(self.fail(span, message));
            }
        };
        if slot.as_ref().is_some_and(|old| *old != DurationExpr::Ms(0)) {
            return Err(self.fail(span, "offset may not be set multiple times"));
        }
        *slot = Some(offset);
        expr.span.end = self.last_end();
        Ok(())
    }

    /// Turns a literal into milliseconds and leaves the rest to the evaluation.
    fn settle(&self, node: DurationNode, span: Span) -> Result<DurationExpr> {
        let Some(seconds) = literal(&node) else {
            if !self.options.duration_expr {
                return Err(self.fail(span, "experimental duration expression is not enabled"));
            }
            return Ok(DurationExpr::Computed(Box::new(node)));
        };
        if seconds.is_nan() || seconds.abs() > MAX_SECONDS {
            return Err(self.fail(span, "duration out of range"));
        }
        Ok(DurationExpr::Ms((seconds * 1000.0).round() as i64))
    }

    fn duration_node(&mut self, min: u8, context: Context) -> Result<DurationNode> {
        let mut depth = 0;
        let mut left = self.duration_operand(context)?;
        while let Some((op, precedence)) = self.duration_operator() {
            if precedence < min {
                break;
            }
            depth += 1;
            if depth > super::MAX_DEPTH {
                return Err(self.fail(self.peek().span, "duration expression is too long"));
            }
            let sign = self.take();
            let right = self.duration_node(if op == DurationOp::Pow { precedence } else { precedence + 1 }, context)?;
            match op {
                DurationOp::Div if literal(&right) == Some(0.0) => {
                    return Err(self.fail(sign.span, "division by zero"));
                }
                DurationOp::Mod if literal(&right) == Some(0.0) => {
                    return Err(self.fail(sign.span, "modulo by zero"));
                }
                _ => left = DurationNode::Binary(op, Box::new(left), Box::new(right)),
            }
        }
        Ok(left)
    }

    fn duration_operator(&self) -> Option<(DurationOp, u8)> {
        Some(match self.peek().kind {
            Kind::Op("+") => (DurationOp::Add, 1),
            Kind::Op("-") => (DurationOp::Sub, 1),
            Kind::Op("*") => (DurationOp::Mul, 2),
            Kind::Op("/") => (DurationOp::Div, 2),
            Kind::Op("%") => (DurationOp::Mod, 2),
            Kind::Op("^") => (DurationOp::Pow, 3),
            _ => return None,
        })
    }

    fn duration_operand(&mut self, context: Context) -> Result<DurationNode> {
        self.enter()?;
        let node = self.duration_primary(context)?;
        self.leave();
        Ok(node)
    }

    fn duration_primary(&mut self, context: Context) -> Result<DurationNode> {
        match self.peek().kind {
            Kind::Op("+") => {
                self.take();
                self.signed_duration(context)
            }
            Kind::Op("-") => {
                self.take();
                Ok(match self.signed_duration(context)? {
                    DurationNode::Number(v) => DurationNode::Number(-v),
                    DurationNode::Duration(v) => DurationNode::Duration(-v),
                    node => DurationNode::Neg(Box::new(node)),
                })
            }
            Kind::Number | Kind::Duration => self.duration_literal(),
            Kind::Mark("(") => {
                self.take();
                let node = self.duration_node(0, context)?;
                self.expect_in(")", context)?;
                Ok(DurationNode::Paren(Box::new(node)))
            }
            Kind::Identifier | Kind::Keyword(Keyword::Preprocessor | Keyword::Aggregator) => {
                self.duration_call(context)
            }
            _ => Err(self.unexpected_in(context.0, context.1)),
        }
    }

    /// What a sign stands before: in an offset only the operand, elsewhere powers too.
    fn signed_duration(&mut self, context: Context) -> Result<DurationNode> {
        if context == OFFSET_CONTEXT { self.duration_operand(context) } else { self.duration_node(3, context) }
    }

    fn duration_literal(&mut self) -> Result<DurationNode> {
        let literal = self.number_literal()?;
        match literal.kind {
            ExprKind::Duration(v) => Ok(DurationNode::Duration(v)),
            ExprKind::Number(v) if v.abs() <= MAX_SECONDS => Ok(DurationNode::Number(v)),
            _ => Err(self.fail(literal.span, "duration out of range")),
        }
    }

    fn duration_call(&mut self, context: Context) -> Result<DurationNode> {
        let (step, range) = (self.is_keyword("step"), self.is_keyword("range"));
        let word = self.peek().text.to_ascii_lowercase();
        let (min, max) = (matches!(&*word, "min" | "min_of"), matches!(&*word, "max" | "max_of"));
        if !(step || range || min || max) {
            return Err(self.unexpected_in(context.0, context.1));
        }
        self.take();
        self.expect_in("(", context)?;
        let node = if step {
            DurationNode::Step
        } else if range {
            DurationNode::Range
        } else {
            let inner = RANGE_CONTEXT;
            let left = self.duration_node(0, inner)?;
            self.expect_in(",", context)?;
            let right = self.duration_node(0, inner)?;
            let op = if min { DurationOp::Min } else { DurationOp::Max };
            DurationNode::Binary(op, Box::new(left), Box::new(right))
        };
        self.expect_in(")", context)?;
        Ok(node)
    }

    fn expect_in(&mut self, mark: &'static str, context: Context) -> Result<()> {
        match self.accept(mark) {
            Some(_) => Ok(()),
            None => Err(self.unexpected_in(context.0, context.1)),
        }
    }
}

fn literal(node: &DurationNode) -> Option<f64> {
    match node {
        DurationNode::Number(v) | DurationNode::Duration(v) => Some(*v),
        _ => None,
    }
}
