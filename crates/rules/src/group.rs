//! A group at work: its rules are evaluated in order, what they make is stored, alerts that are due are handed out.
//!
//! Invariants: 1. a rule reads what earlier rules of the group made in the same round; 2. a series that a rule does not
//! make any more gets a stale marker; 3. a rule that fails changes nothing and harms no other rule.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use model::{Labels, LabelsBuf, stale_nan};
use promql::VectorSample;

use crate::alert::{self, Alert, AlertRule, Alerts, State};
use crate::definition::{GroupDefinition, Kind, Rule};
use crate::host::{Host, Rows, Stored};
use crate::template::{QuerySample, Surroundings};

/// How an alert's state is written into `ALERTS` and found again.
pub const FOR_STATE: &str = "ALERTS_FOR_STATE";

/// After this round alerts are taken up from an earlier run.
const RESTORING_ROUND: u32 = 2;

/// Times of alerts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlertTimes {
    /// A firing alert is sent again after so long.
    pub resend_delay_ms: i64,
    /// Alerts whose `for` is shorter are not restored; others fire no sooner than so long after a restart.
    pub grace_ms: i64,
    /// A state older than this is not restored.
    pub outage_max_ms: i64,
}

impl Default for AlertTimes {
    /// Prometheus' defaults.
    fn default() -> AlertTimes {
        AlertTimes { resend_delay_ms: 60_000, grace_ms: 600_000, outage_max_ms: 3_600_000 }
    }
}

/// How the last evaluation of a rule went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Health {
    /// Never evaluated.
    #[default]
    Unknown,
    /// It went well.
    Good,
    /// It failed; the text says why.
    Bad(String),
}

/// A rule with what it remembers.
#[derive(Clone, Debug, Default)]
pub struct RuleState {
    /// How the last evaluation went.
    pub health: Health,
    /// When it was; milliseconds since 1970.
    pub evaluated_at_ms: Option<i64>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The alerts, if it is an alerting rule.
    pub alerts: Alerts,
    /// Whether alerts have been taken up from an earlier run.
    restored: bool,
    /// The series made last time.
    made: BTreeSet<Labels>,
}

/// A group with what it remembers.
#[derive(Clone, Debug)]
pub struct Group {
    /// What the file says.
    pub definition: GroupDefinition,
    /// One for each rule.
    pub rules: Vec<RuleState>,
    /// When it was evaluated last; milliseconds since 1970.
    pub evaluated_at_ms: Option<i64>,
    /// How long that took, in seconds.
    pub seconds: f64,
    dependent: Vec<bool>,
    rounds: u32,
}

/// What a round gave.
#[derive(Debug, Default)]
pub struct Round {
    /// Alerts to send, firing and resolved.
    pub alerts: Vec<Alert>,
    /// Rules evaluated.
    pub evaluated: u64,
    /// Rules that failed.
    pub failed: u64,
    /// Samples stored.
    pub samples: u64,
}

impl Group {
    /// Starts a group.
    ///
    /// **Takes** `restores`: alerts are taken up from what an earlier run stored.
    pub fn new(definition: GroupDefinition, restores: bool) -> Group {
        let fresh = || RuleState { restored: !restores, ..RuleState::default() };
        Group {
            rules: definition.rules.iter().map(|_| fresh()).collect(),
            dependent: definition.dependent(),
            definition,
            evaluated_at_ms: None,
            seconds: 0.0,
            rounds: 0,
        }
    }

    /// Takes over what an older version of the group remembers, rule by rule of the same name and labels.
    /// Gives the series of rules that are gone.
    pub fn take_over(&mut self, old: Group) -> BTreeSet<Labels> {
        let mut by_name: BTreeMap<(String, Labels), Vec<RuleState>> = BTreeMap::new();
        for (rule, state) in old.definition.rules.iter().zip(old.rules).rev() {
            by_name.entry((rule.name().to_owned(), rule.plain_labels())).or_default().push(state);
        }
        for (rule, state) in self.definition.rules.iter().zip(&mut self.rules) {
            let key = (rule.name().to_owned(), rule.plain_labels());
            if let Some(old) = by_name.get_mut(&key).and_then(Vec::pop) {
                *state = old;
            }
        }
        by_name.into_values().flatten().flat_map(|state| state.made).collect()
    }

    /// Gives the last time at or before `now_ms` at which the group is due; groups are spread over their interval.
    pub fn slot(&self, now_ms: i64) -> i64 {
        let interval = self.definition.interval_ms.max(1);
        let name = Labels::from_pairs([("file", &self.definition.file), ("name", &self.definition.name)]);
        let offset = (name.fingerprint().0 % interval.unsigned_abs()) as i64;
        now_ms - (now_ms - offset).rem_euclid(interval)
    }

