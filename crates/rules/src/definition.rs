//! What a rule file says, checked.

use std::collections::HashSet;

use model::Labels;
use promql::ast::{Expr, ExprKind};

use crate::template::Template;

/// Labels or annotations in order of their names: the text and the template that it is.
pub type Texts = Vec<(String, Text)>;

/// A text that may be a template.
#[derive(Clone, PartialEq, Debug)]
pub struct Text {
    /// As it stands in the file.
    pub text: String,
    /// Read once; `None` for a text without actions.
    pub template: Option<Template>,
}

impl Text {
    /// Reads a text.
    ///
    /// **Errors** when it is no template.
    pub fn read(text: &str) -> Result<Text, String> {
        let template = match text.contains("{{") {
            true => Some(Template::parse(text).map_err(|e| e.to_string())?),
            false => None,
        };
        Ok(Text { text: text.to_owned(), template })
    }
}

/// What a rule makes.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// A series of this name.
    Record(String),
    /// An alert.
    Alert {
        /// Its name.
        name: String,
        /// How long the condition must hold before it fires, in milliseconds.
        for_ms: i64,
        /// How long it goes on firing when the condition does not hold any more, in milliseconds.
        keep_firing_for_ms: i64,
        /// What people read.
        annotations: Texts,
    },
}

/// One rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// What it makes.
    pub kind: Kind,
    /// The query.
    pub expr: Expr,
    /// Labels that are set on what it makes.
    pub labels: Texts,
}

impl Rule {
    /// Gives the name of the series or of the alert.
    pub fn name(&self) -> &str {
        match &self.kind {
            Kind::Record(name) | Kind::Alert { name, .. } => name,
        }
    }

    /// Tells whether it alerts.
    pub fn is_alert(&self) -> bool {
        matches!(self.kind, Kind::Alert { .. })
    }

    /// Gives its labels as they stand in the file.
    pub fn plain_labels(&self) -> Labels {
        Labels::from_pairs(self.labels.iter().map(|(name, value)| (name, &value.text)))
    }

    /// Gives the metric names that it makes.
    fn makes(&self) -> [&str; 2] {
        match &self.kind {
            Kind::Record(name) => [name, name],
            Kind::Alert { .. } => ["ALERTS", "ALERTS_FOR_STATE"],
        }
    }
}

/// Rules that are evaluated together, in order.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupDefinition {
    /// The file.
    pub file: String,
    /// Its name, unique in the file.
    pub name: String,
    /// How often, in milliseconds; at least 1.
    pub interval_ms: i64,
    /// How far in the past the queries look, in milliseconds.
    pub query_offset_ms: i64,
    /// Most series or alerts that a rule may make; 0 means no limit.
    pub limit: usize,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl GroupDefinition {
    /// Tells for each rule whether it may read what an earlier rule of the group makes.
    pub fn dependent(&self) -> Vec<bool> {
        let mut made: HashSet<&str> = HashSet::new();
        self.rules
            .iter()
            .map(|rule| {
                let mut names = Vec::new();
                let depends =
                    !made.is_empty() && (!read_names(&rule.expr, &mut names) || names.iter().any(|n| made.contains(n)));
                // Templates may ask anything.
                let asks = texts(rule).any(|text| text.template.is_some() && text.text.contains("query"));
                made.extend(rule.makes());
                depends || asks
            })
            .collect()
    }
}

fn texts(rule: &Rule) -> impl Iterator<Item = &Text> {
    let annotations = match &rule.kind {
        Kind::Alert { annotations, .. } => annotations.as_slice(),
        Kind::Record(_) => &[],
    };
    rule.labels.iter().chain(annotations).map(|(_, text)| text)
}

/// Collects the metric names that an expression reads; gives `false` when a selector names none.
fn read_names<'e>(expr: &'e Expr, names: &mut Vec<&'e str>) -> bool {
    let mut all = true;
    let mut visit = |expr: &'e Expr| all &= read_names(expr, names);
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::Duration(_) | ExprKind::String(_) => {}
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => {
            let equal = selector.matchers.iter().find(|m| m.name() == "__name__" && m.op().as_str() == "=");
            match selector.name.as_deref().or(equal.map(|m| m.value())) {
                Some(name) => names.push(name),
                None => return false,
            }
        }
        ExprKind::Subquery { expr, .. } | ExprKind::Unary { expr, .. } | ExprKind::Paren(expr) => visit(expr),
        ExprKind::Aggregate(aggregate) => {
            aggregate.param.iter().for_each(|param| visit(param));
            visit(&aggregate.expr);
        }
        ExprKind::Call { args, .. } => args.iter().for_each(visit),
        ExprKind::Binary(binary) => {
            visit(&binary.lhs);
            visit(&binary.rhs);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(exprs: &[(&str, &str)]) -> GroupDefinition {
        let rule = |(name, expr): &(&str, &str)| Rule {
            kind: Kind::Record((*name).to_owned()),
            expr: promql::parse(expr).unwrap(),
            labels: Vec::new(),
        };
        GroupDefinition {
            file: "f".into(),
            name: "g".into(),
            interval_ms: 1000,
            query_offset_ms: 0,
            limit: 0,
            rules: exprs.iter().map(rule).collect(),
        }
    }

    #[test]
    fn a_rule_waits_for_what_it_reads() {
        let group = group(&[
            ("a", "sum(up)"),
            ("b", "rate(x[5m]) + 1"),
            ("c", "max_over_time(a[1h:1m])"),
            ("d", "{job='x'}"),
            ("e", "y or (z * on() group_left() b)"),
            ("f", "time()"),
        ]);
        assert_eq!(group.dependent(), [false, false, true, true, true, false]);
    }
}
