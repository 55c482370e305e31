//! One connection to a target, kept open from scrape to scrape.
//!
//! Addresses are resolved here, checked against the policy, and then connected to as numbers: between check and
//! connection there is no second look-up that could give another answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_rustls::{DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, ResolveServerName};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::Service;
use url::{Host, Url};

use crate::address::AddressPolicy;
use crate::http::HttpSettings;
use crate::http::peer::{self, TlsPeer};
use crate::outcome::{ScrapeError, ScrapeErrorKind};

/// More addresses of one name are not tried.
const ADDRESSES_MAX: usize = 8;

/// What a connection reads at a time, and the largest head. It keeps as much memory from one scrape to the next.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    endpoint: Endpoint,
    sender: Sender,
    /// Whom it leads to.
    pub(super) address: SocketAddr,
    /// Who that is, over TLS.
    pub(super) peer: Option<TlsPeer>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What a connection is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Endpoint {
    https: bool,
    host: String,
    port: u16,
}

impl Endpoint {
    fn of(url: &Url) -> Endpoint {
        Endpoint {
            https: url.scheme() == "https",
            host: url.host_str().unwrap_or("").to_owned(),
            port: url.port_or_known_default().unwrap_or(0),
        }
    }
}

/// How to connect.
pub(super) struct Dial<'a> {
    pub(super) http: &'a HttpSettings,
    /// Our certificate is not shown to hosts that a redirect led to.
    pub(super) anonymous: bool,
    pub(super) policy: &'a AddressPolicy,
    pub(super) timeout: Duration,
}

impl Connection {
    /// Tells whether the connection leads to where a URL points and still takes requests.
    pub(super) async fn serves(&mut self, url: &Url) -> bool {
        self.endpoint == Endpoint::of(url)
            && match &mut self.sender {
                Sender::Http1(sender) => sender.ready().await.is_ok(),
                Sender::Http2(sender) => sender.ready().await.is_ok(),
            }
    }

    /// Opens a connection to where a URL points.
    pub(super) async fn open(url: &Url, dial: &Dial<'_>) -> Result<Connection, ScrapeError> {
        let (stream, address) = connect(url, dial).await?;
        let stream = tls(url, dial, stream).await?;
        let peer = peer_of(&stream);
        let broken = |e: hyper::Error| ScrapeError::new(ScrapeErrorKind::Http, e.to_string());
        let sender = if stream.connected().is_negotiated_h2() {
            let (sender, task) = http2::handshake(TokioExecutor::new(), stream).await.map_err(broken)?;
            tokio::spawn(task);
            Sender::Http2(sender)
        } else {
            let (sender, task) =
                http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(stream).await.map_err(broken)?;
            tokio::spawn(task);
            Sender::Http1(sender)
        };
        Ok(Connection { endpoint: Endpoint::of(url), sender, address, peer })
    }

    /// Sends a request with an absolute URI and a `Host` header.
    pub(super) async fn send(&mut self, mut request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                request.headers_mut().remove(http::header::HOST);
                sender.send_request(request).await
            }
        }
    }
}

async fn connect(url: &Url, dial: &Dial<'_>) -> Result<(TcpStream, SocketAddr), ScrapeError> {
    let addresses = allowed_addresses(url, dial.policy).await?;
    // One dead address must not use up the time of the others.
    let share = dial.timeout / addresses.len().max(1) as u32;
    let mut last = ScrapeError::new(ScrapeErrorKind::Connect, "no address to connect to");
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Ok(Err(e)) => last = dial_error(address, &io_text(&e)),
            Err(_) => last = dial_error(address, "i/o timeout"),
        }
    }
    Err(last)
}

fn dial_error(address: SocketAddr, text: &str) -> ScrapeError {
    ScrapeError::new(ScrapeErrorKind::Connect, format!("dial tcp {address}: connect: {text}"))
}

/// The error in the words of Go's standard library, without the number.
fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

async fn allowed_addresses(url: &Url, policy: &AddressPolicy) -> Result<Vec<SocketAddr>, ScrapeError> {
    let port = url.port_or_known_default().unwrap_or(80);
    let resolved: Vec<SocketAddr> = match url.host() {
        Some(Host::Ipv4(ip)) => vec![SocketAddr::from((ip, port))],
        Some(Host::Ipv6(ip)) => vec![SocketAddr::from((ip, port))],
        Some(Host::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|e| {
                ScrapeError::new(ScrapeErrorKind::Resolve, format!("dial tcp: lookup {name}: no such host ({e})"))
            })?
            .collect(),
        None => return Err(ScrapeError::new(ScrapeErrorKind::Http, "http: no Host in request URL")),
    };
    let mut refused = None;
    let mut allowed = Vec::new();
    for address in resolved {
        match policy.check(address) {
            Ok(()) if allowed.len() < ADDRESSES_MAX && !allowed.contains(&address) => allowed.push(address),
            Ok(()) => {}
            Err(e) => refused = Some(ScrapeError::new(ScrapeErrorKind::ForbiddenAddress, e.to_string())),
        }
    }
    match (allowed.is_empty(), refused) {
        (true, Some(refused)) => Err(refused),
        (true, None) => Err(ScrapeError::new(ScrapeErrorKind::Resolve, "dial tcp: lookup: no such host")),
        (false, _) => Ok(allowed),
    }
}

fn peer_of(stream: &Stream) -> Option<TlsPeer> {
    let Stream::Https(stream) = stream else { return None };
    let (_, session) = stream.inner().get_ref();
    let version = session.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default();
    peer::read(session.peer_certificates()?.first()?, version)
}

type Stream = hyper_rustls::MaybeHttpsStream<TokioIo<TcpStream>>;

async fn tls(url: &Url, dial: &Dial<'_>, stream: TcpStream) -> Result<Stream, ScrapeError> {
    let failed = |e: String| ScrapeError::new(ScrapeErrorKind::Tls, format!("tls: {e}"));
    if url.scheme() != "https" {
        return Ok(Stream::Http(TokioIo::new(stream)));
    }
    let mut stream = Some(TokioIo::new(stream));
    let connected = tower::service_fn(move |_: Uri| {
        std::future::ready(stream.take().ok_or_else(|| io::Error::other("connection was used already")))
    });
    let name: Arc<dyn ResolveServerName + Send + Sync> = match &dial.http.server_name {
        Some(name) => Arc::new(FixedServerNameResolver::new(name.clone())),
        None => Arc::new(DefaultServerNameResolver::default()),
    };
    let config: Arc<ClientConfig> = if dial.anonymous { &dial.http.tls_anonymous } else { &dial.http.tls }.clone();
    let uri: Uri = url.as_str().parse().map_err(|e: http::uri::InvalidUri| failed(e.to_string()))?;
    HttpsConnector::new(connected, config, true, name).call(uri).await.map_err(|e| failed(e.to_string()))
}
