//! Head and blocks as one.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use model::{Changed, Family, Labels, Matcher, Samples, Select, SelectError, SeriesReader, TimeRange};

use crate::core::Core;
use crate::head::Snapshot;
use crate::index::matching;
use crate::store::Store;

impl Core {
    /// Finds the head's series that all matchers accept, sorted ids.
    pub fn matching(&self, matchers: &[Matcher]) -> Vec<u32> {
        let labels_of =
            |ids: &[u32], act: &mut dyn FnMut(u32, &Labels)| self.head.visit(ids, |id, slot| act(id, &slot.labels));
        matching(|| self.index.read(), matchers, labels_of)
    }

    /// Finds those with samples in a range and gives their labels.
    fn labels_in(&self, matchers: &[Matcher], range: TimeRange) -> Vec<Labels> {
        let mut out = Vec::new();
        self.head.visit(&self.matching(matchers), |_, slot| {
            let inside = |(start_ms, end_ms)| range.overlaps(&TimeRange { start_ms, end_ms });
            if slot.span().is_some_and(inside) {
                out.push(slot.labels.clone());
            }
        });
        out
    }

    /// Tells whether looking at times would leave out next to nothing: the range reaches into the present.
    fn is_recent(&self, range: TimeRange) -> bool {
        range.end_ms >= self.clock.now_ms().saturating_sub(self.config.window_ms)
    }

    /// Gives for series of the head from when on their samples are kept; empty when that is the same for all.
    fn floors(&self, ids: &[u32]) -> HashMap<Labels, i64> {
        let rules = self.retention.read().clone();
        let mut floors = HashMap::new();
        if !rules.is_uniform() {
            let now_ms = self.clock.now_ms();
            self.head.visit(ids, |_, slot| {
                if let Some(attrs) = self.attrs.get(slot.attrs) {
                    let keep_ms = rules.keep_ms(&attrs.target_id, &slot.labels);
                    floors.insert(slot.labels.clone(), now_ms.saturating_sub(keep_ms));
                }
            });
        }
        floors
    }

    fn kept(&self, range: TimeRange) -> TimeRange {
        TimeRange { start_ms: range.start_ms.max(self.retention_start_ms()), end_ms: range.end_ms }
    }
}

struct HeadReader {
    labels: Labels,
    snapshot: Snapshot,
    kept: TimeRange,
}

impl SeriesReader for HeadReader {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        self.snapshot.read(narrow(range, self.kept), out).map_err(SelectError::Storage)
    }
}

fn narrow(range: TimeRange, kept: TimeRange) -> TimeRange {
    TimeRange { start_ms: range.start_ms.max(kept.start_ms), end_ms: range.end_ms.min(kept.end_ms) }
}

/// One label set from several places, first written first.
struct MergedReader {
    labels: Labels,
    parts: Vec<Box<dyn SeriesReader>>,
    kept: TimeRange,
}

impl SeriesReader for MergedReader {
    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn read(&self, range: TimeRange, out: &mut Samples) -> Result<(), SelectError> {
        let range = narrow(range, self.kept);
        if let [part] = &self.parts[..] {
            return part.read(range, out);
        }
        let mut merged = Samples::default();
        for part in &self.parts {
            let mut samples = Samples::default();
            part.read(range, &mut samples)?;
            merged = merge(merged, samples);
        }
        out.ts_ms.extend_from_slice(&merged.ts_ms);
        out.values.extend_from_slice(&merged.values);
        out.histograms.extend(merged.histograms);
        Ok(())
    }
}

/// Merges by time; of equal times the first argument's sample stays, be it a double or a histogram.
pub fn merge(mut first: Samples, mut second: Samples) -> Samples {
    if first.histograms.is_empty() && second.histograms.is_empty() {
        return merge_doubles(first, second);
    }
    leave_out_other_kind(&first, &mut second);
    let mut histograms = std::mem::take(&mut first.histograms);
    histograms.append(&mut second.histograms);
    // Stable: the first argument's stay in front of their equals.
    histograms.sort_by_key(|h| h.0);
    histograms.dedup_by_key(|h| h.0);
    Samples { histograms, ..merge_doubles(first, second) }
}

/// Takes out of `second` the doubles where `first` has histograms, and the other way round.
fn leave_out_other_kind(first: &Samples, second: &mut Samples) {
    second.histograms.retain(|h| first.ts_ms.binary_search(&h.0).is_err());
    let free = |ts_ms: i64| first.histograms.binary_search_by_key(&ts_ms, |h| h.0).is_err();
    if second.ts_ms.iter().all(|ts_ms| free(*ts_ms)) {
        return;
    }
    let doubles = second.ts_ms.iter().copied().zip(second.values.iter().copied());
    (second.ts_ms, second.values) = doubles.filter(|d| free(d.0)).unzip();
}

