//! Alerts on their way to Alertmanagers.
//!
//! Invariants: 1. whoever sends never waits; 2. a full queue forgets its oldest alerts, counted: firing ones are sent again
//! anyway; 3. one Alertmanager that hangs does not keep the others waiting.
//! Limits: [`QUEUE_MAX`] alerts wait, [`BATCH_MAX`] go in one request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use collect::{AddressPolicy, Poster};
use discover::Manager;
use jiff::Timestamp;
use model::relabel::{self, Rule};
use model::{Labels, LabelsBuf, TargetGroup};
use parking_lot::Mutex;
use rules::{Alert, GroupDefinition, Kind, State};
use serde_json::json;
use tokio::sync::{Notify, watch};
use url::Url;

use crate::config::alerting::{Alerting, Alertmanagers};
use crate::prom::api::Source;
use crate::telemetry::Exposition;

/// Alerts that wait.
pub const QUEUE_MAX: usize = 10_000;
/// Alerts in one request.
pub const BATCH_MAX: usize = 256;

/// Sends alerts.
pub struct Notifier {
    external_labels: Source<Vec<(String, String)>>,
    external_url: String,
    queue: Mutex<VecDeque<Outgoing>>,
    wake: Notify,
    manager: Manager,
    present: Mutex<Present>,
    stats: Stats,
}

/// An alert that waits: its labels, and the JSON of all else.
struct Outgoing {
    labels: Labels,
    annotations: BTreeMap<String, String>,
    starts_at: String,
    ends_at: String,
    generator_url: String,
}

#[derive(Default)]
struct Present {
    relabel: Arc<Vec<Rule>>,
    sets: Vec<Set>,
    dropped: Vec<String>,
}

/// Alertmanagers of one entry of the configuration.
struct Set {
    config: Alertmanagers,
    /// By URL, so that connections outlive a change of discovery.
    posters: BTreeMap<String, (Url, Arc<Poster>)>,
}

#[derive(Default)]
struct Stats {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Notifier {
    /// Starts without Alertmanagers.
    pub fn new(external_labels: Source<Vec<(String, String)>>, external_url: String) -> Notifier {
        Notifier {
            external_labels,
            external_url,
            queue: Mutex::default(),
            wake: Notify::new(),
            manager: Manager::new(),
            present: Mutex::default(),
            stats: Stats::default(),
        }
    }

    /// Puts a configuration in force.
    pub async fn apply(&self, alerting: Alerting) {
        let mechanisms = alerting.alertmanagers.iter().enumerate();
        let mechanisms = mechanisms.map(|(i, set)| (i.to_string(), set.mechanisms.clone())).collect();
        {
            let sets = alerting.alertmanagers.into_iter().map(|config| Set { config, posters: BTreeMap::new() });
            let mut present = self.present.lock();
            *present = Present { relabel: Arc::new(alerting.relabel), sets: sets.collect(), dropped: Vec::new() };
        }
        self.manager.apply(mechanisms).await;
        self.refresh();
    }

    /// Makes Alertmanagers of what discovery finds now.
    fn refresh(&self) {
        let mut present = self.present.lock();
        let present = &mut *present;
        present.dropped.clear();
        for (i, set) in present.sets.iter_mut().enumerate() {
            let mut before = std::mem::take(&mut set.posters);
            for group in self.manager.groups(&i.to_string()) {
                for found in set.config.urls(&group) {
                    let url = match found {
                        Ok(url) => url,
                        Err(address) => {
                            present.dropped.push(address);
                            continue;
                        }
                    };
                    let timeout = Duration::from_millis(set.config.timeout_ms.max(1).unsigned_abs());
                    let fresh = || Poster::new(set.config.http.clone(), AddressPolicy::allow_all(), timeout);
                    let kept = before.remove(url.as_str()).map(|(_, poster)| poster);
                    let poster = kept.unwrap_or_else(|| Arc::new(fresh()));
                    set.posters.insert(url.to_string(), (url, poster));
                }
            }
        }
    }

    /// Takes the alerts of a group that are due.
    pub fn send(&self, group: &GroupDefinition, alerts: Vec<Alert>) {
        if alerts.is_empty() {
            return;
        }
        let (relabel, nobody) = {
            let present = self.present.lock();
            (present.relabel.clone(), present.sets.is_empty())
        };
        if nobody {
            return;
        }
        let external = (self.external_labels)();
        let mut queue = self.queue.lock();
        for alert in alerts {
            let expr = group
                .rules
                .iter()
                .find(|r| matches!(&r.kind, Kind::Alert { name, .. } if alert.labels.get("alertname") == Some(name)));
            let expr = expr.map(|rule| promql::format(&rule.expr)).unwrap_or_default();
            queue.extend(self.outgoing(alert, &external, &relabel, &expr));
        }
        while queue.len() > QUEUE_MAX {
            queue.pop_front();
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Relabels an alert; `None` when the rules say that nobody shall hear of it.
    fn outgoing(&self, alert: Alert, external: &[(String, String)], rules: &[Rule], expr: &str) -> Option<Outgoing> {
        let mut labels = LabelsBuf::from_labels(&alert.labels);
        for (name, value) in external {
            if labels.get(name).is_none() {
                labels.set(name, value);
            }
        }
        if !relabel::apply(rules, &mut labels) {
            return None;
        }
        let ends_ms = match alert.state {
            State::Inactive => alert.resolved_at_ms.unwrap_or(alert.valid_until_ms),
            _ => alert.valid_until_ms,
        };
        let query: String = url::form_urlencoded::byte_serialize(expr.as_bytes()).collect();
        let base = self.external_url.trim_end_matches('/');
        Some(Outgoing {
            labels: labels.to_labels(),
            annotations: alert.annotations.into_iter().collect(),
            starts_at: time(alert.fired_at_ms.unwrap_or(alert.active_at_ms)),
            ends_at: time(ends_ms),
            generator_url: format!("{base}/graph?g0.expr={query}&g0.tab=1"),
        })
    }

    /// Sends what waits, until the server stops.
    pub async fn run(self: Arc<Notifier>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                _ = self.manager.changed() => self.refresh(),
                _ = stop.wait_for(|stopped| *stopped) => break,
            }
            loop {
                let batch: Vec<Outgoing> = {
                    let mut queue = self.queue.lock();
                    let count = queue.len().min(BATCH_MAX);
                    queue.drain(..count).collect()
                };
                if batch.is_empty() {
                    break;
                }
                self.send_batch(&batch).await;
            }
        }
        self.manager.stop();
    }

