//! What the server counts of itself, and how it is shown at `/metrics`.

mod backing;
pub mod exposition;
pub mod http;
pub mod intake;
pub mod own;
pub mod process;

pub use exposition::{Exposition, Histogram};
pub use http::HttpMetrics;
pub use intake::{Intake, Metered};
