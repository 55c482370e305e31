//! `quiver.telemetry`: where the server's own traces and metrics go, over OTLP. Nowhere unless told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use collect::HttpSettings;
use url::Url;

use super::fields::{Fields, Problems};
use super::http_client;
use super::sinks::read_url;
use super::yaml::Node;

const QUEUE_MAX: u64 = 1 << 20;
/// More often than that is a load, no measurement.
const INTERVAL_MS_MIN: i64 = 1_000;

/// Where they go.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TelemetrySettings {
    /// `traces`
    pub traces: Option<TraceSettings>,
    /// `metrics`
    pub metrics: Option<MetricSettings>,
}

/// A receiver of OTLP over HTTP.
#[derive(Clone, PartialEq, Debug)]
pub struct Receiver {
    /// The whole URL, such as `http://collector:4318/v1/traces`.
    pub url: Url,
    /// TLS, authentication, headers.
    pub http: Arc<HttpSettings>,
    /// For one request.
    pub timeout: Duration,
}

/// Spans on their way out.
#[derive(Clone, PartialEq, Debug)]
pub struct TraceSettings {
    /// Where to.
    pub to: Receiver,
    /// Which part of the traces that begin here goes out; whoever brings a trace along decides for himself.
    pub sampling_fraction: f64,
    /// Spans that wait; more are dropped, and counted.
    pub queue: usize,
}

/// Metrics on their way out.
#[derive(Clone, PartialEq, Debug)]
pub struct MetricSettings {
    /// Where to.
    pub to: Receiver,
    /// How often.
    pub interval: Duration,
}

/// Reads the value of `telemetry`.
pub fn read(node: &Node, dir: &Path, problems: &mut Problems) -> TelemetrySettings {
    let mut fields = Fields::open(node, "quiver.telemetry", problems);
    let traces = fields.get("traces").and_then(|node| read_traces(node, dir, problems));
    let metrics = fields.get("metrics").and_then(|node| read_metrics(node, dir, problems));
    fields.finish(problems);
    TelemetrySettings { traces, metrics }
}

fn read_traces(node: &Node, dir: &Path, problems: &mut Problems) -> Option<TraceSettings> {
    let mut fields = Fields::open(node, "quiver.telemetry.traces", problems);
    let part = |text: &str| match text.parse::<f64>() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        _ => Err(format!("{text:?} is not a number from 0 to 1")),
    };
    let sampling_fraction = fields.parsed("sampling_fraction", problems, part).unwrap_or(0.1);
    let queue = fields.uint("queue_size", problems).unwrap_or(4_096).clamp(1, QUEUE_MAX) as usize;
    let to = read_receiver(&mut fields, dir, problems);
    fields.finish(problems);
    Some(TraceSettings { to: to?, sampling_fraction, queue })
}

fn read_metrics(node: &Node, dir: &Path, problems: &mut Problems) -> Option<MetricSettings> {
    let mut fields = Fields::open(node, "quiver.telemetry.metrics", problems);
    let ms = fields.duration_ms("interval", problems).unwrap_or(60_000);
    if ms < INTERVAL_MS_MIN {
        problems.error(fields.place_of("interval"), "interval must be at least 1s");
    }
    let to = read_receiver(&mut fields, dir, problems);
    fields.finish(problems);
    Some(MetricSettings { to: to?, interval: Duration::from_millis(ms.max(INTERVAL_MS_MIN).unsigned_abs()) })
}

fn read_receiver(fields: &mut Fields<'_>, dir: &Path, problems: &mut Problems) -> Option<Receiver> {
    let url = read_url(fields, problems);
    let ms = fields.duration_ms("timeout", problems).filter(|ms| *ms > 0).unwrap_or(10_000);
    let options = http_client::read(fields, dir, problems);
    match HttpSettings::new(options) {
        Ok(http) => {
            Some(Receiver { url: url?, http: Arc::new(http), timeout: Duration::from_millis(ms.unsigned_abs()) })
        }
        Err(error) => {
            problems.error(fields.at(), format!("{error} for {}", fields.what()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    #[test]
    fn receivers_are_read_and_what_is_wrong_has_its_place() {
        let text = "quiver:\n  telemetry:\n    traces: {url: 'http://c:4318/v1/traces', sampling_fraction: 0.5, queue_size: 9}\n    \
                    metrics: {url: 'http://c:4318/v1/metrics', interval: 5s, timeout: 2s, basic_auth: {username: u, password: p}}\n";
        let settings = load_text(text, Path::new("c.yml"), false).unwrap().settings.telemetry;
        let traces = settings.traces.unwrap();
        assert_eq!(
            (traces.to.url.as_str(), traces.sampling_fraction, traces.queue),
            ("http://c:4318/v1/traces", 0.5, 9)
        );
        let metrics = settings.metrics.unwrap();
        assert_eq!((metrics.interval, metrics.to.timeout), (Duration::from_secs(5), Duration::from_secs(2)));
        for (section, reason) in [
            ("traces: {}", "url for quiver.telemetry.traces is empty"),
            ("traces: {url: 'http://c', sampling_fraction: 2}", "is not a number from 0 to 1"),
            ("metrics: {url: 'http://c', interval: 1ms}", "interval must be at least 1s"),
            ("trace: {url: 'http://c'}", "did you mean \"traces\"?"),
        ] {
            let text = format!("quiver:\n  telemetry:\n    {section}\n");
            let error = load_text(&text, Path::new("c.yml"), false).unwrap_err().to_string();
            assert!(error.contains(reason), "{section}: {error}");
        }
    }
}
