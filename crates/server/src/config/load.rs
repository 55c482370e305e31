//! A whole configuration: the file, the files it names, the keys at the top.
//!
//! Limits: [`FILE_BYTES_MAX`] bytes a file, [`FILES_MAX`] files of `scrape_config_files`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use collect::TargetSpec;
use rules::GroupDefinition;

use super::alerting::{self, Alerting};
use super::collectors;
use super::fields::{Fields, Problems, Severity};
use super::filters::{self, ConfiguredFilters};
use super::global::{self, Global};
use super::otlp;
use super::rule_file::{self, Inherited};
use super::rule_test::{self, RuleTests};
use super::scrape::{self, Job};
use super::settings::{self, SettingsText};
use super::sinks::{self, Sinks};
use super::yaml::{self, Node, Place};

/// Bytes of one configuration file.
pub const FILE_BYTES_MAX: u64 = 32 << 20;
/// Files that `scrape_config_files` may name.
pub const FILES_MAX: usize = 10_000;
/// Problems that are shown; the rest is counted.
const SHOWN_MAX: usize = 50;

/// A configuration that can be used.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `global`.
    pub global: Global,
    /// `scrape_configs`, those of `scrape_config_files` included; job names are unique.
    pub jobs: Vec<Job>,
    /// `otlp`.
    pub otlp: wire::otlp::Options,
    /// The groups of all `rule_files`.
    pub rules: Vec<GroupDefinition>,
    /// `alerting`.
    pub alerting: Alerting,
    /// `quiver.collectors`.
    pub collectors: Vec<TargetSpec>,
    /// `quiver.filters`.
    pub filters: ConfiguredFilters,
    /// `remote_write` and `quiver.sinks`.
    pub sinks: Sinks,
    /// `quiver`.
    pub settings: SettingsText,
    /// The whole, printed anew, without secrets.
    pub printed: String,
    /// Known keys that are not served, when they are allowed.
    pub warnings: Vec<Located>,
}

/// One thing that is wrong, with its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// Which file.
    pub file: PathBuf,
    /// Where in it.
    pub at: Place,
    /// What kind.
    pub severity: Severity,
    /// A sentence.
    pub text: String,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.at, self.text)
    }
}

/// Why a configuration is not used.
#[derive(Debug)]
pub enum LoadError {
    /// A file cannot be read.
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is wrong somewhere; all places, in order.
    Refused(Vec<Located>),
}

impl std::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Read { path, error } => write!(f, "cannot read the configuration {}: {error}", path.display()),
            LoadError::Refused(problems) => {
                let lines: Vec<String> = problems.iter().take(SHOWN_MAX).map(Located::to_string).collect();
                f.write_str(&lines.join("\n"))?;
                match problems.len().saturating_sub(SHOWN_MAX) {
                    0 => Ok(()),
                    more => write!(f, "\n... and {more} more"),
                }
            }
        }
    }
}

/// Reads a file and those it names.
///
/// **Takes** `allow_unsupported`: known keys that are not served become warnings.
/// **Errors** name every place that is wrong, not only the first.
pub fn load_file(path: &Path, allow_unsupported: bool) -> Result<Config, LoadError> {
    let text = read_text(path).map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
    load_text(&text, path, allow_unsupported)
}

/// Reads a text as if it were the file `path`.
pub fn load_text(text: &str, path: &Path, allow_unsupported: bool) -> Result<Config, LoadError> {
    let mut found = Found::default();
    let mut config = Config::default();
    let root = found.parse(path, text);
    let mut problems = Problems::default();
    if let Some(root) = &root {
        let more = read_root(root, folder(path), &mut config, &mut problems);
        found.take(path, problems);
        read_more_jobs(&more.jobs, &mut config, &mut found);
        let mut problems = Problems::default();
        config.collectors = collectors::read(root, folder(path), &mut problems);
        config.filters = filters::read(root, &mut config.jobs, &mut config.collectors, &mut problems);
        found.take(path, problems);
        config.rules = read_rules(&more.rules, config.global.inherited(), &mut found);
        config.printed = super::print::without_secrets(root);
    }
    let (errors, warnings) = found.0.into_iter().partition(|p| p.severity == Severity::Error || !allow_unsupported);
    config.warnings = warnings;
    if errors.is_empty() { Ok(config) } else { Err(LoadError::Refused(errors)) }
}

