//! What was sent and what was acknowledged, and the comparison with what the server answers.

use std::collections::BTreeMap;

use crate::report::Summary;
use crate::server::Server;

pub const SERIES: u64 = 20;
pub const POSITIONS_PER_BATCH: u64 = 10;
pub const STEP_MS: i64 = 10;
/// Positions asked for at once.
const POSITIONS_PER_QUERY: u64 = 3_000;

/// How a writer sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    RemoteWrite,
    Json,
}

/// What one writer knows: positions below `acked` were answered 2xx, those below `sent` left us.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub way: Way,
    pub acked: u64,
    pub sent: u64,
    /// Positions below are checked.
    checked: u64,
}

/// All writers, and the last push.
#[derive(Clone, Debug)]
pub struct Book {
    pub base_ms: i64,
    pub writers: Vec<Progress>,
    /// The last push that was answered 2xx, and the last that left us.
    pub pushed: (u64, u64),
}

/// The value that writer, series and position stand for: any finite double, all bits used.
pub fn value_of(writer: u64, series: u64, position: u64) -> f64 {
    let mut x = (writer << 40) ^ (series << 32) ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = f64::from_bits(x ^ (x >> 29));
    if value.is_finite() { value } else { position as f64 }
}

impl Book {
    pub fn new(base_ms: i64) -> Book {
        let writer = |way| Progress { way, acked: 0, sent: 0, checked: 0 };
        Book { base_ms, writers: [Way::RemoteWrite, Way::RemoteWrite, Way::Json].map(writer).to_vec(), pushed: (0, 0) }
    }

    pub fn acknowledged(&self) -> u64 {
        self.writers.iter().map(|w| w.acked * SERIES).sum()
    }

    /// Checks what came since the last check, and that the last push is there.
    pub fn check_new(&mut self, server: &Server, summary: &mut Summary) -> Result<(), String> {
        for writer in 0..self.writers.len() {
            let at = self.writers[writer];
            self.check(server, writer, at.checked, summary)?;
            self.writers[writer].checked = at.acked;
        }
        let (acked, sent) = self.pushed;
        let shown = server.number("soak_push").unwrap_or(-1.0);
        if acked > 0 && !(acked as f64 <= shown && shown <= sent as f64) {
            summary.complain(format!("pushes up to {acked} were acknowledged, {shown} is shown"));
        }
        Ok(())
    }

    /// Checks everything from the beginning.
    pub fn check_all(&self, server: &Server, summary: &mut Summary) -> Result<(), String> {
        summary.acknowledged = self.acknowledged();
        summary.found = 0;
        for writer in 0..self.writers.len() {
            summary.found += self.check(server, writer, 0, summary)?;
        }
        Ok(())
    }

    /// Compares one writer's positions from one on; gives how many acknowledged samples were found.
    fn check(&self, server: &Server, writer: usize, from: u64, summary: &mut Summary) -> Result<u64, String> {
        let at = self.writers[writer];
        let mut good = 0;
        let mut start = from;
        while start < at.sent {
            let end = (start + POSITIONS_PER_QUERY).min(at.sent);
            let last_ms = self.base_ms + (end as i64 - 1) * STEP_MS;
            let range_ms = (end - start) as i64 * STEP_MS;
            // The window is left-open: it begins one millisecond before the first position.
            let expr = format!("soak{{writer=\"{writer}\"}}[{}ms]", range_ms - STEP_MS + 1);
            let result = server.query(&expr, Some(last_ms))?;
            let mut rows: BTreeMap<u64, &Vec<serde_json::Value>> = BTreeMap::new();
            for series in result.as_array().into_iter().flatten() {
                let number = series["metric"]["series"].as_str().and_then(|n| n.parse().ok());
                if let (Some(number), Some(values)) = (number, series["values"].as_array())
                    && rows.insert(number, values).is_some()
                {
                    summary.doubled += values.len() as u64;
                }
            }
            for series in 0..SERIES {
                let empty = Vec::new();
                let values = rows.get(&series).copied().unwrap_or(&empty);
                good += self.compare(writer as u64, series, start..end, values, summary);
            }
            start = end;
        }
        Ok(good)
    }

    fn compare(
        &self,
        writer: u64,
        series: u64,
        positions: std::ops::Range<u64>,
        values: &[serde_json::Value],
        summary: &mut Summary,
    ) -> u64 {
        let mut found: BTreeMap<i64, f64> = BTreeMap::new();
        for pair in values {
            let ts_ms = (pair[0].as_f64().unwrap_or(0.0) * 1000.0).round() as i64;
            let value = pair[1].as_str().and_then(|v| v.parse().ok()).unwrap_or(f64::NAN);
            if found.insert(ts_ms, value).is_some() {
                summary.doubled += 1;
            }
        }
        let (acked, mut good) = (self.writers[writer as usize].acked, 0);
        for position in positions {
            let wanted = value_of(writer, series, position);
            match found.remove(&(self.base_ms + position as i64 * STEP_MS)) {
                Some(value) if value.to_bits() == wanted.to_bits() => good += u64::from(position < acked),
                Some(value) => {
                    summary.altered += 1;
                    summary
                        .complain(format!("writer {writer} series {series} position {position}: {value} for {wanted}"));
                }
                None if position < acked => {
                    summary.lost += 1;
                    summary.complain(format!("writer {writer} series {series} position {position} is lost"));
                }
                None => {}
            }
        }
        for ts_ms in found.keys() {
            summary.altered += 1;
            summary.complain(format!("writer {writer} series {series}: a sample at {ts_ms} was never sent"));
        }
        good
    }
}
