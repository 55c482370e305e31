//! The store's door with the filters of pushing sources in it.
//!
//! Invariant: a batch that the store did not take is given back as it came, so that it can be submitted again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use collect::Sums;
use model::filter::FilterSet;
use model::{Append, AppendDone, AppendError, Batch, CollectionMethod, NoRecall, Origin, Recall, Select, SeriesId};
use parking_lot::Mutex;
use sys::Clock;

use super::source::SourceState;
use crate::rest::push_targets::PushTargets;

/// Sources whose state is kept.
const SOURCES_MAX: usize = 10_000;
/// Where sums are made a batch waits for the one before it: never on a thread that may not.
const RETRY_AFTER_MS: u64 = 1;

/// Names the sums of a source; no target is named so.
pub fn owner_of(method: CollectionMethod, source_id: &str) -> String {
    format!("{}/{source_id}", method.as_str())
}

/// Says which filters a source has: those of its registration, or else those of the configuration.
pub struct SourceFilters {
    registered: Arc<PushTargets>,
    configured: ArcSwap<BTreeMap<String, Arc<FilterSet>>>,
}

impl SourceFilters {
    /// Starts with the registered ones.
    pub fn new(registered: Arc<PushTargets>) -> SourceFilters {
        SourceFilters { registered, configured: ArcSwap::default() }
    }

    /// Puts the filters of a configuration in force, by source.
    pub fn configure(&self, filters: BTreeMap<String, Arc<FilterSet>>) {
        self.configured.store(Arc::new(filters));
    }

    /// Tells whether sums of this name are those of a source whose filters add up.
    pub fn wants_sums(&self, owner: &str) -> bool {
        let methods = CollectionMethod::ALL.iter().filter(|m| **m != CollectionMethod::PullScraping);
        let mut sources = methods.filter_map(|m| Some((*m, owner.strip_prefix(m.as_str())?.strip_prefix('/')?)));
        sources.any(|(method, source_id)| self.of_source(method, source_id).is_some_and(|set| set.aggregates()))
    }

    /// Gives the filters of what comes from somewhere; `None` when there are none.
    pub fn of(&self, origin: &Origin) -> Option<Arc<FilterSet>> {
        if origin.method == CollectionMethod::PullScraping {
            return None;
        }
        self.of_source(origin.method, &origin.source_id)
    }

    fn of_source(&self, method: CollectionMethod, source_id: &str) -> Option<Arc<FilterSet>> {
        let registered = self.registered.filters(method, source_id);
        let set = registered.or_else(|| self.configured.load().get(source_id).cloned())?;
        (!set.is_empty()).then_some(set)
    }

    /// Gives the filters that the configuration has for a source.
    pub fn configured(&self, source_id: &str) -> Option<Arc<FilterSet>> {
        self.configured.load().get(source_id).cloned()
    }
}

/// The store's door; what is pushed is filtered in it.
pub struct Filtered {
    inner: Arc<dyn Append>,
    filters: Arc<SourceFilters>,
    sums: Arc<Sums>,
    select: Arc<dyn Select>,
    clock: Arc<dyn Clock>,
    future_limit_ms: i64,
    states: Mutex<HashMap<(CollectionMethod, String), Arc<SourceState>>>,
}

impl Filtered {
    /// Stands in front of a door.
    ///
    /// **Takes** how far in the future samples are stored.
    pub fn new(
        inner: Arc<dyn Append>,
        filters: Arc<SourceFilters>,
        sums: Arc<Sums>,
        select: Arc<dyn Select>,
        clock: Arc<dyn Clock>,
        future_limit_ms: i64,
    ) -> Filtered {
        Filtered { inner, filters, sums, select, clock, future_limit_ms, states: Mutex::default() }
    }

    fn state(&self, origin: &Origin) -> Option<Arc<SourceState>> {
        let set = self.filters.of(origin)?;
        let key = (origin.method, origin.source_id.clone());
        let mut states = self.states.lock();
        let is_same = |s: &&Arc<SourceState>| (Arc::ptr_eq(&s.set, &set) || s.set == set) && !s.is_gone();
        if let Some(state) = states.get(&key).filter(is_same) {
            return Some(state.clone());
        }
        if states.len() >= SOURCES_MAX {
            states.clear();
        }
        let state = Arc::new(SourceState::new(set, self.sums.of(&owner_of(origin.method, &origin.source_id))));
        states.insert(key, state.clone());
        Some(state)
    }

    /// Filters a batch; gives what is to be called in the place of `done`.
    fn filter(&self, state: &Arc<SourceState>, batch: &mut Batch, done: AppendDone) -> AppendDone {
        let original = batch.clone();
        let now_ms = self.clock.now_ms();
        let newest_ms = now_ms.saturating_add(self.future_limit_ms);
        let filtering = state.apply(batch, now_ms, newest_ms, &|name| super::type_of(&*self.select, name));
        let (sums, set) = (self.sums.clone(), state.set.clone());
        Box::new(move |batch, result| match result {
            Ok(appended) => {
                filtering.commit(&batch);
                if !filtering.acted.is_empty() {
                    sums.counts().add(&batch.origin.source_id, &set, &filtering.acted);
                }
                drop(filtering);
                done(batch, Ok(appended));
            }
            Err(error) => {
                drop(filtering);
                done(original, Err(error));
            }
        })
    }
}

impl Append for Filtered {
    fn submit(&self, mut batch: Batch, done: AppendDone) {
        let done = match self.state(&batch.origin) {
            Some(state) => self.filter(&state, &mut batch, done),
            None => done,
        };
        self.inner.submit(batch, done);
    }

    fn submit_now(&self, mut batch: Batch, done: AppendDone) {
        let done = match self.state(&batch.origin) {
            Some(state) if state.set.aggregates() => {
                return done(batch, Err(AppendError::Busy { retry_after_ms: RETRY_AFTER_MS }));
            }
            Some(state) => self.filter(&state, &mut batch, done),
            None => done,
        };
        self.inner.submit_now(batch, done);
    }

    fn behind(&self) -> Option<&dyn Append> {
        Some(&*self.inner)
    }

    fn recall(&self) -> Box<dyn Recall + '_> {
        Box::new(FilteredRecall { inner: self.inner.recall(), filters: &self.filters })
    }
}

/// What filters have to see needs its labels: it is not recalled.
struct FilteredRecall<'a> {
    inner: Box<dyn Recall + 'a>,
    filters: &'a SourceFilters,
}

impl Recall for FilteredRecall<'_> {
    fn begin(&mut self, origin: &Origin) -> u64 {
        if self.filters.of(origin).is_some() {
            // Dropped, so that it keeps nobody from defining series while a sum waits for its turn.
            self.inner = Box::new(NoRecall);
        }
        self.inner.begin(origin)
    }

    fn by_written(&mut self, written: &[u8]) -> Option<SeriesId> {
        self.inner.by_written(written)
    }

    fn by_labels(&mut self, labels: &[u8]) -> Option<SeriesId> {
        self.inner.by_labels(labels)
    }

    fn end(&mut self) {
        self.inner.end();
    }
}
