//! The load: remote write of values that can be computed again, so that every sample found can be judged.
//!
//! A writer sends one sample of each of its series per step, [`CHUNK`] series a request; a request without an answer is
//! sent again, as a real sender does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The source that the load is attributed to.
pub const SOURCE: &str = "selftest";
/// The name of its series.
pub const METRIC: &str = "selftest_samples";
/// Connections at once.
pub const WRITERS: u64 = 2;
/// Series of one request.
pub const CHUNK: u64 = 1_000;
/// From one sample of a series to the next.
pub const STEP_MS: i64 = 15_000;
/// Series of one writer.
pub const SERIES: u64 = 20_000;
/// Times between 2004 and 2109 in milliseconds all take six bytes as a varint.
const TIME_BYTES: usize = 6;
/// An answer that takes longer has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The value of a series at a step: counters and gauges that move by small amounts, and every tenth a double that uses all bits.
pub fn value_of(writer: u64, series: u64, step: u64) -> f64 {
    if !series.is_multiple_of(10) {
        return (1_000 + series % 1_000) as f64 + (series % 97) as f64 / 8.0 * step as f64;
    }
    match step % 50 {
        0 => return -0.0,
        1 => return f64::from_bits(1 + series),
        2 => return f64::INFINITY,
        _ => {}
    }
    let mut x = (writer << 50) ^ (series << 24) ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = f64::from_bits(x ^ (x >> 29));
    if value.is_finite() { value } else { step as f64 }
}

/// What became of the requests of one chunk of series.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Steps below this were answered 2xx.
    pub acked: u64,
    /// Steps below this may have left us.
    pub sent: u64,
}

/// One writer, over all starts of the server.
pub struct Writer {
    /// Its number.
    pub number: u64,
    /// By chunk.
    pub chunks: Vec<Progress>,
    /// Of each answered request.
    pub latencies_ms: Vec<f64>,
    /// Samples of requests that were refused for good.
    pub refused: u64,
    bodies: Vec<Body>,
}

impl Writer {
    /// Renders the bodies.
    pub fn new(number: u64) -> Writer {
        let bodies = (0..SERIES / CHUNK).map(|c| Body::new(number, c * CHUNK..(c + 1) * CHUNK)).collect::<Vec<_>>();
        Writer { number, chunks: vec![Progress::default(); bodies.len()], latencies_ms: Vec::new(), refused: 0, bodies }
    }

    /// Samples that were acknowledged.
    pub fn acked(&self) -> u64 {
        self.chunks.iter().map(|c| c.acked * CHUNK).sum()
    }

    /// Sends until it is told to stop or the server goes away; counts what was acknowledged.
    pub fn run(&mut self, port: u16, base_ms: i64, stop: &AtomicBool, acked: &AtomicU64) {
        // A server that goes away ends the round; what had no answer is sent again in the next.
        let _ = self.send_all(port, base_ms, stop, acked);
    }

    fn send_all(&mut self, port: u16, base_ms: i64, stop: &AtomicBool, acked: &AtomicU64) -> io::Result<()> {
        let mut connection = Connection::open(port)?;
        loop {
            for at in 0..self.bodies.len() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.send_one(&mut connection, at, base_ms)?;
                acked.fetch_add(CHUNK, Ordering::Relaxed);
            }
        }
    }

    fn send_one(&mut self, connection: &mut Connection, at: usize, base_ms: i64) -> io::Result<()> {
        let step = self.chunks[at].acked;
        self.chunks[at].sent = self.chunks[at].sent.max(step + 1);
        let ts_ms = base_ms + step as i64 * STEP_MS;
        let body = self.bodies[at].render(ts_ms, step)?;
        loop {
            let began = Instant::now();
            match connection.post("/api/v1/write", &body)? {
                200..300 => {
                    self.latencies_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
                    self.chunks[at].acked = step + 1;
                    return Ok(());
                }
                429 | 503 => std::thread::sleep(Duration::from_millis(20)),
                _ => {
                    self.refused += CHUNK;
                    return Err(io::Error::other("refused"));
                }
            }
        }
    }

    /// Sends the last acknowledged request of each chunk once more.
    pub fn repeat(&mut self, port: u16, base_ms: i64) -> io::Result<u64> {
        let mut connection = Connection::open(port)?;
        let mut samples = 0;
        for at in 0..self.bodies.len() {
            let Some(step) = self.chunks[at].acked.checked_sub(1) else { continue };
            let body = self.bodies[at].render(base_ms + step as i64 * STEP_MS, step)?;
            if (200..300).contains(&connection.post("/api/v1/write", &body)?) {
                samples += CHUNK;
            }
        }
        Ok(samples)
    }
}

