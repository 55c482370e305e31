//! Opens what others run for us: the catalog's database.

use std::path::Path;
use std::sync::Arc;

use catalog::Catalog;

use super::RunError;
use super::parts::Opening;

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
}
