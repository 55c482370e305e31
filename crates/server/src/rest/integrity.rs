//! `GET /integrity`: what came in, what became of it, which scrapes are missing and why; and the scrubber on demand.
//!
//! Owns: nothing. The figures are the store's ledger; the collector adds what is missing since the last stored scrape.
//! Invariants: 1. received = accepted + duplicates + filtered + rejected, in each row and in the sum; 2. expected =
//! stored + lost.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::State;
use collect::{ScrapeErrorKind, TargetStatus};
use http::StatusCode;
use model::{CollectionMethod, Counts, Health, TimeRange};
use serde::Serialize;
use store::{AccountReport, Durability, Hole, HoleCause, Integrity, ScrubState, SlotCounts, Store};
use utoipa::ToSchema;

use super::body::Query;
use super::problem::Problem;
use super::target_json::Balance;
use super::{Rest, time};

/// The range when none is given.
const DEFAULT_RANGE_MS: i64 = 86_400_000;
/// The share of scrapes that the specification wants delivered.
const PROMISED_PERCENT: f64 = 99.99;

/// Where the ledger is.
pub trait Ledger: Send + Sync {
    /// As [`Store::integrity`].
    fn integrity(&self, range: TimeRange, wanted: &dyn Fn(&str, &str) -> bool) -> Integrity;

    /// As [`Store::scrub`]; blocks.
    fn scrub(&self) -> std::io::Result<Option<ScrubState>>;

    /// As [`Store::scrub_state`].
    fn scrub_state(&self) -> ScrubState;
}

impl Ledger for Store {
    fn integrity(&self, range: TimeRange, wanted: &dyn Fn(&str, &str) -> bool) -> Integrity {
        Store::integrity(self, range, wanted)
    }

    fn scrub(&self) -> std::io::Result<Option<ScrubState>> {
        Store::scrub(self)
    }

    fn scrub_state(&self) -> ScrubState {
        Store::scrub_state(self)
    }
}

/// What became of scheduled scrapes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
pub struct Scrapes {
    /// Scrapes that had to be made: from the interval and the times at which the target was enabled.
    pub expected: u64,
    /// Scrapes whose samples were stored.
    pub stored: u64,
    /// Expected and not stored.
    pub lost: u64,
    /// Of them, those that were ours to make: not because the target was down or a limit refused it.
    pub lost_by_us: u64,
    /// Stored although one of the same slot was there.
    pub doubled: u64,
    /// Missing scrapes by cause: `target_down`, `limit`, `restart`, `overloaded`, `store_refused`, `unknown`, and
    /// `disabled`, which are not expected and not lost.
    pub missing_by_cause: BTreeMap<String, u64>,
}

/// A run of missing scrapes.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct HoleJson {
    /// When the first was due.
    pub from: String,
    /// When the last was due.
    pub to: String,
    /// How many.
    pub scrapes: u64,
    /// As in `missing_by_cause`.
    pub cause: String,
}

/// What one target or source delivered in the range.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct TargetIntegrity {
    /// The target, or the source where none is registered.
    pub target_id: String,
    /// Its source.
    pub source_id: String,
    /// How it delivers.
    pub collection_method: String,
    /// Samples in the range.
    #[serde(flatten)]
    pub samples: Balance,
    /// Scheduled scrapes in the range; null for what is pushed.
    pub scrapes: Option<Scrapes>,
    /// The latest holes in the range, oldest first.
    pub holes: Vec<HoleJson>,
    /// See the report's.
    pub integrity_percent: f64,
    /// Samples since the data directory was made.
    pub lifetime: Balance,
}

/// What was found damaged or failed, over all restarts.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct DurabilityJson {
    /// Torn ends of the write-ahead log; what was in them was never acknowledged.
    pub wal_records_torn: u64,
    /// Damaged stretches of the write-ahead log; each held at least one record.
    pub wal_records_damaged: u64,
    /// Samples whose series' definition was lost.
    pub samples_orphaned: u64,
    /// Small files and blocks found damaged at a start.
    pub files_damaged: u64,
    /// Pieces of files and blocks that are kept aside under `damaged/` now.
    pub kept_aside: u64,
    /// Writes or syncs of the log that failed; after the first nothing is acknowledged until a restart.
    pub fsync_failures: u64,
    /// Windows that did not get whole from the head into a block; what did not get there stays in head and log.
    pub transfers_failed: u64,
    /// Damaged stretches that the scrubber found in blocks.
    pub stretches_damaged: u64,
    /// Files that the scrubber made whole from their second copy.
    pub files_repaired: u64,
}

