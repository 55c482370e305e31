//! Takes connections and speaks HTTP/1.1 and HTTP/2 on them.
//!
//! Owns: the listener and the life of each connection.
//! Limits: `connections_max` connections; 10 s for the head of a request, and for anything to arrive at all; 64 KiB of
//! head; 128 streams on an HTTP/2 connection; [`HEADS_MAX`] heads that have begun and not ended. A silent connection holds no
//! buffer.
//! Fails how: over the limit a new connection is closed at once and counted; the ones already there are not touched. Of too
//! many heads that do not come to an end the oldest is given up: whoever means it is through within milliseconds.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::access::guard::Peer;
use crate::access::tls::Tls;

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 64 << 10;
const STREAMS_MAX: u32 = 128;
/// Heads that have begun and not ended: each holds a buffer of up to [`HEAD_BYTES_MAX`].
const HEADS_MAX: usize = 500;
/// How long to wait when the system has no more file descriptors for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the connections cost and were.
#[derive(Default, Debug)]
pub struct NetStats {
    /// Connections that are open.
    pub open: AtomicU64,
    /// Connections taken since the start.
    pub accepted: AtomicU64,
    /// Connections closed at once because there were too many.
    pub refused: AtomicU64,
    /// Connections closed because too many heads had begun and not ended.
    pub heads_given_up: AtomicU64,
}

/// The heads that have begun and not ended, by age.
#[derive(Default)]
struct Heads {
    begun: Mutex<BTreeMap<u64, Arc<Notify>>>,
    next: AtomicU64,
}

/// A head that has begun; dropping it says that it has ended.
struct Head {
    heads: Arc<Heads>,
    number: u64,
    give_up: Arc<Notify>,
}

impl Heads {
    /// Notes a head; the oldest is given up when there are too many.
    fn begin(self: &Arc<Heads>, max: usize, stats: &NetStats) -> Head {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let give_up = Arc::new(Notify::new());
        let mut begun = self.begun.lock();
        begun.insert(number, give_up.clone());
        if begun.len() > max
            && let Some((_, oldest)) = begun.pop_first()
        {
            stats.heads_given_up.fetch_add(1, Ordering::Relaxed);
            oldest.notify_one();
        }
        drop(begun);
        Head { heads: self.clone(), number, give_up }
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.heads.begun.lock().remove(&self.number);
    }
}

