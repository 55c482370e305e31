//! Adding up what filters bring together: counters whose sum never goes down, gauges, histograms.
//!
//! A *group* is the series that is stored, its *children* are the series that came. Of a counter the group has what all children
//! rose by: a child that starts again from zero adds what it shows, one that is gone keeps what it gave.
//! Owns: the last value of each child, and the sums.
//! Invariants: 1. a sum of counters never goes down, over restarts either: what is stored of it is a floor; 2. what a batch adds
//! counts when the batch is stored, and not before ([`Aggregator::commit`]).
//! Limits: [`CHILDREN_MAX`] children; those that were not seen for [`FORGET_AFTER_MS`] make room, and what they gave stays.

mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use crate::filter::Function;
use crate::histogram::Histogram;
use crate::histogram_sum;
use crate::labels::Labels;
use crate::sample::is_stale;

/// Children of one aggregator.
pub const CHILDREN_MAX: usize = 500_000;
/// A child that comes back later than this may have been forgotten, and then counts as new.
pub const FORGET_AFTER_MS: i64 = 86_400_000;

/// How the samples of a group become one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum How {
    /// They only rise: what they rose by is added.
    Cumulative,
    /// They go up and down.
    Gauge(Function),
    /// Native histograms that only rise.
    Histogram,
    /// Native histograms that go up and down.
    GaugeHistogram,
}

impl How {
    fn is_native(self) -> bool {
        matches!(self, How::Histogram | How::GaugeHistogram)
    }
}

/// Gives time and value of the last stored sample of a series, if there is one.
pub type Resume<'a> = &'a dyn Fn(&Labels) -> Option<(i64, f64)>;

/// What a group comes to.
#[derive(Clone, PartialEq, Debug)]
pub struct Sum {
    /// The labels of the group.
    pub labels: Labels,
    /// The time of its sample: that of the step, or a little later where the group has a sample of that time already.
    pub at_ms: i64,
    /// The value.
    pub total: Total,
}

/// Names a child for as long as [`Aggregator::epoch`] is the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Child(pub u32);

/// What a sample was to its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// The first of this collection: the sum takes its place.
    First,
    /// One more.
    More,
    /// It says nothing: a stale marker, or a counter that is no number.
    Nothing,
}

/// The value of a group.
#[derive(Clone, PartialEq, Debug)]
pub enum Total {
    /// A number.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
    /// The histograms do not go together.
    Incompatible,
}

#[derive(Clone, Debug, Default)]
struct Gauge {
    count: u64,
    sum: f64,
    max: f64,
    min: f64,
}

impl Gauge {
    fn add(&mut self, value: f64) {
        (self.max, self.min) =
            if self.count == 0 { (value, value) } else { (self.max.max(value), self.min.min(value)) };
        self.count += 1;
        self.sum += value;
    }

    fn get(&self, function: Function) -> f64 {
        match function {
            Function::Sum => self.sum,
            Function::Avg => self.sum / self.count.max(1) as f64,
            Function::Max => self.max,
            Function::Min => self.min,
        }
    }
}

#[derive(Clone, Debug)]
struct Group {
    labels: Labels,
    how: How,
    /// What children gave: all of them for counters, those that are forgotten or began again for histograms.
    total: f64,
    base: Option<Arc<Histogram>>,
    members: Vec<u32>,
    /// The time of the last sample that was made of it, and of one that is not stored yet.
    last_ms: i64,
    staged_ms: i64,
    /// The store was asked what it has.
    resumed: bool,
    floor: f64,
    touched: bool,
    rise: f64,
    gauge: Gauge,
    /// Histograms of children that began again in this collection.
    ended: Vec<Arc<Histogram>>,
}

impl Group {
    /// Starts without children.
    fn new(labels: Labels, how: How) -> Group {
        Group {
            labels,
            how,
            total: 0.0,
            base: None,
            members: Vec::new(),
            last_ms: i64::MIN,
            staged_ms: i64::MIN,
            resumed: false,
            floor: 0.0,
            touched: false,
            rise: 0.0,
            gauge: Gauge::default(),
            ended: Vec::new(),
        }
    }
}

