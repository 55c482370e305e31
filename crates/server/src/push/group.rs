//! One group: what was pushed under one key, and when.
//!
//! Invariant: `last_ms` only rises, so that no two samples of a series of the group stand at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use model::histogram::Histogram;
use model::{Batch, Family, Labels, MetricType, NO_FAMILY, stale_nan};
use xxhash_rust::xxh3::xxh3_64;

use super::content::{Content, PushedFamily, PushedSeries, Value};
use super::key::GroupKey;

const PUSH_TIME: &str = "push_time_seconds";
const FAILURE_TIME: &str = "push_failure_time_seconds";
/// The families that the gateway adds to each group.
pub const OWN_FAMILIES: [&str; 2] = [PUSH_TIME, FAILURE_TIME];
const HELP: [&str; 2] = [
    "Last Unix time when changing this group in the Pushgateway succeeded.",
    "Last Unix time when changing this group in the Pushgateway failed.",
];

const MAGIC: &[u8; 8] = b"QVPUSH\x00\x01";
const CHECKSUM_BYTES: usize = 8;

/// A group.
#[derive(Debug)]
pub struct Group {
    /// What it is known by.
    pub key: GroupKey,
    /// What was pushed.
    pub content: Content,
    /// When something was pushed last; 0 when all pushes failed. Milliseconds since 1970.
    pub pushed_ms: i64,
    /// When a push failed last; 0 when none has.
    pub failed_ms: i64,
    /// How long the group lives after a push; 0 means for ever.
    pub ttl_ms: i64,
    /// The time of the latest samples that were written of it.
    last_ms: AtomicI64,
}

impl Group {
    /// Makes a group.
    pub fn new(key: GroupKey, content: Content, pushed_ms: i64, failed_ms: i64, ttl_ms: i64, last_ms: i64) -> Group {
        Group { key, content, pushed_ms, failed_ms, ttl_ms, last_ms: AtomicI64::new(last_ms) }
    }

    /// Takes a time for samples of the group: the present one, or one just after the last that was taken.
    pub fn next_ms(&self, now_ms: i64) -> i64 {
        let at_ms = now_ms.max(self.last_ms.load(Ordering::Relaxed).saturating_add(1));
        self.last_ms.store(at_ms, Ordering::Relaxed);
        at_ms
    }

    /// Tells whether its time is over.
    pub fn is_over(&self, now_ms: i64) -> bool {
        self.ttl_ms > 0 && now_ms >= self.pushed_ms.max(self.failed_ms).saturating_add(self.ttl_ms)
    }

    /// Gives the label sets of the two series that every group has.
    pub fn own_labels(&self) -> [Labels; 2] {
        OWN_FAMILIES.map(|name| self.key.labels_of(name))
    }

    /// Adds the two times of the group to a batch.
    pub fn push_times(&self, batch: &mut Batch, at_ms: i64) {
        let times = [self.pushed_ms, self.failed_ms];
        for ((labels, help), (name, time_ms)) in self.own_labels().iter().zip(HELP).zip(OWN_FAMILIES.iter().zip(times))
        {
            let index = batch.families.len() as u32;
            let (name, help) = ((*name).to_owned(), help.to_owned());
            batch.families.push(Family { name, metric_type: MetricType::Gauge, help, unit: String::new() });
            let place = batch.push_labels(labels, index);
            batch.push_sample(place, at_ms, time_ms as f64 / 1000.0);
        }
    }

    /// Adds a stale marker for each of all its series to a batch.
    pub fn push_end(&self, batch: &mut Batch, at_ms: i64) {
        let all = self.content.series().map(|s| &s.labels);
        let own = self.own_labels();
        push_stale(batch, all.chain(&own), at_ms);
    }

    /// Gives the bytes of its file; `docs/format/push_group.md` draws them.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_len(&mut out, self.key.pairs().len());
        for (name, value) in self.key.pairs() {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        for ms in [self.pushed_ms, self.failed_ms, self.ttl_ms, self.last_ms.load(Ordering::Relaxed)] {
            out.extend_from_slice(&ms.to_le_bytes());
        }
        put_len(&mut out, self.content.0.len());
        for family in self.content.0.values() {
            put_family(&mut out, family);
        }
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the bytes of a file; `None` when they are not whole.
    pub fn decode(bytes: &[u8]) -> Option<Group> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        if checksum != xxh3_64(body).to_le_bytes() {
            return None;
        }
        let mut cursor = Cursor { rest: body.strip_prefix(MAGIC)? };
        let pairs = (0..cursor.len()?).map(|_| Some((cursor.text()?, cursor.text()?))).collect::<Option<Vec<_>>>()?;
        let [pushed_ms, failed_ms, ttl_ms, last_ms] = [cursor.long()?, cursor.long()?, cursor.long()?, cursor.long()?];
        let families = (0..cursor.len()?).map(|_| cursor.family()).collect::<Option<Vec<_>>>()?;
        let content = Content(families.into_iter().map(|f| (f.family.name.clone(), Arc::new(f))).collect());
        let key = GroupKey::from_pairs(pairs);
        cursor.rest.is_empty().then(|| Group::new(key, content, pushed_ms, failed_ms, ttl_ms, last_ms))
    }
}

