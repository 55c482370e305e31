//! XXH64 with seed 0 over Prometheus' encoding of labels, which `limit_ratio` samples by.

use model::Labels;

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// Gives the hash that Prometheus has of a label set.
pub(super) fn labels_hash(labels: &Labels) -> u64 {
    let mut bytes = Vec::with_capacity(labels.as_bytes().len() + 8);
    for (name, value) in labels.iter() {
        push(&mut bytes, name);
        push(&mut bytes, value);
    }
    hash(&bytes)
}

/// Lengths below 255 take one byte, longer ones 255 and three bytes.
fn push(out: &mut Vec<u8>, text: &str) {
    let len = text.len();
    match u8::try_from(len) {
        Ok(short) if short < 255 => out.push(short),
        _ => out.extend([255, len as u8, (len >> 8) as u8, (len >> 16) as u8]),
    }
    out.extend_from_slice(text.as_bytes());
}

fn round(acc: u64, input: u64) -> u64 {
    acc.wrapping_add(input.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

fn merge(acc: u64, value: u64) -> u64 {
    (acc ^ round(0, value)).wrapping_mul(P1).wrapping_add(P4)
}

fn hash(bytes: &[u8]) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<32>();
    let mut acc = if blocks.is_empty() { P5 } else { long(blocks) };
    acc = acc.wrapping_add(bytes.len() as u64);
    let (words, tail) = tail.as_chunks::<8>();
    for word in words {
        acc = (acc ^ round(0, u64::from_le_bytes(*word))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (halves, tail) = tail.as_chunks::<4>();
    for half in halves {
        let value = u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
        acc = (acc ^ value).rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in tail {
        acc = (acc ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    acc = (acc ^ (acc >> 33)).wrapping_mul(P2);
    acc = (acc ^ (acc >> 29)).wrapping_mul(P3);
    acc ^ (acc >> 32)
}

fn long(blocks: &[[u8; 32]]) -> u64 {
    let mut lanes = [P1.wrapping_add(P2), P2, 0, 0u64.wrapping_sub(P1)];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let [a, b, c, d] = lanes;
    let sum = a.rotate_left(1).wrapping_add(b.rotate_left(7)).wrapping_add(c.rotate_left(12));
    lanes.iter().fold(sum.wrapping_add(d.rotate_left(18)), |acc, lane| merge(acc, *lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_values_come_out() {
        assert_eq!(hash(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(hash(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hash(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(hash(b"Nobody inspects the spammish repetition"), 0xFBCE_A83C_8A37_8BF1);
    }
}
