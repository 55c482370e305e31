//! Who was refused what, since when and why: for the one who asks, and as a sentence for the one who is refused.
//!
//! Owns: a record for each target or source of which samples were refused.
//! Limits: [`RECORDS_MAX`] records, the least recent makes room; [`EXAMPLES_MAX`] examples a reason; [`LOOKED_AT_MAX`]
//! refused series of a batch are looked at.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Append, AppendDone, Batch, Counts, Labels, Refusal, SeriesId, SeriesIndex, Verdict};
use parking_lot::Mutex;
use store::{AdmissionStats, Full, OwnerStats, Store};
use sys::Clock;

use crate::memory::shown_bytes;
use crate::sketch::Sketch;

const RECORDS_MAX: usize = 1_000;
const EXAMPLES_MAX: usize = 3;
const LOOKED_AT_MAX: usize = 1_000;
/// Targets and sources of which it is known what filters took out.
const FILTERED_MAX: usize = 10_000;
/// Labels of which values are counted.
const LABELS_MAX: usize = 64;
/// After so long without a refusal counting begins anew: the trouble before was another one.
const EPISODE_MS: i64 = 600_000;
/// How long what is known of the largest owner is used again.
const LARGEST_AGE: Duration = Duration::from_secs(1);

/// What was refused of one target for one reason.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Samples.
    pub count: u64,
    /// When the first one was; milliseconds since 1970.
    pub first_ms: i64,
    /// When the last one was.
    pub last_ms: i64,
    /// Label sets of some of the last ones.
    pub examples: Vec<Labels>,
}

/// How many different values a label has among the new series that were refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelValues {
    /// The label.
    pub name: String,
    /// About how many values.
    pub values: u64,
}

/// What was refused of one target or source of pushes.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// By reason.
    pub reasons: BTreeMap<Refusal, Refused>,
    /// Values of labels among refused new series, most first.
    pub labels: Vec<LabelValues>,
    /// The sentence that was last said.
    pub advice: Option<String>,
    /// What filters and relabel rules took out: that is no refusal, but who looks for samples looks here.
    pub filtered: Option<Refused>,
}

#[derive(Default)]
struct Kept {
    record: Record,
    last_ms: i64,
    sketches: BTreeMap<String, Sketch>,
}

/// How the store's room stands.
pub trait Standing: Send + Sync {
    /// Gives the room.
    fn room(&self) -> AdmissionStats;
    /// Gives who holds it.
    fn owners(&self) -> Vec<OwnerStats>;
}

impl Standing for Store {
    fn room(&self) -> AdmissionStats {
        self.admission()
    }

    fn owners(&self) -> Vec<OwnerStats> {
        Store::owners(self)
    }
}

/// All records.
pub struct Rejections {
    kept: Mutex<HashMap<String, Kept>>,
    filtered: Mutex<HashMap<String, Refused>>,
    standing: Option<Arc<dyn Standing>>,
    largest: Mutex<Option<(Instant, Vec<OwnerStats>)>>,
}

impl Rejections {
    /// Starts without records.
    ///
    /// **Takes** what knows the room for series, if something does.
    pub fn new(standing: Option<Arc<dyn Standing>>) -> Rejections {
        Rejections { kept: Mutex::default(), filtered: Mutex::default(), standing, largest: Mutex::default() }
    }

    /// Gives the record of a target or source, if samples of it were refused.
    pub fn of(&self, target_id: &str) -> Option<Record> {
        let filtered = self.filtered.lock().get(target_id).cloned();
        let kept = self.kept.lock();
        let Some(one) = kept.get(target_id) else {
            return filtered.map(|filtered| Record { filtered: Some(filtered), ..Record::default() });
        };
        Some(Record { labels: most_values(&one.sketches), filtered, ..one.record.clone() })
    }

