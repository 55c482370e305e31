//! Chunks: their frames in a file, and doubles as XOR.

use super::{Cursor, TsdbError, crc32c};

const XOR: u8 = 1;
const HISTOGRAM: u8 = 2;
const FLOAT_HISTOGRAM: u8 = 3;

/// What a chunk holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Chunk {
    /// Doubles with their times in milliseconds.
    Doubles(Vec<(i64, f64)>),
    /// So many native histograms.
    Histograms(usize),
}

/// Reads the chunk that begins at a place of a file under `chunks/`.
pub fn decode_chunk(file: &[u8], offset: u32) -> Result<Chunk, TsdbError> {
    let mut cursor = Cursor { bytes: file, at: offset as usize };
    let len = usize::try_from(cursor.uvarint()?).unwrap_or(usize::MAX);
    let start = cursor.at;
    let sealed = cursor.take(len.saturating_add(1))?;
    if cursor.u32()? != crc32c(sealed) {
        return Err(TsdbError { what: "a chunk is damaged", at: start });
    }
    let (encoding, data) = (sealed[0], &sealed[1..]);
    let count = data.first_chunk::<2>().map_or(0, |count| usize::from(u16::from_be_bytes(*count)));
    match encoding {
        XOR => xor(data, count).map(Chunk::Doubles).ok_or(TsdbError { what: "a chunk ends too early", at: start }),
        HISTOGRAM | FLOAT_HISTOGRAM => Ok(Chunk::Histograms(count)),
        _ => Err(TsdbError { what: "a chunk of an encoding that is not known", at: start }),
    }
}

/// The bits of a chunk, most significant first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<u64> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(u64::from(bit))
    }

    fn bits(&mut self, count: u32) -> Option<u64> {
        let mut n = 0;
        for _ in 0..count {
            n = n << 1 | self.bit()?;
        }
        Some(n)
    }

    fn uvarint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bits(8)?;
            n |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    /// Reads a difference of differences.
    fn difference(&mut self) -> Option<i64> {
        let mut ones = 0;
        while ones < 4 && self.bit()? == 1 {
            ones += 1;
        }
        let size = match ones {
            0 => return Some(0),
            1 => 14,
            2 => 17,
            3 => 20,
            _ => return self.bits(64).map(|n| n as i64),
        };
        let n = self.bits(size)? as i64;
        Some(if n > 1 << (size - 1) { n - (1 << size) } else { n })
    }
}

fn xor(data: &[u8], count: usize) -> Option<Vec<(i64, f64)>> {
    let mut bits = Bits { bytes: data, at: 16 };
    let mut out: Vec<(i64, f64)> = Vec::with_capacity(count.min(data.len() * 8));
    let (mut ts, mut delta, mut value) = (0i64, 0i64, 0u64);
    let (mut leading, mut trailing) = (0u32, 0u32);
    for n in 0..count {
        match n {
            0 => {
                let first = bits.uvarint()?;
                ts = (first >> 1) as i64 ^ -((first & 1) as i64);
                value = bits.bits(64)?;
            }
            1 => delta = bits.uvarint()? as i64,
            _ => delta = delta.wrapping_add(bits.difference()?),
        }
        if n > 0 {
            ts = ts.wrapping_add(delta);
            if bits.bit()? == 1 {
                if bits.bit()? == 1 {
                    leading = bits.bits(5)? as u32;
                    let meaningful = match bits.bits(6)? as u32 {
                        0 => 64,
                        n => n,
                    };
                    trailing = 64u32.checked_sub(leading + meaningful)?;
                }
                value ^= bits.bits(64 - leading - trailing)?.checked_shl(trailing)?;
            }
        }
        out.push((ts, f64::from_bits(value)));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The frame of a chunk at byte 8 of a file.
    fn file(encoding: u8, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0x85, 0xbd, 0x40, 0xdd, 1, 0, 0, 0];
        let sealed = [&[encoding], data].concat();
        out.push(data.len() as u8);
        out.extend(&sealed);
        out.extend(crc32c(&sealed).to_be_bytes());
        out
    }

    #[test]
    fn doubles_come_back() {
        // Three samples: 1000 = 1.0, 2000 = 1.0, 3000 = 2.0; written out by hand as bits.
        let mut bits = String::new();
        let byte = |b: u8| format!("{b:08b}");
        bits += &(byte(0) + &byte(3));
        bits += &(byte(0xd0) + &byte(0x0f));
        bits += &format!("{:064b}", 1.0f64.to_bits());
        bits += &(byte(0xe8) + &byte(0x07));
        bits += "0";
        bits += "0";
        // 1.0 ^ 2.0 = 0x7ff0 << 48: one leading zero, eleven bits that count.
        bits += &format!("11{:05b}{:06b}{}", 1, 11, "1".repeat(11));
        bits += &"0".repeat(bits.len().next_multiple_of(8) - bits.len());
        let data: Vec<u8> =
            (0..bits.len() / 8).map(|i| u8::from_str_radix(&bits[i * 8..i * 8 + 8], 2).unwrap()).collect();
        let wanted = Chunk::Doubles(vec![(1000, 1.0), (2000, 1.0), (3000, 2.0)]);
        assert_eq!(decode_chunk(&file(XOR, &data), 8), Ok(wanted));
        assert_eq!(decode_chunk(&file(HISTOGRAM, &[0, 7]), 8), Ok(Chunk::Histograms(7)));
        let mut damaged = file(XOR, &data);
        damaged[12] ^= 1;
        assert_eq!(decode_chunk(&damaged, 8).map_err(|e| e.what), Err("a chunk is damaged"));
        assert!(decode_chunk(&file(9, &data), 8).is_err() && decode_chunk(&[], 8).is_err());
        assert!(decode_chunk(&file(XOR, &data[..9]), 8).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_end(data in proptest::collection::vec(any::<u8>(), 0..120), offset: u32) {
            let _ = decode_chunk(&file(XOR, &data), 8);
            let _ = decode_chunk(&data, offset);
        }
    }
}
