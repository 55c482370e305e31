//! The slow work of the store: windows become blocks, the log is cut, blocks are merged, room is made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use events::EventLog;
use parking_lot::Mutex;
use store::Store;
use sys::Clock;
use sys::spans::{Kind, Span};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::retention::Keeper;
use super::unpublished::Unpublished;
use crate::filtering::{SumsFile, Sweeper};
use crate::stream::Positions;
use crate::upload::Uploads;

/// How often the head is written out early for the sake of room; each time costs a small block.
const RELIEVE_EVERY: Duration = Duration::from_secs(30);
/// Whoever made a batch durable gets this long to publish its event before the event is published for him.
const PUBLISH_WAIT: Duration = Duration::from_secs(1);
/// How often windows that are over are looked for.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// How often blocks to merge are looked for.
const MERGE_EVERY: Duration = Duration::from_secs(5);

/// Tables that have what the log may lose to a cut.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) positions: Arc<Positions>,
    pub(super) uploads: Uploads,
    pub(super) sums: Arc<SumsFile>,
}

impl Tables {
    pub(super) fn save(&self) -> Result<(), String> {
        let saved = self.positions.save().and_then(|()| self.uploads.save_all());
        saved.and_then(|()| self.sums.save()).map_err(|e| e.to_string())
    }
}

/// What must be on disk before the store's log is cut.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) events: EventLog,
    pub(super) unpublished: Arc<Unpublished>,
    pub(super) tables: Tables,
    pub(super) sweeper: Arc<Sweeper>,
}

/// Makes the events of everything that the store has taken durable: the store's log may be cut afterwards.
pub(super) fn secure_events(events: &EventLog, unpublished: &Unpublished) -> Result<(), String> {
    let settled = unpublished.settle(PUBLISH_WAIT, |report| events.publish(report));
    events.sync().map_err(|e| e.to_string())?;
    if settled { Ok(()) } else { Err("collections are under way whose events are not written yet".to_owned()) }
}

/// Turns windows into blocks and cuts the log, see [`secure_events`] for what comes before the cut; follows the targets'
/// retention.
pub(super) async fn upkeep(
    store: Arc<Store>,
    written: Written,
    keeper: Arc<Mutex<Keeper>>,
    clock: Arc<dyn Clock>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval(UPKEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut refused_before, mut relieved_at) = (0, None::<Instant>);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let refused = store.admission().refused_total();
        // Ended series hold the room that others wait for.
        let relieve = refused > refused_before && relieved_at.is_none_or(|at| at.elapsed() >= RELIEVE_EVERY);
        let (store, written) = (store.clone(), written.clone());
        let (keeper, clock) = (keeper.clone(), clock.clone());
        let round = tokio::task::spawn_blocking(move || {
            let mut span = Span::root("flush", Kind::Internal);
            // What is still under way now keeps the store from cutting its log, but from nothing else.
            if let Err(error) = secure_events(&written.events, &written.unpublished) {
                tracing::warn!("events: {error}");
            }
            if let Err(error) = written.tables.save() {
                tracing::warn!("how far streams and uploads are: {error}");
            }
            written.sweeper.tick(clock.now_ms());
            let kept = keeper.lock().tick(clock.now_ms());
            let flush = || {
                let done = store.maintain_windows().map_err(|e| e.to_string())?;
                kept?;
                let forgotten = if relieve { store.relieve().map_err(|e| e.to_string())? } else { 0 };
                Ok::<_, String>((done, forgotten))
            };
            let flushed = flush();
            match &flushed {
                Err(error) => span.fail(error),
                Ok((done, _)) => {
                    span.note("quiver.blocks_written", done.blocks_written);
                    span.note("quiver.blocks_dropped", done.blocks_dropped);
                    span.note("quiver.segments_cut", done.segments_cut);
                }
            }
            // Most rounds find nothing to do.
            if matches!(&flushed, Ok((done, 0)) if done.blocks_written + done.blocks_dropped + done.segments_cut == 0) {
                span.forget();
            }
            flushed
        });
        let round = round.await;
        if let Ok(Ok((_, forgotten @ 1..))) = &round {
            tracing::info!(forgotten, "series that have ended made room for new ones");
            (refused_before, relieved_at) = (refused, Some(Instant::now()));
        }
        match round.map(|round| round.map(|(done, _)| done)) {
            Ok(Ok(done)) if done.blocks_written + done.blocks_dropped > 0 => {
                tracing::info!(
                    written = done.blocks_written,
                    dropped = done.blocks_dropped,
                    segments_cut = done.segments_cut,
                    "blocks"
                );
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!("upkeep: {error}; it is tried again"),
            Err(error) => tracing::error!(%error, "upkeep broke off; it is tried again"),
        }
    }
}

/// Merges blocks, apart from the rest of the upkeep: a large merge takes minutes.
pub(super) async fn merging(store: Arc<Store>, mut stop: watch::Receiver<bool>) {
    let mut pause = MERGE_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        let store = store.clone();
        let merge = move || {
            let mut span = Span::root("merge blocks", Kind::Internal);
            let merged = store.compact();
            match &merged {
                Ok(0) => span.forget(),
                Ok(blocks) => span.note("quiver.blocks", *blocks),
                Err(error) => span.fail(&error.to_string()),
            }
            merged
        };
        pause = match tokio::task::spawn_blocking(merge).await {
            Ok(Ok(0)) => MERGE_EVERY,
            Ok(Ok(blocks)) => {
                tracing::info!(blocks, "blocks became one");
                Duration::ZERO
            }
            Ok(Err(error)) => {
                tracing::error!("{error}; it is tried again");
                MERGE_EVERY
            }
            Err(error) => {
                tracing::error!(%error, "merging blocks broke off; it is tried again");
                MERGE_EVERY
            }
        };
    }
}