    /// Notes what filters took out of a batch. Examples are of pushes alone: of a scrape the filters know them.
    fn note_filtered(&self, batch: &Batch, samples: u64, now_ms: i64) {
        let mut filtered = self.filtered.lock();
        if filtered.len() >= FILTERED_MAX && !filtered.contains_key(&batch.origin.target_id) {
            return;
        }
        let fresh = || Refused { count: 0, first_ms: now_ms, last_ms: now_ms, examples: Vec::new() };
        let one = filtered.entry(batch.origin.target_id.clone()).or_insert_with(fresh);
        one.count += samples;
        one.last_ms = now_ms;
        if one.examples.is_empty() && batch.essential == 0 {
            let rows = batch.samples.iter().zip(&batch.verdicts).filter(|(_, v)| **v == Verdict::Filtered);
            one.examples = rows.filter_map(|(s, _)| batch.labels(s.series)).take(EXAMPLES_MAX).collect();
        }
    }

    /// Counts the targets that have records.
    pub fn targets(&self) -> usize {
        self.kept.lock().len()
    }

    /// Notes the refused samples of a batch; when new series were among them, writes into the batch what its sender should know.
    ///
    /// **Takes** what knows the labels of series that stand in the batch by their id alone.
    pub fn note(
        &self,
        batch: &mut Batch,
        counts: &Counts,
        now_ms: i64,
        labels_of: impl Fn(SeriesId) -> Option<Labels>,
    ) {
        if counts.filtered > 0 {
            self.note_filtered(batch, counts.filtered, now_ms);
        }
        if counts.refused_total() == 0 {
            return;
        }
        let found = look_at(batch, labels_of);
        let target_id = batch.origin.target_id.clone();
        let limited = counts.refused[Refusal::SeriesLimit as usize] + counts.refused[Refusal::SampleLimit as usize] > 0;
        let labels = {
            let mut kept = self.kept.lock();
            if kept.len() >= RECORDS_MAX && !kept.contains_key(&target_id) {
                let oldest = kept.iter().min_by_key(|(_, k)| k.last_ms).map(|(id, _)| id.clone());
                oldest.and_then(|id| kept.remove(&id));
            }
            let one = kept.entry(target_id.clone()).or_default();
            if now_ms - one.last_ms > EPISODE_MS {
                one.sketches.clear();
            }
            one.last_ms = now_ms;
            one.take(counts, &found, now_ms);
            most_values(&one.sketches)
        };
        if let (Some(advice), Some(one)) = (&batch.advice, self.kept.lock().get_mut(&target_id)) {
            // What the filters said.
            one.record.advice = Some(advice.clone());
        }
        if limited {
            let advice = self.advice(batch, counts, &labels);
            if let Some(one) = self.kept.lock().get_mut(&target_id) {
                one.record.advice = Some(advice.clone());
            }
            batch.advice = Some(advice);
        }
    }

    fn advice(&self, batch: &Batch, counts: &Counts, labels: &[LabelValues]) -> String {
        let of_series = counts.refused[Refusal::SeriesLimit as usize];
        let target_id = &batch.origin.target_id;
        let mut text = String::new();
        // Writing into a String cannot fail.
        if of_series == 0 {
            let n = counts.refused[Refusal::SampleLimit as usize];
            let _ = write!(text, "{n} samples of {target_id} are beyond the limit that was set for it");
            name_label(&mut text, target_id, labels);
            return text;
        }
        let _ = write!(text, "{of_series} samples of new series of {target_id} were refused: ");
        let is_own = |o: &&OwnerStats| *o.target_id == **target_id && *o.source == *batch.origin.source_id;
        let mut owners = self.owners(LARGEST_AGE);
        if owners.iter().find(is_own).is_none_or(|own| own.full.is_none()) {
            // Refused for the first time, just now.
            owners = self.owners(Duration::ZERO);
        }
        let own = owners.iter().find(is_own);
        let room = self.standing.as_ref().map(|standing| standing.room());
        match (own.and_then(|o| o.full), &room) {
            (Some(full), Some(room)) => say_why(&mut text, full, room, &batch.origin.source_id),
            _ => text.push_str("there is no room for new series"),
        }
        if let Some(own) = own {
            let _ = write!(text, "; {target_id} holds {} series", own.series);
        }
        name_label(&mut text, target_id, labels);
        let largest = owners.iter().max_by_key(|o| o.bytes);
        if let Some(largest) = largest.filter(|l| l.target_id.as_ref() != target_id.as_str() && l.series > 0) {
            let _ = write!(text, "; most is held by {}: {} series", largest.target_id, largest.series);
            if let Some(of) = self.of(&largest.target_id) {
                name_label(&mut text, &largest.target_id, &of.labels);
            }
        }
        text.push_str(". Series that are in go on");
        text
    }