/// Serves a router on a listener until `stop` turns true; then finishes the requests under way.
///
/// **Gives** back when the last connection has ended; who calls bounds the wait.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    stats: Arc<NetStats>,
    tls: Option<Arc<Tls>>,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    let heads = Arc::new(Heads::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stopped| *stopped) => break,
        };
        let (stream, peer) = match accepted {
            Ok(pair) => pair,
            Err(e) => {
                pause_after(&e).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        stats.open.fetch_add(1, Ordering::Relaxed);
        let (router, stats, stop) = (router.clone(), stats.clone(), stop.clone());
        let (heads, tls) = (heads.clone(), tls.clone());
        tokio::spawn(async move {
            connection(stream, tls, Caller { peer, subject: None }, router, stop, (&heads, &stats)).await;
            stats.open.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
    drop(listener);
    // All permits are back when the last connection has ended.
    let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
    let _ = permits.acquire_many(all).await;
}

/// A broken connection is the peer's affair; a lack of descriptors is ours, and busy waiting would not help.
async fn pause_after(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tracing::warn!(%error, "cannot accept a connection");
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Who is at the other end.
#[derive(Clone)]
struct Caller {
    peer: SocketAddr,
    /// By its certificate, if it showed one.
    subject: Option<Peer>,
}

async fn connection(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    mut caller: Caller,
    router: Router,
    mut stop: watch::Receiver<bool>,
    (heads, stats): (&Arc<Heads>, &NetStats),
) {
    let _ = stream.set_nodelay(true);
    // Buffers are made only once something arrives: thousands of silent connections cost next to nothing.
    let first_byte = tokio::select! {
        ready = timeout(HEAD_TIMEOUT, stream.readable()) => matches!(ready, Ok(Ok(()))),
        _ = stop.wait_for(|stopped| *stopped) => false,
    };
    if !first_byte {
        return;
    }
    // A handshake that does not end is like a head that does not.
    let head = heads.begin(HEADS_MAX, stats);
    let give_up = head.give_up.clone();
    let Some(tls) = tls else { return exchange(stream, caller, router, stop, head, give_up).await };
    let shaken = tokio::select! {
        shaken = timeout(HEAD_TIMEOUT, tls.accept(stream)) => shaken,
        () = give_up.notified() => return,
        _ = stop.wait_for(|stopped| *stopped) => return,
    };
    match shaken {
        Ok(Ok((stream, subject))) => {
            caller.subject = subject.map(|subject| Peer(Arc::new(subject)));
            exchange(stream, caller, router, stop, head, give_up).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, peer = %caller.peer, "no TLS handshake"),
        Err(_) => tls.count_failed(),
    }
}

/// Answers the requests of a connection.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    router: Router,
    mut stop: watch::Receiver<bool>,
    head: Head,
    give_up: Arc<Notify>,
) {
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (asked, head) = (asked.clone(), Mutex::new(Some(head)));
        hyper::service::service_fn(move |request: Request<Incoming>| {
            if !asked.swap(true, Ordering::Relaxed) {
                drop(head.lock().take());
            }
            answer(router.clone(), caller.clone(), request)
        })
    };
    let builder = builder();
    let mut conn = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // The HTTP/1 timer starts only once the version is known; a peer that stops inside the HTTP/2 preface meets this one.
    let mut head_deadline = pin!(sleep(HEAD_TIMEOUT));
    let mut watching_head = true;
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = conn.as_mut() => return,
            () = give_up.notified(), if watching_head && !asked.load(Ordering::Relaxed) => return,
            () = head_deadline.as_mut(), if watching_head => {
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                watching_head = false;
            }
            _ = stop.wait_for(|stopped| *stopped), if !stopping => {
                stopping = true;
                conn.as_mut().graceful_shutdown();
            }
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(HEAD_TIMEOUT);
    builder
}

/// Tells whether everybody who reads these headers finds the same end of the body: `chunked`, said once, or no coding at all.
fn ends_clearly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// What follows the head cannot be told from the next request, so that the connection ends.
fn unclear() -> Response<Body> {
    let mut response = Response::new(Body::from("of transfer encodings, chunked alone is understood, and once\n"));
    *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn answer(router: Router, caller: Caller, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if !ends_clearly(request.headers()) {
        return Ok(unclear());
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(caller.peer));
    if let Some(subject) = caller.subject {
        request.extensions_mut().insert(subject);
    }
    router.oneshot(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn started(
        connections_max: usize,
    ) -> (SocketAddr, watch::Sender<bool>, tokio::task::JoinHandle<()>, Arc<NetStats>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tx, rx) = watch::channel(false);
        let stats = Arc::new(NetStats::default());
        let router = Router::new().route("/", get(|| async { "hello" }));
        let task = tokio::spawn(serve(listener, router, connections_max, stats.clone(), None, rx));
        (addr, tx, task, stats)
    }

    #[tokio::test]
    async fn a_request_is_answered_and_stopping_ends_idle_connections() {
        let (addr, stop, task, _) = started(8).await;
        let mut silent = TcpStream::connect(addr).await.unwrap();
        let mut used = TcpStream::connect(addr).await.unwrap();
        used.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut buf = [0; 512];
        let n = used.read(&mut buf).await.unwrap();
        assert!(String::from_utf8_lossy(&buf[..n]).ends_with("hello"));
        stop.send(true).unwrap();
        task.await.unwrap();
        assert_eq!(silent.read(&mut buf).await.unwrap(), 0);
        assert_eq!(used.read(&mut buf).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_body_with_two_ends_hides_no_request() {
        let (addr, stop, task, _) = started(8).await;
        let hidden = "0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        for (codings, answers) in [
            ("Transfer-Encoding: chunked\r\n", 2),
            ("Transfer-Encoding: Chunked \r\n", 2),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 1),
            ("Transfer-Encoding: chunked, chunked\r\n", 1),
            ("Transfer-Encoding: gzip, chunked\r\n", 1),
            ("Transfer-Encoding: chunked, identity\r\n", 1),
            ("Transfer-Encoding: xchunked\r\n", 1),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 1),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 1),
        ] {
            let mut peer = TcpStream::connect(addr).await.unwrap();
            let sent = format!("POST / HTTP/1.1\r\nHost: x\r\n{codings}\r\n{hidden}");
            peer.write_all(sent.as_bytes()).await.unwrap();
            let mut got = Vec::new();
            // What was not read may come back as a reset.
            let _ = peer.read_to_end(&mut got).await;
            let got = String::from_utf8_lossy(&got);
            assert_eq!(got.matches("HTTP/1.1 ").count(), answers, "{codings}: {got}");
            assert_eq!(got.contains("hello"), answers == 2, "{codings}: {got}");
        }
        stop.send(true).unwrap();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn heads_that_do_not_end_are_given_up_and_others_are_answered() {
        let (addr, stop, task, stats) = started(HEADS_MAX + 50).await;
        let mut begun = Vec::new();
        for _ in 0..HEADS_MAX + 10 {
            let mut half = TcpStream::connect(addr).await.unwrap();
            half.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
            begun.push(half);
        }
        while stats.heads_given_up.load(Ordering::Relaxed) < 10 {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            let mut good = TcpStream::connect(addr).await.unwrap();
            good.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            good.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("hello"), "{answer}");
        }
        drop(begun);
        stop.send(true).unwrap();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed() {
        let (addr, stop, task, stats) = started(1).await;
        let first = TcpStream::connect(addr).await.unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(stats.refused.load(Ordering::Relaxed), 1);
        drop(first);
        stop.send(true).unwrap();
        task.await.unwrap();
    }
}
