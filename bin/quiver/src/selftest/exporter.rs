//! A target of our own, on a thread: counts how often it was asked, and shows that.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::child::failed;
use crate::Failure;

/// Series that it shows.
const SERIES: usize = 1_250;
/// A request's head is shorter.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A running exporter; ends when it goes out of scope.
pub struct Exporter {
    /// Where it listens.
    pub port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Starts it on loopback.
    pub fn start() -> Result<Exporter, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| failed("open a port for a target", e))?;
        let port = listener.local_addr().map_err(|e| failed("open a port for a target", e))?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let asked = AtomicU64::new(0);
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // One that hangs up is the server being killed.
                let _ = stream.and_then(|s| answer(s, asked.fetch_add(1, Ordering::Relaxed)));
            }
        });
        Ok(Exporter { port, stop, thread: Some(thread) })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, asked: u64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    // The whole head is read before the answer: closing on unread bytes resets the connection.
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let mut body = String::from("# TYPE selftest_exporter counter\n");
    for n in 0..SERIES {
        body.push_str(&format!("selftest_exporter{{n=\"{n}\"}} {}\n", asked + n as u64));
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\nContent-Length:";
    write!(stream, "{head} {}\r\n\r\n{body}", body.len())
}
