//! Sums that keep what rounding loses (Kahan and Neumaier).

/// A sum and its correction.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Kahan {
    /// The sum so far, without the correction.
    pub sum: f64,
    /// What rounding lost.
    pub lost: f64,
}

impl Kahan {
    /// Adds a value.
    #[inline]
    pub(super) fn add(self, value: f64) -> Kahan {
        let sum = self.sum + value;
        let lost = if sum.is_infinite() {
            0.0
        } else if self.sum.abs() >= value.abs() {
            self.lost + ((self.sum - sum) + value)
        } else {
            self.lost + ((value - sum) + self.sum)
        };
        Kahan { sum, lost }
    }

    /// Multiplies both parts.
    #[inline]
    pub(super) fn scale(self, factor: f64) -> Kahan {
        Kahan { sum: self.sum * factor, lost: self.lost * factor }
    }

    /// Gives the corrected sum.
    #[inline]
    pub(super) fn total(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.lost }
    }
}

/// A mean: the plain quotient while the sum does not overflow, else updated value by value.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Mean {
    acc: Kahan,
    count: f64,
    incremental: bool,
}

impl Mean {
    /// Adds a value.
    #[inline]
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.acc = Kahan { sum: value, lost: 0.0 };
            return;
        }
        if !self.incremental {
            let next = self.acc.add(value);
            if !next.sum.is_infinite() {
                self.acc = next;
                return;
            }
            self.incremental = true;
            let before = self.count - 1.0;
            self.acc = Kahan { sum: self.acc.sum / before, lost: self.acc.lost / before };
        }
        self.acc = self.acc.scale((self.count - 1.0) / self.count).add(value / self.count);
    }

    /// Gives the mean.
    #[inline]
    pub(super) fn get(self) -> f64 {
        match self.incremental {
            true => self.acc.sum + self.acc.lost,
            false => self.acc.sum / self.count + self.acc.lost / self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_addends_survive_large_ones() {
        let sum = [1.0, 1e100, 1.0, -1e100].into_iter().fold(Kahan::default(), Kahan::add);
        assert_eq!(sum.total(), 2.0);
    }

    #[test]
    fn the_mean_does_not_overflow() {
        let mut mean = Mean::default();
        [f64::MAX, f64::MAX, f64::MAX].into_iter().for_each(|v| mean.add(v));
        assert!((mean.get() / f64::MAX - 1.0).abs() < 1e-15);
        let mut small = Mean::default();
        [1.0, 2.0, 6.0].into_iter().for_each(|v| small.add(v));
        assert_eq!(small.get(), 3.0);
    }
}
