//! Rules at work: groups on their timers, and alerts on their way to Alertmanagers.
//!
//! The way of an alert: [`groups`] evaluates a group when it is due → `rules` says which alerts are to be sent →
//! [`notifier`] relabels them and puts them into a queue for each set of Alertmanagers → one POST to each of them.
//! Limits: [`notifier::QUEUE_MAX`] alerts wait; rules are evaluated within the limits of queries.

pub mod groups;
pub mod host;
pub mod notifier;

pub use groups::{GroupView, Groups, RulesStats};
pub use host::{HostParts, StoreHost};
pub use notifier::Notifier;
