//! `quiver check-config`: reads a configuration as the server does, and says what it would do.

use std::process::ExitCode;

use serde_json::{Value, json};
use server::config::{self, Config, Job, LoadError, Located, Mechanism};

use crate::args::{CheckArgs, Output};
use crate::{Failure, table};

/// Checks and prints; exit code 1 when the file would be refused.
pub fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    match config::load_file(&args.file, args.allow_unsupported) {
        Ok(config) => {
            match args.output {
                Output::Json => println!("{}", summary_json(args, &config)),
                Output::Table => print_summary(args, &config),
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(LoadError::Refused(problems)) if args.output == Output::Json => {
            println!("{}", json!({"file": args.file, "ok": false, "problems": problems_json(&problems)}));
            Ok(ExitCode::FAILURE)
        }
        // The places are the message: no prefix, so that editors can jump to them.
        Err(error @ LoadError::Refused(_)) => {
            eprintln!("{error}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(Failure::failed(error.to_string())),
    }
}

fn print_summary(args: &CheckArgs, config: &Config) {
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let jobs = config.jobs.len();
    println!("{} is valid: {jobs} scrape {}", args.file.display(), if jobs == 1 { "job" } else { "jobs" });
    if jobs > 0 {
        let rows = config.jobs.iter().map(row).collect();
        table::print(&["Job", "Interval", "Timeout", "Static targets", "Files"], rows);
    }
}

fn row(job: &Job) -> Vec<String> {
    let duration = |ms: u64| config::format_duration_ms(i64::try_from(ms).unwrap_or(i64::MAX));
    let (targets, files) = sources(job);
    vec![
        job.scrape.job_name.clone(),
        duration(job.scrape.interval_ms),
        duration(job.scrape.timeout_ms),
        targets.to_string(),
        files.join(" "),
    ]
}

/// Counts static targets and lists the patterns of `file_sd_configs`.
fn sources(job: &Job) -> (usize, Vec<&str>) {
    let (mut targets, mut files) = (0, Vec::new());
    for mechanism in &job.mechanisms {
        match mechanism {
            Mechanism::Static(groups) => targets += groups.iter().map(|g| g.targets.len()).sum::<usize>(),
            Mechanism::Files(settings) => files.extend(settings.files.iter().map(String::as_str)),
        }
    }
    (targets, files)
}

fn summary_json(args: &CheckArgs, config: &Config) -> Value {
    let job = |job: &Job| {
        let (static_targets, files) = sources(job);
        json!({
            "job_name": job.scrape.job_name,
            "scrape_interval_ms": job.scrape.interval_ms,
            "scrape_timeout_ms": job.scrape.timeout_ms,
            "static_targets": static_targets,
            "files": files,
        })
    };
    json!({
        "file": args.file,
        "ok": true,
        "jobs": config.jobs.iter().map(job).collect::<Vec<_>>(),
        "warnings": problems_json(&config.warnings),
    })
}

fn problems_json(problems: &[Located]) -> Vec<Value> {
    let problem = |p: &Located| json!({"file": p.file, "line": p.at.line, "column": p.at.column, "text": p.text});
    problems.iter().map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn checked(text: &str, allow_unsupported: bool) -> (Result<ExitCode, Failure>, PathBuf, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yml");
        std::fs::write(&file, text).unwrap();
        let args = CheckArgs { file: file.clone(), allow_unsupported, output: Output::Table };
        (run(&args), file, dir)
    }

    #[test]
    fn the_exit_code_tells() {
        let success = |text: &str, allow| format!("{:?}", checked(text, allow).0.unwrap());
        let yes = format!("{:?}", ExitCode::SUCCESS);
        assert_eq!(success("scrape_configs: [{job_name: a}]\n", false), yes);
        assert_ne!(success("tracing: {endpoint: x}\n", false), yes);
        assert_eq!(success("tracing: {endpoint: x}\n", true), yes);
        assert_ne!(success("zzz: 1\n", true), yes);
        let missing = CheckArgs { file: "/does/not/exist.yml".into(), allow_unsupported: false, output: Output::Table };
        assert_eq!(run(&missing).unwrap_err().code, 1);
    }

    #[test]
    fn jobs_are_summed_up() {
        let text = "scrape_configs: [{job_name: a, scrape_interval: 90s, static_configs: [{targets: [x, y]}, {targets: \
                    [z]}], file_sd_configs: [{files: [t/*.yml]}]}]";
        let config = config::load_text(text, "/c/p.yml".as_ref(), false).unwrap();
        assert_eq!(row(&config.jobs[0]), ["a", "1m30s", "10s", "3", "/c/t/*.yml"]);
        let args = CheckArgs { file: "/c/p.yml".into(), allow_unsupported: false, output: Output::Json };
        assert_eq!(summary_json(&args, &config)["jobs"][0]["static_targets"], 3);
    }
}
