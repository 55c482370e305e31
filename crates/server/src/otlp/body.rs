//! From the bytes of a request to a batch.
//!
//! Invariant: what a body inflates to is counted among the bytes in flight before it is inflated.

use std::sync::Arc;

use http::StatusCode;
use model::{Batch, CollectionMethod, Origin};
use wire::gzip::{self, InflateError};
use wire::otlp::{self, Options, Stats};
use wire::zstd;

use super::answer::Encoding;
use super::delta::{Claim, Deltas};
use super::delta_batch;
use crate::prom::write::{Arrived, Refused, WriteStats, Writer};
use crate::prom::write_headers::SOURCE_CHARS_MAX;

/// Source of requests that name none and have no service.
const DEFAULT_SOURCE: &str = "otlp";
/// What a byte of JSON may become, its own byte included: `1,` in a list of bounds takes nine.
const JSON_FACTOR: usize = 6;
/// What a body is expected to grow to that does not say it.
const GROWTH_GUESS: usize = 8;

/// How a body is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    None,
    /// `gzip`
    Gzip,
    /// `deflate`
    Deflate,
    /// `zstd`
    Zstd,
}

impl Compression {
    /// What a sender may use; the words of `Accept-Encoding`.
    pub const NAMES: &'static str = "identity,gzip,deflate,zstd";

    /// Reads the word of a header; nothing is `identity`.
    pub fn from_name(name: &str) -> Option<Compression> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Compression::None),
            "gzip" | "x-gzip" => Some(Compression::Gzip),
            "deflate" => Some(Compression::Deflate),
            "zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Gives what a body says that it inflates to, or else a guess, within what is allowed. It may lie.
    fn inflated_hint(self, body: &[u8], max: usize) -> usize {
        let declared = match self {
            Compression::None => return 0,
            Compression::Gzip => body.last_chunk::<4>().map(|end| u32::from_le_bytes(*end) as usize),
            Compression::Deflate => None,
            Compression::Zstd => zstd::declared_len(body),
        };
        declared.unwrap_or(body.len().saturating_mul(GROWTH_GUESS)).max(body.len()).min(max)
    }

    fn inflate(self, body: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
        match self {
            Compression::None => Ok(Vec::new()),
            Compression::Gzip => gzip::inflate_capped(body, max),
            Compression::Deflate => gzip::deflate_capped(body, max),
            Compression::Zstd => zstd::inflate_capped(body, max),
        }
    }
}

/// What the headers say of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// How it is written.
    pub encoding: Encoding,
    /// How it is compressed.
    pub compression: Compression,
    /// Bytes in front of it that belong to the transport.
    pub framing: usize,
}

impl Kind {
    /// Gives how many bytes a body takes with what it is expected to become.
    pub fn bytes(self, body: &[u8], inflated_bytes_max: usize) -> usize {
        let inflated = self.compression.inflated_hint(self.message(body), inflated_bytes_max);
        self.bytes_of(body.len(), inflated)
    }

    fn message(self, body: &[u8]) -> &[u8] {
        body.get(self.framing..).unwrap_or_default()
    }

    fn bytes_of(self, body: usize, inflated: usize) -> usize {
        let plain = if self.compression == Compression::None { body } else { inflated };
        let binary = match self.encoding {
            Encoding::Protobuf => 0,
            Encoding::Json => plain.saturating_mul(JSON_FACTOR - 1),
        };
        body.saturating_add(inflated).saturating_add(binary)
    }
}

/// A request in its batch.
pub struct Decoded {
    /// What it held.
    pub stats: Stats,
    /// The series of its differences.
    pub claim: Option<Claim>,
}

/// Reads requests.
pub struct Reader<'a> {
    /// Counts the bytes in flight.
    pub writer: &'a Writer,
    /// How points are translated.
    pub options: &'a Options,
    /// Adds differences up.
    pub deltas: &'a Arc<Deltas>,
    /// Counts the bytes read.
    pub stats: &'a WriteStats,
    /// What the headers say.
    pub kind: Kind,
    /// The source that the request names.
    pub source_id: Option<String>,
}

