//! The formats that collectors read.

use model::{Batch, Origin};
use serde_json::Value;
use wire::Format;

use super::text::to_text;
use crate::lines::influx_to_batch;
use crate::rest::fields::Issues;
use crate::rest::metric::MetricRows;

/// Values of one body of lines.
const VALUES_MAX: usize = 1_000_000;

/// What a program prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Prometheus' text format.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// A list as `POST /api/v1/metrics/custom` takes it.
    Json,
    /// InfluxDB's line protocol, times in nanoseconds.
    Influx,
}

impl Output {
    /// All formats with their words.
    pub const WORDS: [(&'static str, Output); 4] = [
        ("text", Output::Text),
        ("openmetrics", Output::OpenMetrics),
        ("json", Output::Json),
        ("influx", Output::Influx),
    ];

    /// Turns a body into an exposition.
    pub fn read(self, body: Vec<u8>, scrape_ms: i64) -> Result<(Format, Vec<u8>), String> {
        match self {
            Output::Text => Ok((Format::Text, body)),
            Output::OpenMetrics => Ok((Format::OpenMetrics, body)),
            Output::Json => Ok((Format::Text, to_text(&json_to_batch(&body, scrape_ms)?, scrape_ms))),
            Output::Influx => Ok((Format::Text, to_text(&influx_to_batch(&body, scrape_ms, VALUES_MAX)?, scrape_ms))),
        }
    }
}

fn json_to_batch(body: &[u8], scrape_ms: i64) -> Result<Batch, String> {
    let list: Vec<Value> = serde_json::from_slice(body).map_err(|e| format!("not a list in JSON: {e}"))?;
    let mut issues = Issues::new(true);
    let mut rows = MetricRows::new(Batch::new(Origin::default()), "", scrape_ms);
    for (index, value) in (0u32..).zip(&list) {
        rows.add(index, value, &mut issues);
    }
    match issues.into_result() {
        Ok(()) => Ok(rows.batch),
        Err(problem) => {
            let first = problem.errors.first().map(|e| format!("{}: {}", e.pointer, e.detail)).unwrap_or_default();
            Err(if first.is_empty() { problem.detail.clone() } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: Output, body: &str) -> Result<String, String> {
        output.read(body.as_bytes().to_vec(), 5_000).map(|(_, text)| String::from_utf8(text).unwrap())
    }

    #[test]
    fn lists_and_lines_become_expositions() {
        let body = r#"[{"name": "jobs", "metric_type": "GAUGE", "value": 3, "labels": {"queue": "a\"b"}},
                       {"name": "done_total", "metric_type": "COUNTER", "value": 1.5, "timestamp": 4}]"#;
        assert_eq!(
            read(Output::Json, body).unwrap(),
            "# TYPE jobs gauge\njobs{queue=\"a\\\"b\"} 3\n# TYPE done_total counter\ndone_total 1.5 4000\n"
        );
        assert!(read(Output::Json, r#"[{"name": 7}]"#).is_err_and(|e| e.contains("/0/name")));
        assert!(read(Output::Json, "{}").is_err());
        assert_eq!(
            read(Output::Influx, "disk,host=h used=1,free=2\n").unwrap(),
            "disk_used{host=\"h\"} 1\ndisk_free{host=\"h\"} 2\n"
        );
        assert!(read(Output::Influx, "no\n").is_err_and(|e| e.contains('1')));
    }
}
