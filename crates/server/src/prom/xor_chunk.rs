//! Prometheus' chunk of doubles: times as differences of differences, values as XOR with the one before.
//!
//! Layout: the number of samples (16 bits, big-endian), then bits, most significant first: the first time as a zigzag varint
//! and its value; the second time as an unsigned varint of the difference; then each time as a difference of differences in
//! one of five sizes, each value as what changed.

/// Samples in one chunk, as Prometheus cuts them.
pub const SAMPLES_MAX: usize = 120;

/// The sizes of differences of differences: bits, and what announces them.
const SIZES: [(u32, u64, u32); 3] = [(14, 0b10, 2), (17, 0b110, 3), (20, 0b1110, 4)];

/// Packs samples into the bytes of one chunk.
///
/// **Takes** at most [`SAMPLES_MAX`] samples with rising times; further ones are left out.
pub fn encode(ts_ms: &[i64], values: &[f64]) -> Vec<u8> {
    let len = ts_ms.len().min(values.len()).min(SAMPLES_MAX);
    let mut bits = Bits::default();
    bits.put(len as u64, 16);
    let mut state = Xor { value: 0, leading: u32::MAX, trailing: 0 };
    let (mut before, mut delta) = (0i64, 0i64);
    for (at, (&ts, &value)) in ts_ms.iter().zip(values).take(len).enumerate() {
        let step = ts.wrapping_sub(before);
        match at {
            0 => {
                bits.put_varint(((ts << 1) ^ (ts >> 63)) as u64);
                bits.put(value.to_bits(), 64);
                state.value = value.to_bits();
            }
            1 => {
                bits.put_varint(step as u64);
                state.put(&mut bits, value.to_bits());
            }
            _ => {
                put_difference(&mut bits, step.wrapping_sub(delta));
                state.put(&mut bits, value.to_bits());
            }
        }
        (before, delta) = (ts, step);
    }
    bits.bytes
}

fn put_difference(bits: &mut Bits, difference: i64) {
    if difference == 0 {
        return bits.put(0, 1);
    }
    for (size, mark, mark_bits) in SIZES {
        let half = 1i64 << (size - 1);
        if (1 - half..=half).contains(&difference) {
            bits.put(mark, mark_bits);
            return bits.put(difference as u64, size);
        }
    }
    bits.put(0b1111, 4);
    bits.put(difference as u64, 64);
}

/// What the next value is compared with.
struct Xor {
    value: u64,
    /// The window that was written last; no window yet when beyond 64.
    leading: u32,
    trailing: u32,
}

impl Xor {
    fn put(&mut self, bits: &mut Bits, value: u64) {
        let changed = value ^ self.value;
        self.value = value;
        if changed == 0 {
            return bits.put(0, 1);
        }
        bits.put(1, 1);
        // Five bits hold no more.
        let (leading, trailing) = (changed.leading_zeros().min(31), changed.trailing_zeros());
        if self.leading <= 64 && leading >= self.leading && trailing >= self.trailing {
            bits.put(0, 1);
            return bits.put(changed >> self.trailing, 64 - self.leading - self.trailing);
        }
        (self.leading, self.trailing) = (leading, trailing);
        let significant = 64 - leading - trailing;
        bits.put(1, 1);
        bits.put(u64::from(leading), 5);
        // 64 stands as 0.
        bits.put(u64::from(significant), 6);
        bits.put(changed >> trailing, significant);
    }
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits of the last byte that are free.
    free: u32,
}

