//! A rate that may not be exceeded.

use std::time::Instant;

use parking_lot::Mutex;

/// Fills with time up to a second's worth; taking empties it, below zero when much is taken at once, so that the debt is waited for.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// Starts full.
    pub fn new(per_second: f64) -> Bucket {
        Bucket { per_second, level: Mutex::new((per_second.max(1.0), Instant::now())) }
    }

    /// Takes so much.
    ///
    /// **Errors** with the seconds to wait, and takes nothing, while the bucket is empty.
    pub fn take(&self, amount: f64) -> Result<(), f64> {
        self.take_at(amount, Instant::now())
    }

    fn take_at(&self, amount: f64, now: Instant) -> Result<(), f64> {
        let mut level = self.level.lock();
        let (left, since) = *level;
        let filled = left + now.saturating_duration_since(since).as_secs_f64() * self.per_second;
        let left = filled.min(self.per_second.max(1.0));
        // Of requests one must be there; of samples anything, for a request brings many.
        let wanted = amount.min(1.0);
        if left < wanted {
            *level = (left, now);
            return Err((wanted - left) / self.per_second);
        }
        *level = (left - amount, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_of_a_second_then_the_rate_and_debts_are_waited_for() {
        let (bucket, begin) = (Bucket::new(10.0), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        let taken = (0..20).filter(|_| bucket.take_at(1.0, at(1)).is_ok()).count();
        assert_eq!(taken, 10);
        assert!(bucket.take_at(1.0, at(51)).is_err_and(|wait| (0.01..0.1).contains(&wait)));
        assert!(bucket.take_at(1.0, at(151)).is_ok());
        // A request of 100 samples is let through once, and its debt keeps the next one out for ten seconds.
        assert!(bucket.take_at(100.0, at(2_000)).is_ok());
        assert!(bucket.take_at(1.0, at(10_000)).is_err());
        assert!(bucket.take_at(1.0, at(11_200)).is_ok());
    }
}
