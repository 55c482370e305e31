//! Snappy's block format, as remote write uses it, with the declared length checked before a byte is allocated.

/// No element of a block is worth more: a copy of three bytes gives 64. What declares more cannot be true.
const EXPANSION_MAX: usize = 22;

/// Why a block cannot be inflated.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnappyError {
    /// Too large; the sender should send less at a time.
    #[error("snappy: the block declares {declared} bytes, more than the {max} allowed")]
    TooLarge {
        /// What the block says it holds.
        declared: u64,
        /// The limit.
        max: usize,
    },
    /// Not snappy's block format, or damaged.
    #[error("snappy: {0}")]
    Damaged(String),
}

/// Inflates a block.
///
/// **Takes** the block and the most bytes that it may hold.
/// **Errors** when it declares more than that or more than its own length could hold, before anything is allocated, and
/// when it is damaged.
pub fn decode_block(bytes: &[u8], max: usize) -> Result<Vec<u8>, SnappyError> {
    let mut out = Vec::new();
    let len = decode_block_into(bytes, max, &mut out)?.len();
    out.truncate(len);
    Ok(out)
}

/// Inflates a block into a buffer that is used again and again; gives the part that belongs to this block.
///
/// **Takes** and **errors** as [`decode_block`].
/// **Cost** the buffer only grows, so that nothing is cleared or allocated once it is large enough.
pub fn decode_block_into<'o>(bytes: &[u8], max: usize, out: &'o mut Vec<u8>) -> Result<&'o [u8], SnappyError> {
    let declared = snap::raw::decompress_len(bytes).map_err(damaged)?;
    if declared > max {
        return Err(SnappyError::TooLarge { declared: declared as u64, max });
    }
    if declared > bytes.len().saturating_mul(EXPANSION_MAX) {
        let text = format!("the block declares {declared} bytes, which {} bytes cannot hold", bytes.len());
        return Err(SnappyError::Damaged(text));
    }
    if out.len() < declared {
        out.resize(declared, 0);
    }
    let len = snap::raw::Decoder::new().decompress(bytes, &mut out[..declared]).map_err(damaged)?;
    Ok(&out[..len])
}

/// Deflates bytes into one block.
///
/// **Errors** when there are 2^32 of them or more.
pub fn encode_block(bytes: &[u8]) -> Result<Vec<u8>, SnappyError> {
    snap::raw::Encoder::new().compress_vec(bytes).map_err(damaged)
}

fn damaged(error: snap::Error) -> SnappyError {
    let text = error.to_string();
    SnappyError::Damaged(text.strip_prefix("snappy: ").unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_declared_length_is_not_believed() {
        // 2^32 - 1 bytes declared by five.
        let bomb = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        assert_eq!(
            decode_block(&bomb, 1 << 20),
            Err(SnappyError::TooLarge { declared: u32::MAX.into(), max: 1 << 20 })
        );
        assert!(matches!(decode_block(&bomb, usize::MAX), Err(SnappyError::Damaged(_))));
        assert!(matches!(decode_block(&[0xff; 10], 1 << 20), Err(SnappyError::Damaged(_))));
        assert!(matches!(decode_block(b"", 1 << 20), Err(SnappyError::Damaged(_)) | Ok(_)));
    }

    #[test]
    fn the_densest_block_is_inflated() {
        let zeros = vec![0; 60_000];
        let block = encode_block(&zeros).unwrap();
        assert!(zeros.len() / block.len() >= 20, "{}", block.len());
        assert_eq!(decode_block(&block, zeros.len()), Ok(zeros.clone()));
        assert!(matches!(decode_block(&block, zeros.len() - 1), Err(SnappyError::TooLarge { .. })));
        assert!(decode_block(&block[..block.len() - 1], zeros.len()).is_err());
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_encode(bytes in proptest::collection::vec(0u8..4, 0..2000)) {
            let block = encode_block(&bytes).unwrap();
            prop_assert_eq!(decode_block(&block, bytes.len()), Ok(bytes));
        }

        #[test]
        fn hostile_blocks_are_refused_or_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(out) = decode_block(&bytes, 1 << 16) {
                prop_assert!(out.len() <= 1 << 16);
            }
        }
    }
}
