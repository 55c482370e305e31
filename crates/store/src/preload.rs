//! The series of an earlier life: from the series log into head and registry.
//!
//! Invariants: 1. a series is in the head before the registry calls it defined; 2. the index comes later, from the head.
//! Cost: two threads, one reads and fills the head, the other fills the registry.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use hashbrown::HashMap;
use model::{Labels, MetricType};

use crate::attrs::{AttrsId, SeriesAttrs};
use crate::core::Core;
use crate::series_log::{self, Entry, Loaded};

/// Series that go to the registry at once.
const PART: usize = 4096;
/// Parts that wait for the registry.
const PARTS_MAX: usize = 8;

/// Makes all series of the log known.
pub fn preload(core: &Core) -> io::Result<Loaded> {
    let (to_registry, parts) = sync_channel::<Vec<(Labels, u32, AttrsId)>>(PARTS_MAX);
    thread::scope(|scope| {
        let registry = scope.spawn(move || {
            for part in parts {
                core.registry.mark_defined(part.iter().map(|(labels, id, attrs)| (labels, *id, *attrs)));
            }
        });
        let mut attrs = AttrsOfEntries::default();
        let mut part = Vec::with_capacity(PART);
        let loaded = series_log::load(&*core.fs, &core.config.dir, &mut |entry| {
            let attrs = attrs.of(core, &entry);
            core.head.define(entry.id, &entry.labels, attrs);
            part.push((entry.labels, entry.id, attrs));
            if part.len() == PART {
                // It ends only when the sender is gone, or with a panic that the join tells of.
                let _ = to_registry.send(std::mem::replace(&mut part, Vec::with_capacity(PART)));
            }
        });
        let _ = to_registry.send(part);
        drop(to_registry);
        registry.join().map_err(|_| io::Error::other("the thread for the registry panicked"))?;
        loaded
    })
}

/// Attributes by their texts: many series share them, and most have those of the one before.
#[derive(Default)]
struct AttrsOfEntries {
    known: HashMap<(MetricType, String, String), AttrsId>,
    last: Option<(MetricType, String, String, AttrsId)>,
}

impl AttrsOfEntries {
    fn of(&mut self, core: &Core, entry: &Entry) -> AttrsId {
        if let Some((metric_type, source, target_id, id)) = &self.last
            && (*metric_type, source.as_str(), target_id.as_str()) == (entry.metric_type, entry.source, entry.target_id)
        {
            return *id;
        }
        let (source, target_id) = (entry.source.to_owned(), entry.target_id.to_owned());
        let key = (entry.metric_type, source, target_id);
        let id = *self.known.entry(key.clone()).or_insert_with(|| {
            let (source, target_id) = (entry.source.into(), entry.target_id.into());
            core.attrs.intern(SeriesAttrs { metric_type: entry.metric_type, source, target_id })
        });
        self.last = Some((key.0, key.1, key.2, id));
        id
    }
}

/// Makes the index in a thread: writes are taken meanwhile, selections wait. Then reads the copy of the series log that
/// the start did not look at.
pub fn start_index(core: Arc<Core>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("store-index".into()).spawn(move || {
        core.index.fill(&core.head.labels());
        core.check_second_series_log();
    })
}

impl Core {
    fn check_second_series_log(&self) {
        let Some(nonce) = self.applied.lock().series_log.as_ref().map(|log| log.nonce()) else { return };
        if !matches!(series_log::second_is_sound(&*self.fs, &self.config.dir, nonce), Ok(false)) {
            return;
        }
        tracing::error!("{}: a copy of the series log is damaged; both are written anew", self.config.dir.display());
        // Without it the next checkpoint does that.
        self.applied.lock().series_log = None;
    }
}