    /// Sends one batch to all Alertmanagers at once.
    async fn send_batch(&self, batch: &[Outgoing]) {
        let mut requests = Vec::new();
        for set in &self.present.lock().sets {
            let (count, body) = body(batch, &set.config.alert_relabel);
            if count > 0 {
                requests.extend(
                    set.posters.values().map(|(url, poster)| (url.clone(), poster.clone(), count, body.clone())),
                );
            }
        }
        let tasks = requests.into_iter().map(|(url, poster, count, body)| async move {
            let answer = poster.post(&url, &[], "application/json", body).await;
            let failure = match answer {
                Ok(posted) if (200..300).contains(&posted.status) => {
                    self.stats.sent.fetch_add(count, Ordering::Relaxed);
                    return;
                }
                Ok(posted) => format!("bad response status {}: {}", posted.status, posted.text.trim()),
                Err(error) => error.message,
            };
            self.stats.failed.fetch_add(count, Ordering::Relaxed);
            tracing::warn!(alertmanager = %url, alerts = count, error = failure, "alerts not sent; firing ones are sent again");
        });
        futures_util::future::join_all(tasks).await;
    }

    /// Gives the URLs of the Alertmanagers, and the addresses that relabeling dropped.
    pub fn alertmanagers(&self) -> (Vec<String>, Vec<String>) {
        let present = self.present.lock();
        let active: BTreeSet<String> = present.sets.iter().flat_map(|set| set.posters.keys().cloned()).collect();
        (active.into_iter().collect(), present.dropped.clone())
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waiting = self.queue.lock().len();
        page.gauge("quiver_notifications_waiting", "Alerts that wait to be sent.", waiting as f64);
        page.gauge("quiver_alertmanagers", "Alertmanagers known.", self.alertmanagers().0.len() as f64);
        page.counter(
            "quiver_notifications_sent_total",
            "Alerts sent, once for each Alertmanager.",
            get(&self.stats.sent),
        );
        page.counter(
            "quiver_notifications_failed_total",
            "Alerts that an Alertmanager did not take.",
            get(&self.stats.failed),
        );
        page.counter(
            "quiver_notifications_dropped_total",
            "Alerts forgotten because the queue was full.",
            get(&self.stats.dropped),
        );
    }
}

impl Alertmanagers {
    /// Makes URLs of a target group; an address that relabeling drops, or that makes no URL, is an error.
    fn urls(&self, group: &TargetGroup) -> Vec<Result<Url, String>> {
        let one = |target: &Labels| {
            let address = target.get("__address__").unwrap_or_default().to_owned();
            let mut labels = LabelsBuf::from_labels(&group.labels);
            for (name, value) in target.iter() {
                labels.set(name, value);
            }
            labels.set("__scheme__", &self.scheme);
            labels.set(
                "__alerts_path__",
                &format!("/{}/api/v2/alerts", self.path_prefix.trim_matches('/')).replace("//", "/"),
            );
            if !relabel::apply(&self.relabel, &mut labels) {
                return Err(address);
            }
            let labels = labels.to_labels();
            let part = |name: &str| labels.get(name).unwrap_or_default().to_owned();
            let host = part("__address__");
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
            let port = if has_port || part("__scheme__") == "https" { "" } else { ":9093" };
            Url::parse(&format!("{}://{host}{port}{}", part("__scheme__"), part("__alerts_path__")))
                .map_err(|_| address)
        };
        group.targets.iter().map(one).collect()
    }
}

/// Writes the alerts that the rules let through.
fn body(batch: &[Outgoing], rules: &[Rule]) -> (u64, Bytes) {
    let mut list = Vec::new();
    for alert in batch {
        let mut labels = LabelsBuf::from_labels(&alert.labels);
        if !relabel::apply(rules, &mut labels) {
            continue;
        }
        let labels: BTreeMap<String, String> =
            labels.to_labels().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        list.push(json!({
            "labels": labels,
            "annotations": alert.annotations,
            "startsAt": alert.starts_at,
            "endsAt": alert.ends_at,
            "generatorURL": alert.generator_url,
        }));
    }
    (list.len() as u64, Bytes::from(serde_json::to_vec(&list).unwrap_or_default()))
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default()
}
