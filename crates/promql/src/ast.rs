//! The syntax tree of PromQL. Every node knows its place in the query text.

use model::Matcher;

/// Byte range in the query text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// An expression with its place.
#[derive(Clone, PartialEq, Debug)]
pub struct Expr {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub kind: ExprKind,
}

/// What an expression is.
#[derive(Clone, PartialEq, Debug)]
pub enum ExprKind {
    /// `1.5`, `0x1f`, `Inf`.
    Number(f64),
    /// `5m` where a number stands: seconds. Means the same as a number, prints as it was written.
    Duration(f64),
    /// `"text"`.
    String(String),
    /// `foo{a="b"} @ 5 offset 1m`.
    Vector(VectorSelector),
    /// `foo[5m]` with modifiers on the selector.
    Matrix {
        /// The selector, modifiers included.
        selector: VectorSelector,
        /// The window.
        range: DurationExpr,
    },
    /// `expr[1h:5m] @ 5 offset 1m`.
    Subquery {
        /// What is evaluated at each step.
        expr: Box<Expr>,
        /// The window.
        range: DurationExpr,
        /// The step; `None` means the default evaluation interval.
        step: Option<DurationExpr>,
        /// `offset`.
        offset: Option<DurationExpr>,
        /// `@`.
        at: Option<At>,
    },
    /// `sum by (a) (expr)`.
    Aggregate(Aggregate),
    /// `rate(foo[5m])`.
    Call {
        /// The function's name, as in the table of functions.
        name: &'static str,
        /// Its arguments.
        args: Vec<Expr>,
    },
    /// `a + on (x) group_left b`.
    Binary(Binary),
    /// `-expr` or `+expr`.
    Unary {
        /// Whether the sign is a minus.
        negative: bool,
        /// The operand.
        expr: Box<Expr>,
    },
    /// `(expr)`.
    Paren(Box<Expr>),
}

/// A selector of series with its time modifiers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct VectorSelector {
    /// The name before the braces, if any; it is among the matchers too.
    pub name: Option<String>,
    /// All matchers, that of the name included.
    pub matchers: Vec<Matcher>,
    /// `offset`.
    pub offset: Option<DurationExpr>,
    /// `@`.
    pub at: Option<At>,
    /// `anchored` or `smoothed`, of range selectors and instant selectors.
    pub extension: Option<RangeExtension>,
}

/// The experimental range modifiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeExtension {
    /// `anchored`
    Anchored,
    /// `smoothed`
    Smoothed,
}

/// `@ time`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum At {
    /// A Unix time in milliseconds.
    TimeMs(i64),
    /// `start()`
    Start,
    /// `end()`
    End,
}

/// A duration, plain or computed (experimental: `[5m * 2]`, `[step()]`).
#[derive(Clone, PartialEq, Debug)]
pub enum DurationExpr {
    /// Milliseconds; may be negative in an offset.
    Ms(i64),
    /// An arithmetic expression over numbers, durations, `step()`, `range()`, `min`, `max`; seconds.
    Computed(Box<DurationNode>),
}

/// A node of a computed duration; the value is in seconds.
#[derive(Clone, PartialEq, Debug)]
pub enum DurationNode {
    /// Seconds, written as a number.
    Number(f64),
    /// Seconds, written as a duration.
    Duration(f64),
    /// The query's step.
    Step,
    /// The query's range (end - start).
    Range,
    /// `-x`
    Neg(Box<DurationNode>),
    /// Two operands.
    Binary(DurationOp, Box<DurationNode>, Box<DurationNode>),
    /// `(x)`
    Paren(Box<DurationNode>),
}

/// The operators of computed durations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum DurationOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Min,
    Max,
}

/// An aggregation.
#[derive(Clone, PartialEq, Debug)]
pub struct Aggregate {
    /// Which one.
    pub op: AggregateOp,
    /// `by` or `without`, with the labels.
    pub grouping: Grouping,
    /// The first argument of `topk`, `quantile` and the like.
    pub param: Option<Box<Expr>>,
    /// What is aggregated.
    pub expr: Box<Expr>,
}

/// How an aggregation groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grouping {
    /// By these labels; an empty list makes one group.
    By(Vec<String>),
    /// By all labels but these (and the name).
    Without(Vec<String>),
}

/// The aggregation operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

/// A binary operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Binary {
    /// The operator.
    pub op: BinaryOp,
    /// Whether `bool` stands behind a comparison.
    pub return_bool: bool,
    /// `on`, `ignoring`, `group_left`, `group_right`, `fill`; `None` when nothing was written.
    pub matching: Option<Matching>,
    /// Left operand.
    pub lhs: Box<Expr>,
    /// Right operand.
    pub rhs: Box<Expr>,
}

/// The binary operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eql,
    Neq,
    Lss,
    Lte,
    Gtr,
    Gte,
    And,
    Or,
    Unless,
    /// `</` trim upper (native histograms).
    TrimUpper,
    /// `>/` trim lower (native histograms).
    TrimLower,
}

