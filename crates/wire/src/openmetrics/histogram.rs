//! The rules within one histogram point: its buckets, count and sum.

use super::family::Member;
use crate::number::{Nanos, parse_go_float};

/// Checks the points of one family, one after the other.
#[derive(Default)]
pub(super) struct HistogramCheck {
    open: Option<Point>,
}

/// One point: all samples of one label set and time.
struct Point {
    group: Vec<u8>,
    at: Option<Nanos>,
    bound: Option<f64>,
    bucket: f64,
    count: Option<f64>,
    sum: Option<f64>,
    /// Whether `sum` is that of a gauge histogram, which may be negative.
    gauge: bool,
    has_negative_bucket: bool,
}

impl HistogramCheck {
    pub(super) fn add(
        &mut self,
        family: &str,
        group: &[u8],
        at: Option<Nanos>,
        member: &Member<'_>,
    ) -> Result<(), String> {
        if !self.open.as_ref().is_some_and(|point| point.group == group && point.at == at) {
            self.close(family)?;
        }
        self.open.get_or_insert_with(|| Point::new(group, at)).add(family, member)
    }

    pub(super) fn finish(mut self, family: &str) -> Result<(), String> {
        self.close(family)
    }

    fn close(&mut self, family: &str) -> Result<(), String> {
        match self.open.take().and_then(|point| point.fault()) {
            Some(fault) => Err(format!("histogram {family}: {fault}")),
            None => Ok(()),
        }
    }
}

impl Point {
    fn new(group: &[u8], at: Option<Nanos>) -> Point {
        Point {
            group: group.to_vec(),
            at,
            bound: None,
            bucket: 0.0,
            count: None,
            sum: None,
            gauge: false,
            has_negative_bucket: false,
        }
    }

    fn add(&mut self, family: &str, member: &Member<'_>) -> Result<(), String> {
        match member.suffix {
            "_bucket" => return self.add_bucket(family, member),
            "_count" | "_gcount" => self.count = Some(member.value),
            "_sum" | "_gsum" => {
                self.sum = Some(member.value);
                self.gauge = member.suffix == "_gsum";
            }
            _ => {}
        }
        Ok(())
    }

    fn add_bucket(&mut self, family: &str, member: &Member<'_>) -> Result<(), String> {
        let bound = member.labels.get("le").and_then(parse_go_float).unwrap_or(f64::NAN);
        if self.bound.is_some_and(|last| bound <= last) {
            return Err(format!("histogram {family}: the buckets are not in order of their bounds"));
        }
        if member.value < self.bucket {
            return Err(format!("histogram {family}: a bucket holds less than the one before, but they add up"));
        }
        self.has_negative_bucket |= bound < 0.0;
        self.bound = Some(bound);
        self.bucket = member.value;
        Ok(())
    }

    fn fault(&self) -> Option<&'static str> {
        if self.bound != Some(f64::INFINITY) {
            return Some("the +Inf bucket is missing");
        }
        if self.count.is_some_and(|count| count != self.bucket) {
            return Some("the count is not that of the +Inf bucket");
        }
        match (self.sum, self.count) {
            (Some(_), None) => Some("there is a sum but no count"),
            (None, Some(_)) => Some("there is a count but no sum"),
            (Some(_), _) if self.has_negative_bucket && !self.gauge => Some("there is a sum beside negative buckets"),
            (Some(sum), _) if sum < 0.0 && !self.has_negative_bucket => Some("the sum is negative, but no bucket is"),
            _ => None,
        }
    }
}
