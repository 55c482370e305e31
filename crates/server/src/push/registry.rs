//! All groups in memory, and what they may not contradict each other in.
//!
//! Invariants: 1. no series stands in two groups; 2. a family has one type in all groups.
//! Limits: [`PushLimits`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, MetricType};
use parking_lot::Mutex;

use super::content::Content;
use super::group::Group;
use super::key::GroupKey;

/// What a series takes beside its labels, about.
const SERIES_BYTES: usize = 96;
const GROUP_BYTES: usize = 512;

/// How much pushes may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PushLimits {
    /// How often the samples of all groups are written again.
    pub restate_every: Duration,
    /// Groups at a time.
    pub groups_max: usize,
    /// Bytes of memory of all groups.
    pub bytes_max: usize,
    /// Bytes of one body after inflating.
    pub body_bytes_max: usize,
}

impl Default for PushLimits {
    fn default() -> PushLimits {
        PushLimits {
            restate_every: Duration::from_secs(15),
            groups_max: 20_000,
            bytes_max: 256 << 20,
            body_bytes_max: 32 << 20,
        }
    }
}

/// Why a group is not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It contradicts itself or another group.
    Inconsistent(String),
    /// There is no room.
    Full(String),
}

/// The groups.
pub struct Registry {
    limits: PushLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: HashMap<GroupKey, Arc<Group>>,
    /// The type of each family, and how many groups have it.
    types: HashMap<String, (MetricType, usize)>,
    series: HashSet<Labels>,
    bytes: usize,
}

impl Registry {
    /// Starts with the groups of an earlier life.
    pub fn new(limits: PushLimits, groups: Vec<Group>) -> Registry {
        let mut state = State::default();
        groups.into_iter().for_each(|group| state.insert(Arc::new(group)));
        Registry { limits, state: Mutex::new(state) }
    }

    /// Gives a group.
    pub fn get(&self, key: &GroupKey) -> Option<Arc<Group>> {
        self.state.lock().groups.get(key).cloned()
    }

    /// Gives all groups, in no particular order.
    pub fn all(&self) -> Vec<Arc<Group>> {
        self.state.lock().groups.values().cloned().collect()
    }

    /// Counts the groups, and the bytes that they take.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.groups.len(), state.bytes)
    }

    /// Puts a group in the place of the one of the same key, if it fits to all others.
    pub fn put(&self, group: &Arc<Group>) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let before = state.groups.get(&group.key).cloned();
        state.check(before.as_deref(), group)?;
        let freed = before.as_deref().map_or(0, weight);
        if before.is_none() && state.groups.len() >= self.limits.groups_max {
            let max = self.limits.groups_max;
            return Err(Refusal::Full(format!("there are {max} groups already; delete some, or give them a ttl")));
        }
        if state.bytes - freed + weight(group) > self.limits.bytes_max {
            let max = self.limits.bytes_max;
            return Err(Refusal::Full(format!("the groups would take more than {max} bytes; delete some")));
        }
        state.remove(&group.key);
        state.insert(Arc::clone(group));
        Ok(())
    }

    /// Puts back what was there before; for a group that could not be made durable.
    pub fn restore(&self, key: &GroupKey, before: Option<Arc<Group>>) {
        let mut state = self.state.lock();
        state.remove(key);
        if let Some(before) = before {
            state.insert(before);
        }
    }
}

impl State {
    fn check(&self, before: Option<&Group>, group: &Group) -> Result<(), Refusal> {
        let nothing = Content::default();
        let old = before.map_or(&nothing, |group| &group.content);
        for (name, family) in &group.content.0 {
            let Some((known, groups)) = self.types.get(name) else { continue };
            let others = groups - usize::from(old.0.contains_key(name));
            let wanted = family.family.metric_type;
            if others > 0 && *known != wanted {
                let (known, wanted) = (known.as_str(), wanted.as_str());
                return Err(Refusal::Inconsistent(format!("{name} is a {known} in another group, not a {wanted}")));
            }
        }
        let own_before = before.map(Group::own_labels);
        let mine: HashSet<&Labels> = old.series().map(|s| &s.labels).chain(own_before.iter().flatten()).collect();
        let own = group.own_labels();
        let mut seen = HashSet::with_capacity(group.content.len());
        for labels in group.content.series().map(|s| &s.labels).chain(&own) {
            if !seen.insert(labels) {
                return Err(Refusal::Inconsistent(format!("{labels} stands twice")));
            }
            if self.series.contains(labels) && !mine.contains(labels) {
                return Err(Refusal::Inconsistent(format!("{labels} stands in another group already")));
            }
        }
        Ok(())
    }

