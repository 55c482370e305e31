//! Aggregations and lists of labels.

use super::{Parsed, Parser, Result};
use crate::ast::{Aggregate, AggregateOp, Expr, ExprKind, Grouping, Span};
use crate::lexer::{Kind, Token};

impl Parser<'_> {
    /// Tells whether the word that comes is an aggregation rather than a metric of that name.
    pub(super) fn starts_aggregate(&self) -> bool {
        let next = self.peek_at(1);
        next.kind == Kind::Mark("(")
            || (matches!(next.kind, Kind::Keyword(_)) && matches!(&*next.text, "by" | "without"))
    }

    pub(super) fn aggregate(&mut self) -> Result<Parsed> {
        let word = self.take();
        self.aggregations += 1;
        let mut grouping = self.grouping()?;
        let (args, depth) = self.arguments()?;
        self.aggregations -= 1;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let span = Span { start: word.span.start, end: self.last_end() };
        let grouping = grouping.unwrap_or(Grouping::By(Vec::new()));
        let kind = self.aggregate_of(&word, span, grouping, args)?;
        self.bounded(Expr { span, kind }, depth + 1)
    }

    fn aggregate_of(&self, word: &Token, span: Span, grouping: Grouping, args: Vec<Expr>) -> Result<ExprKind> {
        let Some(op) = AggregateOp::from_text(&word.text) else {
            return Err(self.fail(word.span, format!("unknown aggregation {}", word.text)));
        };
        if args.is_empty() {
            return Err(self.fail(span, "no arguments for aggregate expression provided"));
        }
        if matches!(op, AggregateOp::Limitk | AggregateOp::LimitRatio) && !self.options.experimental_functions {
            let message = format!(
                "{}() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
                op.as_str()
            );
            return Err(self.fail(span, message));
        }
        let wanted = if op.has_param() { 2 } else { 1 };
        let got = args.len();
        let mut args = args.into_iter();
        let param = if op.has_param() { args.next().map(Box::new) } else { None };
        match (args.next(), got == wanted) {
            (Some(expr), true) => Ok(ExprKind::Aggregate(Aggregate { op, grouping, param, expr: Box::new(expr) })),
            _ => {
                let message = format!(
                    "wrong number of arguments for aggregate expression provided, expected {wanted}, got {got}"
                );
                Err(self.fail(span, message))
            }
        }
    }

    fn grouping(&mut self) -> Result<Option<Grouping>> {
        if self.accept_keyword("by").is_some() {
            return Ok(Some(Grouping::By(self.grouping_labels()?)));
        }
        if self.accept_keyword("without").is_some() {
            return Ok(Some(Grouping::Without(self.grouping_labels()?)));
        }
        Ok(None)
    }

    pub(super) fn grouping_labels(&mut self) -> Result<Vec<String>> {
        if self.accept("(").is_none() {
            return Err(self.unexpected_in("grouping opts", "\"(\""));
        }
        let mut labels = Vec::new();
        if self.accept(")").is_some() {
            return Ok(labels);
        }
        loop {
            labels.push(self.grouping_label()?);
            if self.accept(")").is_some() {
                return Ok(labels);
            }
            if self.accept(",").is_none() {
                return Err(self.unexpected_in("grouping opts", "\",\" or \")\""));
            }
            if self.accept(")").is_some() {
                return Ok(labels);
            }
        }
    }

    fn grouping_label(&mut self) -> Result<String> {
        let token = self.peek();
        let fits = match token.kind {
            Kind::Identifier | Kind::MetricIdentifier => true,
            Kind::Keyword(_) => token.text != "without",
            Kind::String if token.text.is_empty() => {
                return Err(self.fail(token.span, "invalid label name for grouping: \"\""));
            }
            Kind::String => true,
            _ => false,
        };
        if !fits {
            return Err(self.unexpected_in("grouping opts", "label"));
        }
        let token = self.take();
        Ok(self.as_written(&token))
    }
}
