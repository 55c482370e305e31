//! A small HTTP client for a running server.
//!
//! Limits: 5 s to connect, 150 s in all, an answer of 256 MiB.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(150);
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

/// Sends one request and waits for the whole answer.
pub fn send(method: Method, server: &str, path: &str, body: Option<(&str, Vec<u8>)>) -> Result<Answer, Failure> {
    let (kind, bytes) = body.unwrap_or(("", Vec::new()));
    let headers = if kind.is_empty() { Vec::new() } else { vec![("content-type", kind.to_owned())] };
    send_with(method, server, path, &headers, bytes)
}

/// Sends one request with headers of one's own and waits for the whole answer.
pub fn send_with(
    method: Method,
    server: &str,
    path: &str,
    headers: &[(&str, String)],
    bytes: Vec<u8>,
) -> Result<Answer, Failure> {
    let base = server.trim_end_matches('/');
    if base.starts_with("https://") {
        return Err(Failure::usage("https is not supported by this command yet; use http:// or ask through curl"));
    }
    if !base.starts_with("http://") {
        return Err(Failure::usage(format!("--server wants a URL such as http://127.0.0.1:9740, not {server:?}")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request
        .header("user-agent", concat!("quiver-cli/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(bytes)))
        .map_err(|e| Failure::usage(format!("{server} is not a usable address: {e}")))?;
    runtime.block_on(async {
        tokio::time::timeout(REQUEST_TIMEOUT, exchange(request, base))
            .await
            .map_err(|_| Failure::failed(format!("no answer from {base} within {} s", REQUEST_TIMEOUT.as_secs())))?
    })
}

async fn exchange(request: Request<Full<Bytes>>, base: &str) -> Result<Answer, Failure> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let response = client.request(request).await.map_err(|e| {
        if e.is_connect() {
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
