//! Which blocks are to be merged next. A pure function of the list.
//!
//! Invariants: 1. a plan names two blocks at least, and its window covers theirs; 2. carried out, it leaves fewer blocks,
//! so that planning comes to an end.
//! Limits: a slot keeps at most [`CROWD`] blocks of its own length and [`CROWD`] shorter ones; a plan takes at most
//! [`SOURCES_MAX`] blocks and `bytes_max` bytes.

use std::collections::BTreeMap;

use model::TimeRange;

/// More blocks than this of one window are merged into one.
pub const CROWD: usize = 4;
/// Each source takes open files and pages.
pub const SOURCES_MAX: usize = 64;

/// What a plan needs to know of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub id: u64,
    pub window: TimeRange,
    pub bytes: u64,
}

impl Piece {
    fn length_ms(&self) -> i64 {
        self.window.end_ms.saturating_sub(self.window.start_ms).saturating_add(1)
    }
}

/// Blocks to merge into one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub window: TimeRange,
    /// In the order of the list.
    pub sources: Vec<u64>,
}

/// What limits plans.
pub struct Limits<'a> {
    /// Lengths of larger windows, rising.
    pub ranges_ms: &'a [i64],
    /// Windows that end before this are complete but for late samples.
    pub closed_ms: i64,
    /// The sources of a plan together.
    pub bytes_max: u64,
}

/// Gives the next plan that `is_free` accepts.
pub fn next(pieces: &[Piece], limits: &Limits<'_>, is_free: impl Fn(&Plan) -> bool) -> Option<Plan> {
    let acceptable = |plan: &Plan| {
        let bytes = pieces.iter().filter(|p| plan.sources.contains(&p.id)).map(|p| p.bytes).sum::<u64>();
        plan.sources.len() > 1 && bytes <= limits.bytes_max && is_free(plan)
    };
    let larger = limits.ranges_ms.iter().rev().flat_map(|range| slots(pieces, *range, limits.closed_ms));
    crowded(pieces).chain(larger).find(acceptable)
}

fn plan(window: TimeRange, sources: impl Iterator<Item = Piece>) -> Plan {
    Plan { window, sources: sources.map(|p| p.id).take(SOURCES_MAX).collect() }
}

/// Windows with too many blocks of the same length, oldest first.
fn crowded(pieces: &[Piece]) -> impl Iterator<Item = Plan> {
    let mut windows: BTreeMap<(i64, i64), Vec<Piece>> = BTreeMap::new();
    for piece in pieces {
        windows.entry((piece.window.start_ms, piece.window.end_ms)).or_default().push(*piece);
    }
    let crowds = windows.into_iter().filter(|w| w.1.len() > CROWD);
    crowds.map(|((start_ms, end_ms), all)| plan(TimeRange { start_ms, end_ms }, all.into_iter()))
}

