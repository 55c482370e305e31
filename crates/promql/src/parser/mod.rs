//! Tokens → syntax tree: operators by precedence, everything else by recursive descent.
//!
//! Limits: a query has at most [`MAX_QUERY_BYTES`]; its text nests at most [`MAX_NESTING`] deep and its tree, chains of operators
//! included, is at most [`MAX_DEPTH`] high, so that nothing that walks the tree can exhaust the stack. It has at most [`MAX_PATTERNS`]
//! regular expressions, which share [`MAX_PATTERN_BYTES`] when they are compiled.

mod aggregate;
mod binary;
mod duration;
mod selector;

use model::Matcher;

use crate::ast::{At, Expr, ExprKind, RangeExtension, Span, VectorSelector};
use crate::error::ParseError;
use crate::lexer::{Keyword, Kind, Token, lex};
use crate::{check, functions_table, go_text, number};

/// The longest query in bytes.
pub const MAX_QUERY_BYTES: usize = 1 << 20;
/// The deepest nesting of parentheses, calls and signs.
pub const MAX_NESTING: u32 = 128;
/// The highest syntax tree.
pub const MAX_DEPTH: u32 = 512;
/// Regular expressions of one query, or of all selectors of one request.
pub const MAX_PATTERNS: usize = 1_000;
/// What they may come to when they are compiled; each may take its share, and no more than one alone may.
pub const MAX_PATTERN_BYTES: usize = 32 << 20;

/// Which experimental parts of the language are understood; all are by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseOptions {
    /// Functions and aggregations behind `promql-experimental-functions`.
    pub experimental_functions: bool,
    /// Arithmetic in durations.
    pub duration_expr: bool,
    /// `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `fill`, `fill_left`, `fill_right`.
    pub fill_modifiers: bool,
}

impl Default for ParseOptions {
    fn default() -> Self {
        ParseOptions {
            experimental_functions: true,
            duration_expr: true,
            extended_range_selectors: true,
            fill_modifiers: true,
        }
    }
}

/// Parses and type-checks a query, experimental parts included.
///
/// **Errors** print as Prometheus prints them.
pub fn parse(query: &str) -> Result<Expr, ParseError> {
    parse_with(query, &ParseOptions::default())
}

/// Parses and type-checks a query.
pub fn parse_with(query: &str, options: &ParseOptions) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(query, options)?;
    if parser.peek().kind == Kind::End {
        return Err(parser.fail(Span::default(), "no expression found in input"));
    }
    let mut expr = parser.expr(0)?.expr;
    parser.expect_end()?;
    check::check(query, &mut expr)?;
    Ok(expr)
}

/// Parses a selector of series as in `match[]`; gives its matchers.
///
/// **Errors** also when every matcher accepts the empty string, because that would select all series.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    selector_beside(text, patterns_in(text))
}

/// Parses the selectors of one request, which share what one query may use.
///
/// **Errors** as [`parse_selector`].
pub fn parse_selectors(texts: &[&str]) -> Result<Vec<Vec<Matcher>>, ParseError> {
    let patterns = texts.iter().map(|text| patterns_in(text)).sum();
    texts.iter().map(|text| selector_beside(text, patterns)).collect()
}

/// Counts the regular expressions of a text; those in its strings, which are none, count as well.
fn patterns_in(text: &str) -> usize {
    text.matches("=~").count() + text.matches("!~").count()
}

fn selector_beside(text: &str, patterns: usize) -> Result<Vec<Matcher>, ParseError> {
    let options = ParseOptions::default();
    let mut parser = Parser::beside(text, &options, patterns)?;
    let parsed = parser.vector_selector()?;
    parser.expect_end()?;
    let ExprKind::Vector(VectorSelector { matchers, .. }) = parsed.kind else {
        return Err(parser.fail(parsed.span, "expected a selector"));
    };
    if matchers.iter().all(Matcher::matches_empty) {
        let message = "match[] must contain at least one non-empty matcher".to_owned();
        return Err(ParseError { line: 0, column: 0, span: parsed.span, message });
    }
    Ok(matchers)
}

