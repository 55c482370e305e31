//! A target's `retention_policy`: how long samples are kept, what they are rolled up to, what goes with the target.
//!
//! Invariant: [`Policy::to_value`] reads back as the same policy; that is the form in the catalog.
//! Limits: [`SELECTORS_MAX`] selectors.

use model::format_duration_ms;
use serde_json::{Map, Value, json};
use store::{RetentionRules, RollupRule, SelectorRule, TargetRule};

use super::fields::{Fields, Issues, Severity, join};

/// Each is asked for every series.
const SELECTORS_MAX: usize = 100;
const SELECTOR_CHARS_MAX: usize = 4096;

/// The resolutions that samples can be rolled up to.
const RESOLUTIONS: [(&str, u64); 2] = [("5m", 300_000), ("1h", 3_600_000)];

/// What one target asks for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// For series that no selector accepts; `None` leaves them to the server's retention.
    pub raw_ms: Option<u64>,
    /// The first that accepts a series decides.
    pub selectors: Vec<Selected>,
    /// What samples are rolled up to, finest first, each resolution once.
    pub rollups: Vec<Rollup>,
    /// Samples go with the target.
    pub purge: bool,
}

/// Samples of some age are rolled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollup {
    /// How old they are then.
    pub after_ms: u64,
    /// The length of the stretches.
    pub resolution_ms: u64,
    /// How long the result is kept.
    pub keep_ms: u64,
}

/// What a selector asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// As it was given.
    pub selector: String,
    /// How long samples are kept.
    pub raw_ms: u64,
}

impl Policy {
    /// Reads the field `retention_policy` of a request.
    pub fn read(f: &mut Fields) -> Option<Policy> {
        let pointer = f.at("retention_policy");
        let value = f.value("retention_policy")?;
        // One that asks for nothing is none.
        Policy::of(value, &pointer, f.issues).filter(|policy| *policy != Policy::default())
    }

    fn of(value: &Value, pointer: &str, issues: &mut Issues) -> Option<Policy> {
        if let Some(text) = value.as_str() {
            // The short form: "30d".
            return match model::parse_duration_ms(text).ok().and_then(|ms| u64::try_from(ms).ok()) {
                Some(0) => {
                    issues.add(Severity::Refused, pointer, "out_of_range", "a retention must be more than 0");
                    None
                }
                Some(ms) => Some(Policy { raw_ms: Some(ms), ..Policy::default() }),
                None => {
                    issues.add(Severity::Malformed, pointer, "invalid_duration", format!("not a duration: {text:?}"));
                    None
                }
            };
        }
        let mut f = Fields::open(value, pointer, issues)?;
        let raw_ms = read_raw(&mut f);
        let rollups_at = f.at("rollups");
        let rollups = f.array("rollups");
        let purge = f.word("on_delete", &[("KEEP_UNTIL_EXPIRED", false), ("PURGE", true)]).unwrap_or(false);
        let pointer = f.at("match");
        let list = f.array("match");
        f.note_unknown();
        let selectors = list.map(|list| read_selectors(list, &pointer, f.issues)).unwrap_or_default();
        let rollups = rollups.map(|list| read_rollups(list, &rollups_at, f.issues)).unwrap_or_default();
        Some(Policy { raw_ms, selectors, rollups, purge })
    }