fn merge_doubles(mut first: Samples, second: Samples) -> Samples {
    match (first.ts_ms.last(), second.ts_ms.first()) {
        (None, _) => return second,
        (_, None) => return first,
        (Some(last), Some(next)) if last < next => {
            first.ts_ms.extend_from_slice(&second.ts_ms);
            first.values.extend_from_slice(&second.values);
            return first;
        }
        _ => {}
    }
    let mut out = Samples::default();
    let mut left = first.ts_ms.into_iter().zip(first.values).peekable();
    let mut right = second.ts_ms.into_iter().zip(second.values).peekable();
    loop {
        let next = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) if a.0 == b.0 => {
                right.next();
                left.next()
            }
            (Some(a), Some(b)) if a.0 < b.0 => left.next(),
            (Some(_), None) => left.next(),
            _ => right.next(),
        };
        let Some((ts_ms, value)) = next else { return out };
        out.push(ts_ms, value);
    }
}

impl Select for Store {
    fn changes(&self, since: u64) -> Changed {
        let core = &self.core;
        let (moment, from_ms) = core.changes.since(since);
        let keep_ms = core.retention.read().shortest_ms();
        Changed { moment, from_ms, kept_from_ms: core.clock.now_ms().saturating_sub(keep_ms) }
    }

    fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Box<dyn SeriesReader>>, SelectError> {
        let core = &self.core;
        let kept = core.kept(range);
        if kept.start_ms > kept.end_ms {
            return Ok(Vec::new());
        }
        // The head first: what moves into a block meanwhile is then seen twice, never not at all.
        let ids = core.matching(matchers);
        let recent = core.head.snapshot(&ids, kept);
        let older = core.blocks.select(matchers, kept)?;
        let floor = TimeRange { start_ms: kept.start_ms, end_ms: i64::MAX };
        let floors = core.floors(&ids);
        let recent = recent.into_iter().map(|s| {
            let start_ms = floors.get(&s.labels).map_or(floor.start_ms, |own| *own.max(&floor.start_ms));
            let kept = TimeRange { start_ms, ..floor };
            Box::new(HeadReader { labels: s.labels, snapshot: s.snapshot, kept }) as Box<dyn SeriesReader>
        });
        if older.is_empty() {
            return Ok(recent.collect());
        }
        let mut found: HashMap<Labels, Vec<Box<dyn SeriesReader>>> = HashMap::with_capacity(recent.len());
        for reader in older.into_iter().chain(recent) {
            match found.entry(reader.labels().clone()) {
                Entry::Occupied(mut parts) => parts.get_mut().push(reader),
                Entry::Vacant(place) => {
                    place.insert(vec![reader]);
                }
            }
        }
        let merged = |(labels, parts)| Box::new(MergedReader { labels, parts, kept: floor }) as Box<dyn SeriesReader>;
        Ok(found.into_iter().map(merged).collect())
    }

    fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        let core = &self.core;
        let range = core.kept(range);
        let mut names: BTreeSet<String> = if matchers.is_empty() && core.is_recent(range) {
            core.index.read().names().map(str::to_owned).collect()
        } else {
            let labels = core.labels_in(matchers, range);
            labels.iter().flat_map(|l| l.iter().map(|(n, _)| n.to_owned())).collect()
        };
        names.extend(core.blocks.label_names(matchers, range)?);
        Ok(names.into_iter().collect())
    }

    fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>, SelectError> {
        let core = &self.core;
        let range = core.kept(range);
        let mut values: BTreeSet<String> = if matchers.is_empty() && core.is_recent(range) {
            core.index.read().values(name).map(str::to_owned).collect()
        } else {
            let labels = core.labels_in(matchers, range);
            labels.iter().filter_map(|l| l.get(name).map(str::to_owned)).collect()
        };
        values.extend(core.blocks.label_values(name, matchers, range)?);
        Ok(values.into_iter().collect())
    }

    fn notes(&self, matchers: &[Matcher], range: TimeRange) -> Vec<String> {
        self.core.blocks.notes(matchers, self.core.kept(range))
    }

    fn metadata(&self, family: Option<&str>) -> Vec<Family> {
        self.core.metadata.read().get(family)
    }
}
