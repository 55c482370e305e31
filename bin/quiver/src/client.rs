//! A small HTTP client for a running server.
//!
//! Limits: 5 s to connect, 150 s in all, an answer of 256 MiB.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

use crate::Failure;
use crate::args::ServerArgs;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(150);
/// Where Debian and its kin keep the certificates that the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Holds a token; never a flag, which everybody on the machine could read.
const TOKEN_VARIABLE: &str = "QUIVER_TOKEN";
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// An answer of the server.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// Reads the body as JSON.
    pub fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Failure::failed(format!("the answer is not JSON ({e}); is this a Quiver server?")))
    }

    /// Gives the answer if it is a success, else what the server said.
    pub fn success(self) -> Result<Answer, Failure> {
        if self.status.is_success() { Ok(self) } else { Err(Failure::failed(self.complaint())) }
    }

    /// Puts an error of either kind (problem+json, Prometheus) into a sentence.
    fn complaint(&self) -> String {
        let Ok(value) = serde_json::from_slice::<Value>(&self.body) else {
            let text = String::from_utf8_lossy(&self.body);
            return format!("{}: {}", self.status, text.trim().chars().take(500).collect::<String>());
        };
        if let Some(text) = value["error"].as_str() {
            return text.to_owned();
        }
        let title = value["title"].as_str().unwrap_or("the server refused");
        let mut out = match value["detail"].as_str() {
            Some(detail) => format!("{title}: {detail}"),
            None => title.to_owned(),
        };
        for error in value["errors"].as_array().into_iter().flatten() {
            let at = error["pointer"].as_str().unwrap_or("");
            let what = error["detail"].as_str().or(error["reason"].as_str()).unwrap_or("");
            out.push_str(&format!("\n  {at}: {what}"));
        }
        out
    }
}

/// Where to ask, and who asks.
#[derive(Clone, Copy)]
pub struct Server<'a> {
    url: &'a str,
    ca_file: Option<&'a Path>,
    token_file: Option<&'a Path>,
}

impl<'a> From<&'a ServerArgs> for Server<'a> {
    fn from(args: &'a ServerArgs) -> Server<'a> {
        Server { url: &args.server, ca_file: args.ca_file.as_deref(), token_file: args.token_file.as_deref() }
    }
}

impl<'a> From<&'a str> for Server<'a> {
    fn from(url: &'a str) -> Server<'a> {
        Server { url, ca_file: None, token_file: None }
    }
}

impl<'a> From<&'a String> for Server<'a> {
    fn from(url: &'a String) -> Server<'a> {
        Server::from(url.as_str())
    }
}

impl Server<'_> {
    /// Gives the header that says who asks: the token of the file, else of `QUIVER_TOKEN`.
    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let token = match self.token_file {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| Failure::failed(format!("cannot read the token in {}: {e}", path.display())))?,
            None => std::env::var(TOKEN_VARIABLE).unwrap_or_default(),
        };
        if token.trim().is_empty() {
            return Ok(None);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| Failure::usage("the token holds what a token cannot hold"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn tls(&self) -> Result<ClientConfig, Failure> {
        let failed = |what: &Path, e: &dyn std::fmt::Display| Failure::failed(format!("{}: {e}", what.display()));
        let mut roots = RootCertStore::empty();
        let system = Path::new(SYSTEM_ROOTS);
        let file = self.ca_file.or_else(|| system.exists().then_some(system));
        match file {
            Some(file) => {
                let pem = std::fs::read(file).map_err(|e| failed(file, &e))?;
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate = certificate.map_err(|e| failed(file, &e))?;
                    roots.add(certificate).map_err(|e| failed(file, &e))?;
                }
            }
            None => return Err(Failure::usage("https needs --ca-file: this system has no certificates to trust")),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| Failure::failed(format!("TLS: {e}")))?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// Sends one request and waits for the whole answer.
pub fn send<'a>(
    method: Method,
    server: impl Into<Server<'a>>,
    path: &str,
    body: Option<(&str, Vec<u8>)>,
) -> Result<Answer, Failure> {
    let (kind, bytes) = body.unwrap_or(("", Vec::new()));
    let headers = if kind.is_empty() { Vec::new() } else { vec![("content-type", kind.to_owned())] };
    send_with(method, server, path, &headers, bytes)
}

/// Sends one request with headers of one's own and waits for the whole answer.
pub fn send_with<'a>(
    method: Method,
    server: impl Into<Server<'a>>,
    path: &str,
    headers: &[(&str, String)],
    bytes: Vec<u8>,
) -> Result<Answer, Failure> {
    let server: Server<'_> = server.into();
    let base = server.url.trim_end_matches('/');
    if !base.starts_with("http://") && !base.starts_with("https://") {
        let text = format!("--server wants a URL such as http://127.0.0.1:9740, not {:?}", server.url);
        return Err(Failure::usage(text));
    }
    let tls = if base.starts_with("https://") { Some(server.tls()?) } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    if let Some(value) = server.authorization()? {
        request = request.header("authorization", value);
    }
    let request = request
        .header("user-agent", concat!("quiver-cli/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(bytes)))
        .map_err(|e| Failure::usage(format!("{base} is not a usable address: {e}")))?;
    runtime.block_on(async {
        tokio::time::timeout(REQUEST_TIMEOUT, exchange(request, base, tls))
            .await
            .map_err(|_| Failure::failed(format!("no answer from {base} within {} s", REQUEST_TIMEOUT.as_secs())))?
    })
}

async fn exchange(request: Request<Full<Bytes>>, base: &str, tls: Option<ClientConfig>) -> Result<Answer, Failure> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let secure = tls.is_some();
    let response = match tls {
        None => Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector).request(request).await,
        Some(tls) => {
            connector.enforce_http(false);
            let connector = hyper_rustls::HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_only()
                .enable_http1()
                .wrap_connector(connector);
            Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector).request(request).await
        }
    };
    let response = response.map_err(|e| {
        if e.is_connect() && secure {
            let why = std::error::Error::source(&e).map(|e| format!(": {e}")).unwrap_or_default();
            Failure::failed(format!("cannot reach {base}{why}; --ca-file names the certificates to trust"))
        } else if e.is_connect() {
            Failure::failed(format!("cannot reach {base}: is the server running? Start it with `quiver serve`"))
        } else {
            Failure::failed(format!("the connection to {base} broke: {e}"))
        }
    })?;
    let status = response.status();
    #[allow(clippy::disallowed_methods, reason = "the body is wrapped in Limited")]
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| Failure::failed(format!("the answer of {base} could not be read: {e}")))?
        .to_bytes();
    Ok(Answer { status, body })
}

/// Writes a list of parameters as a form.
pub fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), body: Bytes::from(body.to_owned()) }
    }

    #[test]
    fn both_kinds_of_errors_become_sentences() {
        let prometheus = answer(400, r#"{"status":"error","errorType":"bad_data","error":"no"}"#);
        assert_eq!(prometheus.success().unwrap_err().text, "no");
        let problem = answer(422, r#"{"title":"T","detail":"D","errors":[{"pointer":"/a","detail":"why"}]}"#);
        assert_eq!(problem.success().unwrap_err().text, "T: D\n  /a: why");
        assert_eq!(answer(503, "busy\n").success().unwrap_err().text, "503 Service Unavailable: busy");
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let failure = send(Method::GET, "http://127.0.0.1:1", "/", None).unwrap_err();
        assert!(failure.text.contains("quiver serve"), "{}", failure.text);
        assert_eq!(send(Method::GET, "localhost:9740", "/", None).unwrap_err().code, 2);
    }
}
