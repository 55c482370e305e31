//! One alerting rule: which alerts are active, since when, and what becomes of them.

use std::collections::BTreeMap;

use model::{Labels, LabelsBuf};
use promql::VectorSample;

use crate::definition::{Text, Texts};
use crate::template::{QuerySample, Surroundings, Value, shortest};

/// Resolved alerts are remembered so long, so that every Alertmanager hears of the end.
const RESOLVED_KEPT_MS: i64 = 15 * 60_000;

/// Where an alert is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// The condition does not hold (any more).
    Inactive,
    /// It holds, but not for long enough yet.
    Pending,
    /// It fires.
    Firing,
}

impl State {
    /// Gives the word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Inactive => "inactive",
            State::Pending => "pending",
            State::Firing => "firing",
        }
    }
}

/// One alert. All times in milliseconds since 1970.
#[derive(Clone, PartialEq, Debug)]
pub struct Alert {
    /// Labels, `alertname` included.
    pub labels: Labels,
    /// What people read, in order of the names.
    pub annotations: Vec<(String, String)>,
    /// Where it is.
    pub state: State,
    /// The query's value.
    pub value: f64,
    /// Since when the condition holds.
    pub active_at_ms: i64,
    /// Since when it fires.
    pub fired_at_ms: Option<i64>,
    /// Since when it does not any more.
    pub resolved_at_ms: Option<i64>,
    /// Since when it fires although the condition does not hold.
    pub keep_firing_since_ms: Option<i64>,
    /// When it was sent last.
    pub last_sent_ms: Option<i64>,
    /// Until when it counts as firing unless it is sent again.
    pub valid_until_ms: i64,
}

impl Alert {
    /// Tells whether it has to be sent (again).
    pub fn needs_sending(&self, now_ms: i64, resend_delay_ms: i64) -> bool {
        match (self.state, self.last_sent_ms) {
            (State::Pending, _) => false,
            (_, None) => true,
            // The end has to be told at once.
            (_, Some(sent)) if self.resolved_at_ms.is_some_and(|resolved| resolved > sent) => true,
            (_, Some(sent)) => sent + resend_delay_ms < now_ms,
        }
    }
}

/// What an alerting rule works with.
pub struct AlertRule<'r> {
    /// `alertname`
    pub name: &'r str,
    /// How long the condition must hold.
    pub for_ms: i64,
    /// How long it fires on.
    pub keep_firing_for_ms: i64,
    /// Set on each alert.
    pub labels: &'r Texts,
    /// Told with each alert.
    pub annotations: &'r Texts,
    /// Most alerts; 0 means no limit.
    pub limit: usize,
}

/// The alerts of a rule by their labels; resolved ones stay for a while.
pub type Alerts = BTreeMap<Labels, Alert>;

impl AlertRule<'_> {
    /// Takes a query's answer and moves all alerts on.
    ///
    /// **Errors** leave the alerts as they were, but for a passed limit, which forgets them as Prometheus does.
    pub fn advance(
        &self,
        alerts: &mut Alerts,
        found: Vec<VectorSample>,
        now_ms: i64,
        around: &Surroundings<'_>,
    ) -> Result<(), String> {
        let found = self.make(found, now_ms, around)?;
        for (labels, alert) in &found {
            match alerts.get_mut(labels).filter(|old| old.state != State::Inactive) {
                Some(old) => {
                    old.value = alert.value;
                    old.annotations.clone_from(&alert.annotations);
                }
                None => drop(alerts.insert(labels.clone(), alert.clone())),
            }
        }
        let mut active = 0usize;
        alerts.retain(|labels, alert| {
            let kept = self.step(alert, found.contains_key(labels), now_ms);
            active += usize::from(kept && alert.state != State::Inactive);
            kept
        });
        if self.limit > 0 && active > self.limit {
            alerts.clear();
            return Err(format!("exceeded limit of {} with {active} alerts", self.limit));
        }
        Ok(())
    }

    /// Moves one alert on; gives whether it is remembered.
    fn step(&self, alert: &mut Alert, holds: bool, now_ms: i64) -> bool {
        if holds {
            alert.keep_firing_since_ms = None;
        } else if alert.state == State::Firing && self.keep_firing_for_ms > 0 {
            let since = *alert.keep_firing_since_ms.get_or_insert(now_ms);
            if now_ms - since >= self.keep_firing_for_ms {
                return resolve(alert, now_ms);
            }
        } else {
            return resolve(alert, now_ms);
        }
        if alert.state == State::Pending && now_ms - alert.active_at_ms >= self.for_ms {
            alert.state = State::Firing;
            alert.fired_at_ms = Some(now_ms);
        }
        true
    }

    /// Makes an alert of each sample.
    fn make(&self, found: Vec<VectorSample>, now_ms: i64, around: &Surroundings<'_>) -> Result<Alerts, String> {
        let mut made = Alerts::new();
        for sample in found {
            let expand = |text: &Text| expand(text, &sample, self.name, around);
            let mut labels = LabelsBuf::from_labels(&sample.labels.without_name());
            for (name, text) in self.labels {
                labels.set(name, &expand(text));
            }
            labels.set("alertname", self.name);
            let labels = labels.to_labels();
            let annotations = self.annotations.iter().map(|(name, text)| (name.clone(), expand(text))).collect();
            let alert = Alert {
                labels: labels.clone(),
                annotations,
                state: State::Pending,
                value: sample.value,
                active_at_ms: now_ms,
                fired_at_ms: None,
                resolved_at_ms: None,
                keep_firing_since_ms: None,
                last_sent_ms: None,
                valid_until_ms: 0,
            };
            if made.insert(labels, alert).is_some() {
                return Err("vector contains metrics with the same labelset after applying alert labels".to_owned());
            }
        }
        Ok(made)
    }
}

