//! Bodies inflated while they arrive, for connections that stay open: gzip and zstd.
//!
//! Invariants: 1. a step gives about [`STEP_BYTES_MAX`] bytes at most, however far its input inflates; 2. all that was given is at
//! most [`FREE_BYTES`] and [`RATIO_MAX`] times what was taken; 3. a body ends well only where a member or frame does.

use std::io::Write;

use flate2::write::MultiGzDecoder;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use crate::zstd::WINDOW_LOG_MAX;

/// Bytes that one step gives at most, give or take a buffer's.
pub const STEP_BYTES_MAX: usize = 256 << 10;
/// Bytes that a body may inflate to whatever was taken for them.
pub const FREE_BYTES: u64 = 1 << 20;
/// Bytes given for each that was taken. Frames of JSON that say the same again and again stay below 100.
pub const RATIO_MAX: u64 = 500;

/// Gzip's input for a step: a byte becomes 1,032 at most.
const GZIP_PIECE: usize = 248;
/// Zstandard's output for a step.
const ZSTD_PIECE: usize = 64 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// RFC 1952, member after member.
    Gzip,
    /// RFC 8878, frame after frame, windows of 8 MiB at most.
    Zstd,
}

impl Coding {
    /// What a sender may use.
    pub const NAMES: &'static str = "identity, gzip and zstd";

    /// Reads the word of a header that is not `identity`; `None` when it is not known.
    pub fn from_name(name: &str) -> Option<Coding> {
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Coding::Gzip),
            "zstd" => Some(Coding::Zstd),
            _ => None,
        }
    }
}

/// Why a body cannot be inflated any further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InflatingError {
    /// Not what it says it is, or damaged.
    #[error("{0}")]
    Damaged(String),
    /// The body ended in the middle of a member or frame.
    #[error("the body is cut short")]
    CutShort,
    /// It inflates too far.
    #[error("the body inflates to more than {RATIO_MAX} times its length")]
    Bomb,
}

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Bytes of the input that are done.
    pub taken: usize,
    /// Another step may give more, even without input.
    pub has_more: bool,
}

/// A body on its way.
pub struct Inflating {
    decoder: Decoder,
    taken: u64,
    given: u64,
}

enum Decoder {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd {
        context: DCtx<'static>,
        piece: Vec<u8>,
        /// A frame has begun that is not at its end.
        is_inside: bool,
    },
}

impl Inflating {
    /// Starts on a body.
    ///
    /// **Errors** when there is no memory for a decoder.
    pub fn new(coding: Coding) -> Result<Inflating, InflatingError> {
        let decoder = match coding {
            Coding::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Coding::Zstd => {
                let none = || InflatingError::Damaged("zstd: no memory for a decoder".to_owned());
                let mut context = DCtx::try_create().ok_or_else(none)?;
                context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(zstd_damaged)?;
                Decoder::Zstd { context, piece: Vec::with_capacity(ZSTD_PIECE), is_inside: false }
            }
        };
        Ok(Inflating { decoder, taken: 0, given: 0 })
    }

    /// Inflates some of `input` and appends what comes of it to `out`.
    ///
    /// **Errors** when the input is damaged or inflates too far; then the body is of no more use.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, InflatingError> {
        let before = out.len();
        let step = match &mut self.decoder {
            Decoder::Gzip(decoder) => gzip_step(decoder, input, out)?,
            Decoder::Zstd { context, piece, is_inside } => zstd_step(context, piece, is_inside, input, out)?,
        };
        self.taken += step.taken as u64;
        self.given += (out.len() - before) as u64;
        if self.given > FREE_BYTES.saturating_add(self.taken.saturating_mul(RATIO_MAX)) {
            return Err(InflatingError::Bomb);
        }
        Ok(step)
    }

    /// Ends the body. One of no bytes at all is good.
    ///
    /// **Errors** when a member or frame is not at its end, or is not what its checksum says.
    pub fn finish(&mut self) -> Result<(), InflatingError> {
        match &mut self.decoder {
            _ if self.taken == 0 => Ok(()),
            Decoder::Zstd { is_inside: true, .. } => Err(InflatingError::CutShort),
            Decoder::Zstd { .. } => Ok(()),
            // It tells a checksum that is wrong from one that is not there by nothing.
            Decoder::Gzip(decoder) => decoder.try_finish().map_err(|_| InflatingError::CutShort),
        }
    }

    /// Gives how much memory the decoder holds; a frame of a few bytes can make it set aside megabytes.
    pub fn held_bytes(&self) -> usize {
        match &self.decoder {
            Decoder::Gzip(_) => 0,
            Decoder::Zstd { context, piece, .. } => context.sizeof().saturating_add(piece.capacity()),
        }
    }
}

fn gzip_step(decoder: &mut MultiGzDecoder<Vec<u8>>, input: &[u8], out: &mut Vec<u8>) -> Result<Step, InflatingError> {
    let piece = &input[..input.len().min(GZIP_PIECE)];
    let written = decoder.write_all(piece).and_then(|()| decoder.flush());
    written.map_err(|e| InflatingError::Damaged(format!("gzip: {e}")))?;
    out.append(decoder.get_mut());
    Ok(Step { taken: piece.len(), has_more: false })
}

