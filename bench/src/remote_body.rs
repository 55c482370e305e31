//! Remote-write requests whose compressed form is patched in place: the generator compresses nothing while it sends.
//!
//! A snappy block is made of literals and copies. Here all that changes (values, times, the label that churns) stands in
//! literals, and the labels that a series shares with the one before are copies, as a sender's compressor finds them.

use crate::payload::{labels, value, write_digits};

/// Times between 2004 and 2109 in milliseconds all take six bytes as a varint.
const VARINT_BYTES: usize = 6;
/// `0x12 len 0x09 value(8) 0x10 time(6)`
const SAMPLE_BYTES: usize = 2 + 1 + 8 + 1 + VARINT_BYTES;
const COPY_MAX: usize = 64;
const COPY_MIN: usize = 4;

/// One remote-write request of a range of series with one sample each, ready to be patched.
pub struct RemoteBody {
    block: Vec<u8>,
    series: Vec<Place>,
    next_boot: usize,
    replaced: u64,
}

/// Where the changing parts of a series stand in the block.
#[derive(Clone, Copy)]
struct Place {
    n: usize,
    value: usize,
    time: usize,
    boot: usize,
}

impl RemoteBody {
    pub fn new(series: std::ops::Range<usize>, now_ms: i64) -> RemoteBody {
        RemoteBody::of(series.map(|n| (n, labels(n))), now_ms)
    }

    /// Takes series with their sorted labels and the numbers that their values follow from.
    pub fn of<N: AsRef<str>>(series: impl Iterator<Item = (usize, Vec<(N, String)>)>, now_ms: i64) -> RemoteBody {
        let mut maker = Maker::default();
        let mut places = Vec::new();
        for (n, labels) in series {
            let mut place = maker.series(&labels);
            place.n = n;
            places.push(place);
        }
        let (block, shift) = maker.finish();
        for place in &mut places {
            (place.value, place.time) = (place.value + shift, place.time + shift);
            place.boot += if place.boot > 0 { shift } else { 0 };
        }
        let mut body = RemoteBody { block, series: places, next_boot: 0, replaced: 0 };
        body.render(now_ms, 0);
        body
    }

    pub fn samples(&self) -> usize {
        self.series.len()
    }

    /// Lets the next series end and others begin in their place.
    pub fn replace(&mut self, series: usize) {
        for _ in 0..series.min(self.series.len()) {
            let at = self.series[self.next_boot].boot;
            self.next_boot = (self.next_boot + 1) % self.series.len();
            let number = 1 + self.replaced / self.series.len() as u64;
            self.replaced += 1;
            write_digits(&mut self.block[at..at + 4], number);
        }
    }

    /// Sets all times and values and gives the compressed body.
    pub fn render(&mut self, ts_ms: i64, step: u64) -> &[u8] {
        self.render_with(ts_ms, |n| value(n, step))
    }

    /// The same with values from elsewhere.
    pub fn render_with(&mut self, ts_ms: i64, value: impl Fn(usize) -> f64) -> &[u8] {
        let time = time_varint(ts_ms);
        for place in &self.series {
            self.block[place.time..place.time + VARINT_BYTES].copy_from_slice(&time);
            self.block[place.value..place.value + 8].copy_from_slice(&value(place.n).to_le_bytes());
        }
        &self.block
    }
}

/// A time of six bytes.
pub fn time_varint(ts_ms: i64) -> [u8; VARINT_BYTES] {
    let mut varint = [0u8; VARINT_BYTES];
    let mut rest = ts_ms as u64;
    for (i, byte) in varint.iter_mut().enumerate() {
        *byte = (rest & 0x7f) as u8 | if i + 1 < VARINT_BYTES { 0x80 } else { 0 };
        rest >>= 7;
    }
    varint
}

/// Writes a block series by series.
#[derive(Default)]
struct Maker {
    block: Vec<u8>,
    /// Bytes of the request so far.
    plain: usize,
    /// The label fields of the series before, and where each starts in the request.
    before: Vec<(Vec<u8>, usize)>,
    literal: Vec<u8>,
    /// Distance back and length of the copy that may still grow.
    copy: Option<(usize, usize)>,
}

impl Maker {
    fn series<N: AsRef<str>>(&mut self, labels: &[(N, String)]) -> Place {
        let fields: Vec<Vec<u8>> = labels.iter().map(|(name, value)| label_field(name.as_ref(), value)).collect();
        let bytes = fields.iter().map(Vec::len).sum::<usize>() + SAMPLE_BYTES;
        let mut head = vec![0x0a];
        put_varint(&mut head, bytes as u64);
        self.put_literal(&head);
        let mut place = Place { n: 0, value: 0, time: 0, boot: 0 };
        let before = std::mem::take(&mut self.before);
        for (at, (field, (name, value))) in fields.iter().zip(labels).enumerate() {
            let start = self.plain;
            let changes = if name.as_ref() == "boot" { value.len() } else { 0 };
            let fixed = field.len() - changes;
            let same = before.get(at).map_or(0, |(old, _)| common(&field[..fixed], old));
            if same >= COPY_MIN {
                self.put_copy(start - before[at].1, same);
            }
            let from = if same >= COPY_MIN { same } else { 0 };
            let literal_at = self.put_literal(&field[from..]);
            if changes > 0 {
                place.boot = literal_at + fixed - from;
            }
            self.before.push((field.clone(), start));
        }
        let mut sample = vec![0x12, (SAMPLE_BYTES - 2) as u8, 0x09];
        sample.extend_from_slice(&[0; 8]);
        sample.push(0x10);
        sample.extend_from_slice(&time_varint(1_700_000_000_000));
        let at = self.put_literal(&sample);
        (place.value, place.time) = (at + 3, at + 12);
        // A literal of its own keeps the places that were given.
        self.end_literal();
        place
    }

