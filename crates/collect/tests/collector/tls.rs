//! TLS: whom we trust, and who we are.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;

use collect::{HttpOptions, HttpSettings, ScrapeErrorKind, TargetSpec, TlsOptions};
use model::Labels;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use crate::support::*;

/// Serves one metric over TLS; gives port and certificate.
fn exporter(name: &str) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let cert = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(vec![cert], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && std::io::Read::read(&mut stream, &mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\na 1\n";
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
        }
    });
    (port, made.cert.pem())
}

fn spec(port: u16, tls: TlsOptions) -> TargetSpec {
    let url = Url::parse(&format!("https://127.0.0.1:{port}/metrics")).unwrap();
    let mut spec = TargetSpec::new("t", url, Labels::from_pairs([("job", "j"), ("instance", "i")]));
    spec.interval_ms = 100_000_000_000;
    spec.http = HttpSettings::new(HttpOptions { tls, ..HttpOptions::default() }).unwrap().into();
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_against_the_given_ones_and_the_name() {
    let (port, pem) = exporter("metrics.test");
    let named =
        TlsOptions { ca_pem: Some(pem.clone()), server_name: Some("metrics.test".into()), ..TlsOptions::default() };
    let world = World::with(spec(port, named));
    let (outcome, stored) = world.scrape().await;
    assert!(outcome.ok, "{outcome:?}");
    assert_eq!(stored.body(), valued(&[("a", 1.0)]));
    for distrust in [
        TlsOptions { ca_pem: Some(pem), ..TlsOptions::default() },
        TlsOptions { server_name: Some("metrics.test".into()), ..TlsOptions::default() },
    ] {
        world.collector.upsert(spec(port, distrust));
        let (outcome, _) = world.scrape().await;
        assert_eq!(outcome.error.map(|e| e.kind), Some(ScrapeErrorKind::Tls));
    }
    world.collector.upsert(spec(port, TlsOptions { insecure_skip_verify: true, ..TlsOptions::default() }));
    assert!(world.scrape().await.0.ok);
}
