//! Recording and alerting rules: definitions, groups at work, alerts and their templates.
//!
//! Owns: what rules mean. Not here: files, timers, HTTP; whoever runs a [`Group`] brings them, and a [`Host`].
//! Start reading at [`Group::evaluate`].

pub mod alert;
mod definition;
mod group;
mod host;
pub mod template;
pub mod unit;

pub use alert::{Alert, State};
pub use definition::{GroupDefinition, Kind, Rule, Text, Texts};
pub use group::{AlertTimes, Group, Health, Round, RuleState, ends};
pub use host::{Host, Rows, Stored};
