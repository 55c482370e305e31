//! The chunk codec: times as delta of delta, values as XOR with the one before, bit by bit (Gorilla).
//!
//! Invariants: 1. every `i64` time and every 64-bit value pattern comes back exactly, in the order given; 2. a reader
//! of any bytes ends, with at most `count` samples.
//! Source: Pelkonen et al., "Gorilla", VLDB 2015; `docs/format/chunk.md` draws the bits.

use model::Samples;

const GROWTH_BYTES_MIN: usize = 24;

/// No window of meaningful bits chosen yet.
const NO_WINDOW: u8 = 0xff;

/// A chunk that still grows.
#[derive(Clone, Debug)]
pub struct Appender {
    bytes: Vec<u8>,
    last_ts: i64,
    last_delta: i64,
    last_bits: u64,
    count: u16,
    /// Unused low bits of the last byte.
    free_bits: u8,
    leading: u8,
    trailing: u8,
}

impl Default for Appender {
    fn default() -> Appender {
        Appender {
            bytes: Vec::new(),
            last_ts: 0,
            last_delta: 0,
            last_bits: 0,
            count: 0,
            free_bits: 0,
            leading: NO_WINDOW,
            trailing: 0,
        }
    }
}

impl Appender {
    /// Counts the samples.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Gives the time of the last sample.
    pub fn last_ts(&self) -> i64 {
        self.last_ts
    }

    /// Gives the bits of the last value.
    pub fn last_bits(&self) -> u64 {
        self.last_bits
    }

    /// Gives the memory that its bytes take.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives the bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a sample. The caller seals long before 65,535 samples.
    pub fn push(&mut self, ts_ms: i64, value: f64) {
        let bits = value.to_bits();
        if self.count == 0 {
            self.put(ts_ms as u64, 64);
            self.put(bits, 64);
        } else {
            let delta = ts_ms.wrapping_sub(self.last_ts);
            self.put_time(delta.wrapping_sub(self.last_delta));
            self.put_value(bits ^ self.last_bits);
            self.last_delta = delta;
        }
        self.last_ts = ts_ms;
        self.last_bits = bits;
        self.count = self.count.saturating_add(1);
    }

    fn put_time(&mut self, change: i64) {
        match change {
            0 => self.put(0b0, 1),
            -8191..=8192 => self.put(0b10 << 14 | (change + 8191) as u64, 16),
            -65_535..=65_536 => self.put(0b110 << 17 | (change + 65_535) as u64, 20),
            -524_287..=524_288 => self.put(0b1110 << 20 | (change + 524_287) as u64, 24),
            _ => {
                self.put(0b1111, 4);
                self.put(change as u64, 64);
            }
        }
    }

    fn put_value(&mut self, xor: u64) {
        if xor == 0 {
            return self.put(0b0, 1);
        }
        let leading = (xor.leading_zeros() as u8).min(31);
        let trailing = xor.trailing_zeros() as u8;
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            let width = 64 - self.leading - self.trailing;
            self.put(0b10, 2);
            self.put(xor >> self.trailing, width);
        } else {
            (self.leading, self.trailing) = (leading, trailing);
            let width = 64 - leading - trailing;
            self.put(0b11 << 11 | u64::from(leading) << 6 | u64::from(width - 1), 13);
            self.put(xor >> trailing, width);
        }
    }

    /// Millions of these are open at a time: they grow in small steps, not by doubling.
    #[cold]
    fn grow(&mut self) {
        self.bytes.reserve_exact(GROWTH_BYTES_MIN + self.bytes.len() / 4);
    }

    /// Appends the low `width` bits, 1 to 64, highest first.
    fn put(&mut self, bits: u64, width: u8) {
        let mut word = bits << (64 - width);
        let mut left = width;
        if self.free_bits > 0 {
            if let Some(last) = self.bytes.last_mut() {
                *last |= (word >> (64 - self.free_bits)) as u8;
            }
            if width <= self.free_bits {
                self.free_bits -= width;
                return;
            }
            word <<= self.free_bits;
            left -= self.free_bits;
        }
        let bytes = left.div_ceil(8);
        if self.bytes.capacity() - self.bytes.len() < usize::from(bytes) {
            self.grow();
        }
        self.bytes.extend_from_slice(&word.to_be_bytes()[..usize::from(bytes)]);
        self.free_bits = bytes * 8 - left;
    }
}

/// Reads a chunk.
pub struct ChunkIter<'a> {
    bytes: &'a [u8],
    /// Position in bits.
    position: usize,
    left: u16,
    first: bool,
    last_ts: i64,
    last_delta: i64,
    last_bits: u64,
    leading: u8,
    trailing: u8,
}

