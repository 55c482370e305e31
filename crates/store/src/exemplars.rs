//! The latest exemplars, over all series.

use std::collections::VecDeque;

use hashbrown::HashMap;
use model::Labels;

use crate::coding::{Cursor, Malformed, put_bytes, put_signed, put_varint};

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

    /// Adds an exemplar unless it is the series' latest one already. Series 0 is none: it was refused, and its exemplars
    /// go with it.
    pub fn add(&mut self, series: u32, exemplar: Exemplar) {
        let key = (exemplar.ts_ms, exemplar.value.to_bits());
        if self.max == 0 || series == 0 || self.latest.insert(series, key) == Some(key) {
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

    /// Gives the bytes of the `exemplars` file: all, as of a record.
    pub fn encode(&self, seq: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.ring.len() * 48 + 16);
        put_varint(&mut out, seq);
        put_varint(&mut out, self.ring.len() as u64);
        for (series, exemplar) in &self.ring {
            put_varint(&mut out, u64::from(*series));
            put_signed(&mut out, exemplar.ts_ms);
            out.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
            put_bytes(&mut out, exemplar.labels.as_bytes());
        }
        out
    }

    /// Adds what the `exemplars` file has; gives the record as of which it is.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<u64, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let seq = cursor.varint()?;
        for _ in 0..cursor.count()? {
            let series = u32::try_from(cursor.varint()?).map_err(|_| Malformed)?;
            let (ts_ms, value) = (cursor.signed()?, f64::from_bits(cursor.u64_le()?));
            let labels = Labels::from_bytes(cursor.bytes()?).ok_or(Malformed)?;
            self.add(series, Exemplar { labels, ts_ms, value });
        }
        Ok(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemplars_of_refused_series_are_not_kept() {
        let mut exemplars = Exemplars::new(2);
        for (series, ts_ms) in [(0, 1), (1, 1), (1, 1), (2, 2), (3, 3), (0, 4)] {
            exemplars.add(series, Exemplar { labels: Labels::empty(), ts_ms, value: 1.0 });
        }
        assert_eq!(exemplars.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(exemplars.latest.len(), 2);
    }
}
