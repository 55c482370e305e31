//! The same streams over WebSockets: one message for each line.
//!
//! Limits: [`MESSAGE_BYTES_MAX`] a message; a peer that does not take what it is sent is left.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use wire::websocket::{Event, Frames, accept_key, put_close, put_pong, put_text};

use super::http::Streams;
use super::lines::LineFault;
use super::session::Source;
use crate::prom::params::Params;
use crate::rest::problem::Problem;

/// Bytes of one message; they are in memory until the message is whole.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a message of a listener, who has nothing to say.
const LISTENER_BYTES_MAX: usize = 4 << 10;
/// A peer that takes nothing for so long is gone.
const SEND_MAX: Duration = Duration::from_secs(30);
/// A peer that asked to speak WebSocket and does not.
const UPGRADE_MAX: Duration = Duration::from_secs(10);
/// Pongs that wait.
const PONGS_MAX: usize = 8;

type Socket = TokioIo<Upgraded>;

/// A request to speak WebSocket.
pub struct Upgrade {
    key: String,
    on_upgrade: OnUpgrade,
}

impl Upgrade {
    /// Finds out whether a request wants to speak WebSocket; `None` when it does not.
    ///
    /// **Errors** when it does in a way that is not ours.
    pub fn of(mut request: Request) -> Result<Option<Upgrade>, Problem> {
        let text = |name: header::HeaderName| {
            request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
        };
        if !text(header::UPGRADE).split(',').any(|word| word.trim() == "websocket") {
            return Ok(None);
        }
        if text(header::SEC_WEBSOCKET_VERSION) != "13" {
            return Err(Problem::new(
                StatusCode::UPGRADE_REQUIRED,
                "websocket_version",
                "WebSocket version 13 is spoken",
            ));
        }
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
        match (key, on_upgrade) {
            (Some(key), Some(on_upgrade)) if key.len() == 24 => Ok(Some(Upgrade { key, on_upgrade })),
            (_, None) => {
                let detail = "this connection cannot change to WebSocket; ask over HTTP/1.1";
                Err(Problem::new(StatusCode::BAD_REQUEST, "websocket_refused", detail))
            }
            _ => {
                Err(Problem::new(StatusCode::BAD_REQUEST, "websocket_refused", "Sec-WebSocket-Key is missing or wrong"))
            }
        }
    }

