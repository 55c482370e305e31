//! One process of `quiver-analytics clean`, spoken to in frames from the thread that works on an upload.
//!
//! The frames are drawn in `analytics/src/frames.rs`, the conversation in `analytics/src/clean.rs`. Limits: the memory and processor
//! time of the process, which the kernel holds it to; frames that are read.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use crate::sql::program::{NOBODY, all_may_reach, is_root};

/// Memory for the tables of a file.
const MEMORY_BYTES: u64 = 256 << 20;
/// Processor time for a file.
const CPU_SECONDS: u64 = 3_600;
/// A word of the process.
const WORD_BYTES_MAX: u32 = 1 << 20;
/// What is kept of its last words.
const LAST_WORDS_BYTES: u64 = 4 << 10;

/// Why a clean-up does not go on.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The process said why.
    #[error("{0}")]
    Told(String),
    /// It cannot be started, is not there any more, or says what makes no sense.
    #[error("{0}")]
    Gone(String),
}

#[derive(Deserialize)]
struct Told {
    text: String,
}

#[derive(Deserialize)]
struct Hello {
    version: String,
}

/// The process; killed when this is dropped.
pub struct Cleaner {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    version: String,
}

impl Cleaner {
    /// Starts one on its steps. Blocks until it has understood them.
    pub fn start(program: &Path, steps: &str) -> Result<Cleaner, CleanError> {
        let gone = |what: &str| CleanError::Gone(format!("{} {what}", program.display()));
        let mut command = Command::new(program);
        command
            .args(["clean", "--memory", &MEMORY_BYTES.to_string(), "--cpu", &CPU_SECONDS.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if is_root() && all_may_reach(program) {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().map_err(|e| gone(&format!("cannot be started: {e}")))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(gone("has no pipes"));
        };
        let mut cleaner = Cleaner { child, stdin, stdout: BufReader::new(stdout), version: String::new() };
        let question = serde_json::json!({ "steps": steps }).to_string();
        cleaner.write(b'Q', question.as_bytes())?;
        let hello = cleaner.expect(b'P', WORD_BYTES_MAX)?;
        let hello: Hello =
            serde_json::from_slice(&hello).map_err(|e| gone(&format!("says what makes no sense: {e}")))?;
        cleaner.version = hello.version;
        Ok(cleaner)
    }

    /// Gives which way of cleaning up it has.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sends a frame.
    pub fn write(&mut self, kind: u8, bytes: &[u8]) -> Result<(), CleanError> {
        let len = u32::try_from(bytes.len()).map_err(|_| CleanError::Gone("a table of 4 GiB".to_owned()))?;
        let mut head = [kind, 0, 0, 0, 0];
        head[1..].copy_from_slice(&len.to_le_bytes());
        let sent =
            self.stdin.write_all(&head).and_then(|()| self.stdin.write_all(bytes)).and_then(|()| self.stdin.flush());
        sent.map_err(|error| match self.expect(b'P', WORD_BYTES_MAX) {
            // It had said why before it went.
            Err(told @ CleanError::Told(_)) => told,
            _ => self.ended(&error),
        })
    }

    /// Waits for a frame of a kind.
    pub fn expect(&mut self, kind: u8, bytes_max: u32) -> Result<Vec<u8>, CleanError> {
        let (got, bytes) = self.read(bytes_max).map_err(|error| self.ended(&error))?;
        match got {
            b'E' => {
                let told: Result<Told, _> = serde_json::from_slice(&bytes);
                Err(CleanError::Told(told.map_or_else(|e| e.to_string(), |told| told.text)))
            }
            got if got == kind => Ok(bytes),
            got => Err(CleanError::Gone(format!("the analytics process sent a frame {:?}", char::from(got)))),
        }
    }

    fn read(&mut self, bytes_max: u32) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stdout.read_exact(&mut head)?;
        let [kind, a, b, c, d] = head;
        let len = u32::from_le_bytes([a, b, c, d]);
        if len > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
        }
        let mut bytes = Vec::new();
        (&mut self.stdout).take(u64::from(len)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == u64::from(len) { Ok((kind, bytes)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Says how it ended.
    fn ended(&mut self, error: &io::Error) -> CleanError {
        // It may have ended by itself.
        let _ = self.child.kill();
        let mut words = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(LAST_WORDS_BYTES).read_to_string(&mut words);
        }
        let how = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        CleanError::Gone(format!("the analytics process ended ({how}; {error}). {}", words.trim()).trim().to_owned())
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
