//! Selectors of series.

use model::{LABEL_NAME, MatchOp, Matcher};

use super::{Parser, Result};
use crate::ast::{Expr, ExprKind, Span, VectorSelector};
use crate::lexer::{Keyword, Kind, Token};

impl Parser<'_> {
    /// Gives a token's word as it was written, because keywords are kept in lower case.
    pub(super) fn as_written(&self, token: &Token) -> String {
        match token.kind {
            Kind::Keyword(_) => {
                self.query.get(token.span.start as usize..token.span.end as usize).unwrap_or_default().to_owned()
            }
            _ => token.text.clone(),
        }
    }

    fn is_metric_name(&self) -> bool {
        let token = self.peek();
        match token.kind {
            Kind::Identifier | Kind::MetricIdentifier => true,
            Kind::Keyword(Keyword::Operator) => token.text != "atan2",
            Kind::Keyword(Keyword::Modifier) => {
                !matches!(&*token.text, "on" | "ignoring" | "group_left" | "group_right" | "bool")
            }
            Kind::Keyword(_) => true,
            _ => false,
        }
    }

    pub(super) fn vector_selector(&mut self) -> Result<Expr> {
        let name = self.is_metric_name().then(|| self.take());
        let mut span = name.as_ref().map_or(self.peek().span, |name| name.span);
        let mut matchers = Vec::new();
        if self.accept("{").is_some() {
            matchers = self.label_matchers()?;
            span.end = self.last_end();
        } else if name.is_none() {
            return Err(self.unexpected());
        }
        let name = name.map(|token| self.as_written(&token));
        matchers.extend(name.as_ref().map(|name| Matcher::equal(LABEL_NAME, name.as_str())));
        Ok(Expr { span, kind: ExprKind::Vector(VectorSelector { name, matchers, ..VectorSelector::default() }) })
    }

    fn label_matchers(&mut self) -> Result<Vec<Matcher>> {
        let mut matchers = Vec::new();
        loop {
            if self.accept("}").is_some() {
                return Ok(matchers);
            }
            matchers.push(self.label_matcher()?);
            if self.accept("}").is_some() {
                return Ok(matchers);
            }
            if self.accept(",").is_none() {
                return Err(self.unexpected_in("label matching", "\",\" or \"}\""));
            }
        }
    }

    fn label_matcher(&mut self) -> Result<Matcher> {
        let quoted = self.peek().kind == Kind::String;
        if !quoted && self.peek().kind != Kind::Identifier {
            return Err(self.unexpected_in("label matching", "identifier or \"}\""));
        }
        let name = self.take();
        let op = match self.peek().kind {
            Kind::Mark("=") => MatchOp::Equal,
            Kind::Op("!=") => MatchOp::NotEqual,
            Kind::Op("=~") => MatchOp::Regex,
            Kind::Op("!~") => MatchOp::NotRegex,
            Kind::Mark("," | "}") if quoted => return Ok(Matcher::equal(LABEL_NAME, name.text)),
            _ if quoted => return Err(self.unexpected_in("label matching", "\",\" or \"}\"")),
            _ => return Err(self.unexpected_in("label matching", "label matching operator")),
        };
        self.take();
        if self.peek().kind != Kind::String {
            return Err(self.unexpected_in("label matching", "string"));
        }
        let value = self.take();
        let span = Span { start: name.span.start, end: value.span.end };
        Matcher::new_within(name.text, op, value.text, self.pattern_bytes).map_err(|e| self.fail(span, e.to_string()))
    }
}