impl Reader<'_> {
    /// Inflates and decodes a body into the batch, and adds differences up.
    pub fn read(self, arrived: &mut Arrived, batch: &mut Batch) -> Result<Decoded, Refused> {
        let deltas = self.deltas;
        let body = std::mem::take(&mut arrived.buffers.body);
        let read = self.read_body(&body, arrived, batch);
        arrived.buffers.body = body;
        let mut stats = read?;
        let claim = delta_batch::add_up(deltas, batch, &mut stats)?;
        Ok(Decoded { stats, claim })
    }

    fn read_body(self, body: &[u8], arrived: &mut Arrived, batch: &mut Batch) -> Result<Stats, Refused> {
        let message = self.kind.message(body);
        let compressed = self.kind.compression != Compression::None;
        let inflated = self.inflate(message, body.len(), arrived);
        let len = inflated.as_ref().map_or(0, Vec::len);
        self.stats.count_bytes(body.len(), if compressed { len } else { message.len() });
        let inflated = inflated?;
        let plain = if compressed { &inflated } else { message };
        match self.kind.encoding {
            Encoding::Protobuf => self.decode(plain, arrived.received_at_ms, batch),
            Encoding::Json => {
                let binary = otlp::json_to_protobuf(plain).map_err(bad)?;
                drop(inflated);
                self.decode(&binary, arrived.received_at_ms, batch)
            }
        }
    }

    /// Inflates within the room that was taken; if that was too little, once more with all that a body may take.
    fn inflate(&self, message: &[u8], body_len: usize, arrived: &mut Arrived) -> Result<Vec<u8>, Refused> {
        let max = self.writer.limits().inflated_bytes_max;
        let compression = self.kind.compression;
        let expected = compression.inflated_hint(message, max);
        let mut inflated = compression.inflate(message, expected);
        if expected < max && matches!(inflated, Err(InflateError::TooLarge { .. })) {
            self.writer.fit(arrived, self.kind.bytes_of(body_len, max))?;
            inflated = compression.inflate(message, max);
        }
        inflated.map_err(|error| match error {
            InflateError::TooLarge { .. } => Refused::too_large(error.to_string()),
            InflateError::Damaged(_) => bad(error),
        })
    }

    fn decode(self, binary: &[u8], received_at_ms: i64, batch: &mut Batch) -> Result<Stats, Refused> {
        let source_id = match self.source_id {
            Some(named) => named,
            None => otlp::service_name(binary).map_err(bad)?.map_or_else(|| DEFAULT_SOURCE.to_owned(), usable),
        };
        let method = CollectionMethod::Streaming;
        batch.origin = Origin { target_id: source_id.clone(), source_id, method, received_at_ms };
        let limits = &self.writer.limits().request;
        otlp::decode(binary, batch, self.options, limits).map_err(|error| match error.is_too_large() {
            true => Refused::too_large(error.to_string()),
            false => bad(error),
        })
    }
}

/// Makes a source of the name of a service, which may have any length and characters.
fn usable(service: String) -> String {
    service.chars().take(SOURCE_CHARS_MAX).map(|c| if c.is_control() { '_' } else { c }).collect()
}

fn bad(error: impl std::fmt::Display) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_may_become_is_counted() {
        use Compression::{Deflate, Gzip, None, Zstd};
        let kind = |encoding, compression| Kind { encoding, compression, framing: 0 };
        let mut body = vec![0; 96];
        body.extend(1_000_u32.to_le_bytes());
        assert_eq!(kind(Encoding::Protobuf, None).bytes(&body, 5_000), 100);
        assert_eq!(kind(Encoding::Protobuf, Gzip).bytes(&body, 5_000), 1_100);
        assert_eq!(kind(Encoding::Protobuf, Gzip).bytes(&body, 500), 600);
        assert_eq!(kind(Encoding::Protobuf, Deflate).bytes(&body, 5_000), 900);
        assert_eq!(kind(Encoding::Protobuf, Zstd).bytes(&body, 5_000), 900);
        assert_eq!(kind(Encoding::Json, None).bytes(&body, 5_000), 600);
        assert_eq!(kind(Encoding::Json, Gzip).bytes(&body, 5_000), 6_100);
        assert_eq!(Kind { framing: 5, ..kind(Encoding::Protobuf, Zstd) }.bytes(b"abc", 5_000), 3);
    }

    #[test]
    fn names_of_services_become_sources() {
        assert_eq!(usable("shop".into()), "shop");
        assert_eq!(usable("a\nb".into()), "a_b");
        assert_eq!(usable("é".repeat(200)).chars().count(), 100);
    }
}
