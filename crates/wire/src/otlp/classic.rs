//! The data point of a histogram whose bounds are written out.

use model::histogram::{BUCKETS_MAX, BucketSpan, CUSTOM_SCHEMA, Histogram};

use crate::native::{Refused, check_whole, exact_count};

/// A histogram point with its bounds written out.
#[derive(Default)]
pub(super) struct Classic {
    pub(super) count: u64,
    pub(super) sum: Option<f64>,
    pub(super) counts: Vec<u64>,
    pub(super) bounds: Vec<f64>,
    too_many: bool,
}

impl Classic {
    pub(super) fn push_count(&mut self, count: u64) {
        match self.counts.len() < BUCKETS_MAX {
            true => self.counts.push(count),
            false => self.too_many = true,
        }
    }

    pub(super) fn push_bound(&mut self, bound: f64) {
        match self.bounds.len() < BUCKETS_MAX {
            true => self.bounds.push(bound),
            false => self.too_many = true,
        }
    }

    /// Checks that bounds and counts go together.
    ///
    /// **Errors** with the reason when they do not.
    pub(super) fn check(&self) -> Result<(), Refused> {
        if self.too_many {
            return Err(format!("more than {BUCKETS_MAX} buckets").into());
        }
        if !self.counts.is_empty() && self.counts.len() != self.bounds.len() + 1 {
            return Err(format!("{} bounds do not go with {} counts", self.bounds.len(), self.counts.len()).into());
        }
        let rises = self.bounds.windows(2).all(|w| w[0] < w[1]) && self.bounds.iter().all(|b| b.is_finite());
        if rises { Ok(()) } else { Err("the bounds do not rise, or are not finite".into()) }
    }

    /// Makes a native histogram with custom bounds.
    pub(super) fn to_native(&self) -> Result<Histogram, Refused> {
        let counts: Vec<f64> = self.counts.iter().map(|count| exact_count(*count)).collect::<Result<_, _>>()?;
        let length = counts.len() as u32;
        let histogram = Histogram {
            schema: CUSTOM_SCHEMA,
            count: exact_count(self.count)?,
            sum: self.sum.unwrap_or(0.0),
            positive_spans: if length > 0 { vec![BucketSpan { offset: 0, length }] } else { Vec::new() },
            positive: counts,
            custom_bounds: self.bounds.clone(),
            ..Histogram::default()
        };
        check_whole(&histogram)?;
        Ok(histogram)
    }
}
