//! Tells systemd how the server is doing: what the start waits for, ready, stopping, alive.
//!
//! Speaks the datagrams of sd_notify(3) to the socket that `NOTIFY_SOCKET` names; without one, nothing happens.
//! Invariants: 1. `READY=1` comes when everything is answered, and not before; 2. `WATCHDOG=1` comes only while the store's
//! threads run and the runtime gets round, so that a server that hangs is started anew; 3. nothing here ever waits for
//! systemd, or fails the server.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// How often the start says that it is under way, and how much longer it may take then.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(5);
const PROGRESS_LASTS: Duration = Duration::from_secs(60);
/// How often the runtime shows that it gets round, at most.
const BEAT_EVERY_MAX: Duration = Duration::from_secs(1);

/// The way to systemd; no way for a server that it did not start.
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// How long it waits for a sign of life.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn of_environment() -> Supervisor {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let path = std::env::var_os("NOTIFY_SOCKET");
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_for_us && *usec > 0).map(Duration::from_micros);
        Supervisor::at(path.as_deref(), watchdog)
    }

    fn at(path: Option<&OsStr>, watchdog: Option<Duration>) -> Supervisor {
        let socket = path.filter(|path| !path.is_empty()).and_then(|path| match connect(path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET {}: {error}; systemd hears nothing of us", path.display());
                None
            }
        });
        Supervisor { socket, watchdog }
    }

    /// The start is under way, and this is what it does.
    pub fn starting(&self, doing: &str) {
        self.tell(&format!("STATUS={}\nEXTEND_TIMEOUT_USEC={}", one_line(doing), PROGRESS_LASTS.as_micros()));
    }

    /// Everything is answered.
    pub fn ready(&self, address: &str) {
        self.tell(&format!("READY=1\nSTATUS=ready at {}", one_line(address)));
    }

    /// The server stops.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// Gives signs of life from now on, as long as `is_alive` and the runtime that this is called on gets round; ends when
    /// what it gives is dropped.
    pub fn watch(&self, is_alive: impl Fn() -> bool + Send + 'static) -> Option<Watching> {
        let (socket, watchdog) = (self.socket.as_ref()?.try_clone().ok()?, self.watchdog?);
        let beats = Arc::new(AtomicU64::new(0));
        let (end, ended) = sync_channel::<()>(0);
        let pause = watchdog / 3;
        let beating = tokio::spawn({
            let beats = beats.clone();
            async move {
                loop {
                    beats.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BEAT_EVERY_MAX.min(pause / 3)).await;
                }
            }
        });
        let watch = move || {
            let mut seen = 0;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(pause) {
                let now = beats.load(Ordering::Relaxed);
                let what = match (is_alive(), now != seen) {
                    (true, true) => "WATCHDOG=1",
                    (false, _) => "STATUS=a thread of the store has ended; nothing can be stored",
                    (true, false) => "STATUS=the runtime does not get round",
                };
                seen = now;
                send(&socket, what);
            }
        };
        match thread::Builder::new().name("watchdog".into()).spawn(watch) {
            Ok(_) => Some(Watching { _end: end, beating }),
            Err(error) => {
                tracing::error!("the thread that tells systemd of us does not start: {error}");
                None
            }
        }
    }

    fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket {
            send(socket, what);
        }
    }
}

/// Signs of life are given until it is dropped.
pub struct Watching {
    _end: SyncSender<()>,
    beating: tokio::task::JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

fn connect(path: &OsStr) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A full queue must hold nobody up.
    socket.set_nonblocking(true)?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}

fn send(socket: &UnixDatagram, what: &str) {
    if let Err(error) = socket.send(what.as_bytes()) {
        tracing::debug!("systemd was not told {what:?}: {error}");
    }
}

/// A line feed would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn listen() -> (tempfile::TempDir, UnixDatagram) {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        (dir, listener)
    }

    fn hear(listener: &UnixDatagram) -> String {
        let mut bytes = [0; 1000];
        let length = listener.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn it_is_told_what_happens_in_its_words() {
        let (dir, listener) = listen();
        let supervisor = Supervisor::at(Some(dir.path().join("notify").as_os_str()), None);
        supervisor.starting("replaying\nREADY=1");
        assert_eq!(hear(&listener), "STATUS=replaying READY=1\nEXTEND_TIMEOUT_USEC=60000000");
        supervisor.ready("http://127.0.0.1:9740");
        assert_eq!(hear(&listener), "READY=1\nSTATUS=ready at http://127.0.0.1:9740");
        supervisor.stopping();
        assert_eq!(hear(&listener), "STOPPING=1\nSTATUS=stopping");

        let name = format!("@quiver-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        Supervisor::at(Some(OsStr::new(&name)), None).stopping();
        assert!(hear(&listener).starts_with("STOPPING=1"));
        // Nobody there: nothing happens.
        Supervisor::at(None, None).stopping();
        Supervisor::at(Some(OsStr::new("/no/such/socket")), None).stopping();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn signs_of_life_end_with_it() {
        let (dir, listener) = listen();
        let path = dir.path().join("notify");
        let supervisor = Supervisor::at(Some(path.as_os_str()), Some(Duration::from_millis(150)));
        let alive = Arc::new(AtomicBool::new(true));
        let is_alive = alive.clone();
        let watching = supervisor.watch(move || is_alive.load(Ordering::Relaxed)).unwrap();
        let heard = tokio::task::spawn_blocking(move || {
            (0..3).for_each(|_| drop(until(&listener, "WATCHDOG=1")));
            alive.store(false, Ordering::Relaxed);
            until(&listener, "STATUS=a thread of the store");
            // From here on it says nothing else.
            (0..3).all(|_| hear(&listener).starts_with("STATUS=a thread of the store"))
        });
        assert!(heard.await.unwrap());
        drop(watching);
    }

    fn until(listener: &UnixDatagram, begin: &str) -> String {
        loop {
            let heard = hear(listener);
            if heard.starts_with(begin) {
                return heard;
            }
        }
    }

    #[test]
    fn a_runtime_that_hangs_gives_no_sign_of_life() {
        let (dir, listener) = listen();
        let path = dir.path().join("notify");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let supervisor = Supervisor::at(Some(path.as_os_str()), Some(Duration::from_millis(150)));
        let watching = runtime.block_on(async { supervisor.watch(|| true) });
        // Nobody drives the runtime any more.
        until(&listener, "STATUS=the runtime does not get round");
        assert!((0..3).all(|_| hear(&listener).starts_with("STATUS=the runtime")));
        drop(watching);
    }
}
