//! An entry of the queue: the stored rows of one record, and the series in it that the segment did not name before.
//!
//! Invariant: a segment explains itself: every id in it is defined in it, at or in front of its first use.

use hashbrown::HashMap;
use model::{Followed, MetricType, Sample, SeriesId};

use model::coding::{Cursor, Malformed, put_bytes, put_signed, put_varint};

const TIMES_DIFFER: u8 = 0;
const TIMES_ALL_EQUAL: u8 = 1;
/// Ids of one page of [`Defined`].
const PAGE_IDS: u64 = 65_536;

/// Which ids a segment has defined: a bit for each.
#[derive(Default)]
pub struct Defined(HashMap<u64, Box<[u64; PAGE_IDS as usize / 64]>>);

impl Defined {
    /// Notes an id; tells whether it is new.
    #[inline]
    fn insert(&mut self, id: SeriesId) -> bool {
        let page = self.0.entry(id.0 / PAGE_IDS).or_insert_with(|| Box::new([0; PAGE_IDS as usize / 64]));
        let at = (id.0 % PAGE_IDS) as usize;
        let (word, bit) = (&mut page[at / 64], 1u64 << (at % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Tells how many samples and histograms a record brings.
pub fn rows_of(record: &Followed<'_>) -> usize {
    record.samples.len() + record.histograms.len()
}

/// Appends a record.
pub fn encode(record: &Followed<'_>, defined: &mut Defined, out: &mut Vec<u8>) {
    put_bytes(out, record.origin.source_id.as_bytes());
    put_bytes(out, record.origin.target_id.as_bytes());
    put_signed(out, record.origin.received_at_ms);
    put_definitions(record, defined, out);
    put_samples(record.samples, out);
    put_varint(out, record.histograms.len() as u64);
    for (id, ts_ms, bytes) in record.histograms {
        put_varint(out, id.0);
        put_signed(out, *ts_ms);
        put_bytes(out, bytes);
    }
    put_varint(out, record.exemplars.len() as u64);
    for (id, labels, sample) in record.exemplars {
        put_varint(out, id.0);
        put_signed(out, sample.ts_ms);
        out.extend_from_slice(&sample.value.to_le_bytes());
        put_bytes(out, labels.as_bytes());
    }
}

fn put_definitions(record: &Followed<'_>, defined: &mut Defined, out: &mut Vec<u8>) {
    let ids = record.samples.iter().map(|s| s.0);
    let ids = ids.chain(record.histograms.iter().map(|h| h.0)).chain(record.exemplars.iter().map(|e| e.0));
    let mut new: Vec<SeriesId> = ids.filter(|id| defined.insert(*id)).collect();
    new.sort_unstable();
    let (mut count, mut bytes) = (0u64, Vec::new());
    if !new.is_empty() {
        record.series.visit(&new, &mut |id, labels, metric_type| {
            count += 1;
            put_varint(&mut bytes, id.0);
            bytes.push(metric_type as u8);
            put_bytes(&mut bytes, labels.as_bytes());
        });
    }
    put_varint(out, count);
    out.extend_from_slice(&bytes);
}

fn put_samples(samples: &[(SeriesId, Sample)], out: &mut Vec<u8>) {
    out.reserve(samples.len() * 12 + 16);
    put_varint(out, samples.len() as u64);
    let mut last = 0i64;
    for (id, _) in samples {
        put_signed(out, (id.0 as i64).wrapping_sub(last));
        last = id.0 as i64;
    }
    let first = samples.first().map_or(0, |(_, s)| s.ts_ms);
    if samples.iter().all(|(_, s)| s.ts_ms == first) {
        out.push(TIMES_ALL_EQUAL);
        put_signed(out, first);
    } else {
        out.push(TIMES_DIFFER);
        let mut last = 0i64;
        for (_, sample) in samples {
            put_signed(out, sample.ts_ms.wrapping_sub(last));
            last = sample.ts_ms;
        }
    }
    for (_, sample) in samples {
        out.extend_from_slice(&sample.value.to_le_bytes());
    }
}

/// Takes an entry apart.
pub trait Take {
    /// The entry's source and target; comes first.
    fn origin(&mut self, source: &str, target: &str);
    /// A series that the segment did not name before.
    fn define(&mut self, id: SeriesId, metric_type: MetricType, labels: &[u8]) -> Result<(), Malformed>;
    /// A sample.
    fn sample(&mut self, id: SeriesId, sample: Sample);
    /// A native histogram, as `Histogram::encode` wrote it.
    fn histogram(&mut self, id: SeriesId, ts_ms: i64, bytes: &[u8]) -> Result<(), Malformed>;
    /// An exemplar.
    fn exemplar(&mut self, id: SeriesId, labels: &[u8], sample: Sample) -> Result<(), Malformed>;
}

/// Reads an entry; `rows` is `false` when only its definitions are wanted.
pub fn decode(payload: &[u8], rows: bool, take: &mut dyn Take) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(payload);
    let (source, target) = (cursor.str()?, cursor.str()?);
    take.origin(source, target);
    // The time of arrival: see `received_at_ms`.
    cursor.signed()?;
    for _ in 0..cursor.count()? {
        let id = SeriesId(cursor.varint()?);
        let metric_type = MetricType::from_u8(cursor.u8()?);
        take.define(id, metric_type, cursor.bytes()?)?;
    }
    if !rows {
        return Ok(());
    }
    decode_samples(&mut cursor, take)?;
    for _ in 0..cursor.count()? {
        let (id, ts_ms) = (SeriesId(cursor.varint()?), cursor.signed()?);
        take.histogram(id, ts_ms, cursor.bytes()?)?;
    }
    for _ in 0..cursor.count()? {
        let (id, ts_ms, value) = (SeriesId(cursor.varint()?), cursor.signed()?, cursor.f64()?);
        take.exemplar(id, cursor.bytes()?, Sample { ts_ms, value })?;
    }
    Ok(())
}

/// Reads when an entry came in, from its beginning.
pub fn received_at_ms(payload: &[u8]) -> Option<i64> {
    let mut cursor = Cursor::new(payload);
    // Their lengths may lead behind the part that was read.
    cursor.bytes().ok()?;
    cursor.bytes().ok()?;
    cursor.signed().ok()
}

fn decode_samples(cursor: &mut Cursor<'_>, take: &mut dyn Take) -> Result<(), Malformed> {
    let count = cursor.count()?;
    let mut ids = Vec::with_capacity(count);
    let mut id = 0i64;
    for _ in 0..count {
        id = id.wrapping_add(cursor.signed()?);
        ids.push(SeriesId(id as u64));
    }
    let all_equal = cursor.u8()? == TIMES_ALL_EQUAL;
    let mut ts_ms = if all_equal { cursor.signed()? } else { 0 };
    let mut times = Vec::new();
    if !all_equal {
        times.reserve(count);
        for _ in 0..count {
            ts_ms = ts_ms.wrapping_add(cursor.signed()?);
            times.push(ts_ms);
        }
    }
    for (i, id) in ids.into_iter().enumerate() {
        let ts_ms = times.get(i).copied().unwrap_or(ts_ms);
        take.sample(id, Sample { ts_ms, value: cursor.f64()? });
    }
    Ok(())
}