/// What the scrubber did since the start.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct ScrubJson {
    /// Whether it is reading now.
    pub running: bool,
    /// Blocks read.
    pub blocks: u64,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Stretches found damaged.
    pub stretches_damaged: u64,
    /// Files made whole from their second copy.
    pub files_repaired: u64,
    /// When the last pass ended.
    pub last_pass: Option<String>,
    /// When the block that waits longest was last read; null when one never was.
    pub oldest_verified: Option<String>,
    /// The latest findings, oldest first.
    pub findings: Vec<String>,
}

/// The integrity ledger of this node.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct IntegrityReport {
    /// Start of the range that was asked for.
    pub from: String,
    /// Its end.
    pub to: String,
    /// Start of the stretch that the figures are about: whole five minutes for the last two hours, hours for two days,
    /// days before that. Null when there is nothing.
    pub counted_from: Option<String>,
    /// Its end.
    pub counted_to: Option<String>,
    /// Samples of all selected targets in the range.
    pub samples: Balance,
    /// Scheduled scrapes of all selected targets in the range.
    pub scrapes: Scrapes,
    /// 100 × (1 − (scrapes lost by us + doubled) / expected) over the range; 100 when none was expected.
    pub integrity_percent: f64,
    /// 100 × stored / expected, whoever is to blame; 100 when none was expected.
    pub delivered_percent: f64,
    /// What is promised for `integrity_percent`.
    pub promised_percent: f64,
    /// Acknowledged samples known to be lost since the data directory was made: at least so many.
    pub acknowledged_lost: u64,
    /// By target, source and method.
    pub targets: Vec<TargetIntegrity>,
    /// All samples of all targets since the data directory was made.
    pub lifetime: Balance,
    /// Whether `lifetime` adds up, and the targets add up to it.
    pub balanced: bool,
    /// Damage and failures.
    pub durability: DurabilityJson,
    /// The scrubber.
    pub scrub: ScrubJson,
    /// When this was computed.
    pub as_of: String,
}

/// Gives the ledger.
#[utoipa::path(
    get, path = "/api/v1/metrics/integrity", tag = "integrity",
    params(
        ("from" = Option<String>, Query, description = "Start: RFC 3339 or Unix seconds; a day before `to` when absent"),
        ("to" = Option<String>, Query, description = "End; now when absent"),
        ("target_id" = Option<String>, Query, description = "Only this target"),
        ("source_id" = Option<String>, Query, description = "Only this source"),
    ),
    responses(
        (status = 200, description = "What came in and what became of it", body = IntegrityReport),
        (status = 400, description = "A parameter is wrong", body = super::problem::ProblemBody),
        (status = 404, description = "Nothing is known of the target or source", body = super::problem::ProblemBody),
    )
)]
pub async fn integrity(State(rest): State<Rest>, Query(params): Query) -> Result<Json<IntegrityReport>, Problem> {
    let now_ms = rest.now_ms();
    let range = range(params.get("from"), params.get("to"), now_ms)?;
    let (target_id, source_id) = (params.get("target_id").to_owned(), params.get("source_id").to_owned());
    let made = tokio::task::spawn_blocking(move || {
        let wanted = |target: &str, source: &str| {
            (target_id.is_empty() || target_id == target) && (source_id.is_empty() || source_id == source)
        };
        let found = rest.ledger.integrity(range, &wanted);
        let chosen = !(target_id.is_empty() && source_id.is_empty());
        if chosen && found.accounts.is_empty() && rest.ledger.integrity(TimeRange::ALL, &wanted).accounts.is_empty() {
            let what = if target_id.is_empty() { &source_id } else { &target_id };
            return Err(Problem::not_found(format!("nothing ever came from {what:?}; see /api/v1/metrics/targets")));
        }
        Ok(report(&rest, range, now_ms, found))
    });
    made.await.map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed"))?.map(Json)
}

