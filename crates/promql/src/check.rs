//! Types: which value an expression has, and whether its parts fit together.

use model::{LABEL_NAME, Matcher};

use crate::ast::{
    Aggregate, AggregateOp, Binary, Cardinality, Expr, ExprKind, Matching, Span, ValueType, VectorSelector,
};
use crate::error::ParseError;
use crate::functions_table::{self, FunctionSpec};
use crate::go_text::quote;

/// Tells the type of an expression's value.
pub fn value_type(expr: &Expr) -> ValueType {
    let mut expr = expr;
    loop {
        return match &expr.kind {
            ExprKind::Number(_) | ExprKind::Duration(_) => ValueType::Scalar,
            ExprKind::String(_) => ValueType::String,
            ExprKind::Vector(_) | ExprKind::Aggregate(_) => ValueType::Vector,
            ExprKind::Matrix { .. } | ExprKind::Subquery { .. } => ValueType::Matrix,
            ExprKind::Call { name, .. } => functions_table::lookup(name).map_or(ValueType::Vector, |spec| spec.returns),
            ExprKind::Binary(binary) => binary_type(value_type(&binary.lhs), value_type(&binary.rhs)),
            ExprKind::Unary { expr: inner, .. } | ExprKind::Paren(inner) => {
                expr = inner;
                continue;
            }
        };
    }
}

fn binary_type(left: ValueType, right: ValueType) -> ValueType {
    match (left, right) {
        (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
        _ => ValueType::Vector,
    }
}

/// Checks types and arities; forgets vector matching between operands that are not both vectors.
pub(crate) fn check(query: &str, expr: &mut Expr) -> Result<ValueType, ParseError> {
    Checker { query }.check(expr)
}

struct Checker<'a> {
    query: &'a str,
}

