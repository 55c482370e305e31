//! What is told of a target when it is registered or tried: how it will be to live with.

use collect::{ScrapeOutcome, TargetSpec};

use super::Rest;
use super::registration::Registration;
use super::target_json::{Projection, ScrapeReport};

/// Conflicting targets that are named.
const CONFLICTS_MAX: usize = 10;

impl Rest {
    /// Shows a first scrape, with what follows from it.
    pub(super) fn first_report(&self, registration: &Registration, outcome: &ScrapeOutcome) -> ScrapeReport {
        let mut report = ScrapeReport::with_filters(outcome, &registration.filters.set());
        if let (true, Some(scrape)) = (outcome.ok, &registration.scrape) {
            report.projected = Some(Projection::of(outcome.samples_post_relabeling, scrape.interval_ms));
        }
        if let Ok(Some(spec)) = registration.to_spec(&self.address_policy, &self.vault) {
            report.conflicts = self.conflicts(&spec);
        }
        report
    }

    /// Finds targets whose series are told apart from those of another one by nothing.
    fn conflicts(&self, spec: &TargetSpec) -> Vec<String> {
        if spec.honor_labels {
            // Then the exporter's labels may tell them apart.
            return Vec::new();
        }
        let is_same = |other: &TargetSpec| {
            other.enabled && !other.honor_labels && other.target_id != spec.target_id && other.labels == spec.labels
        };
        let mut ids = self.collector.find(is_same);
        ids.sort();
        ids.truncate(CONFLICTS_MAX);
        ids
    }
}
