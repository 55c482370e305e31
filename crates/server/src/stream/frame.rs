//! One frame of a stream: a line of JSON, and what became of it.
//!
//! A frame is `{"seq": 7, "metrics": [Metric, ...]}` or one Metric, which may have a `seq` of its own. Frames without a number get
//! the next one: then nothing tells a retry from a new frame but the times of its samples.

use std::collections::BTreeMap;
use std::ops::Range;

use model::{
    Batch, BatchExemplar, BatchSample, LABEL_NAME, NO_FAMILY, Origin, Refusal, SeriesIndex, TypeCounts, Verdict,
};
use serde::Serialize;
use serde_json::Value;

use crate::rest::body;
use crate::rest::custom::{IngestionResult, Rejection, RejectionExample};
use crate::rest::fields::{Fields, Issues, Severity};
use crate::rest::metric::MetricRows;
use crate::rest::problem::Problem;

/// Metrics of one frame.
const METRICS_MAX: usize = 100_000;

/// A line that was read.
pub struct Frame {
    /// Its number, if it has one.
    pub seq: Option<u64>,
    /// Its rows, or why they are not taken.
    pub rows: Result<MetricRows, Problem>,
}

impl Frame {
    /// Reads a line.
    pub fn read(line: &[u8], origin: &Origin, now_ms: i64, strict: bool) -> Frame {
        let value = match body::parse(line) {
            Ok(value) => value,
            Err(problem) => return Frame { seq: None, rows: Err(problem) },
        };
        let seq = value.get("seq").and_then(Value::as_u64);
        let rows = rows_of(value, origin, now_ms, strict);
        Frame { seq, rows }
    }
}

/// Reads the rows of a line that is not part of a stream; the error is a sentence.
pub fn read_rows(line: &[u8], origin: &Origin, now_ms: i64) -> Result<MetricRows, String> {
    let shown = |problem: Problem| match problem.errors.first() {
        Some(error) if !error.pointer.is_empty() => format!("{}: {}", error.pointer, problem.detail),
        _ => problem.detail.clone(),
    };
    let value = body::parse(line).map_err(shown)?;
    rows_of(value, origin, now_ms, true).map_err(shown)
}

fn rows_of(mut value: Value, origin: &Origin, now_ms: i64, strict: bool) -> Result<MetricRows, Problem> {
    let mut issues = Issues::new(strict);
    let mut rows = MetricRows::new(Batch::new(origin.clone()), &origin.source_id, now_ms);
    if let Some(seq) = value.get("seq").filter(|seq| seq.as_u64().is_none_or(|n| n == 0)) {
        let detail = format!("seq is a whole number from 1 on, not {}", crate::rest::fields::kind(seq));
        issues.add(Severity::Malformed, "/seq", "wrong_type", detail);
    }
    if value.get("metrics").is_some() {
        let Some(mut f) = Fields::open(&value, "", &mut issues) else { return Ok(rows) };
        f.value("seq");
        let metrics = f.array("metrics").cloned().unwrap_or_default();
        f.finish();
        if metrics.len() > METRICS_MAX {
            let detail = format!("metrics: at most {METRICS_MAX} in one frame");
            issues.add(Severity::Refused, "/metrics", "too_long", detail);
        } else {
            metrics.iter().enumerate().for_each(|(i, metric)| rows.add(i as u32, metric, &mut issues));
        }
    } else {
        if let Some(map) = value.as_object_mut() {
            map.remove("seq");
        }
        rows.add(0, &value, &mut issues);
    }
    issues.into_result()?;
    Ok(rows)
}

/// The place of a frame's samples in the batch of its group.
pub struct Part {
    /// Which samples.
    pub samples: Range<usize>,
    /// The element of each.
    elements: Vec<u32>,
}

/// Puts the rows of a frame behind those of the frames before it.
pub fn join(group: &mut Batch, points: &mut TypeCounts, rows: MetricRows) -> Part {
    let MetricRows { batch, element_of_sample, points: more, .. } = rows;
    let (families, series, first) = (group.families.len() as u32, group.series.len() as u32, group.samples.len());
    group.families.extend(batch.families.iter().cloned());
    for (i, one) in batch.series.iter().enumerate() {
        let family = if one.family == NO_FAMILY { NO_FAMILY } else { one.family + families };
        let bytes = batch.label_bytes(SeriesIndex(i as u32));
        group.push_encoded(family, |arena| {
            arena.extend_from_slice(bytes);
            true
        });
    }
    let moved = |index: SeriesIndex| SeriesIndex(index.0 + series);
    let samples = batch.samples.iter().map(|s| BatchSample { series: moved(s.series), ..*s });
    group.samples.extend(samples);
    group.verdicts.extend_from_slice(&batch.verdicts);
    group.start_timestamps.extend(batch.start_timestamps.iter().map(|(index, ms)| (moved(*index), *ms)));
    let exemplars = batch.exemplars.into_iter();
    group.exemplars.extend(exemplars.map(|e| BatchExemplar { series: moved(e.series), ..e }));
    points.counters += more.counters;
    points.gauges += more.gauges;
    points.histograms += more.histograms;
    points.summaries += more.summaries;
    points.others += more.others;
    Part { samples: first..group.samples.len(), elements: element_of_sample }
}

