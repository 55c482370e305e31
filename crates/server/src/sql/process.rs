//! One analytics process: started, spoken to in frames, and gone when it is dropped.
//!
//! The frames are drawn in `analytics/src/frames.rs`.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use http::StatusCode;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::SqlLimits;
use super::program::{NOBODY, all_may_reach, is_root};
use crate::rest::problem::Problem;

/// A plan or an error is small.
const WORD_BYTES_MAX: u32 = 1 << 20;
/// What is kept of its last words.
const LAST_WORDS_BYTES: u64 = 4 << 10;
/// Collection and everybody else's queries come first.
const NICE: i32 = 10;

/// A process for one query.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The process said why.
    #[error("{}", .0.text)]
    Told(Told),
    /// What it asked for cannot be given.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// It is not there any more.
    #[error("it is gone: {0}")]
    Gone(io::Error),
    /// It says what makes no sense.
    #[error("it says what makes no sense: {0}")]
    Broken(String),
}

/// An error of the process.
#[derive(Deserialize, Debug)]
pub struct Told {
    code: String,
    text: String,
    position: Option<u64>,
}

impl Told {
    /// Makes an answer of it.
    pub fn problem(self) -> Problem {
        let status = match self.code.as_str() {
            "sql_syntax" => StatusCode::BAD_REQUEST,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let text = match (self.position, self.code.as_str()) {
            (Some(position), _) => format!("{} (at byte {position})", self.text),
            (None, "sql_memory") => {
                format!("the query needs more memory than one may use (--sql.memory): {}", self.text)
            }
            _ => self.text,
        };
        Problem::at(status, &self.code, "/query", text)
    }
}

/// How a process ended.
pub struct Obituary {
    /// It came to one of its limits.
    pub by_limit: bool,
    /// A sentence.
    pub text: String,
}

impl Process {
    /// Starts one.
    ///
    /// **Promises** it is killed when this is dropped.
    pub fn start(program: &Path, readable: &Path, limits: &SqlLimits) -> io::Result<Process> {
        let mut command = Command::new(program);
        command
            .arg("sql")
            .arg("--readable")
            .arg(readable)
            .args(["--memory", &limits.memory_bytes.to_string()])
            .args(["--cpu", &(limits.timeout.as_secs() + 1).to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Another user cannot even be asked to: nothing of ours is within its rights.
        if is_root() && all_may_reach(program) && all_may_reach(readable) {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn()?;
        // It has one thread now, and those that come inherit it. Where it cannot be, the query runs as everybody else.
        let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(Err(error)) = pid.map(|pid| rustix::process::setpriority_process(Some(pid), NICE)) {
            tracing::debug!(%error, "a query runs at the server's priority");
        }
        let missing = || io::Error::other("a pipe is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Process { child, stdin, stdout })
    }

    /// Sends a frame. When the process has gone, what it said last is the error.
    pub async fn write(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), Fault> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let len = u32::try_from(len).map_err(|_| Fault::Broken("a table of more than 4 GiB".to_owned()))?;
        let sent = async {
            self.stdin.write_all(&[kind]).await?;
            self.stdin.write_all(&len.to_le_bytes()).await?;
            for part in parts {
                self.stdin.write_all(part).await?;
            }
            self.stdin.flush().await
        };
        match sent.await {
            Ok(()) => Ok(()),
            Err(error) => match self.read(WORD_BYTES_MAX).await {
                Err(told @ Fault::Told(_)) => Err(told),
                _ => Err(Fault::Gone(error)),
            },
        }
    }

    async fn read(&mut self, bytes_max: u32) -> Result<(u8, Vec<u8>), Fault> {
        let kind = self.stdout.read_u8().await.map_err(Fault::Gone)?;
        let len = self.stdout.read_u32_le().await.map_err(Fault::Gone)?;
        if len > bytes_max {
            return Err(Fault::Broken(format!("a frame of {len} bytes")));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.stdout).take(u64::from(len)).read_to_end(&mut bytes).await.map_err(Fault::Gone)?;
        if read as u64 != u64::from(len) {
            return Err(Fault::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        if kind == b'E' {
            let told = serde_json::from_slice(&bytes).map_err(|e| Fault::Broken(format!("its error: {e}")))?;
            return Err(Fault::Told(told));
        }
        Ok((kind, bytes))
    }

    /// Reads a frame of a kind.
    pub async fn expect(&mut self, kind: u8) -> Result<Vec<u8>, Fault> {
        match self.read(WORD_BYTES_MAX).await? {
            (k, bytes) if k == kind => Ok(bytes),
            (k, _) => Err(Fault::Broken(format!("a frame {:?}", char::from(k)))),
        }
    }

    /// Reads the answer to its end.
    pub async fn answer(&mut self, bytes_max: usize) -> Result<Vec<u8>, Fault> {
        let mut answer = Vec::new();
        loop {
            match self.read(2 * WORD_BYTES_MAX).await? {
                // What closes an answer may stand beyond its limit.
                (b'D', bytes) if answer.len() + bytes.len() <= bytes_max + WORD_BYTES_MAX as usize => {
                    answer.extend_from_slice(&bytes);
                }
                (b'Z', _) => return Ok(answer),
                (kind, _) => return Err(Fault::Broken(format!("a frame {:?}", char::from(kind)))),
            }
        }
    }

    /// Lets it end by itself.
    pub async fn end(self) {
        let Process { mut child, stdin, stdout } = self;
        drop(stdin);
        let _ = child.wait().await;
        // Held until here: a process whose reader goes away gives up.
        drop(stdout);
    }

    /// Waits for its end and says how it came.
    ///
    /// **Takes** `talks`: it is there still, but of no use.
    pub async fn obituary(self, limits: &SqlLimits, talks: bool) -> Obituary {
        let Process { mut child, stdin, stdout } = self;
        if talks {
            // It has ended by itself already: fine.
            let _ = child.start_kill();
        }
        drop(stdin);
        let mut words = String::new();
        if let Some(stderr) = child.stderr.take() {
            let _ = stderr.take(LAST_WORDS_BYTES).read_to_string(&mut words).await;
        }
        let status = child.wait().await;
        drop(stdout);
        let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
        let words = words.trim();
        match signal {
            // SIGXCPU: the kernel's word for this and nothing else.
            Some(24) => Obituary {
                by_limit: true,
                text: format!(
                    "the query was ended: it used up its processor time of {} s",
                    limits.timeout.as_secs() + 1
                ),
            },
            // SIGABRT and SIGSEGV: where memory could not be had in a place that cannot do without.
            Some(6 | 11 | 7) => Obituary {
                by_limit: true,
                text: format!("the query was ended: it used up its memory (--sql.memory). {words}").trim().to_owned(),
            },
            Some(9) if !talks => Obituary {
                by_limit: false,
                text: "the query was killed from outside, as the system does when the machine runs out of memory"
                    .to_owned(),
            },
            _ => {
                let ended = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                Obituary {
                    by_limit: false,
                    text: format!("the analytics process ended ({ended}). {words}").trim().to_owned(),
                }
            }
        }
    }
}