    /// Gives the owners as they were at most so long ago: walking over them for each refused batch would help nobody.
    fn owners(&self, age: Duration) -> Vec<OwnerStats> {
        let mut largest = self.largest.lock();
        match &*largest {
            Some((at, owners)) if at.elapsed() < age => owners.clone(),
            _ => {
                let mut owners = self.standing.as_ref().map(|standing| standing.owners()).unwrap_or_default();
                owners.retain(|o| o.series > 0 || o.full.is_some());
                *largest = Some((Instant::now(), owners.clone()));
                owners
            }
        }
    }
}

fn say_why(text: &mut String, full: Full, room: &AdmissionStats, source: &str) {
    let limits = &room.limits;
    let (used, max) = (shown_bytes(room.bytes), shown_bytes(limits.series_bytes_max));
    let _ = match full {
        Full::Series => write!(text, "all {} series that are allowed are there (limits.series_max)", limits.series_max),
        Full::Source => write!(
            text,
            "source {source} has the {} series that one source may have (limits.source_series_max)",
            limits.source_series_max
        ),
        Full::Memory => write!(text, "series take {used} of the {max} that they may (limits.memory_bytes)"),
        Full::Share => write!(
            text,
            "series take {used} of the {max} that they may, and the rest is kept for targets that hold little \
             (limits.memory_bytes)"
        ),
        Full::Process => write!(text, "the process is near its memory limit (limits.memory_bytes)"),
    };
}

/// Names the label that makes the series many, if one stands out.
fn name_label(text: &mut String, target_id: &str, labels: &[LabelValues]) {
    if let Some(worst) = labels.first().filter(|l| l.values > 1) {
        let _ =
            write!(text, "; label {} of {target_id} has about {} values among the refused", worst.name, worst.values);
        if let Some(next) = labels.get(1) {
            let _ = write!(text, ", {} has {}", next.name, next.values);
        }
    }
}

/// Refused series of a batch, evenly chosen.
fn look_at(batch: &Batch, labels_of: impl Fn(SeriesId) -> Option<Labels>) -> Vec<(Refusal, Labels)> {
    let mut found = batch.examples.clone();
    let series = batch.samples.iter().map(|s| s.series).zip(batch.verdicts.iter().copied());
    let histograms = batch.histograms.iter().map(|h| (h.series, h.verdict));
    let of_labels = |(series, verdict): (SeriesIndex, Verdict)| match verdict {
        // What the collector decides stands with the target's own series.
        Verdict::Refused(reason) if series.0 >= batch.essential => Some((reason, series)),
        _ => None,
    };
    let refused: Vec<(Refusal, SeriesIndex)> = series.chain(histograms).filter_map(of_labels).collect();
    let step = refused.len().div_ceil(LOOKED_AT_MAX).max(1);
    let by_id = |series: SeriesIndex| labels_of(batch.series.get(series.0 as usize)?.id);
    let labels = |series| batch.labels(series).or_else(|| by_id(series));
    found.extend(refused.iter().step_by(step).filter_map(|(reason, series)| Some((*reason, labels(*series)?))));
    found
}

