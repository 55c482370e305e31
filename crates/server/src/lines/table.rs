//! What StatsD's lines add up to.
//!
//! Owns: one state for each series. Invariants: 1. counters and distributions only rise, over restarts too: a series that is new
//! here goes on from what the store knows of it (`resume.rs`); 2. a series has one kind.
//! Limits: [`SERIES_MAX`] series, forgotten after [`IDLE_FLUSHES_MAX`] flushes without a line; [`MEMBERS_MAX`] members of a set.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use model::histogram::Histogram;
use model::{Batch, Family, Labels, MetricType, TypeCounts};
use wire::statsd::{Kind, Metric, number};
use xxhash_rust::xxh3::xxh3_64;

use super::rows::SeriesMaker;
use super::stats::Dropped;

/// Series at a time.
pub const SERIES_MAX: usize = 200_000;
/// A series without a line for so many flushes is forgotten; ten seconds each make an hour.
pub const IDLE_FLUSHES_MAX: u32 = 360;
/// Members of one set that are told apart.
const MEMBERS_MAX: usize = 100_000;

/// What one series stands at.
#[derive(Clone, Debug)]
enum State {
    Counter(f64),
    /// The value, and whether it is one: a series that only had `+1` needs the store's to add to.
    Gauge {
        value: f64,
        absolute: bool,
    },
    Distribution(Box<super::sketch::Sketch>),
    Set(HashSet<u64>),
}

struct Entry {
    state: State,
    idle: u32,
    /// What the store knew is in.
    resumed: bool,
}

/// What the store knows of a series.
pub enum Known {
    /// Nothing.
    Nothing,
    /// Its last value.
    Value(f64),
    /// Its last histogram.
    Histogram(Arc<Histogram>),
}

/// All series.
#[derive(Default)]
pub struct Table {
    series: HashMap<Labels, Entry>,
    /// Samples with a time of their own.
    timed: Vec<(Labels, i64, f64)>,
    maker: SeriesMaker,
}

impl Table {
    /// Counts the series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Takes a line.
    ///
    /// **Errors** with the reason when it is not taken.
    pub fn take(&mut self, metric: &Metric<'_>) -> Result<(), Dropped> {
        self.maker.begin(metric.name);
        for (name, value) in &metric.tags {
            self.maker.label(name, value);
        }
        let labels = self.maker.labels().ok_or(Dropped::InvalidName)?;
        if let (Some(ts_ms), Kind::Gauge) = (metric.ts_ms, metric.kind) {
            return self.take_timed(&labels, ts_ms, metric);
        }
        let full = self.series.len() >= SERIES_MAX;
        let entry = match self.series.get_mut(&labels) {
            Some(entry) => entry,
            None if full => return Err(Dropped::SeriesLimit),
            None => {
                let state = match metric.kind {
                    Kind::Counter => State::Counter(0.0),
                    Kind::Gauge => State::Gauge { value: 0.0, absolute: false },
                    Kind::Timer | Kind::Distribution => State::Distribution(Box::default()),
                    Kind::Set => State::Set(HashSet::new()),
                };
                self.series.entry(labels).or_insert(Entry { state, idle: 0, resumed: false })
            }
        };
        entry.apply(metric)?;
        entry.idle = 0;
        Ok(())
    }

    fn take_timed(&mut self, labels: &Labels, ts_ms: i64, metric: &Metric<'_>) -> Result<(), Dropped> {
        if self.timed.len() + metric.values.len() > SERIES_MAX {
            return Err(Dropped::QueueFull);
        }
        let values = metric.values.iter().filter_map(|text| number(text));
        self.timed.extend(values.map(|value| (labels.clone(), ts_ms, value)));
        Ok(())
    }

    /// Gives the series that the store has not been asked for.
    pub fn fresh(&self) -> Vec<Labels> {
        let fresh = |(labels, entry): (&Labels, &Entry)| (!entry.resumed).then(|| labels.clone());
        self.series.iter().filter_map(fresh).collect()
    }

    /// Puts what the store knows under what was added since.
    pub fn resume(&mut self, labels: &Labels, known: Known) {
        let Some(entry) = self.series.get_mut(labels).filter(|entry| !entry.resumed) else { return };
        entry.resumed = true;
        match (&mut entry.state, known) {
            (State::Counter(total), Known::Value(value)) if value > 0.0 && value.is_finite() => *total += value,
            (State::Gauge { value, absolute: false }, Known::Value(before)) if before.is_finite() => *value += before,
            (State::Distribution(sketch), Known::Histogram(base)) => sketch.add_base(&base),
            _ => {}
        }
        if let State::Gauge { absolute, .. } = &mut entry.state {
            *absolute = true;
        }
    }