    /// Gives the normal form.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        let text = |ms: u64| Value::from(format_duration_ms(ms as i64));
        if let Some(ms) = self.raw_ms {
            out.insert("raw".to_owned(), text(ms));
        }
        if !self.rollups.is_empty() {
            let one = |r: &Rollup| json!({"after": text(r.after_ms), "resolution": text(r.resolution_ms), "keep": text(r.keep_ms)});
            out.insert("rollups".to_owned(), self.rollups.iter().map(one).collect());
        }
        if !self.selectors.is_empty() {
            let one = |s: &Selected| json!({"selector": s.selector, "raw": text(s.raw_ms)});
            out.insert("match".to_owned(), self.selectors.iter().map(one).collect());
        }
        if self.purge {
            out.insert("on_delete".to_owned(), Value::from("PURGE"));
        }
        Value::Object(out)
    }

    /// Reads what [`Policy::to_value`] gave; what cannot be read keeps samples as long as the server does.
    pub fn from_value(value: &Value) -> Option<Policy> {
        let mut issues = Issues::new(false);
        Policy::of(value, "", &mut issues).filter(|_| issues.is_empty())
    }

    /// Gives the rule for the store; `None` when it asks for nothing.
    pub fn rule(&self) -> Option<TargetRule> {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let one = |s: &Selected| {
            let matchers = promql::parse_selector(&s.selector).ok()?;
            Some(SelectorRule { matchers, keep_ms: ms(s.raw_ms) })
        };
        let selectors: Vec<SelectorRule> = self.selectors.iter().filter_map(one).collect();
        let rollup = |r: &Rollup| RollupRule {
            after_ms: ms(r.after_ms),
            resolution_ms: ms(r.resolution_ms),
            keep_ms: ms(r.keep_ms),
        };
        let rollups = self.rollups.iter().map(rollup).collect();
        let rule = TargetRule { keep_ms: self.raw_ms.map(ms), selectors, rollups };
        (rule.keep_ms.is_some() || !rule.selectors.is_empty() || !rule.rollups.is_empty()).then_some(rule)
    }

    /// Gives the longest time for which anything of the target is kept, roll-ups included.
    pub fn longest_ms(&self, default_ms: i64) -> i64 {
        let mut rules = RetentionRules::uniform(default_ms);
        rules.targets.extend(self.rule().map(|rule| (String::new(), rule)));
        let rollups = rules.rollups("").iter().map(|r| r.keep_ms).max().unwrap_or(0);
        rules.longest_of_ms("").max(rollups)
    }
}

fn read_raw(f: &mut Fields) -> Option<u64> {
    let raw = f.duration_ms("raw", "raw_ms");
    if raw == Some(0) {
        f.issue(Severity::Refused, "raw", "out_of_range", "raw must be more than 0");
    }
    raw
}

fn read_rollups(list: &[Value], pointer: &str, issues: &mut Issues) -> Vec<Rollup> {
    let mut rollups: Vec<Rollup> = Vec::new();
    if list.len() > RESOLUTIONS.len() {
        issues.add(Severity::Refused, pointer, "too_many", "there is a roll-up to 5m and one to 1h");
        return rollups;
    }
    for (number, value) in list.iter().enumerate() {
        let Some(mut f) = Fields::open(value, join(pointer, &number.to_string()), issues) else { continue };
        let after_ms = f.duration_ms("after", "after_ms");
        let resolution_ms = f.word("resolution", &RESOLUTIONS);
        let keep_ms = f.duration_ms("keep", "keep_ms");
        let (after_ms, keep_ms) = (f.require("after", after_ms), f.require("keep", keep_ms));
        let resolution_ms = f.require("resolution", resolution_ms);
        if after_ms.zip(keep_ms).is_some_and(|(after, keep)| keep <= after) {
            f.issue(Severity::Refused, "keep", "out_of_range", "keep must be longer than after");
        }
        if rollups.iter().any(|r| Some(r.resolution_ms) == resolution_ms) {
            f.issue(Severity::Refused, "resolution", "duplicate", "there is a roll-up to this resolution already");
        }
        f.finish();
        if let (Some(after_ms), Some(resolution_ms), Some(keep_ms)) = (after_ms, resolution_ms, keep_ms) {
            rollups.push(Rollup { after_ms, resolution_ms, keep_ms });
        }
    }
    rollups.sort_by_key(|r| r.resolution_ms);
    rollups
}

