//! Notices of changes in the files' directories.

use std::path::Path;

use notify::event::{AccessKind, AccessMode, EventKind, MetadataKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A watch on directories; without one, files are still read once per interval.
pub struct Watch(Option<RecommendedWatcher>);

impl Watch {
    /// Starts without directories; a change puts one token into the channel unless one is there.
    pub fn start(changed: mpsc::Sender<()>) -> Watch {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|e| matters(&e.kind)) {
                // Full means that a notice waits already.
                let _ = changed.try_send(());
            }
        });
        match watcher {
            Ok(watcher) => Watch(Some(watcher)),
            Err(error) => {
                tracing::warn!(%error, "file_sd: no notices of changes; files are read once per refresh_interval");
                Watch(None)
            }
        }
    }

    /// Watches the directory of each pattern; also those that were missing or were made anew since the last time.
    pub fn follow(&mut self, patterns: &[String]) {
        let Some(watcher) = &mut self.0 else { return };
        for pattern in patterns {
            let dir = match pattern.rsplit_once('/') {
                None => Path::new("."),
                Some(("", _)) => Path::new("/"),
                Some((dir, _)) => Path::new(dir),
            };
            if let Err(error) = watcher.watch(dir, RecursiveMode::NonRecursive) {
                tracing::debug!(dir = %dir.display(), %error, "file_sd: directory is not watched");
            }
        }
    }
}

/// Our own reading must not wake us, and a change of mode changes no content.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Metadata(
            MetadataKind::Permissions | MetadataKind::AccessTime | MetadataKind::Ownership,
        )) => false,
        _ => true,
    }
}
