//! Label matchers: the four predicates of a selector.

use std::fmt;

use regex::Regex;

/// The operator of a matcher.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// Gives the operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        }
    }
}

/// A predicate on one label; an absent label counts as the empty string.
#[derive(Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    regex: Option<Regex>,
}

/// A regular expression that does not compile, or compiles to something too large.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid regular expression \"{pattern}\": {reason}")]
pub struct MatcherError {
    /// What was given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Bytes that one regular expression may take when it is compiled.
pub const REGEX_BYTES_MAX: usize = 10 << 20;

/// Compiles a regular expression as Prometheus does: anchored at both ends, `.` matches line feeds, size bounded.
pub fn compile_anchored(pattern: &str) -> Result<Regex, MatcherError> {
    compile_within(pattern, REGEX_BYTES_MAX)
}

/// As [`compile_anchored`], with a bound of its own: a few letters may compile to megabytes, and who takes many expressions from one
/// sender bounds them together.
fn compile_within(pattern: &str, bytes_max: usize) -> Result<Regex, MatcherError> {
    regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
        .size_limit(bytes_max)
        .build()
        .map_err(|e| MatcherError { pattern: pattern.to_owned(), reason: e.to_string() })
}

impl Matcher {
    /// Builds a matcher.
    ///
    /// **Errors** when a regular expression does not compile.
    pub fn new(name: impl Into<String>, op: MatchOp, value: impl Into<String>) -> Result<Matcher, MatcherError> {
        Matcher::new_within(name, op, value, REGEX_BYTES_MAX)
    }

    /// Builds a matcher whose regular expression takes no more than so many bytes when it is compiled.
    ///
    /// **Errors** when it does not compile, or to more.
    pub fn new_within(
        name: impl Into<String>,
        op: MatchOp,
        value: impl Into<String>,
        bytes_max: usize,
    ) -> Result<Matcher, MatcherError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(compile_within(&value, bytes_max)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Matcher { name: name.into(), op, value, regex })
    }

    /// Builds `name="value"`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Matcher {
        Matcher { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// Gives the label's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the operator.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// Gives the value or pattern.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Tells whether a value of the label is accepted; pass `""` for an absent label.
    pub fn matches(&self, value: &str) -> bool {
        match (&self.regex, self.op) {
            (Some(regex), MatchOp::Regex) => regex.is_match(value),
            (Some(regex), _) => !regex.is_match(value),
            (None, MatchOp::Equal) => value == self.value,
            (None, _) => value != self.value,
        }
    }

    /// Tells whether a series without the label is accepted.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.op == other.op && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.name, self.op.as_str(), self.value)
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
