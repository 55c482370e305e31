//! WebSocket (RFC 6455), the server's half: the answer to the handshake, frames in, frames out.
//!
//! Invariants: 1. a message is at most `message_bytes_max` long, a frame that declares more is refused before it comes; 2. frames of a
//! client are masked, control frames are short and whole; everything else is a fault, after which nothing more is read; 3. no
//! extensions.

/// What clients put their key before to have it hashed.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest payload of a control frame.
const CONTROL_BYTES_MAX: u64 = 125;

/// What a client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A whole message, text or binary.
    Message(Vec<u8>),
    /// To be answered with a pong of the same bytes.
    Ping(Vec<u8>),
    /// The client ends the connection.
    Close,
}

/// Why a connection cannot go on: the status for the close frame, and a sentence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    /// As RFC 6455 numbers them.
    pub status: u16,
    /// What is wrong.
    pub text: &'static str,
}

const fn broken(text: &'static str) -> Fault {
    Fault { status: 1002, text }
}

/// Puts the bytes of a client together.
pub struct Frames {
    bytes: Vec<u8>,
    /// The pieces of a message so far, and whether one is open.
    message: Vec<u8>,
    open: bool,
    message_bytes_max: usize,
}

impl Frames {
    /// Starts a connection.
    pub fn new(message_bytes_max: usize) -> Frames {
        Frames { bytes: Vec::new(), message: Vec::new(), open: false, message_bytes_max }
    }

    /// Takes bytes as they arrive. Call [`Frames::next`] until it has nothing more before the next call.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives what is whole; `None` when more bytes are needed.
    pub fn next_event(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            let Some((head, payload)) = self.frame()? else { return Ok(None) };
            match head & 0x0f {
                0 if !self.open => return Err(broken("a message goes on that has not begun")),
                1 | 2 if self.open => return Err(broken("a message begins within another")),
                0..=2 => {
                    if self.message.len() + payload.len() > self.message_bytes_max {
                        return Err(Fault { status: 1009, text: "the message is too long" });
                    }
                    self.message.extend_from_slice(&payload);
                    self.open = head & 0x80 == 0;
                    if !self.open {
                        return Ok(Some(Event::Message(std::mem::take(&mut self.message))));
                    }
                }
                8 => return Ok(Some(Event::Close)),
                9 => return Ok(Some(Event::Ping(payload))),
                10 => {}
                _ => return Err(broken("a frame of a kind that is not known")),
            }
        }
    }

    /// Takes one whole frame out; gives its first byte and its payload, unmasked.
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, Fault> {
        let [head, second, ..] = self.bytes[..] else { return Ok(None) };
        if head & 0x70 != 0 {
            return Err(broken("an extension that was not agreed on"));
        }
        if second & 0x80 == 0 {
            return Err(broken("a frame is not masked"));
        }
        let (len, at) = match second & 0x7f {
            126 => match self.bytes.get(2..4) {
                Some(len) => (u64::from(u16::from_be_bytes([len[0], len[1]])), 4),
                None => return Ok(None),
            },
            127 => match self.bytes.get(2..10).and_then(|len| <[u8; 8]>::try_from(len).ok()) {
                Some(len) => (u64::from_be_bytes(len), 10),
                None => return Ok(None),
            },
            len => (u64::from(len), 2),
        };
        if head & 0x08 != 0 && (len > CONTROL_BYTES_MAX || head & 0x80 == 0) {
            return Err(broken("a control frame is long or in pieces"));
        }
        if len > self.message_bytes_max as u64 {
            return Err(Fault { status: 1009, text: "the message is too long" });
        }
        let start = at + 4;
        let end = start + len as usize;
        let Some(mask) = self.bytes.get(at..start).and_then(|mask| <[u8; 4]>::try_from(mask).ok()) else {
            return Ok(None);
        };
        let Some(masked) = self.bytes.get(start..end) else { return Ok(None) };
        let payload = masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        self.bytes.drain(..end);
        Ok(Some((head, payload)))
    }
}