fn zstd_step(
    context: &mut DCtx<'static>,
    piece: &mut Vec<u8>,
    is_inside: &mut bool,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<Step, InflatingError> {
    piece.clear();
    let mut from = InBuffer::around(input);
    let mut to = OutBuffer::around(piece);
    let hint = context.decompress_stream(&mut to, &mut from).map_err(zstd_damaged)?;
    let (taken, given) = (from.pos(), to.pos());
    // A call without input after the end of a frame asks for the next one: nothing has begun by that.
    if taken > 0 || given > 0 {
        *is_inside = hint != 0;
    }
    let has_more = given == piece.capacity();
    if taken == 0 && !input.is_empty() && given == 0 {
        return Err(InflatingError::Damaged("zstd: it goes no further".to_owned()));
    }
    out.append(piece);
    Ok(Step { taken, has_more })
}

fn zstd_damaged(code: zstd_safe::ErrorCode) -> InflatingError {
    InflatingError::Damaged(format!("zstd: {}", zstd_safe::get_error_name(code)))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn deflated(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Zstd => zstd::stream::encode_all(bytes, 3).unwrap(),
        }
    }

    /// Inflates by chunks; checks each step.
    fn inflated(coding: Coding, body: &[u8], chunk: usize) -> Result<Vec<u8>, InflatingError> {
        let (mut inflating, mut out) = (Inflating::new(coding)?, Vec::new());
        for mut rest in body.chunks(chunk) {
            loop {
                let before = out.len();
                let step = inflating.step(rest, &mut out)?;
                assert!(out.len() - before <= STEP_BYTES_MAX + (64 << 10), "{}", out.len() - before);
                rest = &rest[step.taken..];
                if rest.is_empty() && !step.has_more {
                    break;
                }
            }
        }
        inflating.finish()?;
        Ok(out)
    }

    const BOTH: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    #[test]
    fn members_follow_each_other_and_a_cut_is_found() {
        for coding in BOTH {
            let mut two = deflated(coding, b"one ");
            two.extend(deflated(coding, b""));
            two.extend(deflated(coding, b"two"));
            for chunk in [1, 3, 1000] {
                assert_eq!(inflated(coding, &two, chunk), Ok(b"one two".to_vec()), "{coding:?} {chunk}");
            }
            assert_eq!(inflated(coding, b"", 1), Ok(Vec::new()));
            let one = deflated(coding, b"some text that is cut");
            for cut in 1..one.len() {
                assert_eq!(inflated(coding, &one[..cut], 7), Err(InflatingError::CutShort), "{coding:?} {cut}");
            }
            let damaged = inflated(coding, b"a 1\nb 2\nc 3\nd 4\n", 100);
            assert!(matches!(damaged, Err(InflatingError::Damaged(_))), "{damaged:?}");
        }
    }

    #[test]
    fn what_is_flushed_is_given_at_once() {
        let (mut gzip, mut inflating, mut out) =
            (GzEncoder::new(Vec::new(), Compression::default()), Inflating::new(Coding::Gzip).unwrap(), Vec::new());
        for line in ["{\"seq\":1}\n", "{\"seq\":2}\n"] {
            gzip.write_all(line.as_bytes()).unwrap();
            gzip.flush().unwrap();
            inflating.step(&std::mem::take(gzip.get_mut()), &mut out).unwrap();
            assert!(out.ends_with(line.as_bytes()));
        }
    }

    #[test]
    fn a_large_body_comes_whole_and_a_bomb_stops() {
        let mut state = 1_u64;
        let text: Vec<u8> = (0..3 << 20)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                b"0123456789abcdef"[(state >> 60) as usize]
            })
            .collect();
        for coding in BOTH {
            assert!(inflated(coding, &deflated(coding, &text), 16 << 10).is_ok_and(|out| out == text), "{coding:?}");
            let bomb = deflated(coding, &vec![b'\n'; 200 << 20]);
            assert_eq!(inflated(coding, &bomb, 16 << 10), Err(InflatingError::Bomb), "{coding:?}");
        }
    }

    #[test]
    fn memory_of_a_window_is_told_and_too_large_a_one_is_refused() {
        let mut inflating = Inflating::new(Coding::Zstd).unwrap();
        assert!(inflating.held_bytes() < 512 << 10, "{}", inflating.held_bytes());
        // Magic, a descriptor without content size, a window of 2^23 bytes, a block that is not the last.
        let head = |log: u8| [0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3, 0x00, 0x00, 0x00];
        inflating.step(&head(23), &mut Vec::new()).unwrap();
        assert!(inflating.held_bytes() > 8 << 20, "{}", inflating.held_bytes());
        assert_eq!(inflating.finish(), Err(InflatingError::CutShort));
        let mut inflating = Inflating::new(Coding::Zstd).unwrap();
        assert!(matches!(inflating.step(&head(24), &mut Vec::new()), Err(InflatingError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_end_and_stay_small(bytes in proptest::collection::vec(any::<u8>(), 0..300), chunk in 1..50_usize) {
            let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], &bytes[..]].concat();
            let zstd = [&[0x28, 0xb5, 0x2f, 0xfd], &bytes[..]].concat();
            for (coding, body) in [(Coding::Gzip, gzip), (Coding::Zstd, zstd)] {
                let whole = inflated(coding, &body, body.len());
                prop_assert!(whole.as_ref().map_or(0, Vec::len) <= 2 << 20);
                if let Ok(whole) = whole {
                    prop_assert_eq!(inflated(coding, &body, chunk), Ok(whole));
                }
            }
        }
    }
}
