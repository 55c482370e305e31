//! Syntax tree → text: one line as `Display`, or broken at 100 characters as `format_query` answers.

use std::fmt::{self, Write};

use model::{LABEL_NAME, MatchOp, Matcher, is_legacy_label_name};

use crate::ast::{
    Aggregate, At, Binary, Cardinality, DurationExpr, DurationNode, DurationOp, Expr, ExprKind, Grouping, Matching,
    RangeExtension, VectorSelector,
};
use crate::go_text::{duration, float, quote};

/// Lines longer than this are broken.
const LINE_BYTES: usize = 100;

/// Prints a query over as many lines as it needs, as Prometheus' `format_query`.
pub fn format(expr: &Expr) -> String {
    pretty(expr, 0)
}

fn pretty(expr: &Expr, level: usize) -> String {
    let indent = "  ".repeat(level);
    let line = expr.to_string();
    let fits = line.len() <= LINE_BYTES;
    match &expr.kind {
        ExprKind::Unary { negative, expr } => {
            let sign = if *negative { "-" } else { "+" };
            format!("{indent}{sign}{}", pretty(expr, level).trim())
        }
        ExprKind::Subquery { .. } if fits => line,
        _ if fits => format!("{indent}{line}"),
        ExprKind::Aggregate(aggregate) => pretty_aggregate(aggregate, level),
        ExprKind::Binary(b) => {
            let op = BinaryHead(b);
            format!("{}\n{indent}{op}\n{}", pretty(&b.lhs, level + 1), pretty(&b.rhs, level + 1))
        }
        ExprKind::Call { name, args } => {
            let args: Vec<_> = args.iter().map(|arg| pretty(arg, level + 1)).collect();
            format!("{indent}{name}(\n{}\n{indent})", args.join(",\n"))
        }
        ExprKind::Paren(inner) => format!("{indent}(\n{}\n{indent})", pretty(inner, level + 1)),
        ExprKind::Subquery { expr: inner, .. } => {
            let tail = line.get(inner.to_string().len()..).unwrap_or_default();
            format!("{}{tail}", pretty(inner, level))
        }
        _ => format!("{indent}{line}"),
    }
}

fn pretty_aggregate(aggregate: &Aggregate, level: usize) -> String {
    let indent = "  ".repeat(level);
    let param = aggregate.param.as_ref().map_or(String::new(), |p| format!("{},\n", pretty(p, level + 1)));
    format!("{indent}{}(\n{param}{}\n{indent})", AggregateHead(aggregate), pretty(&aggregate.expr, level + 1))
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(v) => f.write_str(&float(*v)),
            ExprKind::Duration(v) => f.write_str(&duration_of_seconds(*v)),
            ExprKind::String(text) => f.write_str(&quote(text)),
            ExprKind::Vector(selector) => {
                write!(f, "{}", Series(selector))?;
                write_at(f, selector.at)?;
                write_extension(f, selector.extension)?;
                write_offset(f, &selector.offset)
            }
            ExprKind::Matrix { selector, range } => {
                write!(f, "{}[{range}]", Series(selector))?;
                write_extension(f, selector.extension)?;
                write_at(f, selector.at)?;
                write_offset(f, &selector.offset)
            }
            ExprKind::Subquery { expr, range, step, offset, at } => {
                write!(f, "{expr}[{range}:")?;
                if let Some(step) = step {
                    write!(f, "{step}")?;
                }
                f.write_char(']')?;
                write_at(f, *at)?;
                write_offset(f, offset)
            }
            ExprKind::Aggregate(aggregate) => {
                write!(f, "{}(", AggregateHead(aggregate))?;
                if let Some(param) = &aggregate.param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{})", aggregate.expr)
            }
            ExprKind::Call { name, args } => {
                write!(f, "{name}(")?;
                for (i, arg) in args.iter().enumerate() {
                    write!(f, "{}{arg}", if i == 0 { "" } else { ", " })?;
                }
                f.write_char(')')
            }
            ExprKind::Binary(b) => write!(f, "{} {} {}", b.lhs, BinaryHead(b), b.rhs),
            ExprKind::Unary { negative, expr } => write!(f, "{}{expr}", if *negative { '-' } else { '+' }),
            ExprKind::Paren(inner) => write!(f, "({inner})"),
        }
    }
}

/// A selector without its time modifiers.
struct Series<'a>(&'a VectorSelector);

