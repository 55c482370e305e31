//! Answers to queries as Prometheus writes them, straight into a buffer.

use std::time::Duration;

use promql::{QueryResult, QueryStats, Value};

use super::{histogram_json, json};

/// The warning of an answer that `limit` cut.
pub const TRUNCATED: &str = "results truncated due to limit";
/// Warnings, and infos, that an answer shows.
const ANNOTATIONS_MAX: usize = 10;
/// What a written point takes, about: saves growing the buffer many times.
const POINT_BYTES: usize = 28;
const SERIES_BYTES: usize = 160;

/// How long a query took; for `stats`.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// Until it was its turn.
    pub queued: Duration,
    /// From there to the value.
    pub evaluated: Duration,
}

/// Writes the whole answer; a vector or matrix is cut to `limit` series, with a warning.
pub fn success(mut result: QueryResult, limit: Option<usize>, timings: Option<Timings>) -> Vec<u8> {
    if cut(&mut result.value, limit) {
        result.warnings.push(TRUNCATED.to_owned());
    }
    cut_annotations(&mut result.warnings, "warning");
    cut_annotations(&mut result.infos, "info");
    let mut data = Vec::with_capacity(size_of_value(&result.value));
    data.extend_from_slice(b"{\"resultType\":\"");
    data.extend_from_slice(kind(&result.value).as_bytes());
    data.extend_from_slice(b"\",\"result\":");
    write_value(&mut data, &result.value);
    if let Some(timings) = timings {
        data.extend_from_slice(b",\"stats\":");
        write_stats(&mut data, timings, &result.stats);
    }
    data.push(b'}');
    json::success(&data, &result.warnings, &result.infos)
}

fn cut(value: &mut Value, limit: Option<usize>) -> bool {
    let Some(limit) = limit else { return false };
    let len = match value {
        Value::Vector(samples) => {
            let len = samples.len();
            samples.truncate(limit);
            len
        }
        Value::Matrix(series) => {
            let len = series.len();
            series.truncate(limit);
            len
        }
        _ => 0,
    };
    len > limit
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Scalar { .. } => "scalar",
        Value::String { .. } => "string",
        Value::Vector(_) => "vector",
        Value::Matrix(_) => "matrix",
    }
}

/// Gives about how many bytes a value takes when it is written.
pub fn size_of_value(value: &Value) -> usize {
    64 + match value {
        Value::Vector(samples) => samples.len() * (SERIES_BYTES + POINT_BYTES),
        Value::Matrix(series) => series.iter().map(|s| SERIES_BYTES + s.samples.len() * POINT_BYTES).sum(),
        _ => 0,
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Scalar { ts_ms, value } => json::point(out, *ts_ms, *value),
        Value::String { ts_ms, value } => {
            out.push(b'[');
            json::timestamp(out, *ts_ms);
            out.push(b',');
            json::string(out, value);
            out.push(b']');
        }
        Value::Vector(samples) => json::list(out, samples, |out, sample| {
            out.extend_from_slice(b"{\"metric\":");
            json::labels(out, &sample.labels);
            match &sample.histogram {
                Some(histogram) => {
                    out.extend_from_slice(b",\"histogram\":");
                    histogram_json::point(out, sample.ts_ms, histogram);
                }
                None => {
                    out.extend_from_slice(b",\"value\":");
                    json::point(out, sample.ts_ms, sample.value);
                }
            }
            out.push(b'}');
        }),
        Value::Matrix(series) => json::list(out, series, |out, series| {
            out.extend_from_slice(b"{\"metric\":");
            json::labels(out, &series.labels);
            let points = series.samples.ts_ms.iter().zip(&series.samples.values);
            if points.len() > 0 {
                out.extend_from_slice(b",\"values\":");
                json::list(out, points, |out, (ts_ms, value)| json::point(out, *ts_ms, *value));
            }
            if !series.samples.histograms.is_empty() {
                out.extend_from_slice(b",\"histograms\":");
                let points = &series.samples.histograms;
                json::list(out, points, |out, (ts_ms, histogram)| histogram_json::point(out, *ts_ms, histogram));
            }
            out.push(b'}');
        }),
    }
}

fn write_stats(out: &mut Vec<u8>, timings: Timings, stats: &QueryStats) {
    let evaluated = timings.evaluated.as_secs_f64();
    let queued = timings.queued.as_secs_f64();
    let fields = [
        ("evalTotalTime", evaluated),
        ("resultSortTime", 0.0),
        ("queryPreparationTime", 0.0),
        ("innerEvalTime", evaluated),
        ("execQueueTime", queued),
        ("execTotalTime", queued + evaluated),
    ];
    out.extend_from_slice(b"{\"timings\":{");
    for (i, (name, seconds)) in fields.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json::string(out, name);
        out.push(b':');
        json::float(out, seconds);
    }
    let QueryStats { total_queryable_samples, peak_samples, .. } = stats;
    let samples = format!(
        "}},\"samples\":{{\"totalQueryableSamples\":{total_queryable_samples},\"peakSamples\":{peak_samples}}}}}"
    );
    out.extend_from_slice(samples.as_bytes());
}

/// Keeps the first annotations and says how many more there are, as Prometheus does.
fn cut_annotations(list: &mut Vec<String>, kind: &str) {
    let more = list.len().saturating_sub(ANNOTATIONS_MAX);
    if more > 0 {
        list.truncate(ANNOTATIONS_MAX);
        list.push(format!("{more} more {kind} annotations omitted"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_annotations_are_shown() {
        let mut list: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        cut_annotations(&mut list, "info");
        assert_eq!((list.len(), list[9].as_str(), list[10].as_str()), (11, "9", "2 more info annotations omitted"));
        list.truncate(10);
        cut_annotations(&mut list, "info");
        assert_eq!(list.len(), 10);
    }
}
