//! The limit under which what is in stays in: new series come in by families, or not at all.
//!
//! Invariant: of the new series of a family, the parts of one histogram among them, all have their samples undecided or none.

use hashbrown::{HashMap, HashSet};
use model::{LABEL_NAME, LabelsBuf, MetricType, NO_FAMILY, Refusal, SeriesIndex, Verdict};

use super::{Intake, TYPES};

/// Label sets of refused samples that are kept for whoever asks.
const EXAMPLES_MAX: usize = 200;

/// How much room is left, and who had none.
#[derive(Default)]
pub(super) struct Room {
    left: Option<u64>,
    /// Entries of new series that came in, by their families.
    fresh: HashMap<u64, Vec<u32>>,
    /// Families that found no room.
    full: HashSet<u64>,
}

impl Room {
    /// Takes how many samples may still come in; `None` without a limit.
    pub(super) fn new(left: Option<u64>) -> Room {
        Room { left, ..Room::default() }
    }
}

/// Gives what the parts of a histogram or summary have in common.
fn family_of(labels: &LabelsBuf) -> u64 {
    let name = labels.get(LABEL_NAME).unwrap_or_default();
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
    xxhash_rust::xxh3::xxh3_64(base.as_bytes())
}

impl Intake<'_> {
    /// Takes the room of one sample.
    pub(super) fn has_room(&mut self) -> bool {
        match &mut self.room.left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// Takes the room of a new series whose labels stand in `buf`; when there is none, its family goes out with it.
    pub(super) fn has_room_for_new(&mut self) -> bool {
        if self.room.left.is_none() {
            return true;
        }
        let family = family_of(&self.buf);
        if !self.room.full.contains(&family) && self.has_room() {
            return true;
        }
        if self.room.full.insert(family) {
            self.withdraw(family);
        }
        if self.batch.examples.len() < EXAMPLES_MAX {
            self.batch.examples.push((Refusal::SampleLimit, self.buf.to_labels()));
        }
        false
    }

    /// Notes a new series that came in.
    pub(super) fn note_fresh(&mut self, entry: u32) {
        if self.room.left.is_some() {
            self.room.fresh.entry(family_of(&self.buf)).or_default().push(entry);
        }
    }

    /// Tells whether an entry came in with this body and went out again.
    pub(super) fn is_withdrawn(&self, entry: u32) -> bool {
        self.room.left.is_some() && entry as usize >= self.draft.entries_before && self.draft.series(entry).is_none()
    }

    /// Takes the new series of a family out again, and gives their room to those that follow.
    #[cold]
    fn withdraw(&mut self, family: u64) {
        let Some(entries) = self.room.fresh.remove(&family) else { return };
        self.take_out(entries.into_iter().collect(), Refusal::SampleLimit);
    }

    /// Takes new series out again; their samples are refused for a reason.
    #[cold]
    pub(super) fn take_out(&mut self, mut entries: HashSet<u32>, reason: Refusal) {
        // Some may be out already, for another reason.
        entries.retain(|entry| self.draft.series(*entry).is_some());
        let series: HashSet<SeriesIndex> = entries.iter().filter_map(|entry| self.draft.series(*entry)).collect();
        let mut freed = 0;
        let samples = self.batch.samples.iter().map(|s| s.series).zip(self.batch.verdicts.iter_mut());
        let histograms = self.batch.histograms.iter_mut().map(|h| (h.series, &mut h.verdict));
        for (of, verdict) in samples.chain(histograms) {
            if *verdict == Verdict::Pending && series.contains(&of) {
                *verdict = Verdict::Refused(reason);
                freed += 1;
            }
        }
        self.batch.start_timestamps.retain(|(of, _)| !series.contains(of));
        self.batch.exemplars.retain(|exemplar| !series.contains(&exemplar.series));
        self.point = None;
        for of in &series {
            let family = self.batch.series.get(of.0 as usize).map_or(NO_FAMILY, |s| s.family);
            let metric_type = self.batch.families.get(family as usize).map_or(MetricType::Unknown, |f| f.metric_type);
            self.taken.series_by_type[metric_type as usize % TYPES] -= 1;
        }
        self.taken.kept -= freed;
        self.taken.refused += freed;
        self.taken.series -= series.len() as u64;
        self.taken.added -= entries.len() as u64;
        self.room.left = self.room.left.map(|left| left + freed);
        for entry in &entries {
            self.draft.unsee(*entry);
        }
        self.draft.order.retain(|entry| !entries.contains(entry));
    }
}