/// Adds a stale marker for each label set to a batch.
pub fn push_stale<'l>(batch: &mut Batch, series: impl IntoIterator<Item = &'l Labels>, at_ms: i64) {
    for labels in series {
        let place = batch.push_labels(labels, NO_FAMILY);
        batch.push_sample(place, at_ms, stale_nan());
    }
}

fn put_family(out: &mut Vec<u8>, family: &PushedFamily) {
    let Family { name, metric_type, help, unit } = &family.family;
    [name, help, unit].into_iter().for_each(|text| put_bytes(out, text.as_bytes()));
    out.push(*metric_type as u8);
    put_len(out, family.series.len());
    for series in &family.series {
        put_bytes(out, series.labels.as_bytes());
        match &series.value {
            Value::Float(value) => {
                out.push(0);
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            Value::Histogram(histogram) => {
                out.push(1);
                let mut bytes = Vec::new();
                histogram.encode(&mut bytes);
                put_bytes(out, &bytes);
            }
        }
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn len(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize)
    }

    fn long(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn family(&mut self) -> Option<PushedFamily> {
        let [name, help, unit] = [self.text()?, self.text()?, self.text()?];
        let metric_type = MetricType::from_u8(self.byte()?);
        let series = (0..self.len()?).map(|_| self.series()).collect::<Option<Vec<_>>>()?;
        Some(PushedFamily { family: Family { name, metric_type, help, unit }, series })
    }

    fn series(&mut self) -> Option<PushedSeries> {
        let labels = Labels::from_bytes(self.bytes()?)?;
        let value = match self.byte()? {
            0 => Value::Float(f64::from_bits(self.long()? as u64)),
            1 => {
                let (histogram, len) = Histogram::decode(self.bytes()?)?;
                (len > 0).then_some(Value::Histogram(Arc::new(histogram)))?
            }
            _ => return None,
        };
        Some(PushedSeries { labels, value })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A group with a value of each kind.
    pub fn sample_group() -> Group {
        let key = GroupKey::from_pairs([("job".to_owned(), "j".to_owned()), ("x".to_owned(), String::new())]);
        let labels = |name: &str| Labels::from_pairs([("__name__", name), ("job", "j")]);
        let family = |name: &str, value: Value| {
            let family =
                Family { name: name.into(), metric_type: MetricType::Gauge, help: "Ü".into(), unit: "s".into() };
            (
                name.to_owned(),
                Arc::new(PushedFamily { family, series: vec![PushedSeries { labels: labels(name), value }] }),
            )
        };
        let histogram = Histogram { count: 2.0, zero_count: 2.0, sum: 1.0, ..Histogram::default() };
        let stale = Value::Float(f64::from_bits(model::STALE_NAN_BITS ^ 0xff));
        let content = [family("a", stale), family("h", Value::Histogram(Arc::new(histogram)))];
        Group::new(key, Content(content.into()), 1_000, 0, 60_000, 1_000)
    }

    #[test]
    fn a_file_gives_the_group_back_and_no_damage_goes_unseen() {
        let group = sample_group();
        let bytes = group.encode();
        let again = Group::decode(&bytes).unwrap_or_else(|| panic!("it was written a moment ago"));
        assert_eq!(again.encode(), bytes);
        assert_eq!((again.key, again.ttl_ms), (group.key, 60_000));
        for cut in 0..bytes.len() {
            assert!(Group::decode(&bytes[..cut]).is_none(), "{cut}");
            let mut damaged = bytes.clone();
            damaged[cut] ^= 0x10;
            assert!(Group::decode(&damaged).is_none(), "{cut}");
        }
    }

    #[test]
    fn no_time_is_taken_twice_and_lives_end() {
        let group = sample_group();
        assert_eq!([group.next_ms(5_000), group.next_ms(5_000), group.next_ms(4_000)], [5_000, 5_001, 5_002]);
        assert_eq!([group.is_over(60_999), group.is_over(61_000)], [false, true]);
    }
}
