//! Takes connections and speaks HTTP/1.1 and HTTP/2 on them.
//!
//! Owns: the listener and the life of each connection.
//! Limits: `connections_max` connections; 10 s for the head of a request, and for anything to arrive at all; 64 KiB of
//! head; 128 streams on an HTTP/2 connection. A silent connection holds no buffer.
//! Fails how: over the limit a new connection is closed at once and counted; the ones already there are not touched.

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
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 64 << 10;
const STREAMS_MAX: u32 = 128;
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
}

/// Serves a router on a listener until `stop` turns true; then finishes the requests under way.
///
/// **Gives** back when the last connection has ended; who calls bounds the wait.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    stats: Arc<NetStats>,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
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
        tokio::spawn(async move {
            connection(stream, peer, router, stop).await;
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

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    // Buffers are made only once something arrives: thousands of silent connections cost next to nothing.
    let first_byte = tokio::select! {
        ready = timeout(HEAD_TIMEOUT, stream.readable()) => matches!(ready, Ok(Ok(()))),
        _ = stop.wait_for(|stopped| *stopped) => false,
    };
    if !first_byte {
        return;
    }
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = asked.clone();
        hyper::service::service_fn(move |request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            answer(router.clone(), peer, request)
        })
    };
    let builder = builder();
    let mut conn = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // The HTTP/1 timer starts only once the version is known; a peer that stops inside the HTTP/2 preface meets this one.
    let mut head_deadline = pin!(sleep(HEAD_TIMEOUT));
    let mut watching_head = true;
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = conn.as_mut() => return,
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

async fn answer(router: Router, peer: SocketAddr, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
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
        let task = tokio::spawn(serve(listener, router, connections_max, stats.clone(), rx));
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
