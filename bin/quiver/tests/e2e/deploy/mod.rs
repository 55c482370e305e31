//! What lies in `deploy/`: alerts, dashboard, the wiring of compose without containers, backup, the systemd unit.

mod backup;
mod expressions;
mod service;
mod wiring;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Gives a file of `deploy/`.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name)
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|e| panic!("deploy/{name}: {e}"))
}

/// Runs a program, which must succeed; gives what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn quiver() -> Command {
    Command::new(env!("CARGO_BIN_EXE_quiver"))
}