impl Bits {
    /// Appends the lowest `count` bits.
    fn put(&mut self, bits: u64, mut count: u32) {
        while count > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let taken = count.min(self.free);
            let piece = (bits >> (count - taken)) as u8 & (0xff >> (8 - taken));
            if let Some(last) = self.bytes.last_mut() {
                *last |= piece << (self.free - taken);
            }
            self.free -= taken;
            count -= taken;
        }
    }

    fn put_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.put(n & 0x7f | 0x80, 8);
            n >>= 7;
        }
        self.put(n, 8);
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Reader<'a> {
        bytes: &'a [u8],
        at: usize,
    }

    impl Reader<'_> {
        fn bit(&mut self) -> u64 {
            let byte = self.bytes[self.at / 8];
            let bit = byte >> (7 - self.at % 8) & 1;
            self.at += 1;
            u64::from(bit)
        }

        fn bits(&mut self, count: u32) -> u64 {
            (0..count).fold(0, |all, _| all << 1 | self.bit())
        }

        fn varint(&mut self) -> u64 {
            let mut n = 0;
            for shift in (0..).step_by(7) {
                let byte = self.bits(8);
                n |= (byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            n
        }

        fn difference(&mut self) -> i64 {
            let mut ones = 0;
            while ones < 4 && self.bit() == 1 {
                ones += 1;
            }
            let size = [0, 14, 17, 20, 64][ones];
            if size == 0 || size == 64 {
                return self.bits(size) as i64;
            }
            let bits = self.bits(size);
            // As Prometheus reads it: what is beyond half is negative.
            if bits > 1 << (size - 1) { bits as i64 - (1 << size) } else { bits as i64 }
        }
    }

    /// Reads a chunk, as `XORChunk`'s iterator does.
    pub fn decode(bytes: &[u8]) -> Vec<(i64, f64)> {
        let mut reader = Reader { bytes, at: 0 };
        let len = reader.bits(16);
        let (mut out, mut delta, mut value, mut leading, mut trailing) = (Vec::new(), 0i64, 0u64, 0u32, 0u32);
        for at in 0..len {
            let ts = match (at, out.last()) {
                (0, _) | (_, None) => {
                    let folded = reader.varint();
                    value = reader.bits(64);
                    (folded >> 1) as i64 ^ -((folded & 1) as i64)
                }
                (1, Some((ts, _))) => {
                    delta = reader.varint() as i64;
                    *ts + delta
                }
                (_, Some((ts, _))) => {
                    delta = delta.wrapping_add(reader.difference());
                    i64::wrapping_add(*ts, delta)
                }
            };
            if at > 0 && reader.bit() == 1 {
                if reader.bit() == 1 {
                    leading = reader.bits(5) as u32;
                    let significant = reader.bits(6) as u32;
                    trailing = 64 - leading - if significant == 0 { 64 } else { significant };
                }
                value ^= reader.bits(64 - leading - trailing) << trailing;
            }
            out.push((ts, f64::from_bits(value)));
        }
        out
    }

    #[test]
    fn a_chunk_has_the_bytes_that_prometheus_gives_it() {
        // Worked out by hand after tsdb/chunkenc/xor.go: 1000 is 0xd0 0x0f as a zigzag varint, the difference 15000 is
        // 0x98 0x75; then "same value" (0), "same difference" (0), and a change of 1.0 to 2.0, which are 0x3ff0... and 0x4000...
        let bytes = encode(&[1_000, 16_000, 31_000], &[1.0, 1.0, 2.0]);
        let mut expected = vec![0, 3, 0xd0, 0x0f, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0x98, 0x75];
        // 0 | 0 | 1 1 00001 001011 | 11111111111: 1 leading zero, 11 significant bits of 0x7ff.
        expected.extend([0b0011_0000, 0b1001_0111, 0b1111_1111, 0b1100_0000]);
        assert_eq!(bytes, expected);
        assert_eq!(decode(&bytes), [(1_000, 1.0), (16_000, 1.0), (31_000, 2.0)]);
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(
            start in -1i64 << 45..1 << 45,
            steps in prop::collection::vec(
                (prop_oneof![Just(15_000i64), 1..20_000i64, 1..1i64 << 40], any::<u64>(), any::<bool>()), 0..120
            ),
        ) {
            let (mut ts, mut bits) = (start, 0u64);
            let (mut times, mut values) = (Vec::new(), Vec::new());
            for (step, random, fresh) in steps {
                (ts, bits) = (ts + step, if fresh { random } else { bits ^ (random & 0xff00) });
                times.push(ts);
                values.push(f64::from_bits(bits));
            }
            let read = decode(&encode(&times, &values));
            prop_assert_eq!(read.iter().map(|(ts, _)| *ts).collect::<Vec<_>>(), times);
            let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&read.iter().map(|(_, v)| *v).collect::<Vec<_>>()), bits(&values));
        }
    }
}
