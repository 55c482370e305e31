//! The rule within one point of a counter: what it counts is there.

use crate::number::Nanos;

/// Checks the points of one family, one after the other.
#[derive(Default)]
pub(super) struct CounterCheck {
    open: Option<Point>,
}

/// One point: all samples of one label set and time.
struct Point {
    group: Vec<u8>,
    at: Option<Nanos>,
    has_total: bool,
}

impl CounterCheck {
    pub(super) fn add(&mut self, family: &str, group: &[u8], at: Option<Nanos>, suffix: &str) -> Result<(), String> {
        if !self.open.as_ref().is_some_and(|point| point.group == group && point.at == at) {
            self.close(family)?;
        }
        let point = self.open.get_or_insert_with(|| Point { group: group.to_vec(), at, has_total: false });
        point.has_total |= suffix == "_total";
        Ok(())
    }

    pub(super) fn finish(mut self, family: &str) -> Result<(), String> {
        self.close(family)
    }

    fn close(&mut self, family: &str) -> Result<(), String> {
        match self.open.take() {
            Some(Point { has_total: false, .. }) => Err(format!("counter {family}: there is no {family}_total")),
            _ => Ok(()),
        }
    }
}
