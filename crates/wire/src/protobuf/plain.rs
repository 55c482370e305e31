//! A known metric in the shape that nearly all have: labels first, then a number, nothing else. Compared and read in place.

use model::MetricType;

use super::key;
use super::metric::value_field;
use crate::points::Role;
use crate::scrape::{Reading, Value};

const METRIC_TAG: u8 = 4 << 3 | 2;
const DOUBLE_TAG: u8 = 1 << 3 | 1;
/// A number message holds a tag and eight bytes.
const NUMBER_LEN: u8 = 9;

/// Reads the metric that `rest` starts with if it is the one of the key; gives it with its length in bytes.
///
/// **Gives** `None` for every other shape, which the general reader then sees.
#[inline]
pub(super) fn read(rest: &[u8], key: &[u8], name: &str, metric_type: MetricType) -> Option<(Reading, usize)> {
    let labels = key::plain_labels(key, name)?;
    let [METRIC_TAG, low, after @ ..] = rest else { return None };
    let (len, start) = match (*low, after.first()) {
        (low @ 0..0x80, _) => (usize::from(low), 2),
        (low, Some(high @ 0..0x80)) => (usize::from(low & 0x7f) | usize::from(*high) << 7, 3),
        _ => return None,
    };
    let metric = rest.get(start..start + len)?;
    let ([tag, NUMBER_LEN, DOUBLE_TAG], bits) = metric.strip_prefix(labels)?.split_first_chunk::<3>()? else {
        return None;
    };
    let is_number = matches!(metric_type, MetricType::Counter | MetricType::Gauge | MetricType::Unknown);
    if !is_number || u32::from(*tag) != value_field(metric_type) << 3 | 2 {
        return None;
    }
    let value = Value::Float(f64::from_bits(u64::from_le_bytes(bits.try_into().ok()?)));
    Some((Reading { value, ts_ms: None, start_ms: None, role: Some(Role::Point) }, start + len))
}