fn read_selectors(list: &[Value], pointer: &str, issues: &mut Issues) -> Vec<Selected> {
    if list.len() > SELECTORS_MAX {
        let detail = format!("{} selectors, {SELECTORS_MAX} are allowed", list.len());
        issues.add(Severity::Refused, pointer, "too_many", detail);
        return Vec::new();
    }
    let mut selectors = Vec::new();
    for (number, value) in list.iter().enumerate() {
        let Some(mut f) = Fields::open(value, join(pointer, &number.to_string()), issues) else { continue };
        let selector = f.string_max("selector", SELECTOR_CHARS_MAX);
        let selector = f.require("selector", selector);
        if let Some(Err(error)) = selector.map(promql::parse_selector) {
            f.issue(Severity::Refused, "selector", "invalid_selector", error.to_string());
        }
        let raw_ms = read_raw(&mut f);
        if raw_ms.is_none() {
            f.issue(Severity::Malformed, "raw", "missing_field", "raw is missing");
        }
        f.finish();
        selectors
            .extend(selector.zip(raw_ms).map(|(selector, raw_ms)| Selected { selector: selector.to_owned(), raw_ms }));
    }
    selectors
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Labels;

    fn read(value: Value) -> Result<Policy, Vec<String>> {
        let mut issues = Issues::new(true);
        let policy = Policy::of(&value, "/retention_policy", &mut issues);
        match issues.into_result() {
            Ok(()) => policy.ok_or_default(),
            Err(problem) => Err(problem.errors.iter().map(|e| format!("{} {}", e.pointer, e.reason)).collect()),
        }
    }

    trait OrDefault {
        fn ok_or_default(self) -> Result<Policy, Vec<String>>;
    }

    impl OrDefault for Option<Policy> {
        fn ok_or_default(self) -> Result<Policy, Vec<String>> {
            self.ok_or_else(|| vec!["nothing".to_owned()])
        }
    }

    #[test]
    fn the_normal_form_reads_back_as_itself() {
        let full = json!({"raw": "15d", "match": [{"selector": "{__name__=~\"slo_.*\"}", "raw": "400d"},
            {"selector": "up", "raw_ms": 60000}], "on_delete": "purge",
            "rollups": [{"after": "90d", "resolution": "1h", "keep": "2y"}, {"after": "7d", "resolution": "5m", "keep": "90d"}]});
        for value in [json!("30d"), full.clone(), json!({}), json!({"raw_ms": 5})] {
            let policy = read(value).unwrap();
            assert_eq!(Policy::from_value(&policy.to_value()), Some(policy));
        }
        let rules = read(full).unwrap().rule().unwrap();
        let mut all = RetentionRules::uniform(1);
        all.targets.insert("t".to_owned(), rules);
        let keep = |name: &str| all.keep_ms("t", &Labels::from_pairs([("__name__", name)]));
        assert_eq!([keep("slo_x"), keep("up"), keep("x")], [400 * 86_400_000, 60_000, 15 * 86_400_000]);
    }

    #[test]
    fn mistakes_are_refused_with_a_pointer() {
        let cases = [
            (json!("soon"), "/retention_policy invalid_duration"),
            (json!({"raw": "0s"}), "/retention_policy/raw out_of_range"),
            (json!({"colour": 1}), "/retention_policy/colour unknown_field"),
            (json!({"match": [{"selector": "{", "raw": "1d"}]}), "/retention_policy/match/0/selector invalid_selector"),
            (json!({"match": [{"selector": "up"}]}), "/retention_policy/match/0/raw missing_field"),
            (json!({"match": [{"raw": "1d"}]}), "/retention_policy/match/0/selector missing_field"),
            (json!({"match": [7]}), "/retention_policy/match/0 wrong_type"),
            (
                json!({"rollups": [{"after": "7d", "resolution": "5m", "keep": "1d"}]}),
                "/retention_policy/rollups/0/keep out_of_range",
            ),
            (
                json!({"rollups": [{"after": "7d", "resolution": "7m", "keep": "9d"}]}),
                "/retention_policy/rollups/0/resolution unknown_value",
            ),
            (json!({"on_delete": "BURN"}), "/retention_policy/on_delete unknown_value"),
        ];
        for (value, what) in cases {
            assert_eq!(read(value.clone()).unwrap_err(), [what], "{value}");
        }
    }
}