/// A request of some series with one sample each, rendered once and patched.
struct Body {
    writer: u64,
    bytes: Vec<u8>,
    /// Where the eight bytes of each value begin, and its series; six bytes of time follow one byte behind.
    values: Vec<(usize, u64)>,
}

impl Body {
    fn new(writer: u64, series: Range<u64>) -> Body {
        let mut body = Body { writer, bytes: Vec::new(), values: Vec::new() };
        for n in series {
            let (series, owner) = (n.to_string(), writer.to_string());
            let host = format!("host-{:05}.example.net:9100", n / 800);
            let mut one = Vec::new();
            for (name, value) in [
                ("__name__", METRIC),
                ("instance", &host),
                ("job", SOURCE),
                ("mode", ["idle", "system", "user", "iowait"][n as usize / 3 % 4]),
                ("series", &series),
                ("writer", &owner),
            ] {
                let mut label = Vec::new();
                put_bytes(&mut label, 1, name.as_bytes());
                put_bytes(&mut label, 2, value.as_bytes());
                put_bytes(&mut one, 1, &label);
            }
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&[0; 8]);
            sample.push(2 << 3);
            sample.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
            put_bytes(&mut one, 2, &sample);
            put_bytes(&mut body.bytes, 1, &one);
            body.values.push((body.bytes.len() - TIME_BYTES - 1 - 8, n));
        }
        body
    }

    fn render(&mut self, ts_ms: i64, step: u64) -> io::Result<Vec<u8>> {
        let mut time = [0u8; TIME_BYTES];
        let mut rest = ts_ms as u64;
        for (at, byte) in time.iter_mut().enumerate() {
            *byte = (rest & 0x7f) as u8 | if at + 1 < TIME_BYTES { 0x80 } else { 0 };
            rest >>= 7;
        }
        for (at, series) in &self.values {
            let value = value_of(self.writer, *series, step).to_le_bytes();
            self.bytes[*at..at + 8].copy_from_slice(&value);
            self.bytes[at + 9..at + 9 + TIME_BYTES].copy_from_slice(&time);
        }
        snap::raw::Encoder::new().compress_vec(&self.bytes).map_err(io::Error::other)
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
}

/// An HTTP/1.1 connection that stays open.
struct Connection {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    port: u16,
}

impl Connection {
    fn open(port: u16) -> io::Result<Connection> {
        let writer = TcpStream::connect(("127.0.0.1", port))?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        writer.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Connection { reader: BufReader::new(writer.try_clone()?), writer, port })
    }

    /// Sends a write request; gives the status.
    fn post(&mut self, path: &str, body: &[u8]) -> io::Result<u16> {
        let head = format!(
            "POST {path}?source_id={SOURCE} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/x-protobuf\r\n\
             Content-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        self.writer.write_all(head.as_bytes())?;
        self.writer.write_all(body)?;
        let status = self.line()?.split_whitespace().nth(1).and_then(|s| s.parse().ok());
        let mut length = 0u64;
        loop {
            let line = self.line()?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        io::copy(&mut self.reader.by_ref().take(length), &mut io::sink())?;
        status.ok_or_else(|| io::Error::other("no status"))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.reader.by_ref().take(8 << 10).read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patched_body_says_time_and_value() {
        let mut body = Body::new(1, 0..3);
        let plain_len = body.bytes.len();
        let packed = body.render(1_700_000_000_123, 7).unwrap();
        let mut plain = vec![0; plain_len];
        assert_eq!(snap::raw::Decoder::new().decompress(&packed, &mut plain).unwrap(), plain_len);
        for (at, series) in &body.values {
            assert_eq!(plain[*at..at + 8], value_of(1, *series, 7).to_le_bytes());
            let time = &plain[at + 9..at + 15];
            let ms = time.iter().rev().fold(0u64, |ms, b| ms << 7 | u64::from(b & 0x7f));
            assert_eq!((plain[at + 8], ms), (2 << 3, 1_700_000_000_123));
        }
    }

    #[test]
    fn values_use_all_bits_and_are_never_nan() {
        let values: Vec<f64> = (0..2_000).map(|n| value_of(n % 2, n / 50 * 10, n)).collect();
        assert!(values.iter().all(|v| !v.is_nan()));
        assert!(values.iter().any(|v| v.is_infinite()) && values.iter().any(|v| v.is_subnormal()));
        assert!(values.iter().any(|v| v.to_bits() == (-0.0f64).to_bits()));
    }
}
