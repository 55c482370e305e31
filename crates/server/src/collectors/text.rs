//! A batch as Prometheus' text format: what collectors make goes the way of every scrape.

use std::fmt::Write as _;

use model::{
    Batch, LABEL_NAME, Labels, MetricType, NO_FAMILY, SeriesIndex, Verdict, is_legacy_label_name, is_legacy_metric_name,
};

/// Writes the undecided samples of a batch; those of the scrape's time get none.
pub(super) fn to_text(batch: &Batch, scrape_ms: i64) -> Vec<u8> {
    let mut out = String::new();
    let mut family = NO_FAMILY;
    for (sample, verdict) in batch.samples.iter().zip(&batch.verdicts) {
        let Some(labels) = batch.labels(sample.series).filter(|_| *verdict == Verdict::Pending) else { continue };
        let of = batch.series.get(sample.series.0 as usize).map_or(NO_FAMILY, |s| s.family);
        if of != family {
            family = of;
            write_type(&mut out, batch, sample.series, &labels);
        }
        write_series(&mut out, &labels);
        // A String takes every write.
        let _ = match sample.ts_ms == scrape_ms {
            true => writeln!(out, " {}", number(sample.value)),
            false => writeln!(out, " {} {}", number(sample.value), sample.ts_ms),
        };
    }
    out.into_bytes()
}

fn write_type(out: &mut String, batch: &Batch, series: SeriesIndex, labels: &Labels) {
    let of = batch.series.get(series.0 as usize).map_or(NO_FAMILY, |s| s.family);
    let Some(family) = batch.families.get(of as usize) else { return };
    let word = match family.metric_type {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        MetricType::Summary => "summary",
        _ => "untyped",
    };
    // The text format has counters under the name of their series.
    let name = if family.metric_type == MetricType::Counter { labels.metric_name() } else { &family.name };
    if is_legacy_metric_name(name) {
        let _ = writeln!(out, "# TYPE {name} {word}");
    }
}

fn write_series(out: &mut String, labels: &Labels) {
    let name = labels.metric_name();
    let bare = is_legacy_metric_name(name);
    let mut parts = Vec::new();
    if bare {
        out.push_str(name);
    } else {
        parts.push(quoted(name));
    }
    for (label, value) in labels.iter().filter(|(label, _)| *label != LABEL_NAME) {
        let label = if is_legacy_label_name(label) { label.to_owned() } else { quoted(label) };
        parts.push(format!("{label}={}", quoted(value)));
    }
    if !parts.is_empty() {
        out.push('{');
        out.push_str(&parts.join(","));
        out.push('}');
    }
}

/// Quotes a text as the exposition formats do.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}