/// Slots of a length whose blocks can become one, oldest first.
fn slots(pieces: &[Piece], range_ms: i64, closed_ms: i64) -> Vec<Plan> {
    let mut slots: BTreeMap<i64, Vec<Piece>> = BTreeMap::new();
    for piece in pieces.iter().filter(|p| p.length_ms() <= range_ms) {
        let slot = piece.window.start_ms.div_euclid(range_ms);
        if slot == piece.window.end_ms.div_euclid(range_ms) {
            slots.entry(slot).or_default().push(*piece);
        }
    }
    let one = |(slot, pieces): (i64, Vec<Piece>)| {
        let start_ms = slot.saturating_mul(range_ms);
        let window = TimeRange { start_ms, end_ms: start_ms.saturating_add(range_ms - 1) };
        let (full, short): (Vec<Piece>, Vec<Piece>) = pieces.into_iter().partition(|p| p.window == window);
        if window.end_ms >= closed_ms || short.is_empty() {
            return None;
        }
        if full.is_empty() {
            return Some(plan(window, short.into_iter()));
        }
        // Late samples: by themselves, until they are worth rewriting the large block for.
        let bytes = |all: &[Piece]| all.iter().map(|p| p.bytes).sum::<u64>();
        match short.len() > CROWD {
            true if bytes(&short).saturating_mul(4) >= bytes(&full) => {
                Some(plan(window, full.into_iter().chain(short)))
            }
            true => Some(plan(window, short.into_iter())),
            false => None,
        }
    };
    slots.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const H: i64 = 3_600_000;

    fn piece(id: u64, hour: i64, hours: i64, bytes: u64) -> Piece {
        Piece { id, window: TimeRange { start_ms: hour * H, end_ms: (hour + hours) * H - 1 }, bytes }
    }

    fn limits(closed_hour: i64) -> Limits<'static> {
        Limits { ranges_ms: &[6 * H, 24 * H], closed_ms: closed_hour * H, bytes_max: u64::MAX }
    }

    #[test]
    fn hours_become_six_and_a_day_once_they_are_over() {
        let hours: Vec<Piece> = (0..24).map(|h| piece(h as u64, h, 1, 10)).collect();
        let next_of = |pieces: &[Piece], closed| next(pieces, &limits(closed), |_| true);
        assert_eq!(next_of(&hours[..6], 5), None);
        let six = next_of(&hours[..6], 6).unwrap();
        assert_eq!((six.window, six.sources.len()), (TimeRange { start_ms: 0, end_ms: 6 * H - 1 }, 6));
        let day = next_of(&hours, 24).unwrap();
        assert_eq!((day.window.end_ms, day.sources.len()), (24 * H - 1, 24), "not by way of six");
        assert_eq!(next_of(&hours[..1], 99), None, "alone it would only be written again");
        assert_eq!(next(&hours, &Limits { bytes_max: 100, ..limits(24) }, |_| true).unwrap().sources.len(), 6);
    }

    #[test]
    fn late_blocks_gather_before_the_large_one_is_touched() {
        let with_late = |n: u64, bytes| {
            let late = (1..=n).map(|id| piece(id, id as i64, 1, bytes));
            std::iter::once(piece(0, 0, 24, 1000)).chain(late).collect::<Vec<_>>()
        };
        assert_eq!(next(&with_late(4, 1), &limits(48), |_| true).map(|p| p.window.end_ms), Some(6 * H - 1));
        let one_each: Vec<Piece> =
            (0..4).map(|n| piece(n + 1, n as i64 * 6, 1, 1)).chain([piece(0, 0, 24, 1000)]).collect();
        assert_eq!(next(&one_each, &limits(48), |_| true), None);
        assert_eq!(next(&with_late(5, 1), &limits(48), |_| true).unwrap().sources, [1, 2, 3, 4, 5]);
        assert_eq!(next(&with_late(5, 100), &limits(48), |_| true).unwrap().sources, [0, 1, 2, 3, 4, 5]);
    }

    proptest! {
        #[test]
        fn carrying_plans_out_comes_to_an_end_with_few_blocks(
            start in prop::collection::vec((0i64..72, 1u64..1000), 0..120), busy in 0u64..5,
        ) {
            let mut pieces: Vec<Piece> = Vec::new();
            let mut id = 0;
            for (hour, bytes) in start {
                pieces.push(piece(id, hour, 1, bytes));
                id += 1;
            }
            let mut rounds = 0;
            while let Some(plan) = next(&pieces, &limits(72), |p| p.sources.iter().all(|s| s % 7 != busy + 100)) {
                prop_assert!(plan.sources.len() > 1 && plan.sources.len() <= SOURCES_MAX);
                let (gone, kept): (Vec<Piece>, Vec<Piece>) = pieces.iter().partition(|p| plan.sources.contains(&p.id));
                prop_assert_eq!(gone.len(), plan.sources.len());
                for p in &gone {
                    prop_assert!(plan.window.start_ms <= p.window.start_ms && p.window.end_ms <= plan.window.end_ms);
                }
                pieces = kept;
                pieces.push(Piece { id, window: plan.window, bytes: gone.iter().map(|p| p.bytes).sum() });
                pieces.sort_by_key(|p| (p.window.start_ms, p.id));
                id += 1;
                rounds += 1;
                prop_assert!(rounds < 500);
            }
            prop_assert!(pieces.len() <= 3 * 2 * CROWD, "{}", pieces.len());
        }
    }
}
