//! The shared OpenMetrics cases: each directory holds a body, `metrics`, and whether it is valid, `test.json`.

use std::path::PathBuf;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    should_parse: bool,
}

/// Gives the folder of the cases; `None` in a clone that stands alone. A folder that was named has to be there.
fn suite() -> Option<PathBuf> {
    if let Some(shared) = std::env::var_os("QUIVER_SHARED") {
        return Some(PathBuf::from(shared).join("data/openmetrics"));
    }
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/openmetrics");
    if beside.is_dir() {
        return Some(beside);
    }
    eprintln!("NOT RUN: no OpenMetrics cases at {}; see CONTRIBUTING.md about QUIVER_SHARED", beside.display());
    None
}

#[test]
fn every_case_is_accepted_or_refused_as_it_says() {
    let Some(suite) = suite() else { return };
    let entries = std::fs::read_dir(&suite).unwrap_or_else(|e| {
        panic!("the OpenMetrics cases are not at {}: {e}; set QUIVER_SHARED to the shared directory", suite.display())
    });
    let (mut cases, mut wrong) = (0, Vec::new());
    for entry in entries {
        let dir = entry.unwrap().path();
        let case: Case = serde_json::from_slice(&std::fs::read(dir.join("test.json")).unwrap()).unwrap();
        let body = std::fs::read(dir.join("metrics")).unwrap();
        let strict = wire::openmetrics::validate(&body);
        if strict.is_ok() != case.should_parse {
            wrong.push(format!("{}: {strict:?}", dir.display()));
        }
        if case.should_parse {
            wire::check(wire::Format::OpenMetrics, &body)
                .unwrap_or_else(|e| panic!("a scrape refuses the valid {}: {e}", dir.display()));
        }
        cases += 1;
    }
    assert!(cases > 100, "only {cases} cases at {}", suite.display());
    assert!(wrong.is_empty(), "{} of {cases} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
