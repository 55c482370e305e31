//! Clock, disk and randomness as small traits: real ones, and simulated ones for deterministic tests. And [`spans`], for who wants to
//! hear what takes how long.
//!
//! Whoever touches time or files takes `Arc<dyn Clock>` and `Arc<dyn Fs>`; only `bin` and tests decide which.

mod clock;
mod fs;
mod open_files;
mod random;
mod real_fs;
mod sim_fs;
pub mod spans;

pub use clock::{Clock, RealClock, SimClock};
pub use fs::{File, Fs, Lock};
pub use open_files::raise_open_files_limit;
pub use random::Random;
pub use real_fs::RealFs;
pub use sim_fs::{Fault, SimFs, Weather};
