//! What the server counts of itself, and how it is shown at `/metrics`; and what it tells others of its work ([`export`]).

mod backing;
pub mod export;
pub mod exposition;
pub mod http;
pub mod intake;
pub mod own;
mod points;
pub mod process;
pub mod trace;

pub use export::Exporter;
pub use exposition::{Exposition, Histogram};
pub use http::HttpMetrics;
pub use intake::{Intake, Metered};
