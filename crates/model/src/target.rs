//! What discovery emits: groups of addresses with labels.

use crate::labels::Labels;

/// Targets that share a source and labels.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetGroup {
    /// Names the group within its mechanism, such as a file and position; a later group of the same source replaces it.
    pub source: String,
    /// Labels of all its targets, `__meta_*` included; a target's own labels come first.
    pub labels: Labels,
    /// Labels of each target, `__address__` included. Empty means the source has no targets now.
    pub targets: Vec<Labels>,
}