impl<'a> ChunkIter<'a> {
    /// Starts to read `count` samples.
    pub fn new(bytes: &'a [u8], count: u16) -> ChunkIter<'a> {
        ChunkIter {
            bytes,
            position: 0,
            left: count,
            first: true,
            last_ts: 0,
            last_delta: 0,
            last_bits: 0,
            leading: 0,
            trailing: 0,
        }
    }

    /// Gives the next `width` bits, 1 to 57.
    #[inline]
    fn get_short(&mut self, width: u8) -> Option<u64> {
        let byte = self.position >> 3;
        let word = match self.bytes.get(byte..byte + 8) {
            Some(eight) => u64::from_be_bytes(eight.try_into().ok()?),
            None => self.last_word(byte)?,
        };
        let end = self.position + usize::from(width);
        if end > self.bytes.len() * 8 {
            return None;
        }
        let bits = (word << (self.position & 7)) >> (64 - width);
        self.position = end;
        Some(bits)
    }

    /// Reads the last, incomplete word of the chunk.
    #[cold]
    fn last_word(&self, byte: usize) -> Option<u64> {
        let tail = self.bytes.get(byte..)?;
        let mut word = [0u8; 8];
        word.get_mut(..tail.len())?.copy_from_slice(tail);
        Some(u64::from_be_bytes(word))
    }

    #[inline]
    fn get(&mut self, width: u8) -> Option<u64> {
        if width <= 56 {
            return self.get_short(width);
        }
        let high = self.get_short(width - 32)?;
        Some(high << 32 | self.get_short(32)?)
    }

    #[inline]
    fn get_time_change(&mut self) -> Option<i64> {
        if self.get_short(1)? == 0 {
            return Some(0);
        }
        if self.get_short(1)? == 0 {
            return Some(self.get_short(14)? as i64 - 8191);
        }
        if self.get_short(1)? == 0 {
            return Some(self.get_short(17)? as i64 - 65_535);
        }
        if self.get_short(1)? == 0 {
            return Some(self.get_short(20)? as i64 - 524_287);
        }
        Some(self.get(64)? as i64)
    }

    #[inline]
    fn get_xor(&mut self) -> Option<u64> {
        if self.get_short(1)? == 0 {
            return Some(0);
        }
        if self.get_short(1)? == 1 {
            let header = self.get_short(11)?;
            self.leading = (header >> 6) as u8;
            let width = (header & 63) as u8 + 1;
            self.trailing = 64u8.checked_sub(self.leading + width)?;
        }
        let width = 64 - self.leading - self.trailing;
        Some(self.get(width)? << self.trailing)
    }
}

impl Iterator for ChunkIter<'_> {
    type Item = (i64, f64);

    #[inline]
    fn next(&mut self) -> Option<(i64, f64)> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        if self.first {
            self.first = false;
            self.last_ts = self.get(64)? as i64;
            self.last_bits = self.get(64)?;
        } else {
            self.last_delta = self.last_delta.wrapping_add(self.get_time_change()?);
            self.last_ts = self.last_ts.wrapping_add(self.last_delta);
            self.last_bits ^= self.get_xor()?;
        }
        Some((self.last_ts, f64::from_bits(self.last_bits)))
    }
}

/// Appends a chunk's samples to two columns.
pub fn decode_into(bytes: &[u8], count: u16, out: &mut Samples) {
    out.ts_ms.reserve(usize::from(count));
    out.values.reserve(usize::from(count));
    for (ts_ms, value) in ChunkIter::new(bytes, count) {
        out.push(ts_ms, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            any::<f64>().prop_map(f64::to_bits),
            (0u32..1000).prop_map(|n| f64::from(n).to_bits()),
            prop::sample::select(vec![
                0,
                1 << 63,
                1,
                f64::NAN.to_bits(),
                model::STALE_NAN_BITS,
                0x7ff8_dead_beef_0001,
                0xfff0_0000_0000_0000,
                f64::MIN_POSITIVE.to_bits() - 1,
                u64::MAX,
            ]),
        ]
    }

    fn time() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), (0i64..20).prop_map(|n| 1_700_000_000_000 + n * 15_000), 0i64..2_000_000]
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(samples in prop::collection::vec((time(), value()), 0..300)) {
            let mut chunk = Appender::default();
            for (ts, bits) in &samples {
                chunk.push(*ts, f64::from_bits(*bits));
            }
            let back: Vec<_> = ChunkIter::new(chunk.bytes(), chunk.count()).map(|(t, v)| (t, v.to_bits())).collect();
            prop_assert_eq!(back, samples);
        }

        #[test]
        fn any_bytes_end(bytes: Vec<u8>, count: u16) {
            prop_assert!(ChunkIter::new(&bytes, count).count() <= usize::from(count));
        }
    }

    #[test]
    fn a_regular_constant_series_takes_two_bits_a_sample() {
        let mut chunk = Appender::default();
        (0..120).for_each(|n| chunk.push(n * 15_000, 1.0));
        assert!(chunk.bytes().len() < 16 + 4 + 120 / 4 + 2, "{}", chunk.bytes().len());
    }
}
