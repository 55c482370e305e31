//! What the store knows of a series: the state of an earlier life.

use model::{Labels, Matcher, Samples, Select, TimeRange, is_stale};

use super::table::Known;

/// How far back is looked: a counter that rested longer begins anew, as any counter may.
const LOOKBACK_MS: i64 = 24 * 3_600_000;

/// Gives the last value or histogram of each series.
///
/// **Errors** when the store cannot be read: then nothing is known, and nothing may be written that would be a reset.
pub fn last_known(select: &dyn Select, series: &[Labels], now_ms: i64) -> Result<Vec<Known>, model::SelectError> {
    let range = TimeRange { start_ms: now_ms.saturating_sub(LOOKBACK_MS), end_ms: now_ms };
    series.iter().map(|labels| last_of(select, labels, range)).collect()
}

fn last_of(select: &dyn Select, labels: &Labels, range: TimeRange) -> Result<Known, model::SelectError> {
    let matchers: Vec<Matcher> = labels.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
    for reader in select.select(&matchers, range)? {
        // Others may have these labels and more.
        if reader.labels() != labels {
            continue;
        }
        let mut samples = Samples::default();
        reader.read(range, &mut samples)?;
        let value = samples.ts_ms.iter().zip(&samples.values).rev().find(|(_, v)| !is_stale(**v));
        return Ok(match (value, samples.histograms.last()) {
            (Some((at, value)), Some((ts_ms, _))) if at > ts_ms => Known::Value(*value),
            (_, Some((_, histogram))) => Known::Histogram(histogram.clone()),
            (Some((_, value)), None) => Known::Value(*value),
            (None, None) => Known::Nothing,
        });
    }
    Ok(Known::Nothing)
}