    /// Evaluates all rules once.
    ///
    /// **Takes** `stop`: asked between rules.
    pub fn evaluate(&mut self, now_ms: i64, host: &dyn Host, times: &AlertTimes, stop: &dyn Fn() -> bool) -> Round {
        let begin = Instant::now();
        let mut round = Round::default();
        let mut waiting: Vec<(usize, BTreeSet<Labels>, u64, Stored)> = Vec::new();
        for at in 0..self.rules.len() {
            if stop() {
                break;
            }
            if self.dependent[at] {
                self.settle(&mut waiting, &mut round);
            }
            let began = Instant::now();
            let made = self.evaluate_rule(at, now_ms, host);
            let (rule, state) = (&self.definition.rules[at], &mut self.rules[at]);
            state.evaluated_at_ms = Some(now_ms);
            state.seconds = began.elapsed().as_secs_f64();
            round.evaluated += 1;
            match made {
                Err(text) => {
                    state.health = Health::Bad(text);
                    round.failed += 1;
                }
                Ok(rows) => {
                    state.health = Health::Good;
                    round.alerts.extend(due(rule, state, now_ms, self.definition.interval_ms, times));
                    let made = rows.samples.iter().map(|(l, ..)| l).chain(rows.histograms.iter().map(|(l, ..)| l));
                    let made: BTreeSet<Labels> = made.cloned().collect();
                    let count = (rows.samples.len() + rows.histograms.len()) as u64;
                    let rows = with_ends(rows, &state.made, &made, now_ms - self.definition.query_offset_ms);
                    if !rows.is_empty() {
                        waiting.push((at, made, count, host.store(rows)));
                    }
                }
            }
        }
        self.settle(&mut waiting, &mut round);
        self.evaluated_at_ms = Some(now_ms);
        self.rounds = self.rounds.saturating_add(1);
        // Not after the first round, as in Prometheus: it may come before anything has been scraped anew.
        if self.rounds == RESTORING_ROUND {
            self.restore(now_ms, host, times);
        }
        self.seconds = begin.elapsed().as_secs_f64();
        round
    }

    /// Waits for what has been handed to the store.
    fn settle(&mut self, waiting: &mut Vec<(usize, BTreeSet<Labels>, u64, Stored)>, round: &mut Round) {
        for (at, made, count, stored) in waiting.drain(..) {
            match stored() {
                Ok(()) => {
                    self.rules[at].made = made;
                    round.samples += count;
                }
                Err(text) => {
                    self.rules[at].health = Health::Bad(text);
                    round.failed += 1;
                }
            }
        }
    }

    fn evaluate_rule(&mut self, at: usize, now_ms: i64, host: &dyn Host) -> Result<Rows, String> {
        let rule = &self.definition.rules[at];
        let ts_ms = now_ms - self.definition.query_offset_ms;
        let found = host.ask(&rule.expr, ts_ms)?;
        match &rule.kind {
            Kind::Record(name) => record(name, rule, found, self.definition.limit, ts_ms),
            Kind::Alert { name, for_ms, keep_firing_for_ms, annotations } => {
                let query = |text: &str| -> Result<Vec<QuerySample>, String> {
                    Ok(host.ask_text(text, ts_ms)?.into_iter().map(|s| (s.labels, s.value)).collect())
                };
                let (external_labels, external_url) = (host.external_labels(), host.external_url());
                let around = Surroundings {
                    query: &query,
                    now_s: now_ms as f64 / 1000.0,
                    external_labels: &external_labels,
                    external_url: &external_url,
                };
                let alerting = AlertRule {
                    name,
                    for_ms: *for_ms,
                    keep_firing_for_ms: *keep_firing_for_ms,
                    labels: &rule.labels,
                    annotations,
                    limit: self.definition.limit,
                };
                let state = &mut self.rules[at];
                alerting.advance(&mut state.alerts, found, now_ms, &around)?;
                Ok(if state.restored { states(&state.alerts, ts_ms) } else { Rows::default() })
            }
        }
    }

    /// Takes up alerts where an earlier run left them; what cannot be read is left out.
    fn restore(&mut self, now_ms: i64, host: &dyn Host, times: &AlertTimes) {
        for (rule, state) in self.definition.rules.iter().zip(&mut self.rules) {
            let Kind::Alert { name, for_ms, .. } = &rule.kind else { continue };
            if std::mem::replace(&mut state.restored, true) || *for_ms < times.grace_ms || state.alerts.is_empty() {
                continue;
            }
            let selector = format!("{FOR_STATE}{{alertname={}}}", promql::go_text::quote(name));
            let found = host.history(&selector, now_ms - times.outage_max_ms, now_ms).unwrap_or_default();
            let last = found.into_iter().filter_map(|(labels, samples)| {
                let (value, ts_ms) = (*samples.values.last()?, *samples.ts_ms.last()?);
                // A series that has ended is an alert that was over.
                (!model::is_stale(value)).then_some(((labels, value), ts_ms))
            });
            alert::restore(&mut state.alerts, &last.collect::<Vec<_>>(), *for_ms, now_ms, times.grace_ms);
        }
    }

    /// Gives all series that the group makes, for their end.
    pub fn into_series(self) -> BTreeSet<Labels> {
        self.rules.into_iter().flat_map(|state| state.made).collect()
    }
}

