//! A program that a test starts on a free port of loopback, and that ends with it.

#![allow(dead_code, reason = "not every program needs everything")]

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to start, stop or answer before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The place of a process, with one in it or without.
#[derive(Default)]
pub struct Running(Option<Child>);

impl Running {
    /// Starts a program in this place, which must be empty; it has no input.
    #[track_caller]
    pub fn start(&mut self, command: &mut Command) {
        assert!(self.0.is_none(), "it is running");
        let child = command.stdin(Stdio::null()).spawn();
        self.0 = Some(child.unwrap_or_else(|e| panic!("{command:?} does not start ({e}): run scripts/setup test")));
    }

    /// Gives the process.
    pub fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool, log: impl Fn() -> String) {
        let begin = Instant::now();
        loop {
            let is_ready = is_ready();
            // Also then: somebody else may have taken the port, and ours has ended of that.
            let ended = self.0.as_mut().and_then(|c| c.try_wait().expect("a child can be waited for"));
            assert!(ended.is_none() && begin.elapsed() < PATIENCE, "{what} is not ready ({ended:?}): {}", log());
            if is_ready {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Tells whether it has ended; the place is empty then.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.0.as_mut().is_some_and(|c| c.try_wait().expect("a child can be waited for").is_some());
        if ended {
            self.0 = None;
        }
        ended
    }

    /// kill -9; nothing happens when it is not running.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().expect("the child can be killed");
            child.wait().expect("the child can be waited for");
        }
    }

    /// Sends a signal, and waits until it has ended.
    pub fn end_by(&mut self, signal: &str) -> Option<ExitStatus> {
        let mut child = self.0.take()?;
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
        child.wait().ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Already ended is fine here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks the kernel for a port nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free loopback port").port()
}

/// Tells whether somebody listens on a port.
pub fn is_open(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}