    /// Writes all series into a batch and forgets those that are idle; sets begin anew.
    ///
    /// **Gives** the points by type.
    pub fn flush(&mut self, batch: &mut Batch, now_ms: i64) -> TypeCounts {
        let mut points = TypeCounts::default();
        let mut families: HashMap<String, u32> = HashMap::new();
        for (labels, entry) in &mut self.series {
            // A series that came after the store was asked waits for the next time.
            if !entry.resumed {
                continue;
            }
            let metric_type = match entry.state {
                State::Counter(_) => MetricType::Counter,
                State::Gauge { .. } | State::Set(_) => MetricType::Gauge,
                State::Distribution(_) => MetricType::Histogram,
            };
            let family = *families.entry(labels.metric_name().to_owned()).or_insert_with(|| {
                let name = labels.metric_name().to_owned();
                batch.families.push(Family { name, metric_type, ..Family::default() });
                batch.families.len() as u32 - 1
            });
            let series = batch.push_labels(labels, family);
            match &mut entry.state {
                State::Counter(total) => {
                    batch.push_sample(series, now_ms, *total);
                    points.counters += 1;
                }
                State::Gauge { value, .. } => {
                    batch.push_sample(series, now_ms, *value);
                    points.gauges += 1;
                }
                State::Set(members) => {
                    batch.push_sample(series, now_ms, members.len() as f64);
                    members.clear();
                    points.gauges += 1;
                }
                State::Distribution(sketch) => {
                    batch.push_histogram(series, now_ms, Arc::new(sketch.to_histogram()));
                    points.histograms += 1;
                }
            }
            entry.idle += 1;
        }
        self.series.retain(|_, entry| entry.idle <= IDLE_FLUSHES_MAX);
        for (labels, ts_ms, value) in std::mem::take(&mut self.timed) {
            let series = batch.push_labels(&labels, model::NO_FAMILY);
            batch.push_sample(series, ts_ms, value);
            points.gauges += 1;
        }
        points
    }
}

impl Entry {
    fn apply(&mut self, metric: &Metric<'_>) -> Result<(), Dropped> {
        let weight = 1.0 / metric.rate;
        let numbers = || metric.values.iter().filter_map(|text| number(text));
        match (&mut self.state, metric.kind) {
            (State::Counter(total), Kind::Counter) => {
                // Only the sum must not fall: a correction within a flush is what senders mean by a negative count.
                *total = (*total + numbers().sum::<f64>() * weight).max(0.0);
            }
            (State::Gauge { value, absolute }, Kind::Gauge) => {
                for text in &metric.values {
                    let Some(n) = number(text) else { continue };
                    if text.starts_with(['+', '-']) {
                        *value += n;
                    } else {
                        (*value, *absolute) = (n, true);
                    }
                }
            }
            (State::Distribution(sketch), Kind::Timer) => numbers().for_each(|ms| sketch.add(ms / 1000.0, weight)),
            (State::Distribution(sketch), Kind::Distribution) => numbers().for_each(|n| sketch.add(n, weight)),
            (State::Set(members), Kind::Set) => {
                for member in &metric.values {
                    if members.len() < MEMBERS_MAX {
                        members.insert(xxh3_64(member.as_bytes()));
                    }
                }
            }
            _ => return Err(Dropped::TypeConflict),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::statsd::{Line, parse};

    fn take(table: &mut Table, line: &str) -> Result<(), Dropped> {
        match parse(line.as_bytes(), 1) {
            Some(Ok(Line::Metric(metric))) => table.take(&metric),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn flushed(table: &mut Table, known: impl Fn(&Labels) -> Known) -> Vec<(String, f64)> {
        for labels in table.fresh() {
            let known = known(&labels);
            table.resume(&labels, known);
        }
        let mut batch = Batch::default();
        table.flush(&mut batch, 1_000);
        let text = |series| batch.labels(series).unwrap_or_default().to_string();
        let mut out: Vec<_> = batch.samples.iter().map(|s| (text(s.series), s.value)).collect();
        out.extend(batch.histograms.iter().map(|h| (text(h.series), h.histogram.count)));
        out.sort_by(|a, b| a.0.cmp(&b.0));
        out
    }

    #[test]
    fn lines_add_up_as_statsd_has_them() {
        let mut table = Table::default();
        for line in [
            "hits:1|c",
            "hits:2|c|@0.5",
            "hits:3|c|#env:prod",
            "temp:20|g",
            "temp:+2|g",
            "temp:-1|g",
            "took:250:750|ms",
            "size:5|d|@0.1",
            "users:a|s",
            "users:b|s",
            "users:a|s",
            "old:7|g|T1700000000",
        ] {
            take(&mut table, line).unwrap();
        }
        assert_eq!(take(&mut table, "hits:1|g"), Err(Dropped::TypeConflict));
        assert_eq!(take(&mut table, "x:1|c|#__name__:y"), Err(Dropped::InvalidName));
        let wanted = [
            ("hits", 5.0),
            ("hits{env=\"prod\"}", 3.0),
            ("old", 7.0),
            ("size", 10.0),
            ("temp", 21.0),
            ("took", 2.0),
            ("users", 2.0),
        ];
        let got = flushed(&mut table, |_| Known::Nothing);
        assert_eq!(got, wanted.map(|(name, value)| (name.to_owned(), value)));
        let again = flushed(&mut table, |_| Known::Nothing);
        assert_eq!(again[0].1, 5.0, "counters are cumulative");
        assert_eq!(again.last().map(|l| l.1), Some(0.0), "sets begin anew");
    }

    #[test]
    fn a_restart_is_no_reset() {
        let mut table = Table::default();
        take(&mut table, "hits:1|c").unwrap();
        take(&mut table, "temp:+2|g").unwrap();
        take(&mut table, "set:3|g").unwrap();
        let got = flushed(&mut table, |_| Known::Value(40.0));
        assert_eq!(got.iter().map(|g| g.1).collect::<Vec<_>>(), [41.0, 3.0, 42.0]);
        take(&mut table, "hits:1|c").unwrap();
        assert_eq!(flushed(&mut table, |_| panic!("it was asked once"))[0].1, 42.0);
    }

    #[test]
    fn what_is_idle_is_forgotten() {
        let mut table = Table::default();
        take(&mut table, "hits:1|c").unwrap();
        for _ in 0..=IDLE_FLUSHES_MAX {
            flushed(&mut table, |_| Known::Nothing);
        }
        assert_eq!(table.len(), 0);
    }
}
