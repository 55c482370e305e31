//! The messages of remote read: `prometheus.ReadRequest` in, parts of `prometheus.ChunkedReadResponse` out.
//!
//! Limits: those of `read.rs`; a message is as long as its bytes, and nothing recurses.

use axum::body::Bytes;
use model::coding::put_varint;
use model::{Labels, MatchOp, Matcher};

use super::read::QUERIES_MAX;

/// Matchers of all queries of a request.
pub const MATCHERS_MAX: usize = 100;

/// A request.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Request {
    /// What is asked for.
    pub queries: Vec<Query>,
    /// Whether the first form of answer that we know is a stream of chunks.
    pub wants_chunks: bool,
}

/// One query.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Query {
    /// First millisecond.
    pub start_ms: i64,
    /// Last millisecond.
    pub end_ms: i64,
    /// What series must match.
    pub matchers: Vec<Matcher>,
}

/// Reads a request.
///
/// **Errors** with a sentence when it is none, has too many queries or a matcher that is none.
pub fn request(bytes: &[u8]) -> Result<Request, String> {
    let mut request = Request::default();
    let mut forms = Vec::new();
    let mut matchers = 0;
    let mut fields = Fields { rest: bytes };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(_)) if request.queries.len() == QUERIES_MAX => {
                return Err(format!("more than {QUERIES_MAX} queries"));
            }
            (1, Value::Bytes(bytes)) => request.queries.push(query(bytes, &mut matchers)?),
            (2, Value::Varint(form)) => forms.push(form),
            (2, Value::Bytes(packed)) => {
                let mut packed = Fields { rest: packed };
                while !packed.rest.is_empty() {
                    forms.push(packed.varint()?);
                }
            }
            _ => {}
        }
    }
    // 0 is SAMPLES, 1 is STREAMED_XOR_CHUNKS; who names none wants samples.
    let known = forms.iter().find(|form| **form <= 1);
    if known.is_none() && !forms.is_empty() {
        return Err(format!("none of the response types {forms:?} is known; SAMPLES and STREAMED_XOR_CHUNKS are"));
    }
    request.wants_chunks = known == Some(&1);
    Ok(request)
}

/// Takes the count of matchers so far: a regular expression of twenty bytes may take megabytes.
fn query(bytes: &[u8], matchers: &mut usize) -> Result<Query, String> {
    let mut query = Query::default();
    let mut fields = Fields { rest: bytes };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Varint(ms)) => query.start_ms = ms as i64,
            (2, Value::Varint(ms)) => query.end_ms = ms as i64,
            (3, Value::Bytes(_)) if *matchers == MATCHERS_MAX => {
                return Err(format!("more than {MATCHERS_MAX} matchers"));
            }
            (3, Value::Bytes(bytes)) => {
                *matchers += 1;
                query.matchers.push(matcher(bytes)?);
            }
            _ => {}
        }
    }
    Ok(query)
}

fn matcher(bytes: &[u8]) -> Result<Matcher, String> {
    let (mut kind, mut name, mut text) = (0, &[][..], &[][..]);
    let mut fields = Fields { rest: bytes };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Varint(n)) => kind = n,
            (2, Value::Bytes(bytes)) => name = bytes,
            (3, Value::Bytes(bytes)) => text = bytes,
            _ => {}
        }
    }
    let op = match kind {
        0 => MatchOp::Equal,
        1 => MatchOp::NotEqual,
        2 => MatchOp::Regex,
        3 => MatchOp::NotRegex,
        _ => return Err(format!("matcher type {kind} is not known")),
    };
    match (std::str::from_utf8(name), std::str::from_utf8(text)) {
        (Ok(name), Ok(text)) => Matcher::new(name, op, text).map_err(|e| e.to_string()),
        _ => Err("a matcher is not UTF-8".to_owned()),
    }
}

/// Gives the labels as field 1 of a `ChunkedSeries`.
pub fn labels(labels: &Labels) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in labels.iter() {
        let mut label = Vec::with_capacity(name.len() + value.len() + 8);
        put_bytes(&mut label, 1, name.as_bytes());
        put_bytes(&mut label, 2, value.as_bytes());
        put_bytes(&mut out, 1, &label);
    }
    out
}

