//! Relabel rules with Prometheus' exact semantics (3.x, UTF-8 names).
//!
//! A rule reads some labels of a set, joins their values, and keeps, drops or changes the set by it. Rules are checked once
//! by [`Rule::validate`] and then applied without errors: what does not match does nothing.

mod expand;
mod md5;

use regex::Regex;

use crate::labels::LabelsBuf;
use crate::matcher::{MatcherError, compile_anchored};

const DEFAULT_REGEX: &str = "(.*)";
const DEFAULT_REPLACEMENT: &str = "$1";
const DEFAULT_SEPARATOR: &str = ";";

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Action {
    /// Writes the expanded replacement into the target label if the regex matches.
    #[default]
    Replace,
    /// Drops the set unless the regex matches.
    Keep,
    /// Drops the set if the regex matches.
    Drop,
    /// Drops the set unless the joined values equal the target label.
    KeepEqual,
    /// Drops the set if the joined values equal the target label.
    DropEqual,
    /// Writes the joined values' hash modulo `modulus` into the target label.
    HashMod,
    /// Copies each label whose name matches to the expanded name.
    LabelMap,
    /// Removes labels whose name matches.
    LabelDrop,
    /// Removes labels whose name does not match.
    LabelKeep,
    /// Writes the joined values in lower case.
    Lowercase,
    /// Writes the joined values in upper case.
    Uppercase,
}

impl Action {
    /// All actions.
    pub const ALL: [Action; 11] = [
        Action::Replace,
        Action::Keep,
        Action::Drop,
        Action::KeepEqual,
        Action::DropEqual,
        Action::HashMod,
        Action::LabelMap,
        Action::LabelDrop,
        Action::LabelKeep,
        Action::Lowercase,
        Action::Uppercase,
    ];

    /// Gives the word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Replace => "replace",
            Action::Keep => "keep",
            Action::Drop => "drop",
            Action::KeepEqual => "keepequal",
            Action::DropEqual => "dropequal",
            Action::HashMod => "hashmod",
            Action::LabelMap => "labelmap",
            Action::LabelDrop => "labeldrop",
            Action::LabelKeep => "labelkeep",
            Action::Lowercase => "lowercase",
            Action::Uppercase => "uppercase",
        }
    }

    /// Reads the word of the configuration, in any case.
    ///
    /// **Errors** when there is no such action.
    pub fn parse(word: &str) -> Result<Action, RuleError> {
        let lower = word.to_lowercase();
        Action::ALL
            .into_iter()
            .find(|a| a.as_str() == lower)
            .ok_or_else(|| RuleError(format!("unknown relabel action {word:?}")))
    }
}

/// A rule that cannot be used; the text is Prometheus'.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(pub String);

/// An anchored regular expression that remembers how it was written.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles an expression, anchored at both ends.
    ///
    /// **Errors** when it does not compile or compiles to something too large.
    pub fn new(text: &str) -> Result<Pattern, MatcherError> {
        Ok(Pattern { text: text.to_owned(), regex: compile_anchored(text)? })
    }

    /// Gives the expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Tells whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.text == DEFAULT_REGEX || self.regex.is_match(text)
    }
}

impl Default for Pattern {
    fn default() -> Pattern {
        // A constant that compiles; the tests say so.
        Pattern::new(DEFAULT_REGEX).unwrap_or_else(|e| unreachable!("{e}"))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// One relabel rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Labels whose values are joined.
    pub source_labels: Vec<String>,
    /// Stands between the joined values.
    pub separator: String,
    /// Matched against the joined values, or against label names.
    pub regex: Pattern,
    /// For `hashmod`.
    pub modulus: u64,
    /// The label that is written; may hold references for `replace`.
    pub target_label: String,
    /// What is written; may hold references.
    pub replacement: String,
    /// What the rule does.
    pub action: Action,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule {
            source_labels: Vec::new(),
            separator: DEFAULT_SEPARATOR.to_owned(),
            regex: Pattern::default(),
            modulus: 0,
            target_label: String::new(),
            replacement: DEFAULT_REPLACEMENT.to_owned(),
            action: Action::Replace,
        }
    }
}

