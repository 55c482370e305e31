//! From the bytes of a request to a batch.
//!
//! Invariant: what a body inflates to is counted among the bytes in flight before it is inflated.

use http::StatusCode;
use model::{Batch, CollectionMethod, Origin};
use wire::gzip::{self, InflateError};
use wire::otlp::{self, Options, Stats};

use super::answer::Encoding;
use crate::prom::write::{Arrived, Refused, WriteStats, Writer};
use crate::prom::write_headers::SOURCE_CHARS_MAX;

/// Source of requests that name none and have no service.
const DEFAULT_SOURCE: &str = "otlp";
/// What a byte of JSON may become, its own byte included: `1,` in a list of bounds takes nine.
const JSON_FACTOR: usize = 6;

/// What the headers say of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// How it is written.
    pub encoding: Encoding,
    /// Whether it is compressed.
    pub gzip: bool,
}

impl Kind {
    /// Gives how many bytes a body takes with what it is expected to become.
    pub fn bytes(self, body: &[u8], inflated_bytes_max: usize) -> usize {
        let inflated = if self.gzip { inflated_hint(body, inflated_bytes_max) } else { 0 };
        self.bytes_of(body.len(), inflated)
    }

    fn bytes_of(self, body: usize, inflated: usize) -> usize {
        let plain = if self.gzip { inflated } else { body };
        let binary = match self.encoding {
            Encoding::Protobuf => 0,
            Encoding::Json => plain.saturating_mul(JSON_FACTOR - 1),
        };
        body.saturating_add(inflated).saturating_add(binary)
    }
}

/// Gives what the end of a gzip body says that it inflates to, within what is allowed. It may lie.
fn inflated_hint(body: &[u8], max: usize) -> usize {
    let declared = body.last_chunk::<4>().map_or(0, |end| u32::from_le_bytes(*end) as usize);
    declared.max(body.len()).min(max)
}

/// Reads requests.
pub struct Reader<'a> {
    /// Counts the bytes in flight.
    pub writer: &'a Writer,
    /// How points are translated.
    pub options: &'a Options,
    /// Counts the bytes read.
    pub stats: &'a WriteStats,
    /// What the headers say.
    pub kind: Kind,
    /// The source that the request names.
    pub source_id: Option<String>,
}

impl Reader<'_> {
    /// Inflates and decodes a body into the batch.
    pub fn read(self, arrived: &mut Arrived, batch: &mut Batch) -> Result<Stats, Refused> {
        let body = std::mem::take(&mut arrived.buffers.body);
        let read = self.read_body(&body, arrived, batch);
        arrived.buffers.body = body;
        read
    }

    fn read_body(self, body: &[u8], arrived: &mut Arrived, batch: &mut Batch) -> Result<Stats, Refused> {
        let inflated = if self.kind.gzip { self.inflate(body, arrived) } else { Ok(Vec::new()) };
        let len = inflated.as_ref().map_or(0, Vec::len);
        self.stats.count_bytes(body.len(), if self.kind.gzip { len } else { body.len() });
        let inflated = inflated?;
        let plain = if self.kind.gzip { &inflated } else { body };
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
    fn inflate(&self, body: &[u8], arrived: &mut Arrived) -> Result<Vec<u8>, Refused> {
        let max = self.writer.limits().inflated_bytes_max;
        let expected = inflated_hint(body, max);
        let mut inflated = gzip::inflate_capped(body, expected);
        if expected < max && matches!(inflated, Err(InflateError::TooLarge { .. })) {
            self.writer.fit(arrived, self.kind.bytes_of(body.len(), max))?;
            inflated = gzip::inflate_capped(body, max);
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
        let kind = |encoding, gzip| Kind { encoding, gzip };
        let mut body = vec![0; 96];
        body.extend(1_000_u32.to_le_bytes());
        assert_eq!(kind(Encoding::Protobuf, false).bytes(&body, 5_000), 100);
        assert_eq!(kind(Encoding::Protobuf, true).bytes(&body, 5_000), 1_100);
        assert_eq!(kind(Encoding::Protobuf, true).bytes(&body, 500), 600);
        assert_eq!(kind(Encoding::Json, false).bytes(&body, 5_000), 600);
        assert_eq!(kind(Encoding::Json, true).bytes(&body, 5_000), 6_100);
        assert_eq!(kind(Encoding::Json, true).bytes(b"abc", 5_000), 21);
    }

    #[test]
    fn names_of_services_become_sources() {
        assert_eq!(usable("shop".into()), "shop");
        assert_eq!(usable("a\nb".into()), "a_b");
        assert_eq!(usable("é".repeat(200)).chars().count(), 100);
    }
}