/// Gives the ends of series.
pub fn ends(series: impl IntoIterator<Item = Labels>, ts_ms: i64) -> Rows {
    Rows { samples: series.into_iter().map(|labels| (labels, ts_ms, stale_nan())).collect(), ..Rows::default() }
}

/// Adds the ends of series that were made before and are not any more.
fn with_ends(mut rows: Rows, before: &BTreeSet<Labels>, made: &BTreeSet<Labels>, ts_ms: i64) -> Rows {
    rows.samples.extend(ends(before.difference(made).cloned(), ts_ms).samples);
    rows
}

/// Makes the samples of a recording rule.
fn record(name: &str, rule: &Rule, found: Vec<VectorSample>, limit: usize, ts_ms: i64) -> Result<Rows, String> {
    if limit > 0 && found.len() > limit {
        return Err(format!("exceeded limit of {limit} with {} series", found.len()));
    }
    let (mut rows, mut seen) = (Rows::default(), BTreeSet::new());
    for sample in found {
        let mut labels = LabelsBuf::from_labels(&sample.labels);
        labels.set("__name__", name);
        for (name, text) in &rule.labels {
            labels.set(name, &text.text);
        }
        let labels = labels.to_labels();
        if !seen.insert(labels.clone()) {
            return Err("vector contains metrics with the same labelset after applying rule labels".to_owned());
        }
        match sample.histogram {
            Some(histogram) => rows.histograms.push((labels, ts_ms, histogram)),
            None => rows.samples.push((labels, ts_ms, sample.value)),
        }
    }
    Ok(rows)
}

/// Makes `ALERTS` and `ALERTS_FOR_STATE`.
fn states(alerts: &Alerts, ts_ms: i64) -> Rows {
    let mut rows = Rows::default();
    for alert in alerts.values().filter(|alert| alert.state != State::Inactive) {
        let mut labels = LabelsBuf::from_labels(&alert.labels);
        labels.set("__name__", FOR_STATE);
        rows.samples.push((labels.to_labels(), ts_ms, (alert.active_at_ms / 1000) as f64));
        labels.set("__name__", "ALERTS");
        labels.set("alertstate", alert.state.as_str());
        rows.samples.push((labels.to_labels(), ts_ms, 1.0));
    }
    rows
}

/// Gives the alerts that have to be sent now.
fn due(rule: &Rule, state: &mut RuleState, now_ms: i64, interval_ms: i64, times: &AlertTimes) -> Vec<Alert> {
    if !rule.is_alert() {
        return Vec::new();
    }
    let mut out = Vec::new();
    for alert in state.alerts.values_mut().filter(|alert| alert.needs_sending(now_ms, times.resend_delay_ms)) {
        alert.last_sent_ms = Some(now_ms);
        // Three tries may fail before an Alertmanager takes it for resolved.
        alert.valid_until_ms = now_ms + 4 * times.resend_delay_ms.max(interval_ms);
        out.push(alert.clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use promql::testing::parse_series;

    use super::*;
    use crate::unit::{Room, UnitTest};

    const HOUR_MS: i64 = 3_600_000;

    /// Evaluates an alert of `for: 2h` at minutes 60 and 61, after a run that stored the given values of its state; gives
    /// since when it is active, after each round.
    fn restored(states: &str) -> Vec<i64> {
        let series = |text: &str| parse_series(text).unwrap();
        let test = UnitTest {
            interval_ms: 60_000,
            series: vec![
                series("up{job=\"a\"} _x60 1x10"),
                series(&format!("ALERTS_FOR_STATE{{alertname=\"Waiting\",job=\"a\"}} {states}")),
            ],
            ..UnitTest::default()
        };
        let kind =
            Kind::Alert { name: "Waiting".into(), for_ms: 2 * HOUR_MS, keep_firing_for_ms: 0, annotations: Vec::new() };
        let rule = Rule { kind, expr: promql::parse("up").unwrap(), labels: Vec::new() };
        let definition = GroupDefinition {
            file: "f".into(),
            name: "g".into(),
            interval_ms: 60_000,
            query_offset_ms: 0,
            limit: 0,
            rules: vec![rule],
        };
        let (host, mut group) = (Room::load(&test), Group::new(definition, true));
        let mut round = |at_ms| {
            group.evaluate(at_ms, &host, &AlertTimes::default(), &|| false);
            group.rules[0].alerts.values().next().map_or(-1, |alert| alert.active_at_ms)
        };
        vec![round(HOUR_MS + 60_000), round(HOUR_MS + 120_000)]
    }

    #[test]
    fn an_alert_is_taken_up_after_the_second_round_unless_it_was_over() {
        // Active since minute 10; last heard of at minute 30, so that the 32 minutes down do not count.
        assert_eq!(restored("_x9 600x20"), [HOUR_MS + 60_000, 600_000 + 32 * 60_000 + 60_000]);
        assert_eq!(restored("_x9 600x20 stale"), [HOUR_MS + 60_000; 2]);
        assert_eq!(restored("_"), [HOUR_MS + 60_000; 2]);
    }
}
