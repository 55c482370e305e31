//! In which trace a request is: from who asks, or begun here; told to whoever is asked in turn, and in errors.

use sys::spans::{Context, Kind, Span};

tokio::task_local! {
    static REQUEST: Context;
}

/// The header that traces go on in.
pub const TRACEPARENT: &str = "traceparent";

/// Runs what answers a request.
pub async fn within<T>(context: Context, answering: impl Future<Output = T>) -> T {
    REQUEST.scope(context, answering).await
}

/// Gives where in which trace the request is that is being answered.
pub fn current() -> Option<Context> {
    REQUEST.try_with(|context| *context).ok()
}

/// Begins a span below the request that is being answered.
pub fn child(name: &'static str) -> Span {
    Span::child(current(), name, Kind::Internal)
}

/// Gives the id that stands in an error: that of the trace, or one that stands there alone.
pub fn id() -> String {
    format!("{:032x}", current().unwrap_or_default().trace_id)
}
