//! The latest exemplars, over all series.

use std::collections::VecDeque;

use hashbrown::HashMap;
use model::Labels;

/// A value with a pointer to what caused it.
#[derive(Clone, PartialEq, Debug)]
pub struct Exemplar {
    /// Its own labels, such as `trace_id`.
    pub labels: Labels,
    /// Milliseconds since 1970.
    pub ts_ms: i64,
    /// The value.
    pub value: f64,
}

/// A ring: the oldest makes room.
#[derive(Default)]
pub struct Exemplars {
    ring: VecDeque<(u32, Exemplar)>,
    /// Time and value of a series' latest, because a scrape brings the same one again and again.
    latest: HashMap<u32, (i64, u64)>,
    max: usize,
}

impl Exemplars {
    /// Starts empty.
    pub fn new(max: usize) -> Exemplars {
        Exemplars { max, ..Exemplars::default() }
    }

    /// Adds an exemplar unless it is the series' latest one already.
    pub fn add(&mut self, series: u32, exemplar: Exemplar) {
        let key = (exemplar.ts_ms, exemplar.value.to_bits());
        if self.max == 0 || self.latest.insert(series, key) == Some(key) {
            return;
        }
        if self.ring.len() >= self.max
            && let Some((gone, exemplar)) = self.ring.pop_front()
            && self.latest.get(&gone) == Some(&(exemplar.ts_ms, exemplar.value.to_bits()))
        {
            self.latest.remove(&gone);
        }
        self.ring.push_back((series, exemplar));
    }

    /// Visits all.
    pub fn iter(&self) -> impl Iterator<Item = &(u32, Exemplar)> {
        self.ring.iter()
    }
}