fn put(out: &mut Vec<u8>, head: u8, payload: &[u8]) {
    out.push(head);
    match payload.len() {
        len @ 0..126 => out.push(len as u8),
        len @ 126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Appends a text message.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, 0x81, text.as_bytes());
}

/// Appends the answer to a ping.
pub fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, 0x8a, payload);
}

/// Appends the end.
pub fn put_close(out: &mut Vec<u8>, status: u16) {
    put(out, 0x88, &status.to_be_bytes());
}

/// Gives `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
pub fn accept_key(key: &[u8]) -> String {
    let mut text = key.to_vec();
    text.extend_from_slice(GUID);
    base64(&sha1(&text))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |sum, (i, b)| sum | u32::from(*b) << (16 - 8 * i));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 63;
            out.push(if place <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    out
}

/// SHA-1 (FIPS 180-4). It keeps no secret here: the handshake only wants to know that the peer speaks WebSocket.
fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() - bytes.len() < 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len() - 8;
    padded[end..].copy_from_slice(&(bytes.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words = [0u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for i in 16..80 {
            words[i] = (words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (i, word) in words.iter().enumerate() {
            let (f, k) = match i {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
            *word = word.wrapping_add(add);
        }
    }
    let mut out = [0; 20];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    fn client(head: u8, payload: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        put(&mut plain, head, payload);
        let head_len = plain.len() - payload.len();
        plain[1] |= 0x80;
        let mask = [3u8, 141, 7, 88];
        let mut out = plain[..head_len].to_vec();
        out.extend_from_slice(&mask);
        out.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        out
    }

    fn all(bytes: &[u8], piece: usize, max: usize) -> (Vec<Event>, Option<Fault>) {
        let (mut frames, mut events) = (Frames::new(max), Vec::new());
        for piece in bytes.chunks(piece) {
            frames.push(piece);
            loop {
                match frames.next_event() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(fault) => return (events, Some(fault)),
                }
            }
        }
        (events, None)
    }

    #[test]
    fn the_handshake_is_that_of_the_standard() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let hex = |bytes: &[u8]| sha1(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(long), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    }

    #[test]
    fn messages_come_whole_whatever_the_pieces() {
        let mut bytes = client(0x81, b"one");
        bytes.extend(client(0x01, b"tw"));
        bytes.extend(client(0x89, b"ping"));
        bytes.extend(client(0x80, b"o"));
        bytes.extend(client(0x82, &[7; 70_000]));
        bytes.extend(client(0x8a, b""));
        bytes.extend(client(0x88, b""));
        for piece in [1, 7, 1000, bytes.len()] {
            let (events, fault) = all(&bytes, piece, 1 << 20);
            assert_eq!(fault, None);
            let wanted = [
                Event::Message(b"one".to_vec()),
                Event::Ping(b"ping".to_vec()),
                Event::Message(b"two".to_vec()),
                Event::Message(vec![7; 70_000]),
                Event::Close,
            ];
            assert_eq!(events, wanted);
        }
    }

    #[test]
    fn what_a_client_must_not_send_is_a_fault() {
        let mut unmasked = Vec::new();
        put_text(&mut unmasked, "x");
        let mut huge = vec![0x81, 0xff];
        huge.extend_from_slice(&u64::MAX.to_be_bytes());
        let cases = [
            (unmasked, 1002),
            (huge, 1009),
            (client(0x81, &[0; 200]), 1009),
            (client(0x80, b"x"), 1002),
            (client(0x89, &[0; 126]), 1002),
            (client(0x09, b"x"), 1002),
            (client(0xc1, b"x"), 1002),
            (client(0x83, b"x"), 1002),
            ([client(0x01, b"a"), client(0x01, b"b")].concat(), 1002),
            ([client(0x01, &[0; 60]), client(0x80, &[0; 60])].concat(), 1009),
        ];
        for (bytes, status) in cases {
            assert_eq!(all(&bytes, 5, 100).1.map(|f| f.status), Some(status), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1usize..20) {
            let (events, _) = all(&bytes, piece, 64);
            for event in events {
                if let Event::Message(message) = event {
                    prop_assert!(message.len() <= 64);
                }
            }
        }
    }
}