/// What is wrong, over all files.
#[derive(Default)]
pub(super) struct Found(pub(super) Vec<Located>);

impl Found {
    pub(super) fn take(&mut self, file: &Path, mut problems: Problems) {
        problems.0.sort_by_key(|p| p.at);
        self.0.extend(problems.0.into_iter().map(|p| Located {
            file: file.to_owned(),
            at: p.at,
            severity: p.severity,
            text: p.text,
        }));
    }

    fn error(&mut self, file: &Path, at: Place, text: String) {
        self.0.push(Located { file: file.to_owned(), at, severity: Severity::Error, text });
    }

    pub(super) fn parse(&mut self, file: &Path, text: &str) -> Option<Arc<Node>> {
        yaml::parse(text).map_err(|e| self.error(file, e.at, e.text)).ok()
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Files that the main file names.
struct MoreFiles {
    jobs: Vec<PathBuf>,
    rules: Vec<PathBuf>,
}

/// Reads the top of the main file.
fn read_root(root: &Node, dir: &Path, config: &mut Config, problems: &mut Problems) -> MoreFiles {
    let mut fields = Fields::open(root, "the configuration", problems);
    if let Some(node) = fields.get("global") {
        config.global = global::read(node, problems);
    }
    if let Some(node) = fields.get("quiver") {
        config.settings = settings::read(node, dir, problems);
    }
    if let Some(node) = fields.get("otlp") {
        config.otlp = otlp::read(node, problems);
    }
    read_storage(&mut fields, &mut config.settings, problems);
    read_runtime(&mut fields, problems);
    if let Some(nodes) = fields.list("scrape_configs", problems) {
        scrape::read_list(nodes, dir, &config.global, &mut config.jobs, problems);
    }
    if let Some(node) = fields.get("alerting") {
        config.alerting = alerting::read(node, dir, problems);
    }
    let more = MoreFiles {
        jobs: list_files(&mut fields, "scrape_config_files", "scrape config", dir, problems),
        rules: list_files(&mut fields, "rule_files", "rule", dir, problems),
    };
    sinks::read_remote_write(&mut fields, dir, &mut config.sinks, problems);
    if let Some(node) = sinks::find(root) {
        sinks::read(node, dir, &mut config.sinks, problems);
    }
    fields.not_yet(&["tracing", "remote_read"], problems);
    fields.finish(problems);
    more
}

/// `storage`: samples of any age within the retention are taken here, so the window of Prometheus changes nothing.
fn read_storage(fields: &mut Fields<'_>, settings: &mut SettingsText, problems: &mut Problems) {
    let Some(node) = fields.get("storage") else { return };
    let mut storage = Fields::open(node, "storage", problems);
    if let Some(node) = storage.get("tsdb") {
        let mut tsdb = Fields::open(node, "storage.tsdb", problems);
        tsdb.duration_ms("out_of_order_time_window", problems);
        if let Some(node) = tsdb.get("retention") {
            let mut retention = Fields::open(node, "storage.tsdb.retention", problems);
            let time = retention.duration_ms("time", problems).filter(|ms| *ms > 0);
            settings.retention_ms = settings.retention_ms.or(time);
            let size = retention.size_bytes("size", problems).filter(|bytes| *bytes > 0);
            settings.retention_bytes = settings.retention_bytes.or(size);
            retention.not_yet(&["percentage"], problems);
            retention.finish(problems);
        }
        tsdb.finish(problems);
    }
    if let Some(node) = storage.get("exemplars") {
        let mut exemplars = Fields::open(node, "storage.exemplars", problems);
        settings.exemplars_max = exemplars.uint("max_exemplars", problems);
        exemplars.finish(problems);
    }
    storage.finish(problems);
}

/// `runtime`: knobs of Go's garbage collector.
fn read_runtime(fields: &mut Fields<'_>, problems: &mut Problems) {
    if let Some(node) = fields.get("runtime") {
        let mut runtime = Fields::open(node, "runtime", problems);
        runtime.uint("gogc", problems);
        runtime.finish(problems);
    }
}

/// Finds the files that the patterns of a key name.
fn list_files(
    fields: &mut Fields<'_>,
    key: &'static str,
    what: &str,
    dir: &Path,
    problems: &mut Problems,
) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let at = fields.place_of(key);
    for text in fields.strings(key, problems).unwrap_or_default() {
        // Stars in the last part only.
        if text.split_once('*').is_some_and(|(_, behind)| behind.contains('/')) {
            problems.error(at, format!("invalid {what} file path {text:?}"));
            continue;
        }
        let full = dir.join(&text).display().to_string();
        match discover::glob(&full, FILES_MAX) {
            Ok(found) => files.extend(found),
            Err(e) => problems.error(at, format!("error retrieving {what} files for {full:?}: {e}")),
        }
    }
    files
}

/// Reads the groups of rule files.
fn read_rules(files: &[PathBuf], inherited: Inherited, found: &mut Found) -> Vec<GroupDefinition> {
    let mut groups = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for path in files.iter().filter(|path| seen.insert((*path).clone())) {
        match read_text(path) {
            Ok(text) => {
                let mut problems = Problems::default();
                groups.extend(rule_file::read(&text, path, inherited, &mut problems));
                found.take(path, problems);
            }
            Err(e) => found.error(path, Place { line: 1, column: 1 }, format!("cannot be read: {e}")),
        }
    }
    groups
}

/// Reads a file of unit tests for rules, and the rule files that it names.
///
/// **Errors** name every place that is wrong.
pub fn load_rule_tests(path: &Path) -> Result<RuleTests, LoadError> {
    let text = read_text(path).map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
    let mut found = Found::default();
    let Some(root) = found.parse(path, &text) else { return Err(LoadError::Refused(found.0)) };
    let mut problems = Problems::default();
    let file = rule_test::read(&root, folder(path), &mut problems);
    found.take(path, problems);
    let inherited = Inherited { interval_ms: file.interval_ms, query_offset_ms: 0 };
    let mut groups = read_rules(&file.files, inherited, &mut found);
    // Groups that are not named go last, in their order.
    groups.sort_by_key(|group| file.order.iter().position(|name| *name == group.name).unwrap_or(usize::MAX));
    if found.0.is_empty() { Ok(RuleTests { tests: file.tests, groups }) } else { Err(LoadError::Refused(found.0)) }
}

/// Reads rule files alone.
///
/// **Errors** name every place that is wrong.
pub fn load_rules(files: &[PathBuf], inherited: Inherited) -> Result<Vec<GroupDefinition>, LoadError> {
    let mut found = Found::default();
    let groups = read_rules(files, inherited, &mut found);
    if found.0.is_empty() { Ok(groups) } else { Err(LoadError::Refused(found.0)) }
}

/// Reads the jobs of other files.
fn read_more_jobs(files: &[PathBuf], config: &mut Config, found: &mut Found) {
    for path in files {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(e) => {
                found.error(path, Place { line: 1, column: 1 }, format!("cannot be read: {e}"));
                continue;
            }
        };
        let Some(root) = found.parse(path, &text) else { continue };
        let mut problems = Problems::default();
        let mut fields = Fields::open(&root, "a file of scrape_config_files", &mut problems);
        if let Some(nodes) = fields.list("scrape_configs", &mut problems) {
            scrape::read_list(nodes, folder(path), &config.global, &mut config.jobs, &mut problems);
        }
        fields.finish(&mut problems);
        found.take(path, problems);
    }
}

/// Reads a text file of bounded size.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}
