//! Bodies of the ways in other than remote write 1.0 and scraping, patched in place.

use std::collections::HashMap;

use crate::payload::{NAMES, labels, value, write_digits, write_hundredths};
use crate::remote_body::{put_bytes, put_fixed, put_number, put_varint, time_varint};

/// A body that can be sent again and again with other times and values.
pub trait Body: Send {
    fn samples(&self) -> usize;
    fn render(&mut self, ts_ms: i64, step: u64) -> &[u8];
}

/// Where the changing parts of a series stand, and its number.
struct Place {
    n: usize,
    value: usize,
    time: usize,
}

impl Body for crate::remote_body::RemoteBody {
    fn samples(&self) -> usize {
        crate::remote_body::RemoteBody::samples(self)
    }

    fn render(&mut self, ts_ms: i64, step: u64) -> &[u8] {
        crate::remote_body::RemoteBody::render(self, ts_ms, step)
    }
}

/// `io.prometheus.write.v2.Request`, compressed anew each time.
pub struct SecondBody {
    plain: Vec<u8>,
    places: Vec<Place>,
    compressed: Vec<u8>,
}

impl SecondBody {
    pub fn new(series: std::ops::Range<usize>) -> SecondBody {
        let mut symbols: Vec<String> = vec![String::new()];
        let mut known: HashMap<String, u64> = HashMap::from([(String::new(), 0)]);
        let (mut all, mut places) = (Vec::new(), Vec::new());
        for n in series {
            let mut refs = Vec::new();
            for text in labels(n).into_iter().flat_map(|(name, value)| [name.to_owned(), value]) {
                let next = symbols.len() as u64;
                let number = *known.entry(text.clone()).or_insert(next);
                if number == next {
                    symbols.push(text);
                }
                put_varint(&mut refs, number);
            }
            let mut one = Vec::new();
            put_bytes(&mut one, 1, &refs);
            let mut metadata = Vec::new();
            put_number(&mut metadata, 1, 1);
            put_bytes(&mut one, 5, &metadata);
            let mut sample = Vec::new();
            put_fixed(&mut sample, 1, 0);
            sample.push(2 << 3);
            sample.extend_from_slice(&time_varint(1_700_000_000_000));
            put_bytes(&mut one, 2, &sample);
            put_bytes(&mut all, 5, &one);
            let end = all.len();
            places.push(Place { n, value: end - 6 - 1 - 8, time: end - 6 });
        }
        let mut plain = Vec::new();
        symbols.iter().for_each(|symbol| put_bytes(&mut plain, 4, symbol.as_bytes()));
        let shift = plain.len();
        plain.extend(all);
        for place in &mut places {
            (place.value, place.time) = (place.value + shift, place.time + shift);
        }
        SecondBody { plain, places, compressed: Vec::new() }
    }
}

impl Body for SecondBody {
    fn samples(&self) -> usize {
        self.places.len()
    }

    fn render(&mut self, ts_ms: i64, step: u64) -> &[u8] {
        let time = time_varint(ts_ms);
        for place in &self.places {
            self.plain[place.time..place.time + 6].copy_from_slice(&time);
            self.plain[place.value..place.value + 8].copy_from_slice(&value(place.n, step).to_le_bytes());
        }
        self.compressed.resize(snap::raw::max_compress_len(self.plain.len()), 0);
        let used = snap::raw::Encoder::new().compress(&self.plain, &mut self.compressed).unwrap_or(0);
        &self.compressed[..used]
    }
}

/// `ExportMetricsServiceRequest`: the hosts as resources, gauges.
pub struct OtlpBody {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl OtlpBody {
    pub fn new(series: std::ops::Range<usize>) -> OtlpBody {
        let mut metrics = Vec::new();
        let mut places = Vec::new();
        for (family, name) in NAMES.iter().enumerate() {
            let numbers: Vec<usize> = series.clone().filter(|n| n % NAMES.len() == family).collect();
            let (mut gauge, mut local) = (Vec::new(), Vec::new());
            for n in numbers {
                put_bytes(&mut gauge, 1, &point(n));
                let end = gauge.len();
                local.push(Place { n, time: end - 18 + 1, value: end - 8 });
            }
            let mut metric = Vec::new();
            put_bytes(&mut metric, 1, name.as_bytes());
            put_bytes(&mut metric, 5, &gauge);
            put_bytes(&mut metrics, 2, &metric);
            let shift = metrics.len() - gauge.len();
            places.extend(local.into_iter().map(|p| Place { n: p.n, time: p.time + shift, value: p.value + shift }));
        }
        let mut resource = Vec::new();
        put_bytes(&mut resource, 1, &key_value("service.name", "node"));
        let mut resource_metrics = Vec::new();
        put_bytes(&mut resource_metrics, 1, &resource);
        put_bytes(&mut resource_metrics, 2, &metrics);
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 1, &resource_metrics);
        let shift = bytes.len() - metrics.len();
        places.iter_mut().for_each(|p| (p.time, p.value) = (p.time + shift, p.value + shift));
        OtlpBody { bytes, places }
    }
}

