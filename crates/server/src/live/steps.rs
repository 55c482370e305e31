//! The matrix of a range query, cut into the answers of its steps.

use promql::MatrixSeries;

use crate::prom::{histogram_json, json};

/// Gives step after step; each must be later than the one before.
pub struct Steps {
    series: Vec<MatrixSeries>,
    /// Where in each series' values and histograms the next step stands.
    places: Vec<(usize, usize)>,
    bytes_max: usize,
}

impl Steps {
    /// Takes a matrix and the bytes that one step may have.
    pub fn new(series: Vec<MatrixSeries>, bytes_max: usize) -> Steps {
        let places = vec![(0, 0); series.len()];
        Steps { series, places, bytes_max }
    }

    /// Writes the members of a step's answer: a vector as the query API has it, or that it is too large.
    pub fn at(&mut self, ts_ms: i64) -> Vec<u8> {
        let mut out = b"\"resultType\":\"vector\",\"result\":[".to_vec();
        let mut is_first = true;
        for (series, (value, histogram)) in self.series.iter().zip(&mut self.places) {
            let samples = &series.samples;
            while samples.ts_ms.get(*value).is_some_and(|t| *t < ts_ms) {
                *value += 1;
            }
            while samples.histograms.get(*histogram).is_some_and(|h| h.0 < ts_ms) {
                *histogram += 1;
            }
            let number = samples.ts_ms.get(*value).filter(|t| **t == ts_ms).and_then(|_| samples.values.get(*value));
            let buckets = samples.histograms.get(*histogram).filter(|h| h.0 == ts_ms);
            if number.is_none() && buckets.is_none() {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"metric\":");
            json::labels(&mut out, &series.labels);
            match (number, buckets) {
                (Some(number), _) => {
                    out.extend_from_slice(b",\"value\":");
                    json::point(&mut out, ts_ms, *number);
                }
                (None, Some((_, buckets))) => {
                    out.extend_from_slice(b",\"histogram\":");
                    histogram_json::point(&mut out, ts_ms, buckets);
                }
                (None, None) => {}
            }
            out.push(b'}');
            if out.len() > self.bytes_max {
                return failed(&format!(
                    "the answer of one step has more than {} bytes: aggregate, or select fewer series",
                    self.bytes_max
                ));
            }
        }
        out.push(b']');
        out
    }
}

/// Writes the members of a step that has no answer.
pub fn failed(why: &str) -> Vec<u8> {
    let mut out = b"\"error\":".to_vec();
    json::string(&mut out, why);
    out
}
