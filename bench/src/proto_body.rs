//! A scraped body of the protobuf format, patched in place.

use crate::payload::{NAMES, labels, value};
use crate::remote_body::{put_bytes, put_fixed, put_number, put_varint};

/// Delimited `io.prometheus.client.MetricFamily`, counters.
pub struct ProtoBody {
    bytes: Vec<u8>,
    /// Where the 8 value bytes of each series start, and its number.
    values: Vec<(usize, usize)>,
}

impl ProtoBody {
    pub fn new(target: usize, series: usize) -> ProtoBody {
        let mut body = ProtoBody { bytes: Vec::new(), values: Vec::new() };
        for (family, name) in NAMES.iter().enumerate() {
            let numbers: Vec<usize> =
                (target * series..(target + 1) * series).filter(|n| n % NAMES.len() == family).collect();
            if !numbers.is_empty() {
                body.push_family(name, &numbers);
            }
        }
        body
    }

    fn push_family(&mut self, name: &str, numbers: &[usize]) {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, name.as_bytes());
        put_bytes(&mut message, 2, b"One of a host's numbers.");
        put_number(&mut message, 3, 0);
        let mut places = Vec::new();
        for n in numbers {
            put_bytes(&mut message, 4, &metric(*n));
            // The value stands last.
            places.push((message.len() - 8, *n));
        }
        put_varint(&mut self.bytes, message.len() as u64);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&message);
        self.values.extend(places.into_iter().map(|(at, n)| (start + at, n)));
    }

    pub fn samples(&self) -> usize {
        self.values.len()
    }

    pub fn render(&mut self, step: u64) -> &[u8] {
        for (at, n) in &self.values {
            self.bytes[*at..at + 8].copy_from_slice(&value(*n, step).to_le_bytes());
        }
        &self.bytes
    }
}

fn metric(n: usize) -> Vec<u8> {
    let mut metric = Vec::new();
    let slot = ("slot", n.to_string());
    let kept = labels(n).into_iter().filter(|(name, _)| !matches!(*name, "__name__" | "instance" | "job"));
    for (name, value) in kept.chain([slot]) {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, name.as_bytes());
        put_bytes(&mut pair, 2, value.as_bytes());
        put_bytes(&mut metric, 1, &pair);
    }
    let mut counter = Vec::new();
    put_fixed(&mut counter, 1, 0);
    put_bytes(&mut metric, 3, &counter);
    metric
}