/// An expression with the height of its tree.
struct Parsed {
    expr: Expr,
    depth: u32,
}

struct Parser<'a> {
    query: &'a str,
    options: &'a ParseOptions,
    tokens: Vec<Token>,
    at: usize,
    nesting: u32,
    /// How many aggregations are open; errors say so.
    aggregations: u32,
    /// What each regular expression may come to.
    pattern_bytes: usize,
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

impl<'a> Parser<'a> {
    fn new(query: &'a str, options: &'a ParseOptions) -> Result<Parser<'a>> {
        Parser::beside(query, options, patterns_in(query))
    }

    /// **Takes** how many regular expressions there are in all, here and beside.
    fn beside(query: &'a str, options: &'a ParseOptions, patterns: usize) -> Result<Parser<'a>> {
        if query.len() > MAX_QUERY_BYTES {
            let message = format!("query is too long: {} bytes, at most {MAX_QUERY_BYTES}", query.len());
            return Err(ParseError::new(query, Span::default(), message));
        }
        if patterns > MAX_PATTERNS {
            let message = format!("{patterns} regular expressions, at most {MAX_PATTERNS}");
            return Err(ParseError::new(query, Span::default(), message));
        }
        let pattern_bytes = (MAX_PATTERN_BYTES / patterns.max(1)).min(model::REGEX_BYTES_MAX);
        Ok(Parser { query, options, tokens: lex(query), at: 0, nesting: 0, aggregations: 0, pattern_bytes })
    }

    fn fail(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::new(self.query, span, message)
    }

    /// The token that comes; past the last one it stays the last one.
    fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        static END: Token = Token { kind: Kind::End, span: Span { start: 0, end: 0 }, text: String::new() };
        self.tokens.get(self.at + ahead).or(self.tokens.last()).unwrap_or(&END)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn is_mark(&self, mark: &'static str) -> bool {
        self.peek().kind == Kind::Mark(mark)
    }

    fn accept(&mut self, mark: &'static str) -> Option<Token> {
        self.is_mark(mark).then(|| self.take())
    }

    fn is_keyword(&self, word: &str) -> bool {
        let token = self.peek();
        matches!(token.kind, Kind::Keyword(_)) && token.text == word
    }

    fn accept_keyword(&mut self, word: &str) -> Option<Token> {
        self.is_keyword(word).then(|| self.take())
    }

    /// The end of the token before this one.
    fn last_end(&self) -> u32 {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |t| t.span.end)
    }

    /// Complains about the coming token, in the innermost construct that is open.
    fn unexpected(&self) -> ParseError {
        self.unexpected_in(if self.aggregations > 0 { "aggregation" } else { "" }, "")
    }

    fn unexpected_in(&self, context: &str, expected: &str) -> ParseError {
        let token = self.peek();
        if token.kind == Kind::Error {
            return self.fail(token.span, token.text.clone());
        }
        let mut message = format!("unexpected {}", token.describe(self.query));
        if !context.is_empty() {
            message += &format!(" in {context}");
        }
        if !expected.is_empty() {
            message += &format!(", expected {expected}");
        }
        self.fail(token.span, message)
    }

    fn expect_end(&self) -> Result<()> {
        if self.peek().kind == Kind::End { Ok(()) } else { Err(self.unexpected()) }
    }

    fn expect(&mut self, mark: &'static str) -> Result<Token> {
        self.accept(mark).ok_or_else(|| self.unexpected())
    }

    fn enter(&mut self) -> Result<()> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.fail(self.peek().span, format!("expression is nested more than {MAX_NESTING} deep")));
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.nesting -= 1;
    }

    fn bounded(&self, expr: Expr, depth: u32) -> Result<Parsed> {
        if depth > MAX_DEPTH {
            return Err(self.fail(expr.span, format!("expression is more than {MAX_DEPTH} operations deep")));
        }
        Ok(Parsed { expr, depth })
    }

    /// Parses operands and all operators that bind at least as tightly as `min`.
    fn expr(&mut self, min: u8) -> Result<Parsed> {
        self.enter()?;
        let mut left = self.operand()?;
        left = self.postfix(left)?;
        while let Some((op, precedence)) = binary::operator(self.peek()) {
            if precedence < min {
                break;
            }
            left = self.binary(left, op, precedence)?;
        }
        self.leave();
        Ok(left)
    }

    fn operand(&mut self) -> Result<Parsed> {
        let token = self.peek();
        let leaf = |expr| Ok(Parsed { expr, depth: 1 });
        match token.kind {
            Kind::Op("+" | "-") => self.unary(),
            Kind::Mark("(") => self.paren(),
            Kind::Number | Kind::Duration => leaf(self.number_literal()?),
            Kind::String => {
                let token = self.take();
                leaf(Expr { span: token.span, kind: ExprKind::String(token.text) })
            }
            Kind::Mark("{") | Kind::MetricIdentifier => leaf(self.vector_selector()?),
            Kind::Identifier => self.call_or_selector(),
            Kind::Keyword(Keyword::Preprocessor) => self.call_or_selector(),
            Kind::Keyword(Keyword::Aggregator) if self.starts_aggregate() => self.aggregate(),
            Kind::Keyword(_) => leaf(self.vector_selector()?),
            _ => Err(self.unexpected()),
        }
    }

    fn number_literal(&mut self) -> Result<Expr> {
        let token = self.take();
        let kind = match token.kind {
            Kind::Duration => {
                let ms = go_text::parse_duration(&token.text).map_err(|e| self.fail(token.span, e))?;
                ExprKind::Duration(go_text::seconds(ms))
            }
            _ => ExprKind::Number(number::parse(&token.text).map_err(|e| self.fail(token.span, e))?),
        };
        Ok(Expr { span: token.span, kind })
    }

    fn unary(&mut self) -> Result<Parsed> {
        let sign = self.take();
        let negative = sign.kind == Kind::Op("-");
        let Parsed { mut expr, depth } = self.expr(binary::ABOVE_SIGN)?;
        let span = Span { start: sign.span.start, end: expr.span.end };
        match &mut expr.kind {
            ExprKind::Number(value) | ExprKind::Duration(value) => {
                *value = if negative { -*value } else { *value };
                expr.span = span;
                Ok(Parsed { expr, depth })
            }
            _ => self.bounded(Expr { span, kind: ExprKind::Unary { negative, expr: Box::new(expr) } }, depth + 1),
        }
    }

    fn paren(&mut self) -> Result<Parsed> {
        let open = self.take();
        let Parsed { expr, depth } = self.expr(0)?;
        let close = self.expect(")")?;
        let span = Span { start: open.span.start, end: close.span.end };
        self.bounded(Expr { span, kind: ExprKind::Paren(Box::new(expr)) }, depth + 1)
    }

    fn call_or_selector(&mut self) -> Result<Parsed> {
        if self.peek_at(1).kind != Kind::Mark("(") {
            return Ok(Parsed { expr: self.vector_selector()?, depth: 1 });
        }
        let name = self.take();
        let (args, depth) = self.arguments()?;
        let Some(spec) = functions_table::lookup(&name.text) else {
            let message = format!("unknown function with name {}", go_text::quote(&name.text));
            return Err(self.fail(name.span, message));
        };
        if spec.experimental && !self.options.experimental_functions {
            let message = format!("function {} is not enabled", go_text::quote(&name.text));
            return Err(self.fail(name.span, message));
        }
        let span = Span { start: name.span.start, end: self.last_end() };
        self.bounded(Expr { span, kind: ExprKind::Call { name: spec.name, args } }, depth + 1)
    }

    /// Parses `(a, b)`; gives also the height of the highest.
    fn arguments(&mut self) -> Result<(Vec<Expr>, u32)> {
        self.expect("(")?;
        let (mut args, mut highest) = (Vec::new(), 0);
        if self.accept(")").is_some() {
            return Ok((args, highest));
        }
        loop {
            let Parsed { expr, depth } = self.expr(0)?;
            args.push(expr);
            highest = highest.max(depth);
            if self.accept(")").is_some() {
                return Ok((args, highest));
            }
            let comma = self.expect(",")?;
            if self.is_mark(")") {
                return Err(self.fail(comma.span, "trailing commas not allowed in function call args"));
            }
        }
    }

    fn postfix(&mut self, mut left: Parsed) -> Result<Parsed> {
        loop {
            if self.is_mark("[") {
                left = self.brackets(left)?;
            } else if self.accept_keyword("offset").is_some() {
                self.offset(&mut left.expr)?;
            } else if self.peek().kind == Kind::Op("@") {
                self.take();
                self.at_modifier(&mut left.expr)?;
            } else if self.accept_keyword("anchored").is_some() {
                self.extension(&mut left.expr, RangeExtension::Anchored)?;
            } else if self.accept_keyword("smoothed").is_some() {
                self.extension(&mut left.expr, RangeExtension::Smoothed)?;
            } else {
                return Ok(left);
            }
        }
    }

    fn at_modifier(&mut self, expr: &mut Expr) -> Result<()> {
        let at = match self.peek().kind {
            Kind::Keyword(Keyword::Preprocessor) if self.is_keyword("start") || self.is_keyword("end") => {
                let word = self.take();
                if self.accept("(").is_none() || self.accept(")").is_none() {
                    return Err(self.unexpected_in("@", "timestamp"));
                }
                if word.text == "start" { At::Start } else { At::End }
            }
            _ => At::TimeMs(self.timestamp(expr.span)?),
        };
        let span = expr.span;
        let slot = match &mut expr.kind {
            ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => &mut selector.at,
            ExprKind::Subquery { at, .. } => at,
            _ => {
                let message =
                    "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return Err(self.fail(span, message));
            }
        };
        if slot.replace(at).is_some() {
            return Err(self.fail(span, "@ <timestamp> may not be set multiple times"));
        }
        expr.span.end = self.last_end();
        Ok(())
    }

    fn timestamp(&mut self, expr: Span) -> Result<i64> {
        let negative = self.peek().kind == Kind::Op("-");
        if negative || self.peek().kind == Kind::Op("+") {
            self.take();
        }
        if !matches!(self.peek().kind, Kind::Number | Kind::Duration) {
            return Err(self.unexpected_in("@", "timestamp"));
        }
        let seconds = match self.number_literal()?.kind {
            ExprKind::Number(v) | ExprKind::Duration(v) if negative => -v,
            ExprKind::Number(v) | ExprKind::Duration(v) => v,
            _ => f64::NAN,
        };
        if !seconds.is_finite() || seconds.abs() >= i64::MAX as f64 {
            let text = if seconds.is_finite() { format!("{seconds:.6}") } else { go_text::float(seconds) };
            return Err(self.fail(expr, format!("timestamp out of bounds for @ modifier: {text}")));
        }
        Ok((seconds * 1000.0).round() as i64)
    }

    fn extension(&mut self, expr: &mut Expr, extension: RangeExtension) -> Result<()> {
        let word = if extension == RangeExtension::Anchored { "anchored" } else { "smoothed" };
        if !self.options.extended_range_selectors {
            return Err(self.fail(expr.span, format!("{word} modifier is experimental and not enabled")));
        }
        let span = expr.span;
        let slot = match &mut expr.kind {
            ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => &mut selector.extension,
            ExprKind::Subquery { .. } => {
                return Err(self.fail(span, format!("{word} modifier is not supported for subqueries")));
            }
            _ => return Err(self.fail(span, format!("{word} modifier not implemented"))),
        };
        if slot.is_some_and(|old| old != extension) {
            return Err(self.fail(span, "anchored and smoothed modifiers cannot be used together"));
        }
        *slot = Some(extension);
        Ok(())
    }
}
