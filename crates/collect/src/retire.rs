//! The end of a target: every series gets its stale marker.

use std::sync::Arc;
use std::time::Duration;

use model::{AppendError, Batch, ScrapeSlot, SlotOutcome};

use crate::scrape::{Shop, origin, submit};
use crate::slot::Slot;

/// A busy store is asked this often to take the ends of a target's series, and given this long in between.
const RETIRE_TRIES: usize = 4;
const RETIRE_WAIT_MAX_MS: u64 = 2_000;

/// Marks every series of a target as ended.
///
/// **Gives** how many markers the store took.
pub(crate) async fn retire(shop: Arc<Shop>, slot: Arc<Slot>, now_ms: i64) -> u64 {
    let mut scraping = slot.scraper.clone().lock_owned().await;
    let spec = slot.shared.lock().spec.clone();
    let at_ms = scraping.last_ms.map_or(now_ms, |last| now_ms.max(last + 1));
    for _ in 0..RETIRE_TRIES {
        let mut batch = Batch::new(origin(&spec, shop.clock.now_ms()));
        batch.generation = shop.append.generation();
        let (planned_ms, interval_ms) = (now_ms, spec.interval_ms);
        batch.slot = Some(ScrapeSlot { planned_ms, interval_ms, outcome: SlotOutcome::Ended, ..ScrapeSlot::default() });
        let scraper = &mut *scraping;
        let mut draft = scraper.cache.begin(&spec, None, batch.generation);
        scraper.cache.fail(&mut draft);
        scraper.cache.push_stale(&mut draft, &mut batch, at_ms);
        let markers = scraper.report.push_stale(&mut batch, at_ms) + draft.stale_markers() as u64;
        scraper.cache.roll_back(&draft);
        if markers == 0 {
            break;
        }
        match submit(&shop, batch).await {
            Some((_, Ok(_))) => {
                scraping.forget_series();
                return markers;
            }
            Some((_, Err(AppendError::StaleIds))) => {}
            Some((_, Err(AppendError::Busy { retry_after_ms }))) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms.min(RETIRE_WAIT_MAX_MS))).await;
            }
            Some((_, Err(error))) => {
                tracing::warn!(target_id = spec.target_id, %error, "ends of series could not be marked");
                break;
            }
            None => break,
        }
    }
    scraping.forget_series();
    0
}
