//! What one batch leaves in the log.
//!
//! A payload is a version byte and sections: tag (1 byte), length (4 bytes, little-endian), body. A reader skips tags
//! it does not know; 10 (tenant) is kept free. Version 2 says that section 9 (histograms) is there and must not be
//! skipped; a record without histograms is version 1.

use model::histogram::Histogram;
use model::{
    Batch, CollectionMethod, CollectionReport, Counts, Family, Health, Labels, MetricType, Origin, Refusal, ScrapeSlot,
    SlotOutcome, StreamMark, TypeCounts, Verdict,
};

use crate::coding::{Cursor, Malformed, put_bytes, put_signed, put_varint};

const VERSION: u8 = 1;
/// Version of a record with histograms: a reader that does not know them refuses it rather than lose them unseen.
const VERSION_HISTOGRAMS: u8 = 2;

const ORIGIN: u8 = 1;
const DEFINITIONS: u8 = 2;
const FAMILIES: u8 = 3;
const DECIDED: u8 = 4;
const SAMPLES: u8 = 5;
const STARTS: u8 = 6;
const EXEMPLARS: u8 = 7;
const REPORT: u8 = 8;
const HISTOGRAMS: u8 = 9;
const MARK: u8 = 12;
const SLOT: u8 = 11;

const TIMES_DIFFER: u8 = 0;
const TIMES_ALL_EQUAL: u8 = 1;

/// A series that the reader may not know yet. Its source and target are the record's origin.
#[derive(Clone, PartialEq, Debug)]
pub struct Definition {
    pub id: u32,
    pub metric_type: MetricType,
    pub labels: Labels,
}

/// A sample of a known series.
#[derive(Clone, Copy, Debug)]
pub struct RecordSample {
    pub id: u32,
    pub ts_ms: i64,
    pub value: f64,
}

/// A native histogram of a known series.
#[derive(Clone, Debug)]
pub struct RecordHistogram {
    pub id: u32,
    pub ts_ms: i64,
    /// As `Histogram::encode` writes it; it decodes.
    pub bytes: Vec<u8>,
}

/// An exemplar of a known series.
#[derive(Clone, Debug)]
pub struct RecordExemplar {
    pub id: u32,
    pub ts_ms: i64,
    pub value: f64,
    pub labels: Labels,
}

/// A record read back.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub origin: Origin,
    pub definitions: Vec<Definition>,
    pub families: Vec<Family>,
    /// Samples that were counted before they came here.
    pub decided: Counts,
    pub samples: Vec<RecordSample>,
    pub histograms: Vec<RecordHistogram>,
    /// Start timestamps: series and milliseconds since 1970.
    pub starts: Vec<(u32, i64)>,
    pub exemplars: Vec<RecordExemplar>,
    pub report: Option<CollectionReport>,
    pub mark: Option<StreamMark>,
    pub slot: Option<ScrapeSlot>,
}

/// Appends the payload of a batch, with those of its families that are news. Samples that are not `Pending` leave only
/// their count.
pub fn encode(batch: &Batch, definitions: &[Definition], families: &[&Family], out: &mut Vec<u8>) {
    let histograms = batch.histograms.iter().any(|h| h.verdict == Verdict::Pending);
    out.push(if histograms { VERSION_HISTOGRAMS } else { VERSION });
    section(out, ORIGIN, |out| put_origin(out, &batch.origin));
    if !definitions.is_empty() {
        section(out, DEFINITIONS, |out| put_definitions(out, definitions));
    }
    if !families.is_empty() {
        section(out, FAMILIES, |out| families.iter().for_each(|family| put_family(out, family)));
    }
    let decided = decided_counts(batch);
    if decided.received > 0 {
        section(out, DECIDED, |out| put_counts(out, &decided));
    }
    section(out, SAMPLES, |out| put_samples(out, batch));
    if histograms {
        section(out, HISTOGRAMS, |out| put_histograms(out, batch));
    }
    if !batch.start_timestamps.is_empty() {
        section(out, STARTS, |out| {
            for (series, ts_ms) in &batch.start_timestamps {
                put_varint(out, id_of(batch, series.0));
                put_signed(out, *ts_ms);
            }
        });
    }
    if !batch.exemplars.is_empty() {
        section(out, EXEMPLARS, |out| {
            for exemplar in &batch.exemplars {
                put_varint(out, id_of(batch, exemplar.series.0));
                put_signed(out, exemplar.ts_ms);
                out.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
                put_bytes(out, exemplar.labels.as_bytes());
            }
        });
    }
    if let Some(report) = &batch.report {
        section(out, REPORT, |out| put_report(out, report));
    }
    if let Some(mark) = &batch.mark {
        section(out, MARK, |out| {
            put_bytes(out, mark.stream_id.as_bytes());
            put_varint(out, mark.seq);
        });
    }
    if let Some(slot) = &batch.slot {
        section(out, SLOT, |out| put_slot(out, slot));
    }
}

