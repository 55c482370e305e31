//! Runs scripts in Prometheus' test language for PromQL: our own, and Prometheus' where they lie beside the clone.

#[path = "promqltest/classic.rs"]
mod classic;
#[path = "promqltest/run.rs"]
mod run;
#[path = "promqltest/script.rs"]
mod script;
#[path = "promqltest/starts.rs"]
mod starts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use run::{Outcome, run_script};

/// Gives the scripts of a folder, sorted.
fn scripts(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    files
}

/// Lines `file:line` of evaluations that are known to fail, each with a reason behind it.
fn known_failures() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/known_failures.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let place = |line: &str| line.split_whitespace().next().map(str::to_owned);
    text.lines().filter(|line| !line.starts_with('#')).filter_map(place).collect()
}

/// Runs all scripts of a folder, prints what passed, and complains of what failed unexpectedly or passed unexpectedly.
fn run_folder(folder: &Path, known: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in scripts(folder) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let outcomes = run_script(&text);
        let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, outcome)| wanted(outcome)).count();
        let passed = count(|outcome| matches!(outcome, Outcome::Passed));
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        println!("{name}: {passed} passed, {failed} failed");
        for (line, outcome) in &outcomes {
            let place = format!("{name}:{line}");
            match outcome {
                Outcome::Failed(why) if known.contains(&place) => println!("  known: {place} {why}"),
                Outcome::Failed(why) => {
                    println!("  FAILED {place} {why}");
                    complaints.push(place);
                }
                Outcome::Passed if known.contains(&place) => {
                    println!("  passes, but is listed as a known failure: {place}");
                    complaints.push(place);
                }
                Outcome::Passed => {}
            }
        }
    }
    complaints
}

#[test]
fn our_scripts_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let complaints = run_folder(&folder, &BTreeSet::new());
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn prometheus_scripts_hold() {
    let given = std::env::var_os("QUIVER_SHARED").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = given.clone().unwrap_or(beside).join("data/promql");
    if given.is_none() && !folder.is_dir() {
        println!("no scripts of Prometheus at {}: nothing checked", folder.display());
        return;
    }
    let complaints = run_folder(&folder, &known_failures());
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let script = "load 1m\n  a 1 2 3\n\neval instant at 1m a\n  a 3\n\neval instant at 1m a\n  a 2\n\neval instant at 1m a\n  expect fail\n";
    let outcomes = run_script(script);
    let failed: Vec<usize> =
        outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Failed(_))).map(|(line, _)| *line).collect();
    assert_eq!((outcomes.len(), failed), (3, vec![4, 10]));
}
