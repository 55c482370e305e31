//! Compares what a server has with what was sent to it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::child::Child;
use super::load::{CHUNK, METRIC, Progress, SOURCE, STEP_MS, value_of};
use crate::Failure;

/// Series of each writer that are compared value by value; the others are counted.
const COMPARED: u64 = 20;
/// How long blocks and scrubber may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was sent, and what of it was acknowledged.
pub struct Book {
    pub base_ms: i64,
    /// By writer: its number and its chunks.
    pub chunks: Vec<(u64, Vec<Progress>)>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    pub acknowledged: u64,
    pub lost: u64,
    /// Found more than once, or never sent.
    pub surplus: u64,
    /// Found with another value, or at another time.
    pub altered: u64,
    /// Values compared bit by bit.
    pub compared: u64,
    /// Steps found, by writer and chunk.
    pub found: Vec<Vec<u64>>,
}

impl Verdict {
    /// Tells whether everything acknowledged is there, once and as it was.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.surplus == 0 && self.altered == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged: {} lost, {} too many, {} altered",
            self.acknowledged, self.lost, self.surplus, self.altered
        )
    }
}

impl Book {
    fn end_ms(&self) -> i64 {
        let steps = self.chunks.iter().flat_map(|c| &c.1).map(|c| c.sent).max().unwrap_or(0);
        self.base_ms + steps as i64 * STEP_MS
    }

    /// A range that reaches over the whole load.
    fn range(&self) -> String {
        format!("[{}ms]", self.end_ms() - self.base_ms + 60_000)
    }

    /// Counts the samples of every series and compares those of some.
    pub fn judge(&self, server: &Child) -> Result<Verdict, Failure> {
        let mut verdict = Verdict::default();
        for (writer, chunks) in &self.chunks {
            let expr = format!("count_over_time({METRIC}{{writer=\"{writer}\"}}{})", self.range());
            let counts = counts_by_series(&server.query(&expr, self.end_ms())?);
            let mut steps = Vec::with_capacity(chunks.len());
            for (n, chunk) in chunks.iter().enumerate() {
                steps.push(self.chunk(n as u64, chunk, &counts, &mut verdict));
            }
            verdict.found.push(steps);
            self.compare(server, *writer, &mut verdict)?;
        }
        Ok(verdict)
    }

    /// Judges one chunk by the counts of its series; gives how many steps all of them have.
    fn chunk(&self, n: u64, chunk: &Progress, counts: &BTreeMap<u64, u64>, verdict: &mut Verdict) -> u64 {
        let mut least = u64::MAX;
        for series in n * CHUNK..(n + 1) * CHUNK {
            let found = counts.get(&series).copied().unwrap_or(0);
            verdict.lost += chunk.acked.saturating_sub(found);
            verdict.surplus += found.saturating_sub(chunk.sent);
            least = least.min(found);
        }
        verdict.acknowledged += chunk.acked * CHUNK;
        least
    }

    /// Compares every sample of some series, bit by bit.
    fn compare(&self, server: &Child, writer: u64, verdict: &mut Verdict) -> Result<(), Failure> {
        let wanted: Vec<String> = (0..COMPARED).map(|n| (n * 997).to_string()).collect();
        let expr = format!("{METRIC}{{writer=\"{writer}\",series=~\"{}\"}}{}", wanted.join("|"), self.range());
        let result = server.query(&expr, self.end_ms())?;
        for one in result.as_array().into_iter().flatten() {
            let Some(series) = number(&one["metric"]["series"]) else { continue };
            for (step, pair) in (0..).zip(one["values"].as_array().into_iter().flatten()) {
                verdict.compared += 1;
                verdict.altered += u64::from(!self.is_right(writer, series, step, pair));
            }
        }
        Ok(())
    }

    /// Steps follow one another without a hole, so the place in the answer tells the step.
    fn is_right(&self, writer: u64, series: u64, step: u64, pair: &Value) -> bool {
        let ts_ms = pair[0].as_f64().map(|s| (s * 1_000.0).round() as i64);
        let value: Option<f64> = pair[1].as_str().and_then(|v| v.replace("Inf", "inf").parse().ok());
        ts_ms == Some(self.base_ms + step as i64 * STEP_MS)
            && value.map(f64::to_bits) == Some(value_of(writer, series, step).to_bits())
    }
}

