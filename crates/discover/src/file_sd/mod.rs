//! `file_sd_configs`: target groups from JSON and YAML files that others write.
//!
//! Owns: a watch on the files' directories, and what each file held when it was last sound.
//! Invariants: 1. a file that cannot be read or parsed keeps its last sound groups and says so; 2. a file that is gone
//! takes its groups with it; 3. files are read again after every change in their directory and at least once per
//! `refresh_interval`, so that a lost notice costs at most that.
//! Limits: [`FILES_MAX`] files, [`FILE_BYTES_MAX`] bytes each.

mod read;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use model::TargetGroup;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::glob::{glob, glob_matches};
use crate::mechanism::Update;
pub use read::{ReadError, read_groups};

/// Files of one mechanism.
pub const FILES_MAX: usize = 10_000;
/// Bytes of one file.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Prometheus' default.
const REFRESH_MS: u64 = 300_000;
/// Writers need several steps; one more reading after them is enough.
const SETTLE: Duration = Duration::from_millis(50);

/// Settings of one `file_sd_configs` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSd {
    /// Paths and patterns.
    pub files: Vec<String>,
    /// Time after which files are read again without any notice.
    pub refresh_ms: u64,
}

impl FileSd {
    /// Takes files with the default interval.
    pub fn new(files: Vec<String>) -> FileSd {
        FileSd { files, refresh_ms: REFRESH_MS }
    }

    /// Checks a path as it is written; the text is Prometheus'.
    ///
    /// **Errors** unless it ends in `.json`, `.yml` or `.yaml` and has stars in its last part only.
    pub fn check_name(name: &str) -> Result<(), String> {
        let error = || format!("path name {name:?} is not valid for file discovery");
        let (stem, ending) = name.rsplit_once('.').ok_or_else(error)?;
        let known = ["json", "yml", "yaml", "JSON", "YML", "YAML"].contains(&ending);
        let star_in_folder = stem.split_once('*').is_some_and(|(_, behind)| behind.contains('/'));
        if !known || star_in_folder {
            return Err(error());
        }
        glob_matches(name, "").map_err(|e| e.to_string())?;
        Ok(())
    }
}

/// Reads, sends what changed, waits for the next change; ends when nobody listens.
pub(crate) async fn run(settings: FileSd, updates: mpsc::Sender<Update>) {
    let (changed_tx, mut changed) = mpsc::channel(1);
    let mut watch = watch::Watch::start(changed_tx);
    let mut known = Known::default();
    let refresh = Duration::from_millis(settings.refresh_ms.max(1_000));
    loop {
        // Watched before reading: what changes in between is noticed.
        watch.follow(&settings.files);
        let files = settings.files.clone();
        // Disks may hang: never on a thread of the runtime.
        let Ok((next, update)) = tokio::task::spawn_blocking(move || known.refresh(&files)).await else { return };
        known = next;
        if let Some(update) = update {
            for trouble in &update.troubles {
                tracing::warn!("file_sd: {trouble}");
            }
            if updates.send(update).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(refresh) => {}
            () = updates.closed() => return,
            Some(()) = changed.recv() => {
                sleep(SETTLE).await;
                // One notice may wait; the reading that follows covers it.
                let _ = timeout(Duration::ZERO, changed.recv()).await;
            }
        }
    }
}

/// What the files held.
#[derive(Default)]
struct Known {
    files: BTreeMap<PathBuf, Vec<TargetGroup>>,
    troubles: Vec<String>,
    told: bool,
}

impl Known {
    /// Reads everything again; gives the news, `None` when there are none.
    fn refresh(mut self, patterns: &[String]) -> (Known, Option<Update>) {
        let mut update = Update::default();
        let mut files = BTreeMap::new();
        for path in list(patterns, &mut update.troubles) {
            let before = self.files.remove(&path).unwrap_or_default();
            let groups = match read_groups(&path) {
                Ok(groups) => {
                    tell_changes(&before, &groups, &mut update.groups);
                    groups
                }
                Err(error) => {
                    let kept = match before.iter().map(|g| g.targets.len()).sum::<usize>() {
                        0 => String::new(),
                        n => format!("; its last {n} targets stay"),
                    };
                    update.troubles.push(format!("{}: {error}{kept}", path.display()));
                    before
                }
            };
            files.insert(path, groups);
        }
        for gone in self.files.into_values() {
            tell_changes(&gone, &[], &mut update.groups);
        }
        let news = !self.told || !update.groups.is_empty() || update.troubles != self.troubles;
        let known = Known { files, troubles: update.troubles.clone(), told: true };
        (known, news.then_some(update))
    }
}