    fn insert(&mut self, group: Arc<Group>) {
        for (name, family) in &group.content.0 {
            self.types.entry(name.clone()).or_insert((family.family.metric_type, 0)).1 += 1;
        }
        self.series.extend(group.content.series().map(|s| s.labels.clone()).chain(group.own_labels()));
        self.bytes += weight(&group);
        self.groups.insert(group.key.clone(), group);
    }

    fn remove(&mut self, key: &GroupKey) {
        let Some(group) = self.groups.remove(key) else { return };
        for name in group.content.0.keys() {
            if let Some(entry) = self.types.get_mut(name) {
                entry.1 -= 1;
                if entry.1 == 0 {
                    self.types.remove(name);
                }
            }
        }
        for labels in group.content.series().map(|s| &s.labels).chain(&group.own_labels()) {
            self.series.remove(labels);
        }
        self.bytes -= weight(&group);
    }
}

/// Gives the bytes of memory that a group takes, about.
fn weight(group: &Group) -> usize {
    let labels: usize = group.content.series().map(|s| 2 * s.labels.as_bytes().len() + SERIES_BYTES).sum();
    let text = |f: &model::Family| 2 * f.name.len() + f.help.len() + f.unit.len() + SERIES_BYTES;
    labels + group.content.0.values().map(|f| text(&f.family)).sum::<usize>() + GROUP_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::body;

    fn group(path: &str, text: &str) -> Arc<Group> {
        let key = GroupKey::from_path(path).unwrap_or_else(|e| panic!("{e}"));
        let body = body::read(wire::Format::Text, text.as_bytes(), &key).unwrap_or_else(|e| panic!("{e}"));
        Arc::new(Group::new(key, body.content, 1, 0, 0, 1))
    }

    fn put(registry: &Registry, path: &str, text: &str) -> String {
        match registry.put(&group(path, text)) {
            Ok(()) => "ok".to_owned(),
            Err(Refusal::Inconsistent(text) | Refusal::Full(text)) => text,
        }
    }

    #[test]
    fn groups_may_not_contradict_each_other() {
        let registry = Registry::new(PushLimits::default(), Vec::new());
        let cases = [
            ("/metrics/job/a", "# TYPE m counter\nm 1\n", "ok"),
            ("/metrics/job/a", "# TYPE m gauge\nm{instance=\"x\"} 1\n", "ok"),
            ("/metrics/job/b", "# TYPE m counter\nm 1\n", "m is a gauge in another group, not a counter"),
            ("/metrics/job/a/instance/x", "# TYPE m gauge\nm 1\n", "stands in another group already"),
            ("/metrics/job/a/instance/y", "# TYPE m gauge\nm 1\nm 1\n", "stands twice"),
            ("/metrics/job/a/instance/", "n 1\n", "stands in another group already"),
            ("/metrics/job/a/instance/y", "# TYPE m gauge\nm 1\n", "ok"),
        ];
        for (path, text, expected) in cases {
            let got = put(&registry, path, text);
            assert!(got.contains(expected), "{path} {text}: {got}");
        }
        for path in ["/metrics/job/a", "/metrics/job/a/instance/y"] {
            registry.restore(&group(path, "").key, None);
        }
        assert_eq!(registry.size(), (0, 0));
        assert_eq!(put(&registry, "/metrics/job/b", "# TYPE m counter\nm 1\n"), "ok");
        let state = registry.state.lock();
        assert_eq!((state.types.len(), state.series.len()), (1, 3));
    }

    #[test]
    fn groups_and_bytes_have_limits() {
        let limits = PushLimits { groups_max: 1, bytes_max: 4_000, ..PushLimits::default() };
        let registry = Registry::new(limits, Vec::new());
        assert_eq!(put(&registry, "/metrics/job/a", "m 1\n"), "ok");
        assert_eq!(put(&registry, "/metrics/job/a", "m 2\n"), "ok");
        assert!(put(&registry, "/metrics/job/b", "n 1\n").contains("1 groups already"));
        let many: String = (0..100).map(|i| format!("m{{i=\"{i}\"}} 1\n")).collect();
        assert!(put(&registry, "/metrics/job/a", &many).contains("more than 4000 bytes"));
        assert_eq!(registry.all()[0].content.len(), 1);
    }
}
