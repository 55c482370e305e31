//! Opens what others run for us: the catalog's database, the cache, receivers of events.

use std::path::Path;
use std::sync::Arc;

use catalog::Catalog;
use events::EventLog;
use store::Store;

use super::RunError;
use super::parts::Opening;
use crate::announce::Announcer;
use crate::cache::{Cache, Feeder, Latest, MemoryCache, RedisCache};
use crate::rest::Rest;

impl Opening {
    /// Opens the embedded catalog, or connects to the one that the configuration names.
    pub(super) async fn open_catalog(&self, dir: &Path) -> Result<Arc<Catalog>, RunError> {
        self.gate.progress("opening the catalog of targets");
        let Some(settings) = &self.settings.catalog else {
            return Ok(Arc::new(Catalog::open(&dir.join("catalog.db")).await?));
        };
        let place = settings.place().map_err(RunError::CatalogPlace)?;
        tracing::info!(catalog = place.shown(), "the catalog is in PostgreSQL");
        if dir.join("catalog.db").exists() {
            tracing::warn!("the targets in catalog.db are not used: the catalog is in PostgreSQL");
        }
        let catalog = Catalog::connect(place, dir, |text| {
            tracing::warn!("{text}");
            self.gate.progress(text);
        });
        Ok(Arc::new(catalog.await?))
    }

    /// Opens the cache and lets it be filled.
    pub(super) fn open_cache(&self, rest: &Rest, store: &Arc<Store>) -> Latest {
        let cache = match &self.settings.cache {
            None => Cache::Memory(MemoryCache::default()),
            Some(settings) => Cache::Redis(Box::new(RedisCache::new(settings.clone()))),
        };
        let latest = Latest::new(rest.clone(), store.clone(), Arc::new(cache));
        tokio::spawn(Feeder::new(latest.clone()).run(self.stop.clone()));
        latest
    }

    /// Starts to bring events to those who want them.
    pub(super) fn start_announcer(
        &self,
        dir: &Path,
        events: &EventLog,
        now: &Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Result<Arc<Announcer>, RunError> {
        let started = Announcer::start(&self.settings.events, &self.settings.node, dir, events, now, &self.stop);
        let failed = |error| RunError::System { what: "make the folder of what is announced", error };
        started.map(Arc::new).map_err(failed)
    }
}