fn counts_by_series(result: &Value) -> BTreeMap<u64, u64> {
    let one = |s: &Value| {
        let count: f64 = s["value"][1].as_str()?.parse().ok()?;
        Some((number(&s["metric"]["series"])?, count as u64))
    };
    result.as_array().into_iter().flatten().filter_map(one).collect()
}

fn number(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}

/// Waits until the load has gone into blocks, as it does some seconds after a start; tells whether it has.
pub fn wait_for_blocks(server: &Child, samples: u64) -> Result<bool, Failure> {
    let began = Instant::now();
    while server.metric("quiver_block_samples")? < samples as f64 {
        if began.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(true)
}

/// Reads all blocks again; gives whether all is well, and a sentence.
pub fn scrub(server: &Child) -> Result<(bool, String), Failure> {
    let began = Instant::now();
    let mut before = server.json("/api/v1/metrics/integrity")?["scrub"].take();
    // One that runs in the background has to be through first.
    while before["running"] == true && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
        before = server.json("/api/v1/metrics/integrity")?["scrub"].take();
    }
    server.post("/api/v1/metrics/integrity/scrub")?;
    loop {
        let report = server.json("/api/v1/metrics/integrity")?;
        let scrub = &report["scrub"];
        if scrub["running"] == false && !scrub["last_pass"].is_null() && scrub["last_pass"] != before["last_pass"] {
            let damaged = scrub["stretches_damaged"].as_u64().unwrap_or(u64::MAX);
            return Ok((
                damaged == 0 && scrub["blocks"].as_u64().is_some_and(|n| n > 0),
                format!("{} blocks, {} bytes, {damaged} damaged", scrub["blocks"], scrub["bytes"]),
            ));
        }
        if began.elapsed() > PATIENCE {
            return Ok((false, "the scrubber did not come to an end".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Reads the ledger; gives whether it balances and knows all that was acknowledged, and a sentence.
pub fn ledger(server: &Child, acked: u64) -> Result<(bool, String), Failure> {
    let report = server.json(&format!("/api/v1/metrics/integrity?source_id={SOURCE}"))?;
    let all = &report["targets"][0]["lifetime"];
    let n = |key: &str| all[key].as_u64().unwrap_or(0);
    let adds_up = n("received") == n("accepted") + n("duplicates") + n("filtered") + n("rejected");
    let good = report["balanced"] == true && adds_up && n("accepted") >= acked;
    let seen = format!(
        "{} received = {} accepted + {} duplicates + {} filtered + {} rejected",
        n("received"),
        n("accepted"),
        n("duplicates"),
        n("filtered"),
        n("rejected")
    );
    Ok((good, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn losses_surplus_and_changes_are_seen() {
        let chunk = Progress { acked: 3, sent: 4 };
        let book = Book { base_ms: 0, chunks: vec![(0, vec![chunk])] };
        let mut counts: BTreeMap<u64, u64> = (0..CHUNK).map(|s| (s, 4)).collect();
        let mut verdict = Verdict::default();
        assert_eq!(book.chunk(0, &chunk, &counts, &mut verdict), 4);
        assert!(verdict.is_clean() && verdict.acknowledged == 3 * CHUNK);
        counts.insert(7, 1);
        counts.insert(8, 6);
        assert_eq!(book.chunk(0, &chunk, &counts, &mut verdict), 1);
        assert_eq!((verdict.lost, verdict.surplus), (2, 2));
        let text = value_of(0, 10, 3).to_string();
        assert!(book.is_right(0, 10, 3, &json!([45.0, text])));
        assert!(!book.is_right(0, 10, 3, &json!([45.0, "1"])) && !book.is_right(0, 10, 4, &json!([45.0, text])));
        assert!(book.is_right(0, 10, 2, &json!([30.0, "+Inf"])) && book.is_right(0, 10, 0, &json!([0.0, "-0"])));
    }
}