/// Reads all blocks again.
#[utoipa::path(
    post, path = "/api/v1/metrics/integrity/scrub", tag = "integrity",
    responses(
        (status = 202, description = "The scrubber reads all blocks now; GET /integrity shows how far it is", body = ScrubJson),
        (status = 409, description = "A pass is under way", body = super::problem::ProblemBody),
    )
)]
pub async fn scrub(State(rest): State<Rest>) -> Result<(StatusCode, Json<ScrubJson>), Problem> {
    let state = rest.ledger.scrub_state();
    if state.running {
        let text = "a pass is under way; GET /api/v1/metrics/integrity shows how far it is";
        return Err(Problem::new(StatusCode::CONFLICT, "scrub_running", text).retry_after_ms(5_000));
    }
    let ledger = rest.ledger.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = ledger.scrub() {
            tracing::error!(%error, "the scrubber could not read the blocks");
        }
    });
    Ok((StatusCode::ACCEPTED, Json(ScrubJson { running: true, ..ScrubJson::from(&state) })))
}

fn range(from: &str, to: &str, now_ms: i64) -> Result<TimeRange, Problem> {
    let read = |name: &str, text: &str| {
        time::from_text(text)
            .ok_or_else(|| Problem::parameter(name, format!("{name} is RFC 3339 or Unix seconds, not {text:?}")))
    };
    let end_ms = if to.is_empty() { now_ms } else { read("to", to)? };
    let start_ms = if from.is_empty() { end_ms.saturating_sub(DEFAULT_RANGE_MS) } else { read("from", from)? };
    if start_ms > end_ms {
        return Err(Problem::parameter("from", "from lies behind to"));
    }
    Ok(TimeRange { start_ms, end_ms })
}

fn report(rest: &Rest, range: TimeRange, now_ms: i64, found: Integrity) -> IntegrityReport {
    let statuses: HashMap<String, TargetStatus> =
        rest.collector.statuses().into_iter().map(|s| (s.target_id.clone(), s)).collect();
    let (mut samples, mut slots, mut span) = (Counts::default(), SlotCounts::default(), None::<TimeRange>);
    let mut targets = Vec::with_capacity(found.accounts.len());
    for mut account in found.accounts {
        if let Some(status) = statuses.get(&account.target_id) {
            add_tail(&mut account, status, range, now_ms);
        }
        samples.merge(&account.counts);
        slots.merge(&account.slots);
        span = Some(span.map_or(account.span, |s| TimeRange {
            start_ms: s.start_ms.min(account.span.start_ms),
            end_ms: s.end_ms.max(account.span.end_ms),
        }));
        targets.push(TargetIntegrity::from(&account));
    }
    let durability = found.durability;
    IntegrityReport {
        from: time::to_text(range.start_ms),
        to: time::to_text(range.end_ms),
        counted_from: span.map(|s| time::to_text(s.start_ms)),
        counted_to: span.map(|s| time::to_text(s.end_ms.saturating_add(1))),
        samples: Balance::from(&samples),
        integrity_percent: integrity_percent(&slots),
        delivered_percent: percent(slots.stored.min(slots.expected), slots.expected),
        promised_percent: PROMISED_PERCENT,
        scrapes: Scrapes::from(&slots),
        acknowledged_lost: durability.samples_orphaned + durability.records_damaged,
        targets,
        lifetime: Balance::from(&found.totals),
        balanced: found.balanced,
        durability: DurabilityJson::of(&durability, found.kept_aside),
        scrub: ScrubJson::from(&rest.ledger.scrub_state()),
        as_of: time::to_text(now_ms),
    }
}

/// Adds the scrapes that should have been stored since the last one that was, while the target is on.
pub fn add_tail(account: &mut AccountReport, status: &TargetStatus, range: TimeRange, now_ms: i64) {
    let Some((last_ms, interval_ms)) = account.last_slot else { return };
    if account.method != CollectionMethod::PullScraping || status.health == Health::Disabled {
        return;
    }
    let interval_ms = interval_ms.clamp(1, i64::MAX as u64) as i64;
    // The latest may still be under way.
    let until_ms = now_ms.saturating_sub(interval_ms).min(range.end_ms);
    let slots = until_ms.saturating_sub(last_ms) / interval_ms;
    if slots <= 0 {
        return;
    }
    let refused = status.last_error.as_ref().is_some_and(|e| e.kind == ScrapeErrorKind::Store);
    let cause = if refused { HoleCause::StoreRefused } else { HoleCause::Unknown };
    account.slots.miss(cause, slots as u64);
    let from_ms = last_ms.saturating_add(interval_ms);
    let to_ms = last_ms.saturating_add(interval_ms.saturating_mul(slots));
    account.holes.push(Hole { from_ms, to_ms, slots: slots as u64, cause });
}

fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { 100.0 } else { 100.0 * part as f64 / of as f64 }
}

fn integrity_percent(slots: &SlotCounts) -> f64 {
    percent(slots.expected.saturating_sub(slots.lost_by_us() + slots.doubled), slots.expected)
}

impl From<&SlotCounts> for Scrapes {
    fn from(slots: &SlotCounts) -> Scrapes {
        let causes = HoleCause::ALL.iter().map(|c| (c.as_str().to_owned(), slots.missing[*c as usize]));
        Scrapes {
            expected: slots.expected,
            stored: slots.stored,
            lost: slots.lost(),
            lost_by_us: slots.lost_by_us(),
            doubled: slots.doubled,
            missing_by_cause: causes.filter(|(_, n)| *n > 0).collect(),
        }
    }
}

impl From<&AccountReport> for TargetIntegrity {
    fn from(account: &AccountReport) -> TargetIntegrity {
        let scraped = account.last_slot.is_some() || account.slots != SlotCounts::default();
        TargetIntegrity {
            target_id: account.target_id.clone(),
            source_id: account.source_id.clone(),
            collection_method: account.method.as_str().to_owned(),
            samples: Balance::from(&account.counts),
            scrapes: scraped.then(|| Scrapes::from(&account.slots)),
            holes: account.holes.iter().map(HoleJson::from).collect(),
            integrity_percent: integrity_percent(&account.slots),
            lifetime: Balance::from(&account.totals),
        }
    }
}

impl From<&Hole> for HoleJson {
    fn from(hole: &Hole) -> HoleJson {
        HoleJson {
            from: time::to_text(hole.from_ms),
            to: time::to_text(hole.to_ms),
            scrapes: hole.slots,
            cause: hole.cause.as_str().to_owned(),
        }
    }
}

impl DurabilityJson {
    fn of(durability: &Durability, kept_aside: u64) -> DurabilityJson {
        DurabilityJson {
            wal_records_torn: durability.records_torn,
            wal_records_damaged: durability.records_damaged,
            samples_orphaned: durability.samples_orphaned,
            files_damaged: durability.files_damaged,
            kept_aside,
            fsync_failures: durability.fsync_failures,
            transfers_failed: durability.transfers_failed,
            stretches_damaged: durability.stretches_damaged,
            files_repaired: durability.files_repaired,
        }
    }
}

impl From<&ScrubState> for ScrubJson {
    fn from(state: &ScrubState) -> ScrubJson {
        ScrubJson {
            running: state.running,
            blocks: state.blocks,
            files: state.files,
            bytes: state.bytes,
            stretches_damaged: state.stretches_damaged,
            files_repaired: state.files_repaired,
            last_pass: state.finished_ms.map(time::to_text),
            oldest_verified: state.oldest_ms.map(time::to_text),
            findings: state.findings.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_say_who_is_to_blame() {
        let mut slots = SlotCounts { expected: 9_000, stored: 9_000, ..SlotCounts::default() };
        assert_eq!(integrity_percent(&slots), 100.0);
        slots.miss(HoleCause::TargetDown, 999);
        slots.miss(HoleCause::Disabled, 50);
        assert_eq!((integrity_percent(&slots), slots.expected), (100.0, 9_999));
        slots.miss(HoleCause::Restart, 1);
        assert_eq!(integrity_percent(&slots), 99.99);
        assert_eq!(percent(slots.stored, slots.expected), 90.0);
        assert_eq!(integrity_percent(&SlotCounts::default()), 100.0);
    }

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(range("", "", 90_000_000).ok(), Some(TimeRange { start_ms: 3_600_000, end_ms: 90_000_000 }));
        assert_eq!(range("1", "2", 0).ok(), Some(TimeRange { start_ms: 1_000, end_ms: 2_000 }));
        for (from, to) in [("soon", ""), ("", "x"), ("3", "2")] {
            assert_eq!(range(from, to, 0).err().map(|p| p.status), Some(400), "{from} {to}");
        }
    }
}