fn section(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    // Longer than 4 GiB cannot be: the frame's limit is lower and is checked on the whole.
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn id_of(batch: &Batch, series: u32) -> u64 {
    batch.series.get(series as usize).map_or(0, |s| s.id.0)
}

/// Counts the samples of a batch that were decided before.
pub fn decided_counts(batch: &Batch) -> Counts {
    let mut counts = Counts::default();
    let verdicts = batch.verdicts.iter().copied().chain(batch.histograms.iter().map(|h| h.verdict));
    verdicts.filter(|v| *v != Verdict::Pending).for_each(|v| counts.add(v));
    counts
}

fn put_origin(out: &mut Vec<u8>, origin: &Origin) {
    put_bytes(out, origin.target_id.as_bytes());
    put_bytes(out, origin.source_id.as_bytes());
    out.push(origin.method as u8);
    put_signed(out, origin.received_at_ms);
}

fn get_origin(cursor: &mut Cursor) -> Result<Origin, Malformed> {
    Ok(Origin {
        target_id: cursor.string()?,
        source_id: cursor.string()?,
        method: method(cursor.u8()?),
        received_at_ms: cursor.signed()?,
    })
}

fn method(n: u8) -> CollectionMethod {
    CollectionMethod::ALL.get(usize::from(n)).copied().unwrap_or_default()
}

fn put_definitions(out: &mut Vec<u8>, definitions: &[Definition]) {
    for definition in definitions {
        put_varint(out, u64::from(definition.id));
        out.push(definition.metric_type as u8);
        put_bytes(out, definition.labels.as_bytes());
    }
}

/// Appends a family.
pub fn put_family(out: &mut Vec<u8>, family: &Family) {
    out.push(family.metric_type as u8);
    for text in [&family.name, &family.help, &family.unit] {
        put_bytes(out, text.as_bytes());
    }
}

/// Reads a family.
pub fn get_family(cursor: &mut Cursor) -> Result<Family, Malformed> {
    let metric_type = MetricType::from_u8(cursor.u8()?);
    Ok(Family { metric_type, name: cursor.string()?, help: cursor.string()?, unit: cursor.string()? })
}

/// Appends a ledger.
pub fn put_counts(out: &mut Vec<u8>, counts: &Counts) {
    for n in [counts.received, counts.stored, counts.duplicates, counts.filtered] {
        put_varint(out, n);
    }
    put_varint(out, Refusal::COUNT as u64);
    counts.refused.iter().for_each(|n| put_varint(out, *n));
}

/// Reads a ledger.
pub fn get_counts(cursor: &mut Cursor) -> Result<Counts, Malformed> {
    let mut counts = Counts {
        received: cursor.varint()?,
        stored: cursor.varint()?,
        duplicates: cursor.varint()?,
        filtered: cursor.varint()?,
        ..Counts::default()
    };
    for index in 0..cursor.count()? {
        let n = cursor.varint()?;
        if let Some(slot) = counts.refused.get_mut(index) {
            *slot = n;
        }
    }
    Ok(counts)
}

fn put_samples(out: &mut Vec<u8>, batch: &Batch) {
    let pending = || batch.samples.iter().zip(&batch.verdicts).filter(|(_, v)| **v == Verdict::Pending).map(|(s, _)| s);
    let count = pending().count();
    out.reserve(count * 12 + 16);
    put_varint(out, count as u64);
    let mut last = 0i64;
    for sample in pending() {
        let id = id_of(batch, sample.series.0) as i64;
        put_signed(out, id - last);
        last = id;
    }
    let first = pending().next().map_or(0, |s| s.ts_ms);
    if pending().all(|s| s.ts_ms == first) {
        out.push(TIMES_ALL_EQUAL);
        put_signed(out, first);
    } else {
        out.push(TIMES_DIFFER);
        let mut last = 0i64;
        for sample in pending() {
            put_signed(out, sample.ts_ms.wrapping_sub(last));
            last = sample.ts_ms;
        }
    }
    for sample in pending() {
        out.extend_from_slice(&sample.value.to_bits().to_le_bytes());
    }
}

fn get_samples(cursor: &mut Cursor, out: &mut Vec<RecordSample>) -> Result<(), Malformed> {
    let count = cursor.count()?;
    out.reserve(count);
    let mut id = 0i64;
    for _ in 0..count {
        id = id.wrapping_add(cursor.signed()?);
        out.push(RecordSample { id: u32::try_from(id).map_err(|_| Malformed)?, ts_ms: 0, value: 0.0 });
    }
    let all_equal = cursor.u8()? == TIMES_ALL_EQUAL;
    let mut ts_ms = if all_equal { cursor.signed()? } else { 0 };
    for sample in out.iter_mut() {
        if !all_equal {
            ts_ms = ts_ms.wrapping_add(cursor.signed()?);
        }
        sample.ts_ms = ts_ms;
    }
    for sample in out.iter_mut() {
        sample.value = f64::from_bits(cursor.u64_le()?);
    }
    Ok(())
}

fn put_histograms(out: &mut Vec<u8>, batch: &Batch) {
    let mut bytes = Vec::new();
    for histogram in batch.histograms.iter().filter(|h| h.verdict == Verdict::Pending) {
        put_varint(out, id_of(batch, histogram.series.0));
        put_signed(out, histogram.ts_ms);
        bytes.clear();
        histogram.histogram.encode(&mut bytes);
        put_bytes(out, &bytes);
    }
}

fn get_histogram(body: &mut Cursor) -> Result<RecordHistogram, Malformed> {
    let id = u32::try_from(body.varint()?).map_err(|_| Malformed)?;
    let (ts_ms, bytes) = (body.signed()?, body.bytes()?);
    match Histogram::decode(bytes) {
        Some((_, used)) if used == bytes.len() => Ok(RecordHistogram { id, ts_ms, bytes: bytes.to_vec() }),
        _ => Err(Malformed),
    }
}

fn put_report(out: &mut Vec<u8>, report: &CollectionReport) {
    out.extend_from_slice(&report.event_id);
    put_bytes(out, report.batch_id.as_bytes());
    put_signed(out, report.finished_at_ms);
    put_origin(out, &report.origin);
    put_varint(out, report.duration_ms);
    out.push(report.health as u8);
    let summary = &report.summary;
    for n in [summary.counters, summary.gauges, summary.histograms, summary.summaries, summary.others] {
        put_varint(out, n);
    }
    put_varint(out, report.samples_count);
    out.push(u8::from(report.error.is_some()));
    put_bytes(out, report.error.as_deref().unwrap_or("").as_bytes());
}

fn put_slot(out: &mut Vec<u8>, slot: &ScrapeSlot) {
    put_signed(out, slot.planned_ms);
    put_varint(out, slot.interval_ms);
    out.push(slot.outcome as u8);
    put_varint(out, u64::from(slot.skipped));
    put_varint(out, u64::from(slot.refused));
}

fn get_slot(cursor: &mut Cursor) -> Result<ScrapeSlot, Malformed> {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(ScrapeSlot {
        planned_ms: cursor.signed()?,
        interval_ms: cursor.varint()?,
        outcome: SlotOutcome::ALL.get(usize::from(cursor.u8()?)).copied().unwrap_or_default(),
        skipped: small(cursor.varint()?),
        refused: small(cursor.varint()?),
    })
}

fn get_report(cursor: &mut Cursor) -> Result<CollectionReport, Malformed> {
    let event_id = cursor.take(16)?.try_into().map_err(|_| Malformed)?;
    let batch_id = cursor.string()?;
    let finished_at_ms = cursor.signed()?;
    let origin = get_origin(cursor)?;
    let duration_ms = cursor.varint()?;
    let health = Health::ALL.get(usize::from(cursor.u8()?)).copied().unwrap_or_default();
    let summary = TypeCounts {
        counters: cursor.varint()?,
        gauges: cursor.varint()?,
        histograms: cursor.varint()?,
        summaries: cursor.varint()?,
        others: cursor.varint()?,
    };
    let samples_count = cursor.varint()?;
    let failed = cursor.u8()? != 0;
    let text = cursor.string()?;
    Ok(CollectionReport {
        event_id,
        batch_id,
        finished_at_ms,
        origin,
        duration_ms,
        health,
        summary,
        samples_count,
        counts: Counts::default(),
        error: failed.then_some(text),
    })
}

/// Reads a payload.
pub fn decode(payload: &[u8]) -> Result<Record, Malformed> {
    let mut cursor = Cursor::new(payload);
    if !(VERSION..=VERSION_HISTOGRAMS).contains(&cursor.u8()?) {
        return Err(Malformed);
    }
    let mut record = Record::default();
    while !cursor.is_at_end() {
        let tag = cursor.u8()?;
        let len = u32::from_le_bytes(cursor.take(4)?.try_into().map_err(|_| Malformed)?);
        let mut body = Cursor::new(cursor.take(len as usize)?);
        get_section(tag, &mut body, &mut record)?;
    }
    Ok(record)
}

fn get_section(tag: u8, body: &mut Cursor, record: &mut Record) -> Result<(), Malformed> {
    match tag {
        ORIGIN => record.origin = get_origin(body)?,
        DEFINITIONS => {
            while !body.is_at_end() {
                let id = u32::try_from(body.varint()?).map_err(|_| Malformed)?;
                let metric_type = MetricType::from_u8(body.u8()?);
                let labels = Labels::from_bytes(body.bytes()?).ok_or(Malformed)?;
                record.definitions.push(Definition { id, metric_type, labels });
            }
        }
        FAMILIES => {
            while !body.is_at_end() {
                record.families.push(get_family(body)?);
            }
        }
        DECIDED => record.decided = get_counts(body)?,
        SAMPLES => get_samples(body, &mut record.samples)?,
        STARTS => {
            while !body.is_at_end() {
                let id = u32::try_from(body.varint()?).map_err(|_| Malformed)?;
                record.starts.push((id, body.signed()?));
            }
        }
        EXEMPLARS => {
            while !body.is_at_end() {
                record.exemplars.push(RecordExemplar {
                    id: u32::try_from(body.varint()?).map_err(|_| Malformed)?,
                    ts_ms: body.signed()?,
                    value: f64::from_bits(body.u64_le()?),
                    labels: Labels::from_bytes(body.bytes()?).ok_or(Malformed)?,
                });
            }
        }
        HISTOGRAMS => {
            while !body.is_at_end() {
                record.histograms.push(get_histogram(body)?);
            }
        }
        REPORT => record.report = Some(get_report(body)?),
        MARK => record.mark = Some(StreamMark { stream_id: body.string()?, seq: body.varint()? }),
        SLOT => record.slot = Some(get_slot(body)?),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{BatchExemplar, SeriesId, SeriesIndex};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_comes_back(
            samples in prop::collection::vec((0u32..5, any::<i64>(), any::<u64>(), 0u8..4), 0..50),
            same_time: bool, with_histogram: bool, text in "\\PC{0,20}", error: Option<String>, event_id: [u8; 16],
        ) {
            let mut batch = Batch::new(Origin { target_id: text.clone(), source_id: "s".into(), received_at_ms: -5, method: CollectionMethod::Streaming });
            (1..6).for_each(|id| { batch.push_known(SeriesId(id * 1000), 0); });
            for (series, ts, bits, decided) in &samples {
                let ts = if same_time { 7 } else { *ts };
                let verdict = if *decided == 0 { Verdict::Refused(Refusal::TooOld) } else { Verdict::Pending };
                batch.push_decided(SeriesIndex(*series), ts, f64::from_bits(*bits), verdict);
            }
            batch.families.push(Family { name: text.clone(), help: "h".into(), ..Family::default() });
            batch.start_timestamps.push((SeriesIndex(1), 99));
            let labels = Labels::from_pairs([("trace_id", "x")]);
            batch.exemplars.push(BatchExemplar { series: SeriesIndex(2), labels: labels.clone(), ts_ms: 3, value: -0.0 });
            batch.report = Some(CollectionReport { event_id, error, health: Health::Degraded, duration_ms: 12, ..CollectionReport::default() });
            batch.mark = (!same_time).then(|| StreamMark { stream_id: text.clone(), seq: u64::MAX });
            let outcome = SlotOutcome::ALL[event_id[0] as usize % 4];
            batch.slot = with_histogram.then_some(ScrapeSlot { planned_ms: -1, interval_ms: 15_000, outcome, skipped: 2, refused: u32::MAX });
            let definitions = vec![Definition { id: 1000, metric_type: MetricType::Counter, labels }];
            let histogram = Histogram { count: 3.0, sum: -0.0, ..Histogram::default() };
            if with_histogram {
                batch.push_histogram(SeriesIndex(2), -7, std::sync::Arc::new(histogram.clone()));
                batch.push_histogram(SeriesIndex(2), -8, std::sync::Arc::new(histogram.clone()));
                batch.histograms[1].verdict = Verdict::Refused(Refusal::TooOld);
            }
            let mut bytes = Vec::new();
            encode(&batch, &definitions, &[&batch.families[0]], &mut bytes);
            let back = decode(&bytes).unwrap();
            prop_assert_eq!(&back.origin, &batch.origin);
            prop_assert_eq!(back.definitions, definitions);
            prop_assert_eq!(&back.families, &batch.families);
            prop_assert_eq!(back.decided, decided_counts(&batch));
            prop_assert_eq!(back.starts, vec![(2000, 99)]);
            prop_assert_eq!(back.exemplars[0].value.to_bits(), (-0.0f64).to_bits());
            prop_assert_eq!(&back.report, &batch.report);
            prop_assert_eq!(&back.mark, &batch.mark);
            prop_assert_eq!(back.slot, batch.slot);
            let want: Vec<_> = batch.samples.iter().zip(&batch.verdicts).filter(|(_, v)| **v == Verdict::Pending)
                .map(|(s, _)| ((s.series.0 + 1) * 1000, s.ts_ms, s.value.to_bits())).collect();
            let got: Vec<_> = back.samples.iter().map(|s| (s.id, s.ts_ms, s.value.to_bits())).collect();
            prop_assert_eq!(got, want);
            prop_assert_eq!(back.histograms.len(), usize::from(with_histogram));
            if let Some(h) = back.histograms.first() {
                prop_assert_eq!((h.id, h.ts_ms), (3000, -7));
                prop_assert!(Histogram::decode(&h.bytes).unwrap().0.same_bits(&histogram));
            }
            prop_assert_eq!(bytes[0], if with_histogram { 2 } else { 1 }, "old readers must not skip histograms unseen");
        }

        #[test]
        fn any_bytes_end_without_a_panic(mut bytes: Vec<u8>) {
            let _ = decode(&bytes);
            for version in [VERSION, VERSION_HISTOGRAMS] {
                bytes.insert(0, version);
                let _ = decode(&bytes);
            }
        }
    }
}