/// A `NumberDataPoint` that ends with its time and its value, nine bytes each.
fn point(n: usize) -> Vec<u8> {
    let mut point = Vec::new();
    for (name, value) in labels(n).into_iter().filter(|(name, _)| !matches!(*name, "__name__" | "job")) {
        put_bytes(&mut point, 7, &key_value(name, &value));
    }
    put_fixed(&mut point, 3, 0);
    put_fixed(&mut point, 4, 0);
    point
}

fn key_value(key: &str, value: &str) -> Vec<u8> {
    let (mut any, mut pair) = (Vec::new(), Vec::new());
    put_bytes(&mut any, 1, value.as_bytes());
    put_bytes(&mut pair, 1, key.as_bytes());
    put_bytes(&mut pair, 2, &any);
    pair
}

impl Body for OtlpBody {
    fn samples(&self) -> usize {
        self.places.len()
    }

    fn render(&mut self, ts_ms: i64, step: u64) -> &[u8] {
        let time = (ts_ms as u64 * 1_000_000).to_le_bytes();
        for place in &self.places {
            self.bytes[place.time..place.time + 8].copy_from_slice(&time);
            self.bytes[place.value..place.value + 8].copy_from_slice(&value(place.n, step).to_le_bytes());
        }
        &self.bytes
    }
}

/// Digits of a patched JSON value; it starts with a digit of its own, because JSON knows no leading zeros.
const VALUE_WIDTH: usize = 12;

/// The list of `POST /api/v1/metrics/custom`.
pub struct JsonBody {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl JsonBody {
    pub fn new(series: std::ops::Range<usize>) -> JsonBody {
        let (mut bytes, mut places) = (vec![b'['], Vec::new());
        for n in series {
            if bytes.len() > 1 {
                bytes.push(b',');
            }
            let all = labels(n);
            let pairs: serde_json::Map<String, serde_json::Value> = all
                .iter()
                .filter(|(name, _)| *name != "__name__")
                .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
                .collect();
            let name = NAMES[n % NAMES.len()];
            let labels = serde_json::Value::Object(pairs);
            let head = format!("{{\"name\":\"{name}\",\"metric_type\":\"GAUGE\",\"labels\":{labels},\"timestamp\":");
            bytes.extend_from_slice(head.as_bytes());
            let time = bytes.len();
            bytes.extend_from_slice(b"1700000000.000,\"value\":1");
            let value = bytes.len();
            bytes.extend_from_slice(&[b'0'; VALUE_WIDTH]);
            bytes.push(b'}');
            places.push(Place { n, value, time });
        }
        bytes.push(b']');
        JsonBody { bytes, places }
    }
}

impl Body for JsonBody {
    fn samples(&self) -> usize {
        self.places.len()
    }

    fn render(&mut self, ts_ms: i64, step: u64) -> &[u8] {
        for place in &self.places {
            let (seconds, millis) = (ts_ms as u64 / 1000, ts_ms as u64 % 1000);
            write_digits(&mut self.bytes[place.time..place.time + 10], seconds);
            write_digits(&mut self.bytes[place.time + 11..place.time + 14], millis);
            let hundredths = (value(place.n, step) * 100.0).round() as u64;
            write_hundredths(&mut self.bytes[place.value..place.value + VALUE_WIDTH], hundredths);
        }
        &self.bytes
    }
}

impl Body for crate::payload::TextBody {
    fn samples(&self) -> usize {
        crate::payload::TextBody::samples(self)
    }

    fn render(&mut self, _: i64, step: u64) -> &[u8] {
        crate::payload::TextBody::render(self, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_time_and_value() {
        let mut body = JsonBody::new(3..6);
        let list: serde_json::Value = serde_json::from_slice(body.render(1_700_000_123_045, 9)).expect("JSON");
        assert_eq!(list.as_array().map(Vec::len), Some(3));
        assert_eq!(list[0]["timestamp"], 1_700_000_123.045);
        let wanted = 1e9 + (value(3, 9) * 100.0).round() / 100.0;
        assert_eq!(list[0]["value"], wanted);
        assert_eq!(list[0]["labels"]["mode"], labels(3)[7].1.as_str());
    }

    #[test]
    fn patches_hit_the_numbers_alone() {
        let bits = |body: &mut dyn Body, step| {
            let bytes = body.render(1_700_000_000_000, step).to_vec();
            crate::remote_body::tests::inflated(&bytes).unwrap_or(bytes)
        };
        let bodies: [Box<dyn Body>; 2] = [Box::new(SecondBody::new(0..50)), Box::new(OtlpBody::new(0..50))];
        for mut body in bodies {
            let (a, b) = (bits(&mut *body, 5), bits(&mut *body, 6));
            assert_eq!(a.len(), b.len());
            for n in 0..50 {
                let (old, new) = (value(n, 5).to_le_bytes(), value(n, 6).to_le_bytes());
                let at = a.windows(8).position(|w| w == old).expect("a value");
                assert_eq!(b[at..at + 8], new, "series {n}");
            }
            let changed = a.iter().zip(&b).filter(|(x, y)| x != y).count();
            assert!(changed <= 50 * 8, "{changed}");
        }
    }
}
