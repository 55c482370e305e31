//! ARCHITECTURE.md is kept true: its crate table is what Cargo says, its paths are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

type Rooms = BTreeMap<String, (String, BTreeSet<String>)>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

fn page() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there")
}

/// What Cargo knows: each crate's folder and the workspace crates it builds on.
fn from_cargo() -> Rooms {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    packages
        .iter()
        .map(|p| {
            let manifest = Path::new(p["manifest_path"].as_str().expect("a path"));
            let folder = manifest.parent().and_then(|f| f.strip_prefix(root()).ok()).expect("inside the workspace");
            let uses = p["dependencies"]
                .as_array()
                .expect("a list")
                .iter()
                .filter(|d| d["kind"].is_null())
                .filter_map(|d| d["name"].as_str())
                .filter(|name| names.contains(name))
                .map(str::to_owned)
                .collect();
            (p["name"].as_str().expect("a name").to_owned(), (folder.display().to_string(), uses))
        })
        .collect()
}

/// The text between the backticks of a cell.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn from_page(page: &str, all: &Rooms) -> Rooms {
    let table = page.split("## Rooms").nth(1).and_then(|t| t.split("\n## ").next()).expect("a section named Rooms");
    table
        .lines()
        .filter(|l| l.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let name = quoted(cells[0]).pop_first().expect("a crate");
            let folder = quoted(cells[1]).pop_first().expect("a folder");
            let above = ["quiver", "server", "bench"];
            let uses = match cells[3] {
                "all above" => all.keys().filter(|n| !above.contains(&n.as_str())).cloned().collect(),
                cell => quoted(cell),
            };
            (name, (folder, uses))
        })
        .collect()
}

#[test]
fn the_crate_table_is_what_cargo_says() {
    let cargo = from_cargo();
    let page = from_page(&page(), &cargo);
    assert_eq!(page.keys().collect::<Vec<_>>(), cargo.keys().collect::<Vec<_>>(), "crates");
    for (name, (folder, uses)) in &cargo {
        assert_eq!(folder, &page[name].0, "folder of {name}");
        // The server names only what it needs; its row allows all below it.
        if name == "server" {
            assert!(uses.is_subset(&page[name].1), "{name} uses {uses:?}");
        } else {
            assert_eq!(uses, &page[name].1, "crates that {name} uses");
        }
    }
}

#[test]
fn the_paths_it_names_are_there() {
    let page = page();
    let prefixes = ["crates/", "bin/", "docs/", "bench/", "tests/", "scripts/"];
    let paths: BTreeSet<String> =
        quoted(&page.replace("```", "")).into_iter().filter(|t| prefixes.iter().any(|p| t.starts_with(p))).collect();
    assert!(paths.len() > 10, "{paths:?}");
    for path in paths {
        assert!(root().join(&path).exists(), "ARCHITECTURE.md names {path}, which is not there");
    }
}
