//! Zstandard under a cap.
//!
//! Limits: what is inflated, by the caller's cap; the window of a frame, by [`WINDOW_LOG_MAX`], so that a frame of a few bytes
//! cannot make the decoder set aside gigabytes.

use crate::gzip::{InflateError, read_capped};

/// Windows of 8 MiB: what RFC 8878 asks every decoder for, and all that senders of `Content-Encoding: zstd` may use.
pub(crate) const WINDOW_LOG_MAX: u32 = 23;

/// Inflates a zstd body, frame after frame.
///
/// **Errors** when it is no zstd, is cut short, wants too large a window or grows beyond `max` bytes.
pub fn inflate_capped(bytes: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
    let damaged = |error: std::io::Error| InflateError::Damaged(format!("zstd: {error}"));
    if bytes.is_empty() {
        return Err(InflateError::Damaged("zstd: no frame".to_owned()));
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(damaged)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
    read_capped(decoder, "zstd", bytes.len(), max)
}

/// Gives what the first frame says that it inflates to, if it says so. It may lie.
pub fn declared_len(bytes: &[u8]) -> Option<usize> {
    let declared = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten()?;
    usize::try_from(declared).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 3).unwrap()
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = deflated(&vec![0; 10 << 20]);
        assert!(bomb.len() < 10_000);
        assert_eq!(inflate_capped(&bomb, 1 << 20), Err(InflateError::TooLarge { max: 1 << 20 }));
        assert_eq!(inflate_capped(&bomb, 10 << 20).map(|b| b.len()), Ok(10 << 20));
    }

    #[test]
    fn frames_follow_each_other_and_a_cut_is_found() {
        let mut two = deflated(b"one ");
        two.extend(deflated(b"two"));
        assert_eq!(inflate_capped(&two, 100), Ok(b"one two".to_vec()));
        let one = deflated(b"some text that is cut");
        for cut in 0..one.len() {
            assert!(inflate_capped(&one[..cut], 100).is_err(), "{cut}");
        }
        assert!(inflate_capped(b"a 1\n", 100).is_err());
        assert_eq!(declared_len(b"a 1\n"), None);
        assert_eq!(declared_len(&zstd::bulk::compress(&[7; 1000], 3).unwrap()), Some(1000));
    }

    #[test]
    fn a_window_that_is_too_large_is_refused_before_it_is_set_aside() {
        // Magic, a descriptor without content size, a window of 2^31 bytes, and an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
        assert!(matches!(inflate_capped(&frame, 100), Err(InflateError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_grow_beyond_the_cap(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut named = vec![0x28, 0xb5, 0x2f, 0xfd];
            named.extend(&bytes);
            prop_assert!(inflate_capped(&named, 1000).map_or(0, |out| out.len()) <= 1000);
        }
    }
}