fn list(patterns: &[String], troubles: &mut Vec<String>) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for pattern in patterns {
        match glob(pattern, FILES_MAX + 1) {
            Ok(found) => paths.extend(found),
            Err(error) => troubles.push(error.to_string()),
        }
    }
    paths.sort();
    paths.dedup();
    if paths.len() > FILES_MAX {
        troubles.push(format!("{} files match, more than {FILES_MAX}; the rest is not read", paths.len()));
        paths.truncate(FILES_MAX);
    }
    paths
}

/// Adds groups that are new, changed or, emptied, gone. A group is known by its place in the file.
fn tell_changes(before: &[TargetGroup], after: &[TargetGroup], out: &mut Vec<TargetGroup>) {
    let changed = after.iter().enumerate().filter(|(i, group)| before.get(*i) != Some(group));
    out.extend(changed.map(|(_, group)| group.clone()));
    let gone = before.iter().skip(after.len());
    out.extend(gone.map(|group| TargetGroup { source: group.source.clone(), ..TargetGroup::default() }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_are_checked_as_in_prometheus() {
        for good in ["foo.json", "dir/*.yml", "/a/b*c.YAML", "targets.yaml", "*.JSON"] {
            assert_eq!(FileSd::check_name(good), Ok(()), "{good}");
        }
        for bad in ["foo", "foo.txt", "*/foo.json", "a*/b*.yml", "", "x.Json"] {
            let text = format!("path name {bad:?} is not valid for file discovery");
            assert_eq!(FileSd::check_name(bad), Err(text), "{bad}");
        }
    }

    fn sources(update: &Update) -> Vec<(String, usize)> {
        let name = |g: &TargetGroup| g.source.rsplit('/').next().unwrap_or_default().to_owned();
        update.groups.iter().map(|g| (name(g), g.targets.len())).collect()
    }

    #[test]
    fn only_changes_are_told_and_a_broken_file_keeps_its_targets() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let patterns = [format!("{}/*.json", dir.path().display())];
        write("a.json", r#"[{"targets":["x:1","x:2"]},{"targets":["y:1"]}]"#);
        write("b.json", r#"[{"targets":["z:1"]}]"#);

        let (known, update) = Known::default().refresh(&patterns);
        let first = [("a.json:0".to_owned(), 2), ("a.json:1".to_owned(), 1), ("b.json:0".to_owned(), 1)];
        assert_eq!(sources(&update.unwrap()), first);
        let (known, update) = known.refresh(&patterns);
        assert_eq!(update, None);

        write("a.json", r#"[{"targets":["x:1"#);
        let (known, update) = known.refresh(&patterns);
        let update = update.unwrap();
        assert!(update.groups.is_empty());
        assert!(update.troubles[0].contains("its last 3 targets stay"), "{:?}", update.troubles);

        write("a.json", r#"[{"targets":["x:1","x:2"]}]"#);
        let (known, update) = known.refresh(&patterns);
        let update = update.unwrap();
        assert_eq!(sources(&update), [("a.json:1".to_owned(), 0)]);
        assert!(update.troubles.is_empty());

        std::fs::remove_file(dir.path().join("b.json")).unwrap();
        let (_, update) = known.refresh(&patterns);
        assert_eq!(sources(&update.unwrap()), [("b.json:0".to_owned(), 0)]);
    }

    async fn next(updates: &mut mpsc::Receiver<Update>) -> Update {
        timeout(Duration::from_secs(20), updates.recv()).await.expect("news in time").expect("still running")
    }

    #[tokio::test]
    async fn a_change_is_noticed_long_before_the_interval() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.yml");
        let (tx, mut updates) = mpsc::channel(4);
        let task = tokio::spawn(run(FileSd::new(vec![path.display().to_string()]), tx));
        assert_eq!(next(&mut updates).await, Update::default());
        replace(&path, "- targets: ['a:1']\n");
        assert_eq!(sources(&next(&mut updates).await), [("t.yml:0".to_owned(), 1)]);
        replace(&path, "- targets: ['a:1', 'a:2']\n");
        assert_eq!(sources(&next(&mut updates).await), [("t.yml:0".to_owned(), 2)]);
        drop(updates);
        timeout(Duration::from_secs(20), task).await.expect("ends when nobody listens").unwrap();
    }

    /// Writes beside and renames, as configuration tools do.
    fn replace(path: &Path, text: &str) {
        let beside = path.with_extension("tmp");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, path).unwrap();
    }
}