impl Kept {
    fn take(&mut self, counts: &Counts, found: &[(Refusal, Labels)], now_ms: i64) {
        for reason in Refusal::ALL {
            let count = counts.refused[reason as usize];
            if count == 0 {
                continue;
            }
            let fresh = || Refused { count: 0, first_ms: now_ms, last_ms: now_ms, examples: Vec::new() };
            let refused = self.record.reasons.entry(reason).or_insert_with(fresh);
            refused.count += count;
            refused.last_ms = now_ms;
            let examples = found.iter().filter(|(r, _)| *r == reason).map(|(_, labels)| labels);
            let mut examples: Vec<Labels> = examples.take(EXAMPLES_MAX).cloned().collect();
            if !examples.is_empty() {
                std::mem::swap(&mut refused.examples, &mut examples);
            }
        }
        for (_, labels) in found.iter().filter(|(r, _)| matches!(r, Refusal::SeriesLimit | Refusal::SampleLimit)) {
            for (name, value) in labels.iter() {
                if let Some(sketch) = self.sketches.get_mut(name) {
                    sketch.add(value.as_bytes());
                } else if self.sketches.len() < LABELS_MAX {
                    self.sketches.entry(name.to_owned()).or_default().add(value.as_bytes());
                }
            }
        }
    }
}

fn most_values(sketches: &BTreeMap<String, Sketch>) -> Vec<LabelValues> {
    let count = |(name, sketch): (&String, &Sketch)| LabelValues { name: name.clone(), values: sketch.count() };
    let mut all: Vec<LabelValues> = sketches.iter().map(count).collect();
    all.sort_by(|a, b| b.values.cmp(&a.values).then_with(|| a.name.cmp(&b.name)));
    all
}

/// The store's door with somebody who writes down what is refused.
pub struct Noted {
    inner: Arc<dyn Append>,
    rejections: Arc<Rejections>,
    clock: Arc<dyn Clock>,
}

impl Noted {
    /// Puts the writer in front of a door.
    pub fn new(inner: Arc<dyn Append>, rejections: Arc<Rejections>, clock: Arc<dyn Clock>) -> Noted {
        Noted { inner, rejections, clock }
    }
}

impl Append for Noted {
    fn submit(&self, batch: Batch, done: AppendDone) {
        self.inner.submit(batch, self.noted(done));
    }

    fn submit_now(&self, batch: Batch, done: AppendDone) {
        self.inner.submit_now(batch, self.noted(done));
    }

    fn behind(&self) -> Option<&dyn Append> {
        Some(&*self.inner)
    }
}

impl Noted {
    /// Puts the writing before an answer.
    fn noted(&self, done: AppendDone) -> AppendDone {
        let (inner, rejections, now_ms) = (self.inner.clone(), self.rejections.clone(), self.clock.now_ms());
        Box::new(move |mut batch, result| {
            if let Ok(appended) = &result {
                rejections.note(&mut batch, &appended.counts, now_ms, |id| inner.labels_of(id));
            }
            done(batch, result);
        })
    }
}

#[cfg(test)]
mod tests {
    use model::{NO_FAMILY, Origin};
    use store::AdmissionLimits;

    use super::*;

    struct Full1;

    impl Standing for Full1 {
        fn room(&self) -> AdmissionStats {
            let limits = AdmissionLimits { series_bytes_max: 10 << 20, ..AdmissionLimits::of_series(99) };
            AdmissionStats { limits, series: 9, bytes: 9 << 20, admitted: 9, refused: [0; 5], pressure: false }
        }

        fn owners(&self) -> Vec<OwnerStats> {
            let owner = |id: &str, series, full| OwnerStats {
                target_id: Arc::from(id),
                source: Arc::from("s"),
                series,
                bytes: series * 1000,
                full,
            };
            vec![owner("t", 7, Some(Full::Share)), owner("big", 2_000, None), owner("gone", 0, None)]
        }
    }

