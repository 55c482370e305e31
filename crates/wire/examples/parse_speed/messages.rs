//! Requests and bodies to measure with, written field by field.

use std::collections::HashMap;

/// Sorted labels and a value.
pub type Series = (Vec<(String, String)>, f64);

const TIME_MS: u64 = 1_700_000_000_000;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn whole(out: &mut Vec<u8>, number: u64, value: u64) {
    varint(out, number << 3);
    varint(out, value);
}

fn fixed(out: &mut Vec<u8>, number: u64, value: u64) {
    varint(out, number << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Fields one behind the other.
fn message(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    fill(&mut out);
    out
}

fn pair(name: &str, value: &str) -> Vec<u8> {
    message(|out| {
        bytes(out, 1, name.as_bytes());
        bytes(out, 2, value.as_bytes());
    })
}

/// `io.prometheus.write.v2.Request`
pub fn write_request_v2(series: &[Series]) -> Vec<u8> {
    let mut symbols: Vec<&str> = vec![""];
    let mut known = HashMap::from([("", 0u64)]);
    let mut all = Vec::new();
    for (labels, value) in series {
        let mut refs = Vec::new();
        for text in labels.iter().flat_map(|(name, value)| [name, value]) {
            let next = symbols.len() as u64;
            let number = *known.entry(text.as_str()).or_insert(next);
            if number == next {
                symbols.push(text);
            }
            varint(&mut refs, number);
        }
        let sample = message(|out| {
            fixed(out, 1, value.to_bits());
            whole(out, 2, TIME_MS);
        });
        let metadata = message(|out| whole(out, 1, 2));
        let fields = [(1, refs), (2, sample), (5, metadata)];
        bytes(&mut all, 5, &message(|out| fields.iter().for_each(|(number, field)| bytes(out, *number, field))));
    }
    let mut out = message(|out| symbols.iter().for_each(|symbol| bytes(out, 4, symbol.as_bytes())));
    out.extend(all);
    out
}

/// Delimited `io.prometheus.client.MetricFamily`, gauges.
pub fn families(series: &[Series]) -> Vec<u8> {
    let mut out = Vec::new();
    for family in series.chunk_by(|a, b| name_of(a) == name_of(b)) {
        let family = message(|out| {
            bytes(out, 1, name_of(&family[0]).as_bytes());
            bytes(out, 2, b"What the family is about.");
            whole(out, 3, 1);
            for series in family {
                let metric = message(|out| {
                    others(series).for_each(|(name, value)| bytes(out, 1, &pair(name, value)));
                    bytes(out, 2, &message(|out| fixed(out, 1, series.1.to_bits())));
                });
                bytes(out, 4, &metric);
            }
        });
        varint(&mut out, family.len() as u64);
        out.extend(family);
    }
    out
}

/// `ExportMetricsServiceRequest`, gauges of one resource.
pub fn otlp_request(series: &[Series]) -> Vec<u8> {
    let text = |text: &str| message(|out| bytes(out, 1, text.as_bytes()));
    let key_value = |name: &str, value: &str| {
        message(|out| {
            bytes(out, 1, name.as_bytes());
            bytes(out, 2, &text(value));
        })
    };
    let metrics = message(|out| {
        for family in series.chunk_by(|a, b| name_of(a) == name_of(b)) {
            let points = message(|out| {
                for series in family {
                    let point = message(|out| {
                        fixed(out, 3, TIME_MS * 1_000_000);
                        fixed(out, 4, series.1.to_bits());
                        others(series).for_each(|(name, value)| bytes(out, 7, &key_value(name, value)));
                    });
                    bytes(out, 1, &point);
                }
            });
            let metric = message(|out| {
                bytes(out, 1, name_of(&family[0]).as_bytes());
                bytes(out, 5, &points);
            });
            bytes(out, 2, &metric);
        }
    });
    let resource = message(|out| bytes(out, 1, &key_value("service.name", "node")));
    let resource_metrics = message(|out| {
        bytes(out, 1, &resource);
        bytes(out, 2, &metrics);
    });
    message(|out| bytes(out, 1, &resource_metrics))
}

fn name_of(series: &Series) -> &str {
    series.0.iter().find(|(name, _)| name == "__name__").map_or("", |(_, value)| value)
}

fn others(series: &Series) -> impl Iterator<Item = &(String, String)> {
    series.0.iter().filter(|(name, _)| name != "__name__")
}
