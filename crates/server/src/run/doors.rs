//! The doors in front of the store, one behind the other: each sees every batch on its way in and its answer on the way out.

use std::sync::Arc;

use collect::Sums;
use model::Append;
use store::Store;
use sys::Clock;

use super::unpublished::Noting;
use crate::filtering::{Filtered, SourceFilters};
use crate::observe::Observer;
use crate::rejections::{Noted, Rejections};
use crate::rest::push_targets::Attributed;
use crate::stream::{Tap, Tapped};
use crate::telemetry::{Intake, Metered};

/// What the doors work with.
pub(super) struct Doors<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) observer: &'a Observer,
    pub(super) intake: &'a Arc<Intake>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) filters: &'a Arc<SourceFilters>,
    pub(super) sums: &'a Arc<Sums>,
}

impl Doors<'_> {
    /// Gives the outermost door, with those who listen behind it.
    pub(super) fn open(&self) -> (Arc<dyn Append>, Arc<Tap>, Arc<Rejections>) {
        let noting = Arc::new(Noting::new(self.store.clone(), self.observer.unpublished().clone()));
        let tap = Arc::new(Tap::default());
        let tapped: Arc<dyn Append> = Arc::new(Tapped::new(noting, tap.clone()));
        let metered: Arc<dyn Append> = Arc::new(Metered::new(tapped, self.intake.clone()));
        let rejections = Arc::new(Rejections::new(Some(self.store.clone())));
        let append: Arc<dyn Append> = Arc::new(Noted::new(metered, rejections.clone(), self.clock.clone()));
        let (filters, sums) = (self.filters.clone(), self.sums.clone());
        let (clock, limit_ms) = (self.clock.clone(), self.store.future_limit_ms());
        let append: Arc<dyn Append> =
            Arc::new(Filtered::new(append, filters, sums, self.store.clone(), clock, limit_ms));
        let append: Arc<dyn Append> = Arc::new(Attributed::new(append, self.observer.push_targets().clone()));
        (append, tap, rejections)
    }
}