    fn refused(target_id: &str, users: u32) -> Batch {
        let mut batch = Batch::new(Origin { target_id: target_id.into(), source_id: "s".into(), ..Origin::default() });
        for i in 0..users {
            let labels = [("__name__", "m".to_owned()), ("code", (i % 3).to_string()), ("user_id", i.to_string())];
            let series = batch.push_labels(&Labels::from_pairs(labels), NO_FAMILY);
            batch.push_decided(series, 1, 1.0, Verdict::Refused(Refusal::SeriesLimit));
        }
        batch
    }

    #[test]
    fn the_one_who_is_refused_hears_who_holds_what_and_which_label_explodes() {
        let rejections = Rejections::new(Some(Arc::new(Full1)));
        for (id, now_ms) in [("big", 5), ("t", 10), ("t", 20)] {
            let mut batch = refused(id, 900);
            let counts = batch.counts();
            rejections.note(&mut batch, &counts, now_ms, |_| None);
            let advice = batch.advice.unwrap();
            assert!(advice.starts_with(&format!("900 samples of new series of {id} were refused")), "{advice}");
            assert!(advice.contains(&format!("label user_id of {id} has about ")), "{advice}");
            if id == "t" {
                assert!(advice.contains("9 MiB of the 10 MiB") && advice.contains("t holds 7 series"), "{advice}");
                assert!(advice.contains("held by big: 2000 series; label user_id of big"), "{advice}");
            }
        }
        let record = rejections.of("t").unwrap();
        let of_limit = &record.reasons[&Refusal::SeriesLimit];
        assert_eq!((of_limit.count, of_limit.first_ms, of_limit.last_ms, of_limit.examples.len()), (1_800, 10, 20, 3));
        let values: Vec<(&str, u64)> = record.labels.iter().map(|l| (l.name.as_str(), l.values)).collect();
        assert!(values[0].0 == "user_id" && (800..1_000).contains(&values[0].1), "{values:?}");
        assert_eq!(values[1..], [("code", 3), ("__name__", 1)]);
        assert!(rejections.of("unknown").is_none());
    }

    #[test]
    fn what_filters_took_out_is_told_as_well() {
        let rejections = Rejections::new(None);
        let mut batch = Batch::new(Origin { target_id: "t".into(), ..Origin::default() });
        let series = batch.push_labels(&Labels::from_pairs([("__name__", "m")]), NO_FAMILY);
        batch.push_decided(series, 1, 1.0, Verdict::Filtered);
        let counts = batch.counts();
        rejections.note(&mut batch, &counts, 5, |_| None);
        rejections.note(&mut batch, &counts, 6, |_| None);
        let record = rejections.of("t").unwrap();
        let filtered = record.filtered.unwrap();
        assert_eq!((filtered.count, filtered.first_ms, filtered.last_ms, filtered.examples.len()), (2, 5, 6, 1));
        assert_eq!((record.reasons.len(), rejections.targets()), (0, 0), "it is no refusal");
    }

    #[test]
    fn records_are_bounded_and_what_is_stored_leaves_none() {
        let rejections = Rejections::new(None);
        for i in 0..RECORDS_MAX as i64 + 5 {
            let mut batch = refused(&format!("t{i}"), 2);
            let counts = batch.counts();
            rejections.note(&mut batch, &counts, i, |_| None);
            assert!(batch.advice.is_some_and(|a| a.contains("no room for new series")));
        }
        assert_eq!(
            (rejections.targets(), rejections.of("t4").is_none(), rejections.of("t5").is_some()),
            (RECORDS_MAX, true, true)
        );
        let mut batch = Batch::default();
        rejections.note(&mut batch, &Counts { received: 1, stored: 1, ..Counts::default() }, 1, |_| None);
        assert_eq!((batch.advice, rejections.targets()), (None, RECORDS_MAX));
    }
}
