//! What all mechanisms have in common.

use model::TargetGroup;
use tokio::sync::mpsc;

use crate::file_sd::{self, FileSd};

/// Targets that one mechanism of one job may bring; groups beyond are left out and told.
pub const TARGETS_MAX: usize = 1_000_000;

/// One way of finding targets, with its settings.
#[derive(Clone, PartialEq, Debug)]
pub enum Mechanism {
    /// `static_configs`: the groups are the settings.
    Static(Vec<TargetGroup>),
    /// `file_sd_configs`.
    Files(FileSd),
}

impl Mechanism {
    /// Gives the key of the configuration without `_configs`.
    pub fn name(&self) -> &'static str {
        match self {
            Mechanism::Static(_) => "static",
            Mechanism::Files(_) => "file_sd",
        }
    }

    /// Runs until nobody listens any more; the first update comes as soon as there is an answer, empty or not.
    pub(crate) async fn run(self, updates: mpsc::Sender<Update>) {
        match self {
            Mechanism::Static(groups) => {
                // Static groups never change: told once, then the channel stays open until the job is dropped.
                let _ = updates.send(Update { groups, troubles: Vec::new() }).await;
                updates.closed().await;
            }
            Mechanism::Files(settings) => file_sd::run(settings, updates).await,
        }
    }
}

/// News of a mechanism.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Update {
    /// Groups that are new or changed; one without targets is gone.
    pub groups: Vec<TargetGroup>,
    /// Everything that is wrong now, in sentences; replaces the last list.
    pub troubles: Vec<String>,
}
