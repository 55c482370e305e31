//! Adding up what filters bring together: counters whose sum never goes down, gauges, histograms.
//!
//! A *group* is the series that is stored, its *children* are the series that came. Of a counter the group has what all children
//! rose by: a child that starts again from zero adds what it shows, one that is gone keeps what it gave.
//! Owns: the last value of each child, and the sums.
//! Invariants: 1. a sum of counters never goes down, over restarts either: what is stored of it is a floor; 2. what a batch adds
//! counts when the batch is stored, and not before ([`Aggregator::commit`]); 3. the time of a sum moves on only with samples that
//! are stored ([`Aggregator::stored`]), so that one sample with a wrong time cannot stop it.
//! Limits: [`CHILDREN_MAX`] children; those that were not seen for [`FORGET_AFTER_MS`] make room, and what they gave stays.
//! Children and groups that rest for [`REST_MAX_MS`] go ([`Aggregator::sweep`]).

mod members;
mod state;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use crate::filter::Function;
use crate::histogram::Histogram;
use crate::histogram_sum;
use crate::labels::Labels;
use crate::sample::is_stale;
use members::{Member, Use};

/// Children of one aggregator.
pub const CHILDREN_MAX: usize = 500_000;
/// A child that comes back later than this may have been forgotten, and then counts as new.
pub const FORGET_AFTER_MS: i64 = 86_400_000;

/// Children and groups that had no sample for so long go; the store is asked no further back either, so that such a sum begins
/// anew.
pub const REST_MAX_MS: i64 = 7 * 86_400_000;
/// Room is looked for this often: it costs a look at all children.
const ROOM_EVERY_MS: i64 = 10_000;

/// How the samples of a collection come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coming {
    /// For how long a gauge that was not sent again still counts; 0 where a collection holds all there is.
    pub lookback_ms: i64,
    /// What is later than this is not stored.
    pub newest_ms: i64,
}

impl Default for Coming {
    fn default() -> Coming {
        Coming::WHOLE
    }
}

impl Coming {
    /// A collection holds all there is, and all has one time.
    pub const WHOLE: Coming = Coming { lookback_ms: 0, newest_ms: i64::MAX };
}

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
    /// Names the group for [`Aggregator::stored`], until the collection is over.
    pub group: u32,
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
    /// The child was there at this time already; tells whether with the same value.
    Again(bool),
    /// A gauge from before what the sum last told, by more than the lookback: in the present it would be wrong.
    Late,
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
    usage: Use,
    /// A sweep found that it has rested for too long.
    dead: bool,
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
            usage: Use::default(),
            dead: false,
        }
    }
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
    coming: Coming,
    /// A collection has begun and is not over.
    open: bool,
    /// When room was looked for in vain.
    full_ms: Option<i64>,
}

impl Aggregator {
    /// Gives a number that changes when children were forgotten: what was given before names nothing any more.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts the children.
    pub fn children(&self) -> usize {
        self.by_key.len()
    }

