//! A collection report in bytes.
//!
//! Layout, version 1: version byte, event id (16 bytes), then in order batch id, finished at, target id, source id,
//! method, received at, duration, health, the five type counts, samples count, received, stored, duplicates, filtered,
//! number of refusal reasons and their counts, and an error flag with its text. Numbers are LEB128 (times zigzag), text
//! is a length and UTF-8.

use model::coding::{put_signed, put_varint};
use model::{CollectionMethod, CollectionReport, Counts, Health, Origin, Refusal, TypeCounts};

const VERSION: u8 = 1;
/// More text than any field of a report has; longer is damage.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// Bytes that are not a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a collection report: {0}")]
pub struct DecodeError(&'static str);

/// Appends a report's bytes.
pub fn encode_report(report: &CollectionReport, out: &mut Vec<u8>) {
    out.push(VERSION);
    out.extend_from_slice(&report.event_id);
    put_text(out, &report.batch_id);
    put_signed(out, report.finished_at_ms);
    put_text(out, &report.origin.target_id);
    put_text(out, &report.origin.source_id);
    out.push(report.origin.method as u8);
    put_signed(out, report.origin.received_at_ms);
    put_varint(out, report.duration_ms);
    out.push(report.health as u8);
    let s = &report.summary;
    let c = &report.counts;
    let numbers = [s.counters, s.gauges, s.histograms, s.summaries, s.others, report.samples_count];
    for n in numbers.into_iter().chain([c.received, c.stored, c.duplicates, c.filtered]) {
        put_varint(out, n);
    }
    put_varint(out, c.refused.len() as u64);
    for n in c.refused {
        put_varint(out, n);
    }
    out.push(u8::from(report.error.is_some()));
    if let Some(error) = &report.error {
        put_text(out, error);
    }
}

/// Reads what [`encode_report`] wrote.
pub fn decode_report(bytes: &[u8]) -> Result<CollectionReport, DecodeError> {
    let mut r = Reader { rest: bytes };
    if r.byte()? != VERSION {
        return Err(DecodeError("unknown version"));
    }
    let report = CollectionReport {
        event_id: r.array()?,
        batch_id: r.text()?,
        finished_at_ms: r.signed()?,
        origin: Origin {
            target_id: r.text()?,
            source_id: r.text()?,
            method: pick(&CollectionMethod::ALL, r.byte()?)?,
            received_at_ms: r.signed()?,
        },
        duration_ms: r.number()?,
        health: pick(&Health::ALL, r.byte()?)?,
        summary: TypeCounts {
            counters: r.number()?,
            gauges: r.number()?,
            histograms: r.number()?,
            summaries: r.number()?,
            others: r.number()?,
        },
        samples_count: r.number()?,
        counts: r.counts()?,
        error: if r.byte()? == 0 { None } else { Some(r.text()?) },
    };
    if r.rest.is_empty() { Ok(report) } else { Err(DecodeError("bytes left over")) }
}

fn pick<T: Copy>(all: &[T], n: u8) -> Result<T, DecodeError> {
    all.get(usize::from(n)).copied().ok_or(DecodeError("unknown number of an enumeration"))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // A report's texts are bounded by who makes it; a longer one is cut, so that it can be read back.
    let mut end = text.len().min(TEXT_BYTES_MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_varint(out, end as u64);
    out.extend_from_slice(&text.as_bytes()[..end]);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError("too short"))?;
        self.rest = rest;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError("too short"))?;
        self.rest = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(DecodeError("a number is too long"))
    }

    fn signed(&mut self) -> Result<i64, DecodeError> {
        let n = self.number()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let len = self.number()?;
        if len > TEXT_BYTES_MAX {
            return Err(DecodeError("a text is too long"));
        }
        let (head, rest) = self.rest.split_at_checked(len as usize).ok_or(DecodeError("too short"))?;
        self.rest = rest;
        String::from_utf8(head.to_vec()).map_err(|_| DecodeError("a text is not UTF-8"))
    }

    fn counts(&mut self) -> Result<Counts, DecodeError> {
        let mut counts = Counts {
            received: self.number()?,
            stored: self.number()?,
            duplicates: self.number()?,
            filtered: self.number()?,
            refused: [0; Refusal::COUNT],
        };
        // A newer version may know more reasons; they must not break the balance, so that version counts up.
        let reasons = self.number()?;
        if reasons > Refusal::COUNT as u64 {
            return Err(DecodeError("more refusal reasons than known"));
        }
        for slot in counts.refused.iter_mut().take(reasons as usize) {
            *slot = self.number()?;
        }
        Ok(counts)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_counts()(n in any::<[u64; 4]>(), refused in any::<[u64; Refusal::COUNT]>()) -> Counts {
            Counts { received: n[0], stored: n[1], duplicates: n[2], filtered: n[3], refused }
        }
    }

    prop_compose! {
        pub fn any_report()(
            event_id in any::<[u8; 16]>(),
            text in any::<[String; 3]>(),
            at in any::<[i64; 2]>(),
            n in any::<[u64; 7]>(),
            method in 0..4usize,
            health in 0..5usize,
            counts in any_counts(),
            error in any::<Option<String>>(),
        ) -> CollectionReport {
            let [batch_id, target_id, source_id] = text;
            CollectionReport {
                event_id,
                batch_id,
                finished_at_ms: at[0],
                origin: Origin { target_id, source_id, method: CollectionMethod::ALL[method], received_at_ms: at[1] },
                duration_ms: n[0],
                health: Health::ALL[health],
                summary: TypeCounts { counters: n[1], gauges: n[2], histograms: n[3], summaries: n[4], others: n[5] },
                samples_count: n[6],
                counts,
                error,
            }
        }
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_encode(report in any_report()) {
            let mut bytes = Vec::new();
            encode_report(&report, &mut bytes);
            prop_assert_eq!(decode_report(&bytes), Ok(report));
            prop_assert!(decode_report(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_report(&bytes);
        }
    }
}