    /// Answers the handshake; then `run` has the connection.
    fn accept<F: Future<Output = ()> + Send>(self, run: impl FnOnce(Socket) -> F + Send + 'static) -> Response {
        let on_upgrade = self.on_upgrade;
        tokio::spawn(async move {
            if let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_MAX, on_upgrade).await {
                run(TokioIo::new(upgraded)).await;
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&accept_key(self.key.as_bytes())) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

/// Takes frames in.
pub fn to_here(streams: Streams, upgrade: Upgrade, headers: &HeaderMap, params: &Params) -> Result<Response, Problem> {
    let (session, mut answers, seat) = streams.session(headers, params)?;
    Ok(upgrade.accept(move |socket| async move {
        let _seat = seat;
        let (read, write) = tokio::io::split(socket);
        let (pongs, mut pinged) = mpsc::channel(PONGS_MAX);
        let messages = Messages {
            read,
            frames: Frames::new(MESSAGE_BYTES_MAX),
            waiting: VecDeque::new(),
            pongs,
            bytes: vec![0; 16 << 10],
            ended: false,
        };
        let running = tokio::spawn(session.run(messages));
        let mut out = Out(write);
        loop {
            let sent = tokio::select! {
                line = answers.recv() => match line {
                    Some(line) => out.text(&line).await,
                    None => break,
                },
                Some(payload) = pinged.recv() => out.pong(&payload).await,
            };
            if sent.is_err() {
                break;
            }
        }
        drop(answers);
        let _ = out.close(1000).await;
        let _ = running.await;
    }))
}

/// Gives lines out.
pub fn from_here(upgrade: Upgrade, mut lines: mpsc::Receiver<String>) -> Response {
    upgrade.accept(move |socket| async move {
        let (mut read, write) = tokio::io::split(socket);
        let mut out = Out(write);
        let mut frames = Frames::new(LISTENER_BYTES_MAX);
        let mut bytes = vec![0; 1 << 10];
        loop {
            let sent = tokio::select! {
                line = lines.recv() => match line {
                    // A slow reader is told by what comes next; one that reads nothing at all is left.
                    Some(line) => out.text(&line).await,
                    None => break,
                },
                read = read.read(&mut bytes) => match read {
                    Ok(n @ 1..) => {
                        frames.push(&bytes[..n]);
                        listen(&mut frames, &mut out).await
                    }
                    _ => return,
                },
            };
            if sent.is_err() {
                break;
            }
        }
        let _ = out.close(1000).await;
    })
}

/// Answers what a listener says; an error ends it.
async fn listen(frames: &mut Frames, out: &mut Out) -> io::Result<()> {
    loop {
        match frames.next_event() {
            Ok(None) => return Ok(()),
            Ok(Some(Event::Ping(payload))) => out.pong(&payload).await?,
            // What else a listener says is nothing to us.
            Ok(Some(Event::Message(_))) => {}
            Ok(Some(Event::Close)) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Err(fault) => {
                let _ = out.close(fault.status).await;
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

/// The way to the peer.
struct Out(WriteHalf<Socket>);

impl Out {
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sending = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        tokio::time::timeout(SEND_MAX, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn text(&mut self, line: &str) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 10);
        put_text(&mut bytes, line);
        self.send(&bytes).await
    }

    async fn pong(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_pong(&mut bytes, payload);
        self.send(&bytes).await
    }

    async fn close(&mut self, status: u16) -> io::Result<()> {
        let mut bytes = Vec::new();
        put_close(&mut bytes, status);
        self.send(&bytes).await?;
        self.0.shutdown().await
    }
}

/// The messages of a socket; each may hold several lines.
struct Messages {
    read: ReadHalf<Socket>,
    frames: Frames,
    waiting: VecDeque<Bytes>,
    pongs: mpsc::Sender<Vec<u8>>,
    bytes: Vec<u8>,
    ended: bool,
}

impl Messages {
    /// Takes all whole messages out of the frames.
    fn sort(&mut self) -> Result<(), LineFault> {
        loop {
            match self.frames.next_event() {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Message(message))) => {
                    let message = Bytes::from(message);
                    let lines = message.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
                    self.waiting.extend(lines.map(|line| message.slice_ref(line)));
                }
                // A peer that pings faster than it reads gets fewer pongs.
                Ok(Some(Event::Ping(payload))) => drop(self.pongs.try_send(payload)),
                Ok(Some(Event::Close)) => {
                    self.ended = true;
                    return Ok(());
                }
                Err(fault) => {
                    self.ended = true;
                    return Err(match fault.status {
                        1009 => LineFault::TooLong(MESSAGE_BYTES_MAX),
                        _ => LineFault::Broken(fault.to_string()),
                    });
                }
            }
        }
    }
}

impl Source for Messages {
    async fn next(&mut self) -> Option<Result<Bytes, LineFault>> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Some(Ok(line));
            }
            if self.ended {
                return None;
            }
            // Cancelled or not: what was read is in the frames before anything else is waited for.
            let read = self.read.read(&mut self.bytes).await;
            match read {
                Ok(n @ 1..) => self.frames.push(&self.bytes[..n]),
                Ok(_) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(LineFault::Broken(error.to_string())));
                }
            }
            if let Err(fault) = self.sort() {
                return Some(Err(fault));
            }
        }
    }

    fn ready(&mut self) -> Option<Bytes> {
        self.waiting.pop_front()
    }
}
