//! `quiver check-rules` and `quiver test-rules`: rule files without a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use server::config::{self, LoadError};

use crate::Failure;
use crate::args::{CheckRulesArgs, Output, TestRulesArgs};

/// Checks rule files and prints what is in them; exit code 1 when one of them would be refused.
pub fn check(args: &CheckRulesArgs) -> Result<ExitCode, Failure> {
    let mut ok = true;
    let mut reports = Vec::new();
    for file in &args.files {
        let loaded = config::load_rules(std::slice::from_ref(file), config::Global::default().inherited());
        let problems = match loaded {
            Ok(groups) => {
                let rules: usize = groups.iter().map(|group| group.rules.len()).sum();
                match args.output {
                    Output::Json => {
                        reports.push(json!({"file": file, "ok": true, "groups": groups.len(), "rules": rules}))
                    }
                    Output::Table => println!("{}: {} groups, {rules} rules", file.display(), groups.len()),
                }
                continue;
            }
            Err(LoadError::Refused(problems)) => problems,
            Err(error) => return Err(Failure::failed(error.to_string())),
        };
        ok = false;
        for problem in &problems {
            match args.output {
                Output::Json => {}
                // The places are the message: no prefix, so that editors can jump to them.
                Output::Table => eprintln!("{problem}"),
            }
        }
        let list: Vec<_> = problems
            .iter()
            .map(|p| json!({"file": p.file, "line": p.at.line, "column": p.at.column, "text": p.text}))
            .collect();
        reports.push(json!({"file": file, "ok": false, "problems": list}));
    }
    if args.output == Output::Json {
        println!("{}", json!(reports));
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests of test files as `promtool test rules` does; exit code 1 when one fails.
pub fn test(args: &TestRulesArgs) -> Result<ExitCode, Failure> {
    let mut ok = true;
    for file in &args.files {
        println!("Unit Testing:  {}", file.display());
        let failures = test_file(file, args)?;
        if failures.is_empty() {
            println!("  SUCCESS");
        } else {
            ok = false;
            eprintln!("  FAILED:\n{}", failures.join("\n"));
        }
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test_file(file: &Path, args: &TestRulesArgs) -> Result<Vec<String>, Failure> {
    let tests = match config::load_rule_tests(file) {
        Ok(tests) => tests,
        Err(LoadError::Refused(problems)) => return Ok(problems.iter().map(|p| format!("    {p}")).collect()),
        Err(error) => return Err(Failure::failed(error.to_string())),
    };
    let wanted = |name: &str| args.run.is_empty() || args.run.iter().any(|part| name.contains(part.as_str()));
    let mut failures = Vec::new();
    for test in tests.tests.iter().filter(|test| wanted(&test.name)) {
        let found = ::rules::unit::run(test, &tests.groups);
        if !found.is_empty() && !test.name.is_empty() {
            failures.push(format!("    name: {},", test.name));
        }
        failures.extend(found);
    }
    Ok(failures)
}

/// Gives the files of arguments; a missing one is an error that names it.
pub fn existing(files: &[PathBuf]) -> Result<(), Failure> {
    match files.iter().find(|file| !file.is_file()) {
        Some(file) => Err(Failure::failed(format!("{}: there is no such file", file.display()))),
        None => Ok(()),
    }
}
