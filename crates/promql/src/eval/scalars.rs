//! Scalars: a number for each step, with their share of the budget.

use std::ops::{Deref, DerefMut};

use super::budget::Hold;
use super::error::EvalError;
use super::evaluator::Evaluator;
use super::frame::Frame;

/// A number for each step.
#[derive(Debug)]
pub(super) struct Scalars<'a> {
    values: Vec<f64>,
    _hold: Hold<'a>,
}

impl Deref for Scalars<'_> {
    type Target = Vec<f64>;

    fn deref(&self) -> &Vec<f64> {
        &self.values
    }
}

impl DerefMut for Scalars<'_> {
    fn deref_mut(&mut self) -> &mut Vec<f64> {
        &mut self.values
    }
}

impl Scalars<'_> {
    /// Gives the numbers alone.
    pub(super) fn into_values(self) -> Vec<f64> {
        self.values
    }
}

impl Evaluator<'_> {
    /// Makes a number for each step.
    pub(super) fn scalars(&self, frame: &Frame, number: impl FnMut(usize) -> f64) -> Result<Scalars<'_>, EvalError> {
        let hold = self.budget.hold(frame.steps)?;
        Ok(Scalars { values: (0..frame.steps).map(number).collect(), _hold: hold })
    }
}
