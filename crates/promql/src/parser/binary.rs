//! Binary operators: precedence, `bool`, vector matching, fill values.

use super::{Parsed, Parser, Result};
use crate::ast::{Binary, BinaryOp, Cardinality, Expr, ExprKind, Matching, Span};
use crate::lexer::{Keyword, Kind, Token};

/// What binds more tightly than a sign: `-a ^ b` is `-(a ^ b)`, `-a * b` is `(-a) * b`.
pub(super) const ABOVE_SIGN: u8 = 6;

/// Gives the operator a token stands for, and how tightly it binds.
pub(super) fn operator(token: &Token) -> Option<(BinaryOp, u8)> {
    let text = match token.kind {
        Kind::Op(op) => op,
        Kind::Keyword(Keyword::Operator) => token.text.as_str(),
        _ => return None,
    };
    BinaryOp::from_text(text).map(|op| (op, precedence(op)))
}

fn precedence(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And | BinaryOp::Unless => 2,
        BinaryOp::Eql
        | BinaryOp::Neq
        | BinaryOp::Lss
        | BinaryOp::Lte
        | BinaryOp::Gtr
        | BinaryOp::Gte
        | BinaryOp::TrimUpper
        | BinaryOp::TrimLower => 3,
        BinaryOp::Add | BinaryOp::Sub => 4,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => 5,
        BinaryOp::Pow => 6,
    }
}

impl Parser<'_> {
    pub(super) fn binary(&mut self, left: Parsed, op: BinaryOp, precedence: u8) -> Result<Parsed> {
        self.take();
        let return_bool = self.accept_keyword("bool").is_some();
        let mut matching = self.matching(op)?;
        let filled = self.fill(&mut matching)?;
        let right_assoc = op == BinaryOp::Pow;
        let right = self.expr(if right_assoc { precedence } else { precedence + 1 })?;
        let span = Span { start: left.expr.span.start, end: right.expr.span.end };
        if filled && !self.options.fill_modifiers {
            return Err(self.fail(span, "binop fill modifiers are experimental and not enabled"));
        }
        let binary = Binary { op, return_bool, matching, lhs: Box::new(left.expr), rhs: Box::new(right.expr) };
        self.bounded(Expr { span, kind: ExprKind::Binary(binary) }, left.depth.max(right.depth) + 1)
    }

    fn matching(&mut self, op: BinaryOp) -> Result<Option<Matching>> {
        let on = self.accept_keyword("on").is_some();
        if !on && self.accept_keyword("ignoring").is_none() {
            return Ok(None);
        }
        let labels = self.grouping_labels()?;
        let cardinality = if self.accept_keyword("group_left").is_some() {
            Cardinality::ManyToOne
        } else if self.accept_keyword("group_right").is_some() {
            Cardinality::OneToMany
        } else if op.is_set() {
            Cardinality::ManyToMany
        } else {
            Cardinality::OneToOne
        };
        let grouped = matches!(cardinality, Cardinality::ManyToOne | Cardinality::OneToMany);
        let include = if grouped && self.is_mark("(") { self.grouping_labels()? } else { Vec::new() };
        Ok(Some(Matching { on, labels, cardinality, include, fill_left: None, fill_right: None }))
    }

    /// Parses `fill(x)`, or `fill_left(x)` and `fill_right(y)` in any order; tells whether there was one.
    fn fill(&mut self, matching: &mut Option<Matching>) -> Result<bool> {
        let (mut left, mut right) = (None, None);
        if self.accept_keyword("fill").is_some() {
            left = Some(self.fill_value()?);
            right = left;
        } else {
            loop {
                if left.is_none() && self.accept_keyword("fill_left").is_some() {
                    left = Some(self.fill_value()?);
                } else if right.is_none() && self.accept_keyword("fill_right").is_some() {
                    right = Some(self.fill_value()?);
                } else {
                    break;
                }
            }
        }
        if left.is_none() && right.is_none() {
            return Ok(false);
        }
        let matching = matching.get_or_insert_with(Matching::default);
        (matching.fill_left, matching.fill_right) = (left, right);
        Ok(true)
    }

    fn fill_value(&mut self) -> Result<f64> {
        self.expect("(")?;
        let negative = self.peek().kind == Kind::Op("-");
        if negative || self.peek().kind == Kind::Op("+") {
            self.take();
        }
        if !matches!(self.peek().kind, Kind::Number | Kind::Duration) {
            return Err(self.unexpected_in("fill modifier", "number"));
        }
        let value = match self.number_literal()?.kind {
            ExprKind::Number(v) | ExprKind::Duration(v) => v,
            _ => f64::NAN,
        };
        self.expect(")")?;
        Ok(if negative { -value } else { value })
    }
}
