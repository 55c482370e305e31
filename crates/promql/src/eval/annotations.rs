//! Warnings and infos that come with an answer.

use std::collections::BTreeMap;

use crate::ast::Span;
use crate::go_text::{general, general_digits, quote, rfc3339};

/// How serious a note is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Severity {
    Warning,
    Info,
}

/// What is counted up over all occurrences of a note.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Forced {
    lowest_bucket: f64,
    highest_bucket: f64,
    max_diff: f64,
    samples: u64,
    first_ms: i64,
    last_ms: i64,
}

#[derive(Clone, PartialEq, Debug)]
struct Note {
    severity: Severity,
    start: u32,
    forced: Option<Forced>,
}

/// The notes of one query; each text stands once.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Annotations(BTreeMap<String, Note>);

/// How many notes of a kind are kept; a query over many metrics could make one for each.
const MAX_NOTES: usize = 1000;

impl Annotations {
    fn add(&mut self, severity: Severity, text: String, at: Span) {
        if self.0.len() >= MAX_NOTES && !self.0.contains_key(&text) {
            return;
        }
        self.0.insert(text, Note { severity, start: at.start, forced: None });
    }

    pub(super) fn invalid_quantile(&mut self, q: f64, at: Span) {
        let text = format!("PromQL warning: quantile value should be between 0 and 1, got {}", general(q));
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn invalid_ratio(&mut self, ratio: f64, cap: f64, at: Span) {
        let text = format!(
            "PromQL warning: ratio value should be between -1 and 1, got {}, capping to {}",
            general(ratio),
            general(cap)
        );
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn bad_bucket_label(&mut self, metric: &str, value: &str, at: Span) {
        let text = format!(
            "PromQL warning: bucket label \"le\" is missing or has a malformed value of {}{}",
            quote(value),
            for_metric(metric)
        );
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn possible_non_counter(&mut self, metric: &str, at: Span) {
        let text = format!(
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {}",
            quote(metric)
        );
        self.add(Severity::Info, text, at);
    }

    pub(super) fn incompatible_types(&mut self, left: &str, op: &str, right: &str, at: Span) {
        let text = format!(
            "PromQL info: incompatible sample types encountered for binary operator {}: {left} {op} {right}",
            quote(op)
        );
        self.add(Severity::Info, text, at);
    }

    pub(super) fn mixed_range(&mut self, metric: &str, at: Span) {
        let metric = quote(metric);
        let text = format!("PromQL warning: encountered a mix of histograms and floats for metric name {metric}");
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn mixed_aggregation(&mut self, at: Span) {
        let text = "PromQL warning: encountered a mix of histograms and floats for aggregation";
        self.add(Severity::Warning, text.to_owned(), at);
    }

    pub(super) fn mixed_classic_native(&mut self, metric: &str, at: Span) {
        let metric = for_metric(metric);
        let text = format!("PromQL warning: vector contains a mix of classic and native histograms{metric}");
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn not_counter(&mut self, metric: &str, at: Span) {
        let text = format!("PromQL warning: this native histogram metric is not a counter: {}", quote(metric));
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn not_gauge(&mut self, metric: &str, at: Span) {
        let text = format!("PromQL warning: this native histogram metric is not a gauge: {}", quote(metric));
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn mixed_schemas(&mut self, metric: &str, at: Span) {
        let text = format!(
            "PromQL warning: vector contains a mix of histograms with exponential and custom buckets schemas for metric name {}",
            quote(metric)
        );
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn incompatible_layout(&mut self, op: &str, at: Span) {
        let text = format!("PromQL warning: incompatible bucket layout encountered for binary operator {op}");
        self.add(Severity::Warning, text, at);
    }

    /// `during` is `addition`, `subtraction` or `aggregation`.
    pub(super) fn conflicting_resets(&mut self, during: &str, at: Span) {
        let text = format!("PromQL warning: conflicting counter resets during histogram {during}");
        self.add(Severity::Warning, text, at);
    }

    /// `during` is `addition`, `subtraction` or `aggregation`.
    pub(super) fn reconciled_buckets(&mut self, during: &str, at: Span) {
        let text = format!("PromQL info: mismatched custom buckets were reconciled during {during}");
        self.add(Severity::Info, text, at);
    }

    pub(super) fn sort_in_range(&mut self, at: Span) {
        let text = "PromQL warning: sort is ineffective for range queries since results are always ordered by labels";
        self.add(Severity::Warning, text.to_owned(), at);
    }

    pub(super) fn overlapping_starts(&mut self, metric: &str, at: Span) {
        let text =
            format!("PromQL warning: start timestamps lie before earlier samples for metric name {}", quote(metric));
        self.add(Severity::Warning, text, at);
    }

    pub(super) fn ignored_in_aggregation(&mut self, aggregation: &str, at: Span) {
        let text = format!("PromQL info: ignored histogram in {aggregation} aggregation");
        self.add(Severity::Info, text, at);
    }

    pub(super) fn ignored_in_range(&mut self, metric: &str, at: Span) {
        let text = format!(
            "PromQL info: ignored histograms in a range containing both floats and histograms for metric name {}",
            quote(metric)
        );
        self.add(Severity::Info, text, at);
    }

    /// `effect` says what NaN observations did.
    pub(super) fn nan_observations(&mut self, function: &str, effect: &str, metric: &str, at: Span) {
        let metric = for_metric(metric);
        let text = format!("PromQL info: input to {function} has NaN observations, {effect}{metric}");
        self.add(Severity::Info, text, at);
    }

    /// Buckets from `lowest` to `highest` had to be raised by at most `max_diff`.
    pub(super) fn forced_monotonicity(
        &mut self,
        metric: &str,
        at: Span,
        ts_ms: i64,
        (lowest, highest, max_diff): (f64, f64, f64),
    ) {
        let text = format!(
            "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){}",
            for_metric(metric)
        );
        let mut forced = Forced {
            lowest_bucket: lowest,
            highest_bucket: highest,
            max_diff,
            samples: 1,
            first_ms: ts_ms,
            last_ms: ts_ms,
        };
        if let Some(before) = self.0.get(&text).and_then(|note| note.forced) {
            forced.lowest_bucket = forced.lowest_bucket.min(before.lowest_bucket);
            forced.highest_bucket = forced.highest_bucket.max(before.highest_bucket);
            forced.max_diff = forced.max_diff.max(before.max_diff);
            forced.samples += before.samples;
            forced.first_ms = forced.first_ms.min(before.first_ms);
            forced.last_ms = forced.last_ms.max(before.last_ms);
        } else if self.0.len() >= MAX_NOTES {
            return;
        }
        self.0.insert(text, Note { severity: Severity::Info, start: at.start, forced: Some(forced) });
    }

    /// Gives warnings and infos with their places in the query; without its text it counts as one line.
    pub(super) fn texts(&self, query: Option<&str>) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (Vec::new(), Vec::new());
        for (text, note) in &self.0 {
            let mut line = text.clone();
            if let Some(forced) = &note.forced {
                line += &forced.text();
            }
            line += &place(query, note.start as usize);
            match note.severity {
                Severity::Warning => warnings.push(line),
                Severity::Info => infos.push(line),
            }
        }
        (warnings, infos)
    }
}

impl Forced {
    fn text(&self) -> String {
        format!(
            ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
            general(self.lowest_bucket),
            general(self.highest_bucket),
            general_digits(self.max_diff, 2),
            self.samples,
            rfc3339(self.first_ms),
            rfc3339(self.last_ms)
        )
    }
}

fn for_metric(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" for metric name {}", quote(name)) }
}

fn place(query: Option<&str>, start: usize) -> String {
    let before = query.and_then(|query| query.as_bytes().get(..start));
    let (line, line_start) = before.map_or((1, 0), |before| {
        let breaks = before.iter().filter(|b| **b == b'\n').count();
        (breaks + 1, before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1))
    });
    format!(" ({line}:{})", start - line_start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_stand_once_and_know_their_place() {
        let mut notes = Annotations::default();
        notes.possible_non_counter("up", Span { start: 7, end: 9 });
        notes.possible_non_counter("up", Span { start: 7, end: 9 });
        notes.invalid_quantile(1e7, Span::default());
        let (warnings, infos) = notes.texts(Some("sum(\n  up)"));
        assert_eq!(warnings, ["PromQL warning: quantile value should be between 0 and 1, got 1e+07 (1:1)"]);
        let text =
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"up\"";
        assert_eq!(infos, [format!("{text} (2:3)")]);
        assert_eq!(notes.texts(None).1, [format!("{text} (1:8)")]);
    }

    #[test]
    fn monotonicity_counts_up() {
        let mut notes = Annotations::default();
        notes.forced_monotonicity("h", Span::default(), 0, (2.5, 10.0, 0.25));
        notes.forced_monotonicity("h", Span::default(), 60_000, (1.0, 100.0, 0.123));
        let infos = notes.texts(None).1;
        let tail = "for metric name \"h\", from buckets 1 to 100, with a max diff of 0.25, over 2 samples from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (1:1)";
        assert!(infos[0].ends_with(tail), "{infos:?}");
    }
}