impl Rule {
    /// Checks that the fields fit the action.
    ///
    /// **Errors** with Prometheus' text for the first thing that does not fit.
    pub fn validate(&self) -> Result<(), RuleError> {
        use Action::*;
        let action = self.action.as_str();
        let fail = |text: String| Err(RuleError(text));
        if self.modulus == 0 && self.action == HashMod {
            return fail("relabel configuration for hashmod requires non-zero modulus".to_owned());
        }
        let writes = matches!(self.action, Replace | HashMod | Lowercase | Uppercase | KeepEqual | DropEqual);
        if writes && self.target_label.is_empty() {
            return fail(format!("relabel configuration for {action} action requires 'target_label' value"));
        }
        let plain = matches!(self.action, Lowercase | Uppercase | KeepEqual | DropEqual);
        if plain && self.replacement != DEFAULT_REPLACEMENT {
            return fail(format!("'replacement' can not be set for {action} action"));
        }
        if self.action == LabelMap && self.replacement.is_empty() {
            return fail(format!("{:?} is invalid 'replacement' for {action} action", self.replacement));
        }
        let only_regex_and_target =
            self.modulus == 0 && self.separator == DEFAULT_SEPARATOR && self.replacement == DEFAULT_REPLACEMENT;
        if matches!(self.action, KeepEqual | DropEqual)
            && !(only_regex_and_target && self.regex.as_str() == DEFAULT_REGEX)
        {
            return fail(format!(
                "{action} action requires only 'source_labels' and `target_label`, and no other fields"
            ));
        }
        if matches!(self.action, LabelDrop | LabelKeep)
            && !(only_regex_and_target && self.source_labels.is_empty() && self.target_label.is_empty())
        {
            return fail(format!("{action} action requires only 'regex', and no other fields"));
        }
        Ok(())
    }

    fn apply(&self, labels: &mut LabelsBuf) -> bool {
        match self.action {
            Action::Keep => return self.regex.matches(&self.joined(labels)),
            Action::Drop => return !self.regex.matches(&self.joined(labels)),
            Action::KeepEqual => return labels.get(&self.target_label).unwrap_or("") == self.joined(labels),
            Action::DropEqual => return labels.get(&self.target_label).unwrap_or("") != self.joined(labels),
            Action::Replace => self.replace(labels),
            Action::Lowercase => {
                let lower: String = self.joined(labels).chars().map(simple_lower).collect();
                labels.set(&self.target_label, &lower);
            }
            Action::Uppercase => {
                let upper: String = self.joined(labels).chars().map(simple_upper).collect();
                labels.set(&self.target_label, &upper);
            }
            Action::HashMod => {
                let hash = md5::digest(self.joined(labels).as_bytes());
                let low = hash[8..].iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
                labels.set(&self.target_label, &low.checked_rem(self.modulus).unwrap_or(0).to_string());
            }
            Action::LabelMap => self.map_names(labels),
            Action::LabelDrop => labels.retain(|name, _| !self.regex.matches(name)),
            Action::LabelKeep => labels.retain(|name, _| self.regex.matches(name)),
        }
        true
    }

    fn joined(&self, labels: &LabelsBuf) -> String {
        let mut out = String::new();
        for (index, name) in self.source_labels.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.separator);
            }
            out.push_str(labels.get(name).unwrap_or(""));
        }
        out
    }

    fn replace(&self, labels: &mut LabelsBuf) {
        let plain = !self.target_label.contains('$') && !self.replacement.contains('$');
        let value = self.joined(labels);
        if plain {
            if self.regex.matches(&value) {
                labels.set(&self.target_label, &self.replacement);
            }
            return;
        }
        let Some(captures) = self.regex.regex.captures(&value) else { return };
        let mut target = String::new();
        expand::expand(&self.target_label, &captures, &mut target);
        if target.is_empty() {
            return;
        }
        let mut replacement = String::new();
        expand::expand(&self.replacement, &captures, &mut replacement);
        labels.set(&target, &replacement);
    }

    fn map_names(&self, labels: &mut LabelsBuf) {
        let mut mapped: Vec<(String, String)> = Vec::new();
        for (name, value) in labels.iter() {
            if let Some(captures) = self.regex.regex.captures(name) {
                let mut to = String::new();
                expand::expand(&self.replacement, &captures, &mut to);
                mapped.push((to, value.to_owned()));
            }
        }
        for (name, value) in mapped.iter().filter(|(name, _)| !name.is_empty()) {
            labels.set(name, value);
        }
    }
}

/// Applies rules in order.
///
/// **Takes** labels whose names are unique.
/// **Gives** `false` when a rule drops the set; what the labels then hold has no meaning.
pub fn apply(rules: &[Rule], labels: &mut LabelsBuf) -> bool {
    rules.iter().all(|rule| rule.apply(labels))
}

/// One character to one character, as Go does it: `İ` becomes `i`, what has no single counterpart stays.
fn simple_lower(c: char) -> char {
    let mut all = c.to_lowercase();
    match (all.next(), all.next()) {
        (Some(one), None) => one,
        _ if c == 'İ' => 'i',
        _ => c,
    }
}

fn simple_upper(c: char) -> char {
    let mut all = c.to_uppercase();
    match (all.next(), all.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

#[cfg(test)]
mod tests;