#[derive(Clone, Debug)]
struct Member {
    key: u64,
    group: u32,
    last: Option<f64>,
    histogram: Option<Arc<Histogram>>,
    last_ms: i64,
    staged: Option<f64>,
    staged_histogram: Option<Arc<Histogram>>,
    staged_ms: i64,
    is_staged: bool,
    /// The step that it was added in.
    step: u64,
    forgotten: bool,
}

/// The sums of one target or source.
#[derive(Clone, Debug, Default)]
pub struct Aggregator {
    groups: Vec<Group>,
    by_labels: HashMap<(Labels, bool), u32>,
    members: Vec<Member>,
    by_key: HashMap<u64, u32>,
    free: Vec<u32>,
    /// Groups of this step, and of those before it.
    touched: Vec<u32>,
    touched_before: Vec<u32>,
    staged: Vec<u32>,
    step: u64,
    at_ms: i64,
    epoch: u64,
    changed: bool,
}

impl Aggregator {
    /// Gives a number that changes when children were forgotten: what was given before names nothing any more.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Tells whether anything changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Counts the children.
    pub fn children(&self) -> usize {
        self.by_key.len()
    }

    /// Finds a child, or takes it in.
    ///
    /// **Takes** the hash of its own labels, the labels of its group, and what knows the store.
    /// **Gives** `None` when there is no room for a new one.
    pub fn child(&mut self, key: u64, labels: &Labels, how: How, now_ms: i64, resume: Resume<'_>) -> Option<Child> {
        let group = self.group(labels, how, resume);
        if let Some(at) = self.by_key.get(&key).copied() {
            let member = &mut self.members[at as usize];
            if member.group == group {
                return Some(Child(at));
            }
            // Its filters changed: it begins anew in another group.
            self.forget(at);
        }
        if self.by_key.len() >= CHILDREN_MAX && !self.make_room(now_ms) {
            return None;
        }
        let member = Member {
            key,
            group,
            last: None,
            histogram: None,
            last_ms: now_ms,
            staged: None,
            staged_histogram: None,
            staged_ms: 0,
            is_staged: false,
            step: 0,
            forgotten: false,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.members[at as usize] = member;
                at
            }
            None => {
                self.members.push(member);
                (self.members.len() - 1) as u32
            }
        };
        self.by_key.insert(key, at);
        self.groups[group as usize].members.push(at);
        Some(Child(at))
    }

    fn group(&mut self, labels: &Labels, how: How, resume: Resume<'_>) -> u32 {
        let next = self.groups.len() as u32;
        let at = *self.by_labels.entry((labels.clone(), how.is_native())).or_insert(next);
        if at == next {
            self.groups.push(Group::new(labels.clone(), how));
        }
        let group = &mut self.groups[at as usize];
        group.how = how;
        if !std::mem::replace(&mut group.resumed, true)
            && let Some((at_ms, value)) = resume(labels)
        {
            group.last_ms = group.last_ms.max(at_ms);
            if how == How::Cumulative && value.is_finite() {
                group.floor = value;
            }
        }
        at
    }

    /// Forgets children that were not seen for long; tells whether there is room now.
    fn make_room(&mut self, now_ms: i64) -> bool {
        let is_old = |m: &Member| !m.forgotten && !m.is_staged && now_ms.saturating_sub(m.last_ms) > FORGET_AFTER_MS;
        let old: Vec<u32> = (0..self.members.len() as u32).filter(|at| is_old(&self.members[*at as usize])).collect();
        for at in &old {
            self.forget(*at);
        }
        !old.is_empty()
    }

    fn forget(&mut self, at: u32) {
        let member = &mut self.members[at as usize];
        member.forgotten = true;
        let (key, group, histogram) = (member.key, member.group, member.histogram.take());
        self.by_key.remove(&key);
        self.free.push(at);
        let group = &mut self.groups[group as usize];
        group.members.retain(|m| *m != at);
        if let (How::Histogram, Some(histogram)) = (group.how, histogram) {
            group.base = Some(joined(group.base.take(), histogram));
        }
        self.epoch += 1;
    }

    /// Begins a collection: what an earlier one added and did not commit is void.
    pub fn begin(&mut self) {
        for at in std::mem::take(&mut self.staged) {
            let member = &mut self.members[at as usize];
            (member.staged, member.staged_histogram, member.is_staged) = (None, None, false);
        }
        self.next_step(self.at_ms);
        for at in std::mem::take(&mut self.touched_before) {
            let group = &mut self.groups[at as usize];
            group.rise = 0.0;
            group.ended.clear();
            group.staged_ms = i64::MIN;
        }
    }

    /// Goes on to the samples of another time, within a collection.
    pub fn next_step(&mut self, at_ms: i64) {
        (self.at_ms, self.step) = (at_ms, self.step + 1);
        for at in self.touched.drain(..) {
            let group = &mut self.groups[at as usize];
            (group.touched, group.gauge) = (false, Gauge::default());
            self.touched_before.push(at);
        }
    }

    /// Adds a sample of a child.
    #[inline]
    pub fn add(&mut self, child: Child, value: f64) -> Added {
        let Some(member) = self.members.get_mut(child.0 as usize) else { return Added::Nothing };
        let group = &mut self.groups[member.group as usize];
        if is_stale(value) {
            return Added::Nothing;
        }
        match group.how {
            How::Cumulative => {
                if !value.is_finite() {
                    return Added::Nothing;
                }
                let before = member.staged.or(member.last);
                // What went down began again from zero.
                group.rise += before.map_or(value, |b| if value >= b { value - b } else { value }).max(0.0);
            }
            How::Gauge(_) => group.gauge.add(value),
            How::Histogram | How::GaugeHistogram => return Added::Nothing,
        }
        member.staged = Some(value);
        self.note(child)
    }

    /// Adds a native histogram of a child.
    pub fn add_histogram(&mut self, child: Child, histogram: Arc<Histogram>) -> Added {
        let Some(member) = self.members.get_mut(child.0 as usize) else { return Added::Nothing };
        let group = &mut self.groups[member.group as usize];
        if !group.how.is_native() || is_stale(histogram.sum) {
            return Added::Nothing;
        }
        let before = member.staged_histogram.as_ref().or(member.histogram.as_ref());
        if let Some(before) = before.filter(|before| began_again(before, &histogram)) {
            group.ended.push(before.clone());
        }
        member.staged_histogram = Some(histogram);
        self.note(child)
    }

    fn note(&mut self, child: Child) -> Added {
        let member = &mut self.members[child.0 as usize];
        if !std::mem::replace(&mut member.is_staged, true) {
            self.staged.push(child.0);
        }
        (member.staged_ms, member.step) = (self.at_ms, self.step);
        let group = member.group;
        if std::mem::replace(&mut self.groups[group as usize].touched, true) {
            return Added::More;
        }
        self.touched.push(group);
        Added::First
    }

    /// Gives what the groups of this step come to, in the order in which they were touched.
    ///
    /// **Takes** for how long a gauge that was not sent again still counts; 0 where a collection holds all there is.
    pub fn totals(&mut self, lookback_ms: i64) -> Vec<Sum> {
        let at_ms = self.at_ms;
        let totals = self.touched.iter().map(|at| self.total(&self.groups[*at as usize], lookback_ms));
        let totals: Vec<Total> = totals.collect();
        let mut sums = Vec::with_capacity(totals.len());
        for (at, total) in self.touched.iter().zip(totals) {
            let group = &mut self.groups[*at as usize];
            group.staged_ms = at_ms.max(group.last_ms.max(group.staged_ms).saturating_add(1));
            sums.push(Sum { labels: group.labels.clone(), at_ms: group.staged_ms, total });
        }
        sums
    }

    fn total(&self, group: &Group, lookback_ms: i64) -> Total {
        match group.how {
            How::Cumulative => Total::Float((group.total + group.rise).max(group.floor)),
            How::Gauge(function) => {
                let mut gauge = group.gauge.clone();
                let seen_ms = |m: &Member| if m.is_staged { m.staged_ms } else { m.last_ms };
                let still = |m: &&Member| {
                    !self.is_in_step(m) && self.at_ms.saturating_sub(seen_ms(m)).unsigned_abs() <= lookback_ms as u64
                };
                let others = group.members.iter().map(|m| &self.members[*m as usize]).filter(still);
                if lookback_ms > 0 {
                    others.filter_map(|m| m.staged.or(m.last)).for_each(|value| gauge.add(value));
                }
                Total::Float(gauge.get(function))
            }
            How::Histogram => self.sum(group, true),
            How::GaugeHistogram => self.sum(group, false),
        }
    }

    fn is_in_step(&self, member: &Member) -> bool {
        member.is_staged && member.step == self.step
    }

    fn sum(&self, group: &Group, with_all: bool) -> Total {
        let members = group.members.iter().map(|m| &self.members[*m as usize]);
        let of = |m: &Member| match with_all {
            true => m.staged_histogram.clone().or_else(|| m.histogram.clone()),
            false => m.staged_histogram.clone().filter(|_| self.is_in_step(m)),
        };
        let before = group.base.iter().chain(&group.ended).filter(|_| with_all).cloned();
        let mut sum: Option<Arc<Histogram>> = None;
        for histogram in before.chain(members.filter_map(of)) {
            sum = match sum {
                None => Some(histogram),
                Some(sum) => match histogram_sum::add(&sum, &histogram) {
                    Some(sum) => Some(Arc::new(sum)),
                    None => return Total::Incompatible,
                },
            };
        }
        sum.map_or(Total::Incompatible, Total::Histogram)
    }

    /// Gives time and value of the sample that was counted last of a child; no value where it is a histogram.
    pub fn last(&self, child: Child) -> Option<(i64, Option<f64>)> {
        let member = self.members.get(child.0 as usize)?;
        let is_known = member.last.is_some() || member.histogram.is_some();
        match member.is_staged {
            true => Some((member.staged_ms, member.staged)),
            false => is_known.then_some((member.last_ms, member.last)),
        }
    }

    /// The batch is stored: what it added counts from now on.
    pub fn commit(&mut self) {
        self.next_step(self.at_ms);
        self.changed |= !self.staged.is_empty();
        for at in std::mem::take(&mut self.staged) {
            let member = &mut self.members[at as usize];
            member.last = member.staged.take().or(member.last);
            member.histogram = member.staged_histogram.take().or(member.histogram.take());
            member.last_ms = member.staged_ms;
            member.is_staged = false;
        }
        for at in std::mem::take(&mut self.touched_before) {
            let group = &mut self.groups[at as usize];
            if group.how == How::Cumulative {
                group.total = (group.total + group.rise).max(group.floor);
            }
            for ended in group.ended.drain(..) {
                group.base = Some(joined(group.base.take(), ended));
            }
            group.last_ms = group.last_ms.max(group.staged_ms);
            (group.rise, group.staged_ms) = (0.0, i64::MIN);
        }
    }
}

/// Adds a histogram to those that are over; what does not go with them takes their place.
fn joined(base: Option<Arc<Histogram>>, one: Arc<Histogram>) -> Arc<Histogram> {
    match base.map(|base| histogram_sum::add(&base, &one)) {
        Some(Some(sum)) => Arc::new(sum),
        _ => one,
    }
}

/// Tells whether a histogram cannot be a later state of another one.
fn began_again(before: &Histogram, now: &Histogram) -> bool {
    if now.count < before.count {
        return true;
    }
    let side = |h: &Histogram, positive: bool| -> HashMap<i32, f64> {
        let (spans, counts) =
            if positive { (&h.positive_spans, &h.positive) } else { (&h.negative_spans, &h.negative) };
        Histogram::buckets(spans, counts).collect()
    };
    let same_shape = before.schema == now.schema
        && before.zero_threshold == now.zero_threshold
        && before.custom_bounds == now.custom_bounds;
    same_shape
        && (now.zero_count < before.zero_count
            || [true, false].into_iter().any(|positive| {
                let now = side(now, positive);
                side(before, positive).iter().any(|(i, count)| now.get(i).copied().unwrap_or(0.0) < *count)
            }))
}