/// The answer to a frame.
#[derive(Serialize, Debug)]
pub struct Ack {
    /// The frame's number.
    pub ack: u64,
    /// The frame was stored before; its samples are not stored again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
    /// What became of it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub result: Option<IngestionResult>,
    /// Why nothing of it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

impl Part {
    /// Tells what became of the frame's samples.
    pub fn result(&self, batch: &Batch, common: &IngestionResult) -> IngestionResult {
        let verdicts = batch.verdicts.get(self.samples.clone()).unwrap_or_default();
        let mut result = IngestionResult { received: verdicts.len() as u64, new_series: 0, ..common.clone() };
        let mut refused: BTreeMap<Refusal, (u64, usize)> = BTreeMap::new();
        for (i, verdict) in verdicts.iter().enumerate() {
            match verdict {
                Verdict::Stored => result.accepted += 1,
                Verdict::Duplicate => result.duplicates += 1,
                Verdict::Filtered => result.filtered += 1,
                Verdict::Refused(reason) => {
                    result.rejected += 1;
                    refused.entry(*reason).or_insert((0, i)).0 += 1;
                }
                Verdict::Pending => {}
            }
        }
        result.status = match (result.rejected, result.received) {
            (0, _) => "ACCEPTED",
            (rejected, received) if rejected == received => "REJECTED",
            _ => "PARTIAL",
        }
        .to_owned();
        let show = |(reason, (count, first)): (Refusal, (u64, usize))| {
            let labels = batch.samples.get(self.samples.start + first).and_then(|s| batch.labels(s.series));
            let labels = labels.unwrap_or_default();
            Rejection {
                reason: reason.as_str().to_owned(),
                count,
                first_index: self.elements.get(first).copied().unwrap_or_default().into(),
                example: RejectionExample {
                    name: labels.metric_name().to_owned(),
                    labels: labels
                        .iter()
                        .filter(|(n, _)| *n != LABEL_NAME)
                        .map(|(n, v)| (n.to_owned(), v.to_owned()))
                        .collect(),
                },
                detail: batch.advice.clone().filter(|_| reason == Refusal::SeriesLimit),
            }
        };
        result.rejections = refused.into_iter().map(show).collect();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(line: &str) -> Frame {
        let origin = Origin { source_id: "s".into(), ..Origin::default() };
        Frame::read(line.as_bytes(), &origin, 1_000, true)
    }

    #[test]
    fn frames_are_read_in_both_shapes() {
        let many = frame(
            r#"{"seq":7,"metrics":[{"name":"a","metric_type":"GAUGE","value":1},{"name":"b","metric_type":"COUNTER","value":2,"timestamp":1}]}"#,
        );
        assert_eq!(many.seq, Some(7));
        assert_eq!(many.rows.unwrap_or_else(|e| panic!("{e:?}")).batch.samples.len(), 2);
        let one = frame(r#"{"seq":8,"name":"a","metric_type":"GAUGE","value":1}"#);
        assert_eq!((one.seq, one.rows.map(|r| r.batch.samples.len()).unwrap_or(0)), (Some(8), 1));
        assert_eq!(frame(r#"{"name":"a","metric_type":"GAUGE","value":1}"#).seq, None);
        for (bad, pointer) in [
            ("nonsense", ""),
            (r#"{"seq":0,"metrics":[]}"#, "/seq"),
            (r#"{"seq":1,"metrics":[],"more":1}"#, "/more"),
            (r#"{"seq":1,"metrics":{}}"#, "/metrics"),
            (r#"{"seq":1,"metrics":[{"name":"a"}]}"#, "/0/metric_type"),
        ] {
            let problem = frame(bad).rows.err().unwrap_or_else(|| panic!("{bad}"));
            assert!(problem.errors.iter().any(|e| e.pointer == pointer), "{bad}: {problem:?}");
        }
    }

    #[test]
    fn frames_share_a_batch_and_keep_their_counts() {
        let (mut group, mut points) = (Batch::default(), TypeCounts::default());
        let lines = [
            r#"{"seq":1,"metrics":[{"name":"a","metric_type":"GAUGE","value":1,"help_text":"h"}]}"#,
            r#"{"seq":2,"metrics":[{"name":"b","metric_type":"SUMMARY","summary":{"count":1,"sum":2,"quantiles":[[0.5,1]]}},{"name":"9","metric_type":"GAUGE","value":1}]}"#,
        ];
        let parts: Vec<Part> = lines
            .iter()
            .map(|l| join(&mut group, &mut points, frame(l).rows.unwrap_or_else(|e| panic!("{e:?}"))))
            .collect();
        assert_eq!((points.gauges, points.summaries, group.families.len()), (2, 1, 3));
        assert_eq!((parts[0].samples.clone(), parts[1].samples.clone()), (0..1, 1..5));
        let names: Vec<_> =
            group.samples.iter().map(|s| group.labels(s.series).unwrap_or_default().metric_name().to_owned()).collect();
        assert_eq!(names, ["a", "b", "b_sum", "b_count", "9"]);
        group.verdicts.iter_mut().filter(|v| **v == Verdict::Pending).for_each(|v| *v = Verdict::Stored);
        let common: IngestionResult = super::super::session::blank_result("r", "n");
        let second = parts[1].result(&group, &common);
        assert_eq!((second.status.as_str(), second.accepted, second.rejected), ("PARTIAL", 3, 1));
        assert_eq!((second.rejections[0].reason.as_str(), second.rejections[0].first_index), ("invalid_name", 1));
        assert_eq!(parts[0].result(&group, &common).status, "ACCEPTED");
    }
}
