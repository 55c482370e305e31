//! How good samples are: gaps, repetitions, what is no number, ends, series without a type.
//!
//! Stretches come in order of time, for each first the stale markers, then the samples. A gap is a step of more than one
//! and a half times the series' usual step without a stale marker in it; the usual step is the median of the first ones.
//! Limits: [`SERIES_MAX`] series.

use std::collections::HashMap;

use polars::prelude::{DataFrame, PolarsError, SortMultipleOptions};
use serde_json::{Value, json};

/// Series that are told apart.
const SERIES_MAX: usize = 2_000_000;
/// Steps from which the usual one is taken.
const FIRST_STEPS: usize = 15;

#[derive(Default)]
struct SeriesQuality {
    samples: u64,
    duplicates: u64,
    nan: u64,
    infinite: u64,
    stale: u64,
    gaps: u64,
    longest_gap_ms: i64,
    untyped: bool,
    last_ms: Option<i64>,
    /// Stale markers behind the last sample.
    ends: Vec<i64>,
    first_steps: Vec<(i64, i64)>,
    interval_ms: Option<i64>,
}

impl SeriesQuality {
    fn add(&mut self, ts_ms: i64, value: f64) {
        self.samples += 1;
        self.nan += u64::from(value.is_nan());
        self.infinite += u64::from(value.is_infinite());
        if let Some(last_ms) = self.last_ms {
            if ts_ms == last_ms {
                self.duplicates += 1;
                return;
            }
            if !self.ends.iter().any(|end| (last_ms..=ts_ms).contains(end)) {
                self.step(last_ms, ts_ms);
            }
        }
        self.ends.retain(|end| *end > ts_ms);
        self.last_ms = Some(ts_ms);
    }

    fn step(&mut self, from_ms: i64, to_ms: i64) {
        if let Some(interval_ms) = self.interval_ms {
            return self.judge(to_ms - from_ms, interval_ms);
        }
        self.first_steps.push((from_ms, to_ms));
        if self.first_steps.len() >= FIRST_STEPS {
            self.settle();
        }
    }

    fn judge(&mut self, step_ms: i64, interval_ms: i64) {
        if step_ms > interval_ms + interval_ms / 2 {
            self.gaps += 1;
            self.longest_gap_ms = self.longest_gap_ms.max(step_ms);
        }
    }

    /// Takes the usual step, and judges those that were seen before it was known.
    fn settle(&mut self) {
        let steps: Vec<i64> = std::mem::take(&mut self.first_steps).iter().map(|(from, to)| to - from).collect();
        let mut sorted = steps.clone();
        sorted.sort_unstable();
        let Some(median) = sorted.get((sorted.len().saturating_sub(1)) / 2).copied() else { return };
        self.interval_ms = Some(median);
        steps.into_iter().for_each(|step_ms| self.judge(step_ms, median));
    }

    fn badness(&self) -> (u64, u64, i64) {
        (self.duplicates + self.gaps, self.nan, self.longest_gap_ms)
    }
}

/// What is found.
#[derive(Default)]
pub struct Report {
    series: HashMap<String, SeriesQuality>,
}

impl Report {
    fn entry(&mut self, name: &str, labels: &str) -> Result<&mut SeriesQuality, String> {
        let key = format!("{name}{labels}");
        if self.series.len() >= SERIES_MAX && !self.series.contains_key(&key) {
            return Err(format!("more than {SERIES_MAX} series: name the metrics"));
        }
        Ok(self.series.entry(key).or_default())
    }

    /// Takes stale markers.
    pub fn note_stale(&mut self, table: &DataFrame) -> Result<(), String> {
        for (name, labels, ts_ms) in keys(table).map_err(|e| e.to_string())? {
            let series = self.entry(&name, &labels)?;
            series.stale += 1;
            series.ends.push(ts_ms);
        }
        Ok(())
    }

    /// Takes samples.
    pub fn add(&mut self, table: DataFrame) -> Result<(), String> {
        let text = |e: PolarsError| e.to_string();
        let by = ["metric_name", "labels", "timestamp"];
        let sorted = table.sort(by, SortMultipleOptions::default()).map_err(text)?;
        let values = sorted.column("value").and_then(|c| c.f64().cloned()).map_err(text)?;
        let types = sorted.column("metric_type").and_then(|c| c.str().cloned()).map_err(text)?;
        let rows = keys(&sorted).map_err(text)?.into_iter().zip(values.iter()).zip(types.iter());
        for (((name, labels, ts_ms), value), kind) in rows {
            let series = self.entry(&name, &labels)?;
            series.untyped = kind.is_none_or(|kind| kind == "CUSTOM");
            series.add(ts_ms, value.unwrap_or(f64::NAN));
        }
        Ok(())
    }

