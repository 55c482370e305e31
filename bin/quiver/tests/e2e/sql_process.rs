//! The process that answers SQL: it is locked in while it works, and does not outlive its server.

use std::path::Path;

use crate::sql::{self, PATH};
use crate::support::{Client, wait_until};

/// A query that goes on for as long as it may.
const ENDLESS: &[u8] = b"WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r";

/// Finds a process of the given name among the children of another.
fn child_of(parent: u32) -> Option<u32> {
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("Name:\tquiver-analytic") && status.contains(&format!("PPid:\t{parent}\n"))
    })
}

fn status_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// Asks what never ends; gives the process that answers it, locked in.
fn asked(client: &Client, server: u32) -> u32 {
    let client = client.clone();
    std::thread::spawn(move || {
        let _ = client.try_send("POST", PATH, &[("content-type", "text/plain")], ENDLESS);
    });
    wait_until("the process is locked in", || {
        child_of(server).is_some_and(|pid| status_of(pid).contains("Seccomp:\t2\n"))
    });
    child_of(server).expect("it runs")
}

#[test]
fn the_process_is_locked_in_and_does_not_outlive_its_server() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = sql::server(dir.path(), &["--sql.timeout", "50s", "--sql.memory", "48MiB"]);
    let pid = asked(&server.client, server.pid());
    let status = status_of(pid);
    for line in ["NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
        assert!(status.contains(line), "{line:?} is missing: {status}");
    }
    // Three filters: the second ABI, calls that cannot be looked at, all the others.
    #[cfg(target_arch = "x86_64")]
    assert!(!status.contains("Seccomp_filters:") || status.contains("Seccomp_filters:\t3\n"), "{status}");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let memory = ((48 << 20) + (1 << 30)).to_string();
    let limit = |name: &str| {
        let line =
            limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {limits}"));
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max data size"), [memory.clone(), memory]);
    assert_eq!(limit("Max cpu time"), ["51", "52"]);
    for name in ["Max file size", "Max core file size"] {
        assert_eq!(limit(name), ["0", "0"], "{name}");
    }
    let first_to_go = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a score");
    assert_eq!(first_to_go.trim(), "1000");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    // Behind the name in parentheses, the seventeenth: how far it stands back.
    let nice = stat.rsplit(") ").next().and_then(|rest| rest.split_whitespace().nth(16));
    assert_eq!(nice, Some("10"), "{stat}");
    server.kill();
    wait_until("the process has ended", || {
        !Path::new(&format!("/proc/{pid}")).exists() || status_of(pid).contains("(zombie)")
    });
}