/// Ends an alert; gives whether it is remembered.
fn resolve(alert: &mut Alert, now_ms: i64) -> bool {
    let over = alert.resolved_at_ms.is_some_and(|at| now_ms - at > RESOLVED_KEPT_MS);
    if alert.state == State::Pending || over {
        return false;
    }
    if alert.state != State::Inactive {
        alert.state = State::Inactive;
        alert.resolved_at_ms = Some(now_ms);
    }
    true
}

/// Fills in a text; what goes wrong stands in its place, as in Prometheus, so that the alert is sent all the same.
fn expand(text: &Text, sample: &VectorSample, alert: &str, around: &Surroundings<'_>) -> String {
    let Some(template) = &text.template else { return text.text.clone() };
    let value = match &sample.histogram {
        Some(histogram) => {
            Value::text(format!("{{count:{}, sum:{}}}", shortest(histogram.count), shortest(histogram.sum)))
        }
        None => Value::Float(sample.value),
    };
    // The metric's name is a label here too.
    template
        .expand(&sample.labels, value, around)
        .unwrap_or_else(|e| format!("<error expanding template: error executing template __alert_{alert}: {e}>"))
}

/// Takes up alerts where an earlier run left them.
///
/// **Takes** `earlier`: the last samples of `ALERTS_FOR_STATE` of this rule, each with its time in milliseconds;
/// `grace_ms`: an alert fires no sooner than so long after the restart.
pub fn restore(alerts: &mut Alerts, earlier: &[(QuerySample, i64)], for_ms: i64, now_ms: i64, grace_ms: i64) {
    let by_labels: BTreeMap<Labels, (i64, i64)> = earlier
        .iter()
        .map(|((labels, since_s), at_ms)| (labels.without_name(), ((since_s * 1000.0) as i64, *at_ms)))
        .collect();
    for (labels, alert) in alerts.iter_mut() {
        let Some((since_ms, down_at_ms)) = by_labels.get(labels) else { continue };
        let remaining = for_ms - (down_at_ms - since_ms);
        alert.active_at_ms = if remaining <= 0 {
            *since_ms
        } else if remaining < grace_ms {
            now_ms + grace_ms - for_ms
        } else {
            since_ms + (now_ms - down_at_ms)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Surroundings<'static> =
        Surroundings { query: &|_| Ok(Vec::new()), now_s: 0.0, external_labels: &[], external_url: "" };

    fn sample(instance: &str, value: f64) -> VectorSample {
        let labels = Labels::from_pairs([("__name__", "up"), ("instance", instance)]);
        VectorSample::new(labels, 0, value)
    }

    fn rule<'r>(labels: &'r Texts, annotations: &'r Texts) -> AlertRule<'r> {
        AlertRule { name: "Down", for_ms: 60_000, keep_firing_for_ms: 0, labels, annotations, limit: 0 }
    }

    fn states(alerts: &Alerts) -> Vec<State> {
        alerts.values().map(|alert| alert.state).collect()
    }

    #[test]
    fn an_alert_waits_fires_resolves_and_is_forgotten() {
        let labels = vec![("severity".to_owned(), Text::read("{{ if gt $value 1.0 }}page{{ end }}").unwrap())];
        let annotations = vec![("summary".to_owned(), Text::read("{{ $labels.instance }}: {{ $value }}").unwrap())];
        let rule = rule(&labels, &annotations);
        let mut alerts = Alerts::new();
        rule.advance(&mut alerts, vec![sample("a", 2.0), sample("b", 0.0)], 0, &NOBODY).unwrap();
        assert_eq!(states(&alerts), [State::Pending; 2]);
        let a = Labels::from_pairs([("alertname", "Down"), ("instance", "a"), ("severity", "page")]);
        assert_eq!(alerts[&a].annotations, [("summary".to_owned(), "a: 2".to_owned())]);
        // b is well again before it fired: forgotten at once.
        rule.advance(&mut alerts, vec![sample("a", 3.0)], 59_999, &NOBODY).unwrap();
        assert_eq!(states(&alerts), [State::Pending]);
        rule.advance(&mut alerts, vec![sample("a", 3.0)], 60_000, &NOBODY).unwrap();
        assert_eq!(
            (alerts[&a].state, alerts[&a].fired_at_ms, alerts[&a].active_at_ms),
            (State::Firing, Some(60_000), 0)
        );
        rule.advance(&mut alerts, vec![], 61_000, &NOBODY).unwrap();
        assert_eq!((alerts[&a].state, alerts[&a].resolved_at_ms), (State::Inactive, Some(61_000)));
        rule.advance(&mut alerts, vec![], 61_000 + RESOLVED_KEPT_MS, &NOBODY).unwrap();
        assert_eq!(alerts.len(), 1);
        rule.advance(&mut alerts, vec![], 61_001 + RESOLVED_KEPT_MS, &NOBODY).unwrap();
        assert!(alerts.is_empty());
    }

    #[test]
    fn it_keeps_firing_as_long_as_asked() {
        let (empty, mut alerts) = (Texts::new(), Alerts::new());
        let rule = AlertRule { for_ms: 0, keep_firing_for_ms: 30_000, ..rule(&empty, &empty) };
        for (now_ms, holds, state) in [
            (0, true, State::Firing),
            (10_000, false, State::Firing),
            (39_999, false, State::Firing),
            (39_999, true, State::Firing),
            (50_000, false, State::Firing),
            (80_000, false, State::Inactive),
            // It begins anew.
            (81_000, true, State::Firing),
        ] {
            let found = if holds { vec![sample("a", 1.0)] } else { vec![] };
            rule.advance(&mut alerts, found, now_ms, &NOBODY).unwrap();
            assert_eq!(states(&alerts), [state], "{now_ms}");
        }
        assert_eq!(alerts.values().next().map(|a| a.active_at_ms), Some(81_000));
    }

    #[test]
    fn too_many_and_equal_alerts_are_errors_and_a_bad_template_is_not() {
        let broken = vec![("l".to_owned(), Text::read("{{ $labels.a.b.c }}").unwrap())];
        let empty = Texts::new();
        let limited = AlertRule { limit: 1, ..rule(&empty, &broken) };
        let mut alerts = Alerts::new();
        limited.advance(&mut alerts, vec![sample("a", 1.0)], 0, &NOBODY).unwrap();
        let text = &alerts.values().next().unwrap().annotations[0].1;
        assert!(text.starts_with("<error expanding template: "), "{text}");
        let error = limited.advance(&mut alerts, vec![sample("a", 1.0), sample("b", 1.0)], 0, &NOBODY).unwrap_err();
        assert_eq!(error, "exceeded limit of 1 with 2 alerts");
        assert!(alerts.is_empty());
        let same = vec![("instance".to_owned(), Text::read("one").unwrap())];
        let error = rule(&same, &empty).advance(&mut alerts, vec![sample("a", 1.0), sample("b", 1.0)], 0, &NOBODY);
        assert!(error.unwrap_err().contains("same labelset"));
    }

    #[test]
    fn alerts_are_sent_again_after_a_while_and_ends_at_once() {
        let (empty, mut alerts) = (Texts::new(), Alerts::new());
        let rule = rule(&empty, &empty);
        rule.advance(&mut alerts, vec![sample("a", 1.0)], 0, &NOBODY).unwrap();
        let mut alert = alerts.values().next().unwrap().clone();
        assert!(!alert.needs_sending(0, 60_000));
        alert.state = State::Firing;
        assert!(alert.needs_sending(0, 60_000));
        alert.last_sent_ms = Some(0);
        assert!(!alert.needs_sending(60_000, 60_000) && alert.needs_sending(60_001, 60_000));
        alert.resolved_at_ms = Some(1);
        assert!(alert.needs_sending(2, 60_000));
    }

    #[test]
    fn restoring_takes_the_time_down_into_account() {
        let (for_ms, grace_ms, now_ms) = (3_600_000, 600_000, 10_000_000);
        let (empty, mut alerts) = (Texts::new(), Alerts::new());
        let rule = AlertRule { for_ms, ..rule(&empty, &empty) };
        for (since_ms, down_at_ms, expected) in [
            // It fired already.
            (1_000_000, 9_000_000, 1_000_000),
            // Fifteen minutes were left: the time down does not count.
            (5_000_000, 7_700_000, 5_000_000 + 2_300_000),
            // One minute was left: it gets the whole grace.
            (5_000_000, 8_540_000, now_ms + grace_ms - for_ms),
        ] {
            alerts.clear();
            rule.advance(&mut alerts, vec![sample("a", 1.0)], now_ms, &NOBODY).unwrap();
            let stored =
                Labels::from_pairs([("__name__", "ALERTS_FOR_STATE"), ("alertname", "Down"), ("instance", "a")]);
            restore(&mut alerts, &[((stored, since_ms as f64 / 1000.0), down_at_ms)], for_ms, now_ms, grace_ms);
            assert_eq!(alerts.values().next().map(|a| a.active_at_ms), Some(expected));
        }
    }
}