    /// Makes the report; the worst series come first, so many of them.
    pub fn finish(mut self, worst: usize) -> Value {
        self.series.values_mut().for_each(SeriesQuality::settle);
        let mut all: Vec<(&String, &SeriesQuality)> = self.series.iter().collect();
        all.sort_by(|a, b| b.1.badness().cmp(&a.1.badness()).then_with(|| a.0.cmp(b.0)));
        let sum = |get: fn(&SeriesQuality) -> u64| self.series.values().map(get).sum::<u64>();
        let bad = all.iter().filter(|(_, q)| q.badness() != (0, 0, 0)).take(worst);
        let worst: Vec<Value> = bad
            .map(|(name, q)| {
                json!({"series": name, "samples": q.samples, "duplicates": q.duplicates, "nan": q.nan, "stale": q.stale,
                    "interval_s": seconds(q.interval_ms.unwrap_or(0)), "gaps": q.gaps,
                    "longest_gap_s": seconds(q.longest_gap_ms)})
            })
            .collect();
        json!({
            "series": self.series.len(),
            "samples": sum(|q| q.samples),
            "duplicates": sum(|q| q.duplicates),
            "nan": sum(|q| q.nan),
            "infinite": sum(|q| q.infinite),
            "stale": sum(|q| q.stale),
            "gaps": sum(|q| q.gaps),
            "series_with_gaps": sum(|q| u64::from(q.gaps > 0)),
            "untyped_series": sum(|q| u64::from(q.untyped)),
            "worst": worst,
        })
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

type Key = (String, String, i64);

fn keys(table: &DataFrame) -> Result<Vec<Key>, PolarsError> {
    let (names, labels) = (table.column("metric_name")?.str()?, table.column("labels")?.str()?);
    let times = table.column("timestamp")?.i64()?;
    let rows = names.iter().zip(labels.iter()).zip(times.iter());
    Ok(rows
        .map(|((name, labels), ts_ms)| {
            (name.unwrap_or_default().to_owned(), labels.unwrap_or_default().to_owned(), ts_ms.unwrap_or_default())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::df;

    fn samples(times: &[i64], values: &[f64]) -> DataFrame {
        let n = times.len();
        df!("timestamp" => times, "metric_name" => vec!["m"; n], "labels" => vec!["{}"; n], "value" => values,
            "metric_type" => vec!["GAUGE"; n])
        .unwrap()
    }

    #[test]
    fn gaps_ends_repetitions_and_no_numbers_are_found() {
        let mut report = Report::default();
        // Every 10 s; from 200 s on nothing until 300 s, and again from 400 s after a stale marker.
        let first: Vec<i64> = (0..=20).chain(30..35).map(|n| n * 10_000).collect();
        let ones = vec![1.0; first.len()];
        report.add(samples(&first, &ones)).unwrap();
        let stale = df!("timestamp" => [350_000_i64], "metric_name" => ["m"], "labels" => ["{}"]).unwrap();
        report.note_stale(&stale).unwrap();
        report.add(samples(&[400_000, 410_000, 410_000], &[f64::NAN, f64::INFINITY, 1.0])).unwrap();
        let found = report.finish(5);
        let expected = json!({"series": 1, "samples": 29, "duplicates": 1, "nan": 1, "infinite": 1, "stale": 1, "gaps": 1,
            "series_with_gaps": 1, "untyped_series": 0, "worst": [{"series": "m{}", "samples": 29, "duplicates": 1, "nan": 1,
            "stale": 1, "interval_s": 10.0, "gaps": 1, "longest_gap_s": 100.0}]});
        assert_eq!(found, expected);
    }

    #[test]
    fn few_samples_are_judged_at_the_end() {
        let mut report = Report::default();
        report.add(samples(&[0, 1_000, 2_000, 9_000], &[0.0; 4])).unwrap();
        let found = report.finish(0);
        assert_eq!((&found["gaps"], &found["worst"]), (&json!(1), &json!([])));
    }
}
