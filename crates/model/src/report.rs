//! What is known about one collection when it is done; the event is made from it.

use crate::refusal::Counts;

/// How samples came to us (the specification's `CollectionMethod`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum CollectionMethod {
    /// We asked a target.
    #[default]
    PullScraping = 0,
    /// Pushed in the Pushgateway's way.
    PushGateway = 1,
    /// Remote write, OTLP or a stream.
    Streaming = 2,
    /// Custom metrics and uploads.
    BatchUpload = 3,
}

impl CollectionMethod {
    /// All methods, in order of their numbers.
    pub const ALL: [CollectionMethod; 4] = [
        CollectionMethod::PullScraping,
        CollectionMethod::PushGateway,
        CollectionMethod::Streaming,
        CollectionMethod::BatchUpload,
    ];

    /// Gives the specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            CollectionMethod::PullScraping => "PULL_SCRAPING",
            CollectionMethod::PushGateway => "PUSH_GATEWAY",
            CollectionMethod::Streaming => "STREAMING",
            CollectionMethod::BatchUpload => "BATCH_UPLOAD",
        }
    }
}

/// The state of a target as the outside sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Health {
    /// Never tried.
    #[default]
    Unknown = 0,
    /// The last collection went well.
    Healthy = 1,
    /// It went, but hit limits or was slow.
    Degraded = 2,
    /// The last collection failed.
    Unhealthy = 3,
    /// Switched off.
    Disabled = 4,
}

impl Health {
    /// All states, in order of their numbers.
    pub const ALL: [Health; 5] =
        [Health::Unknown, Health::Healthy, Health::Degraded, Health::Unhealthy, Health::Disabled];

    /// Gives the lower-case word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Unhealthy => "unhealthy",
            Health::Disabled => "disabled",
        }
    }
}

/// Where a batch comes from.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Origin {
    /// The target's id, or the source id when no target is registered. At most 100 characters.
    pub target_id: String,
    /// The source id. At most 100 characters.
    pub source_id: String,
    /// How it came.
    pub method: CollectionMethod,
    /// When the last byte arrived, by our clock; milliseconds since 1970.
    pub received_at_ms: i64,
}

/// How many metric points of each type a collection held; one histogram or summary is one point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TypeCounts {
    /// Counters.
    pub counters: u64,
    /// Gauges.
    pub gauges: u64,
    /// Histograms, classic or native.
    pub histograms: u64,
    /// Summaries.
    pub summaries: u64,
    /// All else: unknown, info, state sets.
    pub others: u64,
}

impl TypeCounts {
    /// Gives the sum of the five: the event's `metrics_count`.
    pub fn total(&self) -> u64 {
        self.counters + self.gauges + self.histograms + self.summaries + self.others
    }
}

/// The report of one finished collection. Part of the batch's WAL record, so that the event survives a crash.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CollectionReport {
    /// UUID version 7 of the event.
    pub event_id: [u8; 16],
    /// `batch_YYYYMMDD_<node>_NNNNNN`.
    pub batch_id: String,
    /// When the collection was done; milliseconds since 1970.
    pub finished_at_ms: i64,
    /// Where it came from.
    pub origin: Origin,
    /// From the first byte asked for to the batch handed to the store, in milliseconds.
    pub duration_ms: u64,
    /// The target's state after this collection.
    pub health: Health,
    /// Points by type.
    pub summary: TypeCounts,
    /// Samples on the wire (a histogram is many).
    pub samples_count: u64,
    /// What became of the samples; filled by the store.
    pub counts: Counts,
    /// Why the collection failed; `None` when it went well.
    pub error: Option<String>,
}

impl CollectionReport {
    /// Gives `floor(metrics_count * 1000 / duration_ms)`; a duration of 0 ms counts as 1.
    pub fn samples_per_second(&self) -> u64 {
        let product = u128::from(self.summary.total()) * 1000;
        u64::try_from(product / u128::from(self.duration_ms.max(1))).unwrap_or(u64::MAX)
    }

    /// Gives the event's `error_count`: refused samples, and one for a failed collection.
    pub fn error_count(&self) -> u64 {
        self.counts.refused_total() + u64::from(self.error.is_some())
    }
}
