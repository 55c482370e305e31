//! Several servers on one catalog: what another one registers, changes or deletes is put in force here too.

use catalog::Target;
use tokio::sync::watch;

use super::Rest;

impl Rest {
    /// Follows the catalog until the server stops.
    pub async fn follow_catalog(self, mut stop: watch::Receiver<bool>) {
        loop {
            let changed = tokio::select! {
                changed = self.catalog.changed() => changed,
                _ = stop.wait_for(|stopped| *stopped) => return,
            };
            tracing::info!(targets = changed.len(), "another server changed the catalog");
            for target_id in changed {
                self.take_over(&target_id).await;
            }
        }
    }

    /// Puts a target in force as the catalog has it now.
    async fn take_over(&self, target_id: &str) {
        let _changing = self.changing.lock().await;
        match self.catalog.get(target_id) {
            Some(target) if target.spec.origin != "api" => {
                self.collector.set_enabled(target_id, target.spec.enabled);
            }
            Some(target) if target.damage.is_none() => self.take_over_registered(&target).await,
            None if self.discovered(target_id).is_some() => {
                // A row of a discovered target only switches it off.
                self.collector.set_enabled(target_id, true);
            }
            _ => self.let_go(target_id).await,
        }
    }

    async fn take_over_registered(&self, target: &Target) {
        let target_id = &target.spec.target_id;
        match self.read_registered(&target.spec.request) {
            Ok((registration, spec)) => self.put_in_force(&registration, spec, target.health),
            Err(problem) => {
                tracing::error!(target_id, "a target of another server cannot be scraped here: {}", problem.detail);
                self.let_go(target_id).await;
            }
        }
    }

    async fn let_go(&self, target_id: &str) {
        if !self.observer.push_targets().remove(target_id) {
            self.collector.remove(target_id).await;
        }
        self.catalog.forget(target_id);
        self.urls.lock().remove(target_id);
    }
}
