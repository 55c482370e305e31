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

    /// Gives the filters of what comes from somewhere; `None` when there are none.
    pub fn of(&self, origin: &Origin) -> Option<Arc<FilterSet>> {
        if origin.method == CollectionMethod::PullScraping {
            return None;
        }
        let registered = self.registered.filters(origin.method, &origin.source_id);
        let set = registered.or_else(|| self.configured.load().get(&origin.source_id).cloned())?;
        (!set.is_empty()).then_some(set)
    }
}

/// The store's door; what is pushed is filtered in it.
pub struct Filtered {
    inner: Arc<dyn Append>,
    filters: Arc<SourceFilters>,
    sums: Arc<Sums>,
    select: Arc<dyn Select>,
    clock: Arc<dyn Clock>,
    states: Mutex<HashMap<(CollectionMethod, String), Arc<SourceState>>>,
}

impl Filtered {
    /// Stands in front of a door.
    pub fn new(
        inner: Arc<dyn Append>,
        filters: Arc<SourceFilters>,
        sums: Arc<Sums>,
        select: Arc<dyn Select>,
        clock: Arc<dyn Clock>,
    ) -> Filtered {
        Filtered { inner, filters, sums, select, clock, states: Mutex::default() }
    }

    fn state(&self, origin: &Origin) -> Option<Arc<SourceState>> {
        let set = self.filters.of(origin)?;
        let key = (origin.method, origin.source_id.clone());
        let mut states = self.states.lock();
        if let Some(state) = states.get(&key).filter(|s| Arc::ptr_eq(&s.set, &set) || s.set == set) {
            return Some(state.clone());
        }
        if states.len() >= SOURCES_MAX {
            states.clear();
        }
        let owner = format!("{}/{}", origin.method.as_str(), origin.source_id);
        let state = Arc::new(SourceState::new(set, self.sums.of(&owner)));
        states.insert(key, state.clone());
        Some(state)
    }

    /// Filters a batch; gives what is to be called in the place of `done`.
    fn filter(&self, state: &Arc<SourceState>, batch: &mut Batch, done: AppendDone) -> AppendDone {
        let turn = state.turn();
        let original = batch.clone();
        state.apply(batch, self.clock.now_ms(), &|name| super::type_of(&*self.select, name));
        Box::new(move |batch, result| match result {
            Ok(appended) => {
                if let Some(turn) = &turn {
                    turn.commit();
                }
                drop(turn);
                done(batch, Ok(appended));
            }
            Err(error) => {
                drop(turn);
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