    /// Appends bytes as they are; gives where they will stand in the block.
    fn put_literal(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return self.block.len();
        }
        self.end_copy();
        if self.literal.len() + bytes.len() > 60 {
            self.end_literal();
        }
        // One byte of tag for up to 60 bytes of literal.
        let at = self.block.len() + 1 + self.literal.len();
        self.literal.extend_from_slice(bytes);
        self.plain += bytes.len();
        if self.literal.len() > 60 {
            self.end_literal();
            return self.block.len() - bytes.len();
        }
        at
    }

    fn put_copy(&mut self, distance: usize, len: usize) {
        self.end_literal();
        self.plain += len;
        match self.copy.as_mut() {
            Some((same, so_far)) if *same == distance => *so_far += len,
            _ => {
                self.end_copy();
                self.copy = Some((distance, len));
            }
        }
    }

    fn end_literal(&mut self) {
        let literal = std::mem::take(&mut self.literal);
        if literal.is_empty() {
            return;
        }
        let last = literal.len() - 1;
        if last < 60 {
            self.block.push((last << 2) as u8);
        } else {
            self.block.push(61 << 2);
            self.block.extend_from_slice(&(last as u16).to_le_bytes());
        }
        self.block.extend_from_slice(&literal);
    }

    fn end_copy(&mut self) {
        let Some((distance, mut left)) = self.copy.take() else { return };
        while left > 0 {
            let len = left.min(COPY_MAX);
            self.block.push(((len - 1) << 2) as u8 | 2);
            self.block.extend_from_slice(&(distance as u16).to_le_bytes());
            left -= len;
        }
    }

    /// Gives the block with its length before it, and how many bytes that length takes.
    fn finish(mut self) -> (Vec<u8>, usize) {
        self.end_copy();
        self.end_literal();
        let mut block = Vec::with_capacity(self.block.len() + 5);
        put_varint(&mut block, self.plain as u64);
        let shift = block.len();
        block.extend_from_slice(&self.block);
        (block, shift)
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

fn label_field(name: &str, value: &str) -> Vec<u8> {
    let mut label = Vec::new();
    put_bytes(&mut label, 1, name.as_bytes());
    put_bytes(&mut label, 2, value.as_bytes());
    let mut field = Vec::new();
    put_bytes(&mut field, 1, &label);
    field
}

/// Appends a protobuf field of bytes.
pub fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a protobuf number.
pub fn put_number(out: &mut Vec<u8>, field: u64, number: u64) {
    put_varint(out, field << 3);
    put_varint(out, number);
}

/// Appends a protobuf field of eight bytes.
pub fn put_fixed(out: &mut Vec<u8>, field: u64, bits: u64) {
    put_varint(out, field << 3 | 1);
    out.extend_from_slice(&bits.to_le_bytes());
}

pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
pub mod tests {
    use prost::Message;

    use super::*;
    use crate::message::{Label, Sample, WriteRequest};

    /// Inflates a block of our own making.
    pub fn inflated(block: &[u8]) -> Option<Vec<u8>> {
        let mut plain = vec![0; snap::raw::decompress_len(block).ok()?];
        snap::raw::Decoder::new().decompress(block, &mut plain).ok()?;
        Some(plain)
    }

    fn decoded(block: &[u8]) -> WriteRequest {
        let plain = inflated(block).expect("snappy");
        WriteRequest::decode(&plain[..]).expect("protobuf")
    }

    #[test]
    fn a_request_decodes_to_what_was_patched_in() {
        let mut body = RemoteBody::new(795..2_900, 1_700_000_000_000);
        let plain = snap::raw::decompress_len(&body.block).expect("a length");
        assert!(body.block.len() < plain / 2, "{} of {plain}", body.block.len());
        for (ts_ms, step) in [(1_700_000_000_123, 7), (1_800_000_000_999, 1_000_000)] {
            let request = decoded(body.render(ts_ms, step));
            assert_eq!(request.timeseries.len(), body.samples());
            for (n, series) in (795..).zip(request.timeseries) {
                assert_eq!(series.samples, [Sample { value: value(n, step), timestamp: ts_ms }]);
                let wanted = labels(n).into_iter().map(|(name, value)| Label { name: name.to_owned(), value });
                assert_eq!(series.labels, wanted.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn replaced_series_differ_in_their_boot_alone() {
        let mut body = RemoteBody::new(0..10, 1_700_000_000_000);
        body.replace(10);
        body.replace(3);
        let boots: Vec<String> = decoded(body.render(1_700_000_000_000, 0))
            .timeseries
            .iter()
            .map(|s| s.labels.iter().find(|l| l.name == "boot").map(|l| l.value.clone()).unwrap_or_default())
            .collect();
        assert_eq!(boots[..3], ["0002", "0002", "0002"]);
        assert!(boots[3..].iter().all(|boot| boot == "0001"), "{boots:?}");
    }
}