/// How the series of the two sides find each other.
#[derive(Clone, PartialEq, Debug)]
pub struct Matching {
    /// `on` (true) or `ignoring` (false).
    pub on: bool,
    /// Its labels.
    pub labels: Vec<String>,
    /// Which side has many.
    pub cardinality: Cardinality,
    /// Labels that `group_left(...)`/`group_right(...)` copies from the one side.
    pub include: Vec<String>,
    /// `fill_left`/`fill`.
    pub fill_left: Option<f64>,
    /// `fill_right`/`fill`.
    pub fill_right: Option<f64>,
}

/// One or many on each side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Cardinality {
    OneToOne,
    ManyToOne,
    OneToMany,
    ManyToMany,
}

/// The type of an expression's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum ValueType {
    Scalar,
    String,
    Vector,
    Matrix,
}

impl ValueType {
    /// Gives Prometheus' long word, as in its errors.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::String => "string",
            ValueType::Vector => "instant vector",
            ValueType::Matrix => "range vector",
        }
    }
}

impl Default for Matching {
    /// `ignoring ()`, one to one, nothing filled: what an operator means when nothing is written.
    fn default() -> Self {
        Matching {
            on: false,
            labels: Vec::new(),
            cardinality: Cardinality::OneToOne,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        }
    }
}

const BINARY_OPS: [(BinaryOp, &str); 18] = [
    (BinaryOp::Add, "+"),
    (BinaryOp::Sub, "-"),
    (BinaryOp::Mul, "*"),
    (BinaryOp::Div, "/"),
    (BinaryOp::Mod, "%"),
    (BinaryOp::Pow, "^"),
    (BinaryOp::Atan2, "atan2"),
    (BinaryOp::Eql, "=="),
    (BinaryOp::Neq, "!="),
    (BinaryOp::Lss, "<"),
    (BinaryOp::Lte, "<="),
    (BinaryOp::Gtr, ">"),
    (BinaryOp::Gte, ">="),
    (BinaryOp::And, "and"),
    (BinaryOp::Or, "or"),
    (BinaryOp::Unless, "unless"),
    (BinaryOp::TrimUpper, "</"),
    (BinaryOp::TrimLower, ">/"),
];

impl BinaryOp {
    /// Gives the operator as it is written.
    pub fn as_str(self) -> &'static str {
        BINARY_OPS.iter().find(|(op, _)| *op == self).map_or("", |(_, text)| text)
    }

    /// Finds the operator that is written so, keywords in lower case.
    pub fn from_text(text: &str) -> Option<BinaryOp> {
        BINARY_OPS.iter().find(|(_, t)| *t == text).map(|(op, _)| *op)
    }

    /// Tells whether it compares: `==`, `!=`, `<`, `<=`, `>`, `>=`.
    pub fn is_comparison(self) -> bool {
        use BinaryOp::{Eql, Gte, Gtr, Lss, Lte, Neq};
        matches!(self, Eql | Neq | Lss | Lte | Gtr | Gte)
    }

    /// Tells whether it works on sets of series: `and`, `or`, `unless`.
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }
}

const AGGREGATE_OPS: [(AggregateOp, &str); 14] = [
    (AggregateOp::Sum, "sum"),
    (AggregateOp::Avg, "avg"),
    (AggregateOp::Count, "count"),
    (AggregateOp::Min, "min"),
    (AggregateOp::Max, "max"),
    (AggregateOp::Group, "group"),
    (AggregateOp::Stddev, "stddev"),
    (AggregateOp::Stdvar, "stdvar"),
    (AggregateOp::Topk, "topk"),
    (AggregateOp::Bottomk, "bottomk"),
    (AggregateOp::CountValues, "count_values"),
    (AggregateOp::Quantile, "quantile"),
    (AggregateOp::Limitk, "limitk"),
    (AggregateOp::LimitRatio, "limit_ratio"),
];

impl AggregateOp {
    /// Gives the word.
    pub fn as_str(self) -> &'static str {
        AGGREGATE_OPS.iter().find(|(op, _)| *op == self).map_or("", |(_, text)| text)
    }

    /// Finds the aggregation of that name, in lower case.
    pub fn from_text(text: &str) -> Option<AggregateOp> {
        AGGREGATE_OPS.iter().find(|(_, t)| *t == text).map(|(op, _)| *op)
    }

    /// Tells whether it takes a parameter before the vector.
    pub fn has_param(self) -> bool {
        use AggregateOp::{Bottomk, CountValues, LimitRatio, Limitk, Quantile, Topk};
        matches!(self, Topk | Bottomk | CountValues | Quantile | Limitk | LimitRatio)
    }
}

impl DurationOp {
    /// Gives the operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            DurationOp::Add => "+",
            DurationOp::Sub => "-",
            DurationOp::Mul => "*",
            DurationOp::Div => "/",
            DurationOp::Mod => "%",
            DurationOp::Pow => "^",
            DurationOp::Min => "min",
            DurationOp::Max => "max",
        }
    }
}
