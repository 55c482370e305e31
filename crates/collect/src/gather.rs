//! Bodies that are made another way than by asking an exporter: a program's output, a page of JSON.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use wire::Format;

/// A body on its way; the error is a sentence.
pub type Gathering<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;

/// Makes the body of a target. All else is as with any scrape: `up`, staleness, limits, events, health.
pub trait Gather: Send + Sync + fmt::Debug {
    /// Makes what [`Gather::read`] reads; `None` where it is fetched from the target's URL. Dropped when the time is up: nothing of
    /// it may go on then.
    fn gather(&self) -> Option<Gathering<'_>>;

    /// Turns what was made or fetched into an exposition.
    ///
    /// **Takes** the time of the scrape, in milliseconds since 1970.
    fn read(&self, body: Vec<u8>, scrape_ms: i64) -> Result<(Format, Vec<u8>), String>;
}
