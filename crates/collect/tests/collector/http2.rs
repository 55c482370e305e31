//! HTTP/2 over TLS, agreed on by ALPN.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use collect::{HttpOptions, HttpSettings, Protocol, ScrapeErrorKind, TargetSpec, TlsOptions};
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use model::Labels;
use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::messages::*;
use crate::support::*;

/// One request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    version: Version,
    alpn: Option<Vec<u8>>,
    connection: usize,
    authority: Option<String>,
    host: Option<String>,
    accept: String,
}

/// A TLS server of hyper that answers both versions.
struct Server {
    port: u16,
    pem: String,
    page: Arc<Mutex<Page>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(alpn: &[&str], page: Page) -> Server {
        let made = rcgen::generate_simple_self_signed(["metrics.test".to_owned()]).unwrap();
        let cert = CertificateDer::from(made.cert.der().to_vec());
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![cert], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server { port, pem: made.cert.pem(), page: Arc::new(Mutex::new(page)), seen: Arc::default() };
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), server.page.clone(), server.seen.clone()));
        server
    }

    fn spec(&self, enable_http2: bool) -> TargetSpec {
        let url = Url::parse(&format!("https://127.0.0.1:{}/metrics?x=1", self.port)).unwrap();
        let mut spec = TargetSpec::new("t", url, Labels::from_pairs([("job", "j"), ("instance", "i")]));
        spec.interval_ms = 100_000_000_000;
        let tls = TlsOptions {
            ca_pem: Some(self.pem.clone()),
            server_name: Some("metrics.test".into()),
            ..TlsOptions::default()
        };
        spec.http = HttpSettings::new(HttpOptions { tls, enable_http2, ..HttpOptions::default() }).unwrap().into();
        spec
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, page: Arc<Mutex<Page>>, seen: Arc<Mutex<Vec<Seen>>>) {
    for connection in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, page, seen) = (acceptor.clone(), page.clone(), seen.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let tls: &ServerConnection = stream.get_ref().1;
            let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
            let service = service_fn(move |request: Request<Incoming>| {
                let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
                seen.lock().push(Seen {
                    version: request.version(),
                    alpn: alpn.clone(),
                    connection,
                    authority: request.uri().authority().map(|a| a.to_string()),
                    host: header("host"),
                    accept: header("accept").unwrap(),
                });
                assert_eq!(request.uri().path_and_query().map(|p| p.as_str()), Some("/metrics?x=1"));
                let page = page.lock().clone();
                let mut answer = Response::builder().status(page.status);
                for (name, value) in &page.headers {
                    answer = answer.header(name, value);
                }
                std::future::ready(Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(page.body))).unwrap()))
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_offers_http2_is_scraped_over_one_stream_after_another() {
    let families = [family("g", GAUGE, vec![gauge(&[("a", "1")], 1.5)])];
    let server = Server::start(&["h2", "http/1.1"], Page::protobuf(&body(&families))).await;
    let mut spec = server.spec(true);
    spec.protocols = Protocol::PROTO_FIRST.to_vec();
    let world = World::with(spec);
    for round in 0..3 {
        let (outcome, stored) = world.scrape().await;
        assert!(outcome.ok, "{outcome:?}");
        assert_eq!(stored.body(), valued(&[("g{a=\"1\"}", 1.5)]));
        assert_eq!((outcome.connection_reused, outcome.http_status), (round > 0, Some(200)));
    }
    // A large compressed body takes many frames.
    let text: String = (0..20_000).map(|i| format!("m{{n=\"{i}\"}} {i}\n")).collect();
    *server.page.lock() =
        Page::of("text/plain; version=0.0.4", &gzip(text.as_bytes())).with("Content-Encoding", "gzip");
    let (outcome, stored) = world.scrape().await;
    assert_eq!((outcome.ok, outcome.samples, outcome.bytes_body), (true, 20_000, text.len() as u64));
    assert_eq!(stored.stale(), named(&["g{a=\"1\"}"]));
    *server.page.lock() = Page::text("").status(503);
    let (outcome, _) = world.scrape().await;
    assert_eq!((outcome.error.map(|e| e.kind), outcome.http_status), (Some(ScrapeErrorKind::Status), Some(503)));
    let seen = server.seen();
    assert_eq!(seen.len(), 5);
    for request in seen {
        assert_eq!((request.version, request.alpn.as_deref()), (Version::HTTP_2, Some(&b"h2"[..])));
        assert_eq!(request.connection, 0, "one connection serves all");
        let authority = Some(format!("127.0.0.1:{}", server.port));
        assert_eq!((request.authority, request.host), (authority, None));
        assert!(request.accept.starts_with("application/vnd.google.protobuf;"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_is_spoken_where_either_side_does_not_want_http2() {
    for (alpn, enable_http2, agreed) in [
        (&["h2", "http/1.1"][..], false, Some(&b"http/1.1"[..])),
        (&["http/1.1"][..], true, Some(&b"http/1.1"[..])),
        (&[][..], true, None),
    ] {
        let server = Server::start(alpn, Page::text("a 1\n")).await;
        let world = World::with(server.spec(enable_http2));
        for round in 0..2 {
            let (outcome, stored) = world.scrape().await;
            assert!(outcome.ok, "{outcome:?}");
            assert_eq!((stored.body(), outcome.connection_reused), (valued(&[("a", 1.0)]), round > 0));
        }
        for request in server.seen() {
            assert_eq!((request.version, request.alpn.as_deref()), (Version::HTTP_11, agreed));
            assert_eq!((request.connection, request.host), (0, Some(format!("127.0.0.1:{}", server.port))));
        }
    }
}
