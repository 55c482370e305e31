//! Configuration: text → meaning, once.

pub mod fields;
pub mod yaml;
