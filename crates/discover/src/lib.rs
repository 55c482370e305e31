//! Where targets come from: a module per mechanism, each a stream of target groups, and a manager that runs them.
//!
//! Owns: the running mechanisms of all jobs and the groups that they found last.
//! Invariants: 1. a mechanism that fails keeps what it found before and says why; 2. a reload leaves a mechanism whose
//! settings did not change running; 3. a group that is gone is gone: it is sent once more, empty.
//! Not here: relabeling, which targets are scraped, how the configuration is written.
//! Limits: [`TARGETS_MAX`] targets a mechanism, those of `file_sd`.
//!
//! A new mechanism is a module beside `file_sd` with settings that compare, a `run` that sends [`Update`]s until nobody
//! listens, and a variant of [`Mechanism`].

pub mod file_sd;
mod glob;
mod manager;
mod mechanism;

pub use file_sd::FileSd;
pub use glob::{BadPattern, glob, glob_matches};
pub use manager::{Manager, Trouble};
pub use mechanism::{Mechanism, TARGETS_MAX, Update};
