//! Bodies rendered once and patched in place: a sample costs the generator a few nanoseconds.

use prost::Message;

use crate::message::{Label, Sample, TimeSeries, WriteRequest};

/// Names as a node exporter has them; the series of one host share all but the last labels.
const NAMES: [&str; 8] = [
    "node_cpu_seconds_total",
    "node_network_receive_bytes_total",
    "node_disk_io_time_seconds_total",
    "node_filesystem_avail_bytes",
    "node_memory_MemAvailable_bytes",
    "node_netstat_Tcp_InSegs",
    "node_schedstat_waiting_seconds_total",
    "node_softnet_processed_total",
];

/// Labels of the n-th series of a load, sorted by name; about 150 bytes as text.
pub fn labels(n: usize) -> Vec<(&'static str, String)> {
    let host = n / 800;
    vec![
        ("__name__", NAMES[n % NAMES.len()].to_owned()),
        ("cpu", (n / NAMES.len() % 100).to_string()),
        ("datacenter", format!("eu-west-{}", host % 3)),
        ("device", format!("nvme{}n1", n % 4)),
        ("instance", format!("host-{host:05}.example.net:9100")),
        ("job", "node".to_owned()),
        ("mode", ["idle", "system", "user", "iowait"][n / 3 % 4].to_owned()),
    ]
}

/// The n-th series' value at the given step: counters and gauges that move by small amounts.
pub fn value(n: usize, step: u64) -> f64 {
    let slope = (n % 97) as f64 / 8.0;
    1000.0 + (n % 1000) as f64 + slope * step as f64 + ((step * 7 + n as u64) % 13) as f64 / 100.0
}

/// One remote-write request of a range of series with one sample each, ready to be patched.
pub struct RemoteBody {
    bytes: Vec<u8>,
    /// Where the 8 value bytes of each series start, and its number.
    values: Vec<(usize, usize)>,
    /// Where each timestamp (6 bytes of varint) starts.
    timestamps: Vec<usize>,
    compressed: Vec<u8>,
}

/// Times between 2004 and 2109 in milliseconds all take six bytes as a varint.
const VARINT_BYTES: usize = 6;

impl RemoteBody {
    pub fn new(series: std::ops::Range<usize>, now_ms: i64) -> RemoteBody {
        let mut body =
            RemoteBody { bytes: Vec::new(), values: Vec::new(), timestamps: Vec::new(), compressed: Vec::new() };
        for n in series {
            let labels = labels(n).into_iter().map(|(name, value)| Label { name: name.to_owned(), value }).collect();
            let one = TimeSeries { labels, samples: vec![Sample { value: 1.5, timestamp: now_ms }] };
            let encoded = WriteRequest { timeseries: vec![one] }.encode_to_vec();
            body.bytes.extend_from_slice(&encoded);
            // The sample stands last: ... 0x09 value(8) 0x10 varint(6).
            let end = body.bytes.len();
            body.timestamps.push(end - VARINT_BYTES);
            body.values.push((end - VARINT_BYTES - 1 - 8, n));
        }
        body
    }

    pub fn samples(&self) -> usize {
        self.values.len()
    }

    /// Sets all times and values and gives the compressed body.
    pub fn render(&mut self, ts_ms: i64, step: u64) -> &[u8] {
        let mut varint = [0u8; VARINT_BYTES];
        let mut rest = ts_ms as u64;
        for (i, byte) in varint.iter_mut().enumerate() {
            *byte = (rest & 0x7f) as u8 | if i + 1 < VARINT_BYTES { 0x80 } else { 0 };
            rest >>= 7;
        }
        for at in &self.timestamps {
            self.bytes[*at..at + VARINT_BYTES].copy_from_slice(&varint);
        }
        for (at, n) in &self.values {
            self.bytes[*at..at + 8].copy_from_slice(&value(*n, step).to_le_bytes());
        }
        self.compressed.resize(snap::raw::max_compress_len(self.bytes.len()), 0);
        let used = snap::raw::Encoder::new().compress(&self.bytes, &mut self.compressed).unwrap_or(0);
        &self.compressed[..used]
    }
}

/// Writes a number of hundredths with leading zeros; a few nanoseconds.
fn write_hundredths(out: &mut [u8], mut hundredths: u64) {
    let point = out.len() - 3;
    for at in (0..out.len()).rev() {
        if at == point {
            out[at] = b'.';
            continue;
        }
        out[at] = b'0' + (hundredths % 10) as u8;
        hundredths /= 10;
    }
}

/// The text body of one target: values of a fixed width, so that they can be patched.
pub struct TextBody {
    bytes: Vec<u8>,
    values: Vec<(usize, usize)>,
}

/// Width of a patched number.
const WIDTH: usize = 14;

impl TextBody {
    pub fn new(target: usize, series: usize) -> TextBody {
        let mut body = TextBody { bytes: Vec::new(), values: Vec::new() };
        let mut order: Vec<usize> = (0..series).map(|i| target * series + i).collect();
        order.sort_by_key(|n| n % NAMES.len());
        let mut last = usize::MAX;
        for n in order {
            let family = n % NAMES.len();
            if family != last {
                let header = format!("# HELP {0} One of a host's numbers.\n# TYPE {0} counter\n", NAMES[family]);
                body.bytes.extend_from_slice(header.as_bytes());
                last = family;
            }
            let pairs: Vec<String> = labels(n)
                .into_iter()
                .filter(|(name, _)| !matches!(*name, "__name__" | "instance" | "job"))
                .map(|(name, value)| format!("{name}=\"{value}\""))
                .chain([format!("slot=\"{n}\"")])
                .collect();
            body.bytes.extend_from_slice(format!("{}{{{}}} ", NAMES[family], pairs.join(",")).as_bytes());
            body.values.push((body.bytes.len(), n));
            body.bytes.extend_from_slice(&[b'0'; WIDTH]);
            body.bytes.push(b'\n');
        }
        body
    }

    pub fn samples(&self) -> usize {
        self.values.len()
    }

    pub fn render(&mut self, step: u64) -> &[u8] {
        for (at, n) in &self.values {
            write_hundredths(&mut self.bytes[*at..at + WIDTH], (value(*n, step) * 100.0).round() as u64);
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_the_value_of_its_step() {
        let mut body = TextBody::new(3, 10);
        for step in [0, 1, 12_345] {
            let text = String::from_utf8(body.render(step).to_vec()).expect("text");
            let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
            assert_eq!(lines.len(), 10);
            for line in lines {
                let slot = line.split("slot=\"").nth(1).and_then(|s| s.split('"').next()).expect("a slot");
                let shown: f64 = line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number");
                let wanted = value(slot.parse().expect("a number"), step);
                assert!((shown - wanted).abs() < 0.006, "{line}: {wanted}");
            }
        }
    }

    #[test]
    fn a_request_decodes_to_what_was_patched_in() {
        let mut body = RemoteBody::new(5..9, 1_700_000_000_000);
        let bytes = body.render(1_700_000_000_123, 7).to_vec();
        let plain = snap::raw::decompress_len(&bytes).expect("a length");
        let mut out = vec![0; plain];
        snap::raw::Decoder::new().decompress(&bytes, &mut out).expect("snappy");
        let request = WriteRequest::decode(&out[..]).expect("protobuf");
        for (n, series) in (5..9).zip(request.timeseries) {
            assert_eq!(series.samples, [Sample { value: value(n, 7), timestamp: 1_700_000_000_123 }]);
        }
    }
}
