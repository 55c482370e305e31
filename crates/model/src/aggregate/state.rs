//! The sums as bytes: what a start goes on from.
//!
//! The bytes may be older than what is stored: the sums of the store are a floor, and what children rose by meanwhile is added
//! when they come again.

use std::sync::Arc;

use super::members::{Member, Use};
use super::{Aggregator, CHILDREN_MAX, Group, How};
use crate::filter::Function;
use crate::histogram::Histogram;
use crate::labels::Labels;

const VERSION: u8 = 1;

impl Aggregator {
    /// Appends the state; [`Aggregator::decode`] reads it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put(out, self.groups.len() as u64);
        for group in &self.groups {
            put(out, group.labels.as_bytes().len() as u64);
            out.extend_from_slice(group.labels.as_bytes());
            out.push(how_byte(group.how));
            put(out, group.total.to_bits());
            put(out, group.last_ms as u64);
            put_histogram(out, group.base.as_deref());
        }
        put(out, self.by_key.len() as u64);
        for member in self.members.iter().filter(|m| !m.forgotten) {
            put(out, member.key);
            put(out, u64::from(member.group));
            out.push(u8::from(member.last.is_some()));
            put(out, member.last.unwrap_or_default().to_bits());
            put(out, member.last_ms as u64);
            put_histogram(out, member.histogram.as_deref());
        }
    }

    /// Reads what [`Aggregator::encode`] wrote; `None` when it is something else.
    pub fn decode(mut bytes: &[u8]) -> Option<Aggregator> {
        let rest = &mut bytes;
        if byte(rest)? != VERSION {
            return None;
        }
        let mut out = Aggregator::default();
        for at in 0..take(rest)? {
            let length = usize::try_from(take(rest)?).ok()?;
            let (labels, behind) = rest.split_at_checked(length)?;
            *rest = behind;
            let labels = Labels::from_bytes(labels)?;
            let how = how_of(byte(rest)?)?;
            let total = f64::from_bits(take(rest)?);
            let last_ms = take(rest)? as i64;
            let base = take_histogram(rest)?;
            out.by_labels.insert((labels.clone(), how.is_native()), u32::try_from(at).ok()?);
            out.groups.push(Group { total, last_ms, base, ..Group::new(labels, how) });
        }
        let children = take(rest)?;
        if children > CHILDREN_MAX as u64 {
            return None;
        }
        for at in 0..children as u32 {
            let (key, group) = (take(rest)?, u32::try_from(take(rest)?).ok()?);
            let has_last = byte(rest)? == 1;
            let last = Some(f64::from_bits(take(rest)?)).filter(|_| has_last);
            let last_ms = take(rest)? as i64;
            let histogram = take_histogram(rest)?;
            out.groups.get_mut(group as usize)?.members.push(at);
            out.by_key.insert(key, at).is_none().then_some(())?;
            let place = (out.groups[group as usize].members.len() - 1) as u32;
            let usage = Use::default();
            out.members.push(Member { place, last, histogram, last_ms, usage, ..Member::new(key, group, last_ms) });
        }
        rest.is_empty().then_some(out)
    }
}

fn how_byte(how: How) -> u8 {
    match how {
        How::Cumulative => 0,
        How::Gauge(Function::Sum) => 1,
        How::Gauge(Function::Avg) => 2,
        How::Gauge(Function::Max) => 3,
        How::Gauge(Function::Min) => 4,
        How::Histogram => 5,
        How::GaugeHistogram => 6,
    }
}

fn how_of(byte: u8) -> Option<How> {
    Some(match byte {
        0 => How::Cumulative,
        1 => How::Gauge(Function::Sum),
        2 => How::Gauge(Function::Avg),
        3 => How::Gauge(Function::Max),
        4 => How::Gauge(Function::Min),
        5 => How::Histogram,
        6 => How::GaugeHistogram,
        _ => return None,
    })
}

fn put(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn put_histogram(out: &mut Vec<u8>, histogram: Option<&Histogram>) {
    out.push(u8::from(histogram.is_some()));
    if let Some(histogram) = histogram {
        histogram.encode(out);
    }
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    Some(*first)
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let (head, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_le_bytes(*head))
}

/// The outer `None` is damage, the inner one no histogram.
#[allow(clippy::option_option)]
fn take_histogram(rest: &mut &[u8]) -> Option<Option<Arc<Histogram>>> {
    if byte(rest)? == 0 {
        return Some(None);
    }
    let (histogram, length) = Histogram::decode(rest)?;
    *rest = rest.get(length..)?;
    Some(Some(Arc::new(histogram)))
}