impl Checker<'_> {
    fn fail<T>(&self, span: Span, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.query, span, message))
    }

    fn check(&self, expr: &mut Expr) -> Result<ValueType, ParseError> {
        let span = expr.span;
        match &mut expr.kind {
            ExprKind::Number(_) | ExprKind::Duration(_) => Ok(ValueType::Scalar),
            ExprKind::String(_) => Ok(ValueType::String),
            ExprKind::Vector(selector) => self.selector(selector, span).map(|()| ValueType::Vector),
            ExprKind::Matrix { selector, .. } => self.selector(selector, span).map(|()| ValueType::Matrix),
            ExprKind::Subquery { expr, .. } => match self.check(expr)? {
                ValueType::Vector => Ok(ValueType::Matrix),
                other => {
                    self.fail(span, format!("subquery is only allowed on instant vector, got {} instead", short(other)))
                }
            },
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate),
            ExprKind::Call { name, args } => match functions_table::lookup(name) {
                Some(spec) => self.call(spec, args, span),
                None => self.fail(span, format!("unknown function with name {}", quote(name))),
            },
            ExprKind::Binary(binary) => self.binary(binary, span),
            ExprKind::Unary { expr, .. } => match self.check(expr)? {
                fits @ (ValueType::Scalar | ValueType::Vector) => Ok(fits),
                other => self.fail(
                    span,
                    format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                        quote(other.as_str())
                    ),
                ),
            },
            ExprKind::Paren(inner) => self.check(inner),
        }
    }

    fn selector(&self, selector: &VectorSelector, span: Span) -> Result<(), ParseError> {
        let Some(name) = &selector.name else {
            if selector.matchers.iter().all(Matcher::matches_empty) {
                return self.fail(span, "vector selector must contain at least one non-empty matcher");
            }
            return Ok(());
        };
        let in_braces = selector.matchers.split_last().map_or(&[][..], |(_, rest)| rest);
        match in_braces.iter().find(|m| m.name() == LABEL_NAME) {
            Some(twice) => self
                .fail(span, format!("metric name must not be set twice: {} or {}", quote(name), quote(twice.value()))),
            None => Ok(()),
        }
    }

    fn expect(&self, expr: &mut Expr, want: ValueType, context: &str) -> Result<(), ParseError> {
        let got = self.check(expr)?;
        if got == want {
            return Ok(());
        }
        self.fail(expr.span, format!("expected type {} in {context}, got {}", want.as_str(), got.as_str()))
    }

    fn aggregate(&self, aggregate: &mut Aggregate) -> Result<ValueType, ParseError> {
        self.expect(&mut aggregate.expr, ValueType::Vector, "aggregation expression")?;
        let want = if aggregate.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
        if let Some(param) = &mut aggregate.param {
            self.expect(param, want, "aggregation parameter")?;
        }
        Ok(ValueType::Vector)
    }

    fn call(&self, spec: &FunctionSpec, args: &mut [Expr], span: Span) -> Result<ValueType, ParseError> {
        self.arity(spec, args.len(), span)?;
        let context = format!("call to function {}", quote(spec.name));
        if let ("info", Some(selector)) = (spec.name, args.get(1)) {
            self.info_selector(selector, span, &context)?;
        }
        for (i, arg) in args.iter_mut().enumerate() {
            let Some(&want) = spec.args.get(i).or(spec.args.last()) else { break };
            // The second argument of info() may match everything.
            if spec.name != "info" || i == 0 {
                self.expect(arg, want, &context)?;
            }
        }
        Ok(spec.returns)
    }

    fn arity(&self, spec: &FunctionSpec, got: usize, span: Span) -> Result<(), ParseError> {
        let name = quote(spec.name);
        let all = spec.args.len();
        let least = all.saturating_sub(1);
        let most = least + usize::try_from(spec.variadic).unwrap_or(0);
        match spec.variadic {
            0 if got != all => self.fail(span, format!("expected {all} argument(s) in call to {name}, got {got}")),
            0 => Ok(()),
            _ if got < least => {
                self.fail(span, format!("expected at least {least} argument(s) in call to {name}, got {got}"))
            }
            1.. if got > most => {
                self.fail(span, format!("expected at most {most} argument(s) in call to {name}, got {got}"))
            }
            _ => Ok(()),
        }
    }

    fn info_selector(&self, expr: &Expr, span: Span, context: &str) -> Result<(), ParseError> {
        let got = value_type(expr);
        if got != ValueType::Vector {
            return self.fail(span, format!("expected type instant vector in {context}, got {}", got.as_str()));
        }
        match &expr.kind {
            ExprKind::Vector(VectorSelector { name: None, .. }) => Ok(()),
            ExprKind::Vector(_) => self.fail(expr.span, "expected label selectors only, got vector selector instead"),
            _ => self.fail(expr.span, "expected label selectors only"),
        }
    }

    fn binary(&self, binary: &mut Binary, span: Span) -> Result<ValueType, ParseError> {
        let left = self.check(&mut binary.lhs)?;
        let right = self.check(&mut binary.rhs)?;
        let op_span = self.operator_span(binary);
        let comparison = binary.op.is_comparison();
        if binary.return_bool && !comparison {
            return self.fail(op_span, "bool modifier can only be used on comparison operators");
        }
        if comparison && !binary.return_bool && left == ValueType::Scalar && right == ValueType::Scalar {
            return self.fail(op_span, "comparisons between scalars must use BOOL modifier");
        }
        if let Some(m) = &binary.matching
            && m.on
            && let Some(label) = m.labels.iter().find(|label| m.include.contains(label))
        {
            let message = format!("label {} must not occur in ON and GROUP clause at once", quote(label));
            return self.fail(op_span, message);
        }
        for (side, kind) in [(&binary.lhs, left), (&binary.rhs, right)] {
            if !matches!(kind, ValueType::Scalar | ValueType::Vector) {
                return self.fail(side.span, "binary expression must contain only scalar and instant vector types");
            }
        }
        self.matching(binary, left == ValueType::Vector && right == ValueType::Vector, span)?;
        if binary.op.is_set() && (left == ValueType::Scalar || right == ValueType::Scalar) {
            let op = quote(binary.op.as_str());
            return self.fail(span, format!("set operator {op} not allowed in binary scalar expression"));
        }
        Ok(binary_type(left, right))
    }

    fn matching(&self, binary: &mut Binary, vectors: bool, span: Span) -> Result<(), ParseError> {
        let Some(m) = &binary.matching else { return Ok(()) };
        let filled = m.fill_left.is_some() || m.fill_right.is_some();
        let Matching { labels, cardinality, .. } = m;
        if !vectors {
            if !labels.is_empty() {
                return self.fail(span, "vector matching only allowed between instant vectors");
            }
            if filled {
                return self.fail(span, "filling in missing series only allowed between instant vectors");
            }
            binary.matching = None;
            return Ok(());
        }
        if binary.op.is_set() {
            if matches!(cardinality, Cardinality::OneToMany | Cardinality::ManyToOne) {
                return self.fail(span, format!("no grouping allowed for {} operation", quote(binary.op.as_str())));
            }
            if filled {
                return self.fail(span, "filling in missing series not allowed for set operators");
            }
        }
        Ok(())
    }

    /// The operator with its modifiers: what lies between the operands, without blanks.
    fn operator_span(&self, binary: &Binary) -> Span {
        let (start, end) = (binary.lhs.span.end, binary.rhs.span.start);
        let between = self.query.get(start as usize..end as usize).unwrap_or_default();
        let blanks = between.len() - between.trim_start().len();
        Span { start: start + blanks as u32, end: start + between.trim_end().len() as u32 }
    }
}

fn short(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::Vector => "vector",
        ValueType::Matrix => "matrix",
    }
}