/// Gives a chunk of doubles as field 2 of a `ChunkedSeries`.
pub fn chunk(first_ms: i64, last_ms: i64, data: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(data.len() + 32);
    put_int(&mut chunk, 1, first_ms as u64);
    put_int(&mut chunk, 2, last_ms as u64);
    // XOR.
    put_int(&mut chunk, 3, 1);
    put_bytes(&mut chunk, 4, data);
    let mut out = Vec::with_capacity(chunk.len() + 8);
    put_bytes(&mut out, 2, &chunk);
    out
}

/// Gives a frame: length, CRC-32C, and a `ChunkedReadResponse` with one `ChunkedSeries`.
pub fn frame(series: &[u8], query: usize) -> Bytes {
    let mut message = Vec::with_capacity(series.len() + 16);
    put_bytes(&mut message, 1, series);
    put_int(&mut message, 2, query as u64);
    let mut out = Vec::with_capacity(message.len() + 16);
    put_varint(&mut out, message.len() as u64);
    out.extend_from_slice(&crc32c(&message).to_be_bytes());
    out.extend_from_slice(&message);
    out.into()
}

/// The Castagnoli polynomial, its bits turned round.
const CASTAGNOLI: u32 = 0x82f6_3b78;
static CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ CASTAGNOLI } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}

/// Appends a field of bytes.
pub fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_int(out: &mut Vec<u8>, number: u64, n: u64) {
    if n != 0 {
        put_varint(out, number << 3);
        put_varint(out, n);
    }
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Other,
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        if key >> 3 == 0 {
            return Err("malformed protobuf: field number 0".to_owned());
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            kind => return Err(format!("malformed protobuf: wire type {kind}")),
        };
        Ok(Some((key >> 3, value)))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let split = self.rest.split_at_checked(len);
        let (taken, rest) = split.ok_or_else(|| "malformed protobuf: the message is cut short".to_owned())?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err("malformed protobuf: a varint is too long".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli_s() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn damaged_requests_are_errors() {
        let matcher = [0x08, 0x02, 0x12, 0x01, b'a', 0x1a, 0x02, b'.', b'*'];
        let mut query = vec![0x08, 0x05, 0x10, 0x09, 0x1a, matcher.len() as u8];
        query.extend(matcher);
        let mut whole = vec![0x0a, query.len() as u8];
        whole.extend(&query);
        whole.extend([0x12, 0x02, 0x01, 0x00]);
        let read = request(&whole).unwrap_or_else(|e| panic!("{e}"));
        assert!(read.wants_chunks);
        assert_eq!((read.queries[0].start_ms, read.queries[0].end_ms), (5, 9));
        assert_eq!(read.queries[0].matchers[0].to_string(), "a=~\".*\"");
        for cut in 1..query.len() + 2 {
            assert!(request(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(request(&[0x10, 0x07]).is_err());
        assert!(request(&[0x0a, 0x04, 0x1a, 0x02, 0x08, 0x09]).is_err());
        assert!(request(&[0x0a, 0x00].repeat(100)).is_ok());
        assert!(request(&[0x0a, 0x00].repeat(101)).is_err());
        let mut many = Vec::new();
        put_bytes(&mut many, 1, &[0x1a, 0x00].repeat(MATCHERS_MAX));
        assert_eq!(request(&many).map(|r| r.queries[0].matchers.len()), Ok(MATCHERS_MAX));
        put_bytes(&mut many, 1, &[0x1a, 0x00]);
        assert_eq!(request(&many), Err("more than 100 matchers".to_owned()));
        let seed = include_bytes!("../../../../fuzz/corpus/remote_read/regex_chunks");
        assert_eq!(request(seed), request(&whole));
        assert!(request(&[0xff; 12]).is_err());
        assert_eq!(request(&[0x02, 0x01, b'x']), Err("malformed protobuf: field number 0".to_owned()));
    }
}
