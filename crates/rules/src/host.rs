//! What rules need of their surroundings.

use std::sync::Arc;

use model::histogram::Histogram;
use model::{Labels, Samples};
use promql::VectorSample;
use promql::ast::Expr;

/// Samples that rules make.
#[derive(Clone, Default, Debug)]
pub struct Rows {
    /// Series, time in milliseconds since 1970, value.
    pub samples: Vec<(Labels, i64, f64)>,
    /// Series, time in milliseconds since 1970, native histogram.
    pub histograms: Vec<(Labels, i64, Arc<Histogram>)>,
}

impl Rows {
    /// Tells whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty()
    }
}

/// Waits until rows are stored, or says why they are not.
pub type Stored = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// What rules ask and where they write. Called on a thread that may block.
pub trait Host: Send + Sync {
    /// Answers a query at one time; a scalar is a sample without labels.
    ///
    /// **Errors** in the words of the API.
    fn ask(&self, expr: &Expr, ts_ms: i64) -> Result<Vec<VectorSample>, String>;

    /// Answers the text of a query in a template.
    fn ask_text(&self, text: &str, ts_ms: i64) -> Result<Vec<VectorSample>, String> {
        let expr = promql::parse(text).map_err(|e| e.to_string())?;
        self.ask(&expr, ts_ms)
    }

    /// Gives the samples of all series that the selector names and that lie in the range, both ends included.
    fn history(&self, selector: &str, start_ms: i64, end_ms: i64) -> Result<Vec<(Labels, Samples)>, String>;

    /// Hands rows over; calling what it gives waits until they are stored.
    fn store(&self, rows: Rows) -> Stored;

    /// Gives the labels that stand for this server towards others.
    fn external_labels(&self) -> Vec<(String, String)>;

    /// Gives where people reach this server.
    fn external_url(&self) -> String;
}
