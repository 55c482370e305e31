//! The place of a scrape in its target's schedule: what the ledger of delivered and missed scrapes is made from.

/// What a planned scrape came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum SlotOutcome {
    /// The body was taken.
    #[default]
    Stored = 0,
    /// The target did not answer, or not with metrics.
    TargetDown = 1,
    /// A limit refused the whole body.
    Limit = 2,
    /// No scrape: the target was switched off or removed at this time.
    Ended = 3,
}

impl SlotOutcome {
    /// All outcomes, in order of their numbers.
    pub const ALL: [SlotOutcome; 4] =
        [SlotOutcome::Stored, SlotOutcome::TargetDown, SlotOutcome::Limit, SlotOutcome::Ended];
}

/// A scheduled scrape. Part of the batch's WAL record, so that missed scrapes are known after a crash too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrapeSlot {
    /// When it was due; milliseconds since 1970.
    pub planned_ms: i64,
    /// From one scrape to the next.
    pub interval_ms: u64,
    /// What it came to.
    pub outcome: SlotOutcome,
    /// Scrapes since the last stored one that were not made because there was no time.
    pub skipped: u32,
    /// Scrapes since the last stored one that the store did not take.
    pub refused: u32,
}
