//! Reports of collections: the ids they carry, and the ones that pushes need.

use model::{CollectionReport, Health, Origin, TypeCounts};
use parking_lot::Mutex;
use uuid::{NoContext, Timestamp, Uuid};

const DAY_MS: i64 = 86_400_000;

/// Hands out batch ids `batch_YYYYMMDD_<node>_<number>`.
///
/// **Promises** no id twice, also over restarts: numbers start at the microsecond of the day and rise by one, so a
/// restart can only meet old numbers after more than a million batches per second.
#[derive(Debug)]
pub struct BatchIds {
    node: String,
    last: Mutex<(i64, u64)>,
}

impl BatchIds {
    /// Starts numbering for a node.
    pub fn new(node: impl Into<String>) -> BatchIds {
        BatchIds { node: node.into(), last: Mutex::new((i64::MIN, 0)) }
    }

    /// Gives the next id, for a collection that is done at the given time.
    pub fn next(&self, now_ms: i64) -> String {
        let today = now_ms.div_euclid(DAY_MS);
        let number = {
            let mut last = self.last.lock();
            // A clock that is set back stays on the later day, else numbers could meet.
            *last =
                if today > last.0 { (today, now_ms.rem_euclid(DAY_MS) as u64 * 1000) } else { (last.0, last.1 + 1) };
            *last
        };
        let (year, month, day) = civil(number.0);
        format!("batch_{year:04}{month:02}{day:02}_{}_{:06}", self.node, number.1)
    }
}

/// Turns days since 1970 into a date (Howard Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Makes the id of an event: a UUID of version 7 for the given time.
pub fn event_id(now_ms: i64) -> [u8; 16] {
    let ms = now_ms.max(0) as u64;
    *Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1000, (ms % 1000) as u32 * 1_000_000)).as_bytes()
}

/// What a push wants to have reported.
#[derive(Clone, Debug, Default)]
pub struct PushFacts {
    /// Where it came from; `received_at_ms` is the report's end.
    pub origin: Origin,
    /// From the first byte of the request to the batch handed to the store.
    pub duration_ms: u64,
    /// Points by type.
    pub summary: TypeCounts,
    /// Samples in the request.
    pub samples_count: u64,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Fills the report of a push; the store adds the counts.
pub fn for_push(ids: &BatchIds, facts: PushFacts) -> CollectionReport {
    let finished_at_ms = facts.origin.received_at_ms;
    CollectionReport {
        event_id: event_id(finished_at_ms),
        batch_id: ids.next(finished_at_ms),
        finished_at_ms,
        duration_ms: facts.duration_ms,
        health: if facts.error.is_some() { Health::Unhealthy } else { Health::Healthy },
        summary: facts.summary,
        samples_count: facts.samples_count,
        counts: Default::default(),
        error: facts.error,
        origin: facts.origin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_ids_do_not_meet_after_a_restart() {
        let noon = 1_774_353_600_000; // 2026-03-24T12:00:00Z
        let before = BatchIds::new("n1");
        assert_eq!(before.next(noon), "batch_20260324_n1_43200000000");
        assert_eq!(before.next(noon + 5), "batch_20260324_n1_43200000001");
        assert_eq!(BatchIds::new("n1").next(noon + 10), "batch_20260324_n1_43200010000");
        assert_eq!(before.next(noon + DAY_MS / 2), "batch_20260325_n1_000000");
        assert_eq!(before.next(noon), "batch_20260325_n1_000001");
    }

    #[test]
    fn dates_are_right_at_the_edges() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(-1), (1969, 12, 31));
    }

    #[test]
    fn event_ids_are_version_7_and_sorted_by_time() {
        let (a, b) = (event_id(1_774_353_600_000), event_id(1_774_353_600_001));
        assert_eq!(a[6] >> 4, 7);
        assert!(a < b);
    }
}