impl fmt::Display for Series<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.name.as_deref().unwrap_or_default();
        let is_name =
            |m: &&Matcher| m.name() == LABEL_NAME && m.op() == MatchOp::Equal && m.value() == name && !name.is_empty();
        let mut matchers: Vec<_> = self.0.matchers.iter().filter(|m| !is_name(m)).map(matcher).collect();
        matchers.sort();
        f.write_str(name)?;
        if matchers.is_empty() && !name.is_empty() {
            return Ok(());
        }
        write!(f, "{{{}}}", matchers.join(","))
    }
}

fn matcher(m: &Matcher) -> String {
    format!("{}{}{}", label(m.name()), m.op().as_str(), quote(m.value()))
}

fn label(name: &str) -> String {
    if is_legacy_label_name(name) { name.to_owned() } else { quote(name) }
}

fn labels(names: &[String]) -> String {
    names.iter().map(|name| label(name)).collect::<Vec<_>>().join(", ")
}

fn write_at(f: &mut fmt::Formatter<'_>, at: Option<At>) -> fmt::Result {
    match at {
        None => Ok(()),
        Some(At::Start) => f.write_str(" @ start()"),
        Some(At::End) => f.write_str(" @ end()"),
        Some(At::TimeMs(ms)) => write!(f, " @ {:.3}", ms as f64 / 1000.0),
    }
}

fn write_extension(f: &mut fmt::Formatter<'_>, extension: Option<RangeExtension>) -> fmt::Result {
    f.write_str(match extension {
        None => "",
        Some(RangeExtension::Anchored) => " anchored",
        Some(RangeExtension::Smoothed) => " smoothed",
    })
}

fn write_offset(f: &mut fmt::Formatter<'_>, offset: &Option<DurationExpr>) -> fmt::Result {
    match offset {
        None | Some(DurationExpr::Ms(0)) => Ok(()),
        Some(offset) => write!(f, " offset {offset}"),
    }
}

struct AggregateHead<'a>(&'a Aggregate);

impl fmt::Display for AggregateHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.as_str())?;
        match &self.0.grouping {
            Grouping::Without(names) => write!(f, " without ({}) ", labels(names)),
            Grouping::By(names) if names.is_empty() => Ok(()),
            Grouping::By(names) => write!(f, " by ({}) ", labels(names)),
        }
    }
}

struct BinaryHead<'a>(&'a Binary);

impl fmt::Display for BinaryHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.as_str())?;
        if self.0.return_bool {
            f.write_str(" bool")?;
        }
        self.0.matching.as_ref().map_or(Ok(()), |matching| write_matching(f, matching))
    }
}

fn write_matching(f: &mut fmt::Formatter<'_>, m: &Matching) -> fmt::Result {
    let group = match m.cardinality {
        Cardinality::ManyToOne => Some("group_left"),
        Cardinality::OneToMany => Some("group_right"),
        Cardinality::OneToOne | Cardinality::ManyToMany => None,
    };
    if !m.labels.is_empty() || m.on || group.is_some() {
        write!(f, " {} ({})", if m.on { "on" } else { "ignoring" }, labels(&m.labels))?;
    }
    if let Some(group) = group {
        write!(f, " {group} ({})", labels(&m.include))?;
    }
    match (m.fill_left, m.fill_right) {
        (Some(left), Some(right)) if left.to_bits() == right.to_bits() => write!(f, " fill ({})", float(left)),
        (left, right) => {
            left.map_or(Ok(()), |v| write!(f, " fill_left ({})", float(v)))?;
            right.map_or(Ok(()), |v| write!(f, " fill_right ({})", float(v)))
        }
    }
}

fn duration_of_seconds(seconds: f64) -> String {
    duration((seconds * 1000.0).round() as i64)
}

impl fmt::Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DurationExpr::Ms(ms) => f.write_str(&duration(*ms)),
            DurationExpr::Computed(node) => write!(f, "{node}"),
        }
    }
}

impl fmt::Display for DurationNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DurationNode::Number(v) => f.write_str(&float(*v)),
            DurationNode::Duration(v) => f.write_str(&duration_of_seconds(*v)),
            DurationNode::Step => f.write_str("step()"),
            DurationNode::Range => f.write_str("range()"),
            DurationNode::Neg(inner) => write!(f, "-{inner}"),
            DurationNode::Paren(inner) => write!(f, "({inner})"),
            DurationNode::Binary(DurationOp::Min, a, b) => write!(f, "min({a}, {b})"),
            DurationNode::Binary(DurationOp::Max, a, b) => write!(f, "max({a}, {b})"),
            DurationNode::Binary(op, a, b) => write!(f, "{a} {} {b}", op.as_str()),
        }
    }
}
