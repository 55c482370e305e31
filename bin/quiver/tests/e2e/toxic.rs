//! A TCP proxy that misbehaves on demand: between Quiver and what it talks to.
//!
//! [`Toxic::set`] changes the mood for connections that exist and for those that come. Two threads per connection; all of
//! them end when the proxy goes out of scope.
//! Limits: [`PIECE_BYTES_MAX`] bytes are under way per connection and direction.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Read at a time.
const PIECE_BYTES_MAX: usize = 16 << 10;
/// How often a thread that waits looks whether the mood has changed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How the proxy behaves.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mood {
    /// Passes everything on at once.
    Good,
    /// Passes each piece on after a time, in both directions.
    Late(Duration),
    /// Closes what is open and whatever comes.
    Cut,
    /// Takes connections and bytes, and passes nothing on: the other side seems to be there.
    HalfOpen,
    /// Passes single bytes on, one after each time.
    Trickle(Duration),
    /// Passes requests on and keeps the answers; the work is done, and nobody hears of it.
    Mute,
}

/// The proxy; it stops when it goes out of scope.
pub struct Toxic {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    mood: Mutex<Mood>,
    /// Counts up with each [`Toxic::set`] to a mood that ends connections.
    cuts: AtomicU64,
    stopped: AtomicBool,
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Toxic {
    /// Listens on a free port of loopback and leads to a port there.
    pub fn before(port: u16) -> Toxic {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            mood: Mutex::new(Mood::Good),
            cuts: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let accepting = shared.clone();
        thread::spawn(move || accept(&listener, &accepting));
        Toxic { address, shared }
    }

    /// Gives the port to connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the mood.
    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().expect("no thread of the proxy panics") = mood;
        if mood == Mood::Cut {
            self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Leads new connections to another port; the place behind may have moved by a restart.
    pub fn lead_to(&self, port: u16) {
        *self.shared.upstream.lock().expect("no thread of the proxy panics") =
            SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    }

    /// Counts the connections that were let through so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Counts the bytes passed on so far, in both directions.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Toxic {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn mood(&self) -> Mood {
        *self.mood.lock().expect("no thread of the proxy panics")
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let upstream = *shared.upstream.lock().expect("no thread of the proxy panics");
        // Dropped, and so closed, when there is nobody behind.
        let Some(server) = (shared.mood() != Mood::Cut).then(|| TcpStream::connect(upstream).ok()).flatten() else {
            continue;
        };
        let (Ok(client_2), Ok(server_2)) = (client.try_clone(), server.try_clone()) else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let cuts = shared.cuts.load(Ordering::SeqCst);
        for (from, to, is_answer) in [(client, server, false), (server_2, client_2, true)] {
            let shared = shared.clone();
            thread::spawn(move || Way { from, to, is_answer, cuts, shared }.run());
        }
    }
}

/// One direction of one connection.
struct Way {
    from: TcpStream,
    to: TcpStream,
    is_answer: bool,
    cuts: u64,
    shared: Arc<Shared>,
}

impl Way {
    fn run(mut self) {
        let _ = self.from.set_read_timeout(Some(LOOK_EVERY));
        let _ = (self.from.set_nodelay(true), self.to.set_nodelay(true));
        let mut piece = vec![0; PIECE_BYTES_MAX];
        while !self.is_cut() {
            match self.from.read(&mut piece) {
                Ok(0) => {
                    // The other direction may go on.
                    let _ = self.to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) if self.pass(&piece[..n]) => {}
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                _ => break,
            }
        }
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }

    fn is_cut(&self) -> bool {
        self.shared.cuts.load(Ordering::SeqCst) != self.cuts
    }

    /// Passes a piece on as the mood wants it; tells whether the connection still stands.
    fn pass(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while !rest.is_empty() {
            if self.is_cut() {
                return false;
            }
            let count = match self.shared.mood() {
                Mood::Good => rest.len(),
                Mood::Cut => return false,
                Mood::Late(time) => {
                    thread::sleep(time);
                    rest.len()
                }
                Mood::Trickle(time) => {
                    thread::sleep(time);
                    1
                }
                Mood::Mute if !self.is_answer => rest.len(),
                Mood::HalfOpen | Mood::Mute => {
                    thread::sleep(LOOK_EVERY);
                    continue;
                }
            };
            if self.to.write_all(&rest[..count]).is_err() {
                return false;
            }
            self.shared.bytes.fetch_add(count as u64, Ordering::SeqCst);
            rest = &rest[count..];
        }
        true
    }
}

#[test]
fn the_proxy_does_what_it_is_told() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    let port = server.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in server.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    let toxic = Toxic::before(1);
    toxic.lead_to(port);
    let open = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, toxic.port())).expect("the proxy listens");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a time to wait");
        stream
    };
    let echo = |stream: &mut TcpStream| {
        let mut got = [0; 3];
        let sent = stream.write_all(b"abc");
        sent.and_then(|()| stream.read_exact(&mut got)).map(|()| got)
    };
    let mut stream = open();
    assert_eq!(echo(&mut stream).expect("it passes"), *b"abc");
    toxic.set(Mood::Late(Duration::from_millis(1)));
    assert_eq!(echo(&mut stream).expect("late, but it passes"), *b"abc");
    toxic.set(Mood::Trickle(Duration::from_millis(1)));
    assert_eq!(echo(&mut stream).expect("slow, but it passes"), *b"abc");
    for mood in [Mood::HalfOpen, Mood::Mute] {
        toxic.set(mood);
        let mut held = open();
        echo(&mut held).expect_err("nothing comes back");
        toxic.set(Mood::Good);
        let mut got = [0; 3];
        held.set_read_timeout(Some(Duration::from_secs(60))).expect("a time to wait");
        held.read_exact(&mut got).expect("what was held comes through");
    }
    toxic.set(Mood::Cut);
    echo(&mut stream).expect_err("it is cut");
    echo(&mut open()).expect_err("nobody is let in");
    toxic.set(Mood::Good);
    assert_eq!(echo(&mut open()).expect("it passes again"), *b"abc");
    assert!(toxic.connections() >= 4 && toxic.bytes() > 12);
}
