//! The door to HTTP: who sends bodies stands behind it.

use bytes::Bytes;

use crate::Later;

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The beginning of the body.
    pub text: String,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// `X-Prometheus-Remote-Write-Samples-Written` and `-Histograms-Written` together.
    pub written: Option<u64>,
}

/// Sends bodies to one URL, one at a time.
pub trait Post: Send + Sync {
    /// Sends a body and waits for the answer.
    ///
    /// **Errors** when there is none in time.
    fn post<'a>(&'a self, headers: &'a [(&'static str, String)], body: Bytes) -> Later<'a, Result<Answer, String>>;
}

/// Makes a sender with a connection of its own.
pub type MakePost = Box<dyn Fn() -> Box<dyn Post> + Send + Sync>;