    /// Counts the groups.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Tells whether a child is known.
    pub fn knows(&self, key: u64) -> bool {
        self.by_key.contains_key(&key)
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
        let at = self.add_member(Member::new(key, group, now_ms));
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

    /// Begins a collection: what an earlier one added and did not commit is void.
    pub fn begin(&mut self, coming: Coming) {
        self.abandon();
        (self.coming, self.open) = (coming, true);
    }

    /// Ends a collection of which nothing is stored.
    pub fn abandon(&mut self) {
        self.open = false;
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
        let Some(member) = self.members.get(child.0 as usize) else { return Added::Nothing };
        if is_stale(value) {
            return Added::Nothing;
        }
        if self.is_in_step(member) {
            return Added::Again(member.staged.map(f64::to_bits) == Some(value.to_bits()));
        }
        if self.is_late(&self.groups[member.group as usize]) {
            return Added::Late;
        }
        let member = &mut self.members[child.0 as usize];
        let group = &mut self.groups[member.group as usize];
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
        let Some(member) = self.members.get(child.0 as usize) else { return Added::Nothing };
        let group = &self.groups[member.group as usize];
        if !group.how.is_native() || is_stale(histogram.sum) {
            return Added::Nothing;
        }
        if self.is_in_step(member) {
            return Added::Again(member.staged_histogram.as_deref() == Some(&*histogram));
        }
        if self.is_late(group) {
            return Added::Late;
        }
        let member = &mut self.members[child.0 as usize];
        let group = &mut self.groups[member.group as usize];
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
        (member.staged_ms, member.step, member.usage.used) = (self.at_ms, self.step, true);
        let group = member.group;
        let of = &mut self.groups[group as usize];
        of.usage.used = true;
        if std::mem::replace(&mut of.touched, true) {
            return Added::More;
        }
        self.touched.push(group);
        Added::First
    }

    /// Gives the time that a group has come to; a time that no sample can have is one of a clock that was wrong.
    fn reached_ms(&self, group: &Group) -> i64 {
        let last_ms = if group.last_ms > self.coming.newest_ms { i64::MIN } else { group.last_ms };
        last_ms.max(group.staged_ms)
    }

    /// Tells whether what a gauge of this step shows is past.
    fn is_late(&self, group: &Group) -> bool {
        let rises = matches!(group.how, How::Cumulative | How::Histogram);
        let oldest_ms = self.reached_ms(group).saturating_sub(self.coming.lookback_ms);
        !rises && self.coming.lookback_ms > 0 && self.at_ms < oldest_ms
    }

    /// Gives what the groups of this step come to, in the order in which they were touched.
    pub fn totals(&mut self) -> Vec<Sum> {
        let touched = std::mem::take(&mut self.touched);
        let sums = touched.iter().map(|at| {
            let group = &self.groups[*at as usize];
            let at_ms = self.at_ms.max(self.reached_ms(group).saturating_add(1));
            Sum { labels: group.labels.clone(), group: *at, at_ms, total: self.total(group, at_ms) }
        });
        let sums: Vec<Sum> = sums.collect();
        for sum in &sums {
            self.groups[sum.group as usize].staged_ms = sum.at_ms;
        }
        self.touched = touched;
        sums
    }

    /// Gives what a group comes to at a time.
    fn total(&self, group: &Group, at_ms: i64) -> Total {
        match group.how {
            How::Cumulative => Total::Float((group.total + group.rise).max(group.floor)),
            How::Gauge(function) => {
                let mut gauge = group.gauge.clone();
                let others = self.others(group, at_ms);
                others.filter_map(|m| m.staged.or(m.last)).for_each(|value| gauge.add(value));
                Total::Float(gauge.get(function))
            }
            How::Histogram => {
                let members = group.members.iter().map(|m| &self.members[*m as usize]);
                let all = members.filter_map(Member::histogram);
                merged(group.base.iter().chain(&group.ended).cloned().chain(all))
            }
            How::GaugeHistogram => {
                let members = group.members.iter().map(|m| &self.members[*m as usize]);
                let now = members.filter(|m| self.is_in_step(m)).filter_map(Member::histogram);
                merged(now.chain(self.others(group, at_ms).filter_map(Member::histogram)))
            }
        }
    }

    /// Gives the children that are not in this step and still count at a time.
    fn others<'a>(&'a self, group: &'a Group, at_ms: i64) -> impl Iterator<Item = &'a Member> {
        let lookback_ms = self.coming.lookback_ms;
        let members = group.members.iter().filter(move |_| lookback_ms > 0).map(|m| &self.members[*m as usize]);
        members.filter(move |m| !self.is_in_step(m) && at_ms.saturating_sub(m.seen_ms()) <= lookback_ms)
    }

    fn is_in_step(&self, member: &Member) -> bool {
        member.is_staged && member.step == self.step
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

    /// Gives the histogram that was counted last of a child.
    pub fn last_histogram(&self, child: Child) -> Option<Arc<Histogram>> {
        self.members.get(child.0 as usize)?.histogram()
    }

    /// A sample of a group is stored: those that follow are later. Comes before [`Aggregator::commit`].
    pub fn stored(&mut self, group: u32, at_ms: i64) {
        let newest_ms = self.coming.newest_ms;
        if let Some(group) = self.groups.get_mut(group as usize) {
            // A time of a clock that was wrong stands no longer.
            let last_ms = if group.last_ms > newest_ms { i64::MIN } else { group.last_ms };
            group.last_ms = last_ms.max(at_ms);
        }
    }

    /// The batch is stored: what it added counts from now on. A sum that was refused alone shows it the next time.
    pub fn commit(&mut self) {
        self.open = false;
        self.next_step(self.at_ms);
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
            (group.rise, group.staged_ms) = (0.0, i64::MIN);
        }
    }
}

/// Adds histograms.
fn merged(all: impl Iterator<Item = Arc<Histogram>>) -> Total {
    let mut sum: Option<Arc<Histogram>> = None;
    for histogram in all {
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
