//! The probe: one series whose values are watched from outside, from the last byte sent to the first answer that shows them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::measure::now_ms;
use crate::remote_body::RemoteBody;
use crate::server::{Server, number_of};

/// Between two samples of the probe.
const PERIOD: Duration = Duration::from_millis(100);
/// First wait between two questions; it grows, so that a slow server is not asked to death.
const ASK_AGAIN: Duration = Duration::from_millis(1);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(50);
/// A sample that nobody sees for so long counts with this.
const GIVE_UP: Duration = Duration::from_secs(30);
/// The headers of a remote-write request.
pub const WRITE_HEADERS: &str = "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
                                 X-Prometheus-Remote-Write-Version: 0.1.0\r\n";

/// Writes the probe by remote write and watches it until told to stop; gives the delays in milliseconds.
pub fn by_remote_write(server: &Server, stop: &AtomicBool) -> Result<Vec<f64>, String> {
    if !server.kind.answers_promql() {
        return Ok(Vec::new());
    }
    let labels = vec![("__name__", "bench_probe".to_owned()), ("job", "probe".to_owned())];
    let mut body = RemoteBody::of(std::iter::once((0, labels)), now_ms());
    let (mut writer, mut asker) = (server.client()?, server.client()?);
    let (mut delays, mut step) = (Vec::new(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        step += 1;
        let bytes = body.render(now_ms(), step);
        let answer = writer.request("POST", server.kind.write_path(), WRITE_HEADERS, bytes);
        let answer = answer.map_err(|e| format!("the probe cannot be written: {e}"))?;
        if answer.is_good() {
            let wanted = crate::payload::value(0, step);
            delays.push(watch(&mut asker, "bench_probe", wanted, answer.sent_at, stop)?);
        }
        std::thread::sleep(PERIOD.saturating_sub(begin.elapsed()));
    }
    Ok(delays)
}

/// Asks until a value is there or a later one; gives milliseconds since it was sent.
fn watch(client: &mut Client, query: &str, wanted: f64, sent_at: Instant, stop: &AtomicBool) -> Result<f64, String> {
    let mut pause = ASK_AGAIN;
    loop {
        let found = number_of(client, query)?;
        let waited = sent_at.elapsed();
        if found >= wanted || waited > GIVE_UP || (stop.load(Ordering::Relaxed) && waited > Duration::from_secs(2)) {
            return Ok(waited.as_secs_f64() * 1000.0);
        }
        std::thread::sleep(pause);
        pause = (pause * 5 / 4).min(ASK_AGAIN_MAX);
    }
}

/// What a scraped target has served and nobody has seen yet.
#[derive(Default)]
pub struct Served(Mutex<Option<(f64, Instant)>>);

impl Served {
    /// Notes that a value was served; one that waits already stays.
    pub fn note(&self, value: f64) {
        if let Ok(mut waiting) = self.0.lock() {
            waiting.get_or_insert((value, Instant::now()));
        }
    }

    fn take(&self) -> Option<(f64, Instant)> {
        self.0.lock().ok()?.take()
    }
}

/// Watches a scraped probe until told to stop; gives the delays in milliseconds.
pub fn by_scrape(server: &Server, served: &Served, stop: &AtomicBool) -> Result<Vec<f64>, String> {
    let mut client = server.client()?;
    let mut delays = Vec::new();
    // What was served before anybody watched says nothing.
    served.take();
    while !stop.load(Ordering::Relaxed) {
        match served.take() {
            Some((value, at)) => delays.push(watch(&mut client, "max(bench_probe)", value, at, stop)?),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    Ok(delays)
}
