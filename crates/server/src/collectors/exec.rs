//! Runs a program and takes what it prints.
//!
//! Invariants: 1. no shell; 2. the environment holds what the configuration says, and a PATH; 3. the program and its process group
//! are gone when it is over, whether it ended, took too long or printed too much; what it moved into a session of its own is not
//! followed.
//! Limits: bytes of output; [`ERROR_BYTES_MAX`] of what it complains.

use std::process::Stdio;

use collect::{Gather, Gathering};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use wire::Format;

use super::Output;

const ERROR_BYTES_MAX: usize = 4 << 10;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and how its output is read.
#[derive(Clone, PartialEq, Debug)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its whole environment, but for a PATH where none is given.
    pub env: Vec<(String, String)>,
    /// What it prints.
    pub output: Output,
    /// Bytes that it may print.
    pub output_max: usize,
}

/// Kills a process group when it goes.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            // Nobody left in it is what is wanted.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Exec {
    fn spawn(&self) -> Result<(Child, Group), String> {
        let (program, arguments) = self.command.split_first().ok_or("the command is empty")?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).envs(self.env.iter().map(|(n, v)| (n, v)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok((child, Group(pid)))
    }

    async fn run(&self) -> Result<Vec<u8>, String> {
        let (mut child, mut group) = self.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let status = child.wait().await.map_err(|e| e.to_string())?;
            // What it left behind would keep its output open.
            group.kill();
            Ok(status)
        };
        let output = read(stdout, self.output_max);
        let complaint = async { Ok(read_beginning(stderr).await) };
        let (status, output, complaint) = tokio::try_join!(ended, output, complaint)?;
        if status.success() {
            return Ok(output);
        }
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Err(if complaint.is_empty() { status.to_string() } else { format!("{status}: {complaint}") })
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>, max: usize) -> Result<Vec<u8>, String> {
    let mut output = Vec::new();
    if let Some(from) = from {
        from.take(max as u64 + 1).read_to_end(&mut output).await.map_err(|e| e.to_string())?;
    }
    match output.len() > max {
        true => Err(format!("it prints more than {max} bytes")),
        false => Ok(output),
    }
}

/// Reads to the end, keeps the beginning.
async fn read_beginning(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    let Some(mut from) = from else { return kept };
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = ERROR_BYTES_MAX.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    kept
}

impl Gather for Exec {
    fn gather(&self) -> Option<Gathering<'_>> {
        Some(Box::pin(self.run()))
    }

    fn read(&self, body: Vec<u8>, scrape_ms: i64) -> Result<(Format, Vec<u8>), String> {
        self.output.read(body, scrape_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(script: &str) -> Exec {
        Exec {
            command: ["/bin/sh", "-c", script].iter().map(|s| (*s).to_owned()).collect(),
            env: vec![("GIVEN".into(), "yes".into())],
            output: Output::Text,
            output_max: 1000,
        }
    }

    #[tokio::test]
    async fn output_and_failure_are_told() {
        assert_eq!(exec("echo m $#; env | grep -c HOME").run().await, Err("exit status: 1".to_owned()));
        assert_eq!(exec("echo \"m 1 # $GIVEN\"").run().await, Ok(b"m 1 # yes\n".to_vec()));
        let failed = exec("echo broken >&2; exit 3").run().await;
        assert_eq!(failed, Err("exit status: 3: broken".to_owned()));
        assert!(exec("while :; do echo xxxxxxxxxxxxxxxxxx; done").run().await.is_err_and(|e| e.contains("1000 bytes")));
        let nothing = Exec { command: vec!["/no/such/program".into()], ..exec("") };
        assert!(nothing.run().await.is_err_and(|e| e.contains("/no/such/program")));
    }

    #[tokio::test]
    async fn all_that_was_started_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        // A child that outlives the program and holds its output open.
        let script = format!("sleep 300 & echo $! > {}; echo m 1", file.display());
        assert_eq!(exec(&script).run().await, Ok(b"m 1\n".to_vec()));
        let is_gone = |file: &std::path::Path| {
            let pid = std::fs::read_to_string(file).unwrap();
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z")
        };
        while !is_gone(&file) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // One whose time is up.
        let (slow_file, slow) = (dir.path().join("slow"), dir.path().join("slow"));
        let script = format!("echo $$ > {}.tmp; mv {0}.tmp {0}; exec sleep 300", slow.display());
        let slow = exec(&script);
        tokio::select! {
            _ = slow.run() => panic!("it sleeps"),
            () = async { while !slow_file.exists() { tokio::time::sleep(std::time::Duration::from_millis(5)).await } } => {}
        }
        while !is_gone(&slow_file) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
