//! One request with its redirects, from URL to bytes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, LOCATION, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use model::secret_url::without_password;
use tokio::io::AsyncReadExt;
use url::{Position, Url};

use crate::address::AddressPolicy;
use crate::http::accept::accept_header;
use crate::http::body::{FIRST_BYTES_MAX, body_limit, grow, too_large};
use crate::http::connection::{Connection, Dial};
use crate::http::peer::TlsPeer;
use crate::http::settings::{Auth, HttpSettings, Secret};
use crate::outcome::{ScrapeError, ScrapeErrorKind};
use crate::target::TargetSpec;

const REDIRECTS_MAX: u32 = 10;
const SECRET_BYTES_MAX: u64 = 64 << 10;
pub(super) const AGENT: &str = concat!("Quiver/", env!("CARGO_PKG_VERSION"));

/// What is known about a fetch, also when it fails on the way.
#[derive(Clone, Debug, Default)]
pub(crate) struct FetchTrace {
    pub(crate) http_status: Option<u16>,
    pub(crate) content_type: Option<String>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) peer: Option<TlsPeer>,
    pub(crate) redirects: u32,
    pub(crate) reused: bool,
    pub(crate) bytes_wire: u64,
    /// Where in which trace the fetch is, for the target.
    pub(crate) span: Option<sys::spans::Context>,
}

/// A body as it came over the wire.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) wire: Vec<u8>,
    pub(crate) gzip: bool,
}

/// Fetches one target's body once.
pub(crate) struct Fetch<'a> {
    spec: &'a TargetSpec,
    /// The connection of the last scrape; the one of this scrape when it went well.
    slot: &'a mut Option<Connection>,
    trace: &'a mut FetchTrace,
    /// Memory for the body.
    buffer: Vec<u8>,
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(
        spec: &'a TargetSpec,
        slot: &'a mut Option<Connection>,
        trace: &'a mut FetchTrace,
        buffer: Vec<u8>,
    ) -> Fetch<'a> {
        Fetch { spec, slot, trace, buffer }
    }

    /// Runs the whole exchange within the target's timeout.
    ///
    /// **Errors** in Prometheus' words; whatever happens, the trace says how far it came.
    pub(crate) async fn run(mut self) -> Result<Fetched, ScrapeError> {
        let url = without_password(self.spec.url.as_str());
        let limit = Duration::from_millis(self.spec.timeout_ms);
        let result = match tokio::time::timeout(limit, self.exchange()).await {
            Ok(result) => result,
            Err(_) => Err(ScrapeError::new(ScrapeErrorKind::Timeout, "context deadline exceeded")),
        };
        result.map_err(|e| match e.kind {
            ScrapeErrorKind::Status | ScrapeErrorKind::BodyTooLarge | ScrapeErrorKind::Credentials => e,
            _ => ScrapeError::new(e.kind, format!("Get {url:?}: {}", e.message)),
        })
    }

    async fn exchange(&mut self) -> Result<Fetched, ScrapeError> {
        let timeout = Duration::from_millis(self.spec.timeout_ms);
        let asking = Asking { http: &self.spec.http, policy: &self.spec.address_policy, timeout };
        let credentials = asking.credentials(&self.spec.url).await?;
        let mut url = self.spec.url.clone();
        let mut trusted = true;
        loop {
            let mut headers = self.headers(trusted.then_some(&credentials));
            if trusted {
                asking.sign(&Method::GET, &mut url, &mut headers, b"").await?;
            }
            let (mut connection, response) = self.ask(&url, headers, !trusted).await?;
            self.trace.http_status = Some(response.status().as_u16());
            match self.redirect(&url, &response)? {
                Some(next) => {
                    trusted = trusted && same_party(&url, &next);
                    url = next;
                    self.trace.redirects += 1;
                }
                None => {
                    let fetched = self.read(response).await?;
                    // Only a connection whose body was read to its end is of use to the next scrape.
                    if self.trace.redirects == 0 && connection.serves(&url).await {
                        *self.slot = Some(connection);
                    }
                    return Ok(fetched);
                }
            }
        }
    }

    /// Sends the request over the connection at hand, or over a new one if there is none or it turns out to be dead.
    async fn ask(
        &mut self,
        url: &Url,
        headers: HeaderMap,
        anonymous: bool,
    ) -> Result<(Connection, Response<Incoming>), ScrapeError> {
        let request = |headers: HeaderMap| -> Result<Request<Full<Bytes>>, ScrapeError> {
            let bad = |e: String| ScrapeError::new(ScrapeErrorKind::Http, e);
            let host = &url[Position::BeforeHost..Position::AfterPort];
            let mut request = Request::get(&url[Position::BeforeScheme..Position::AfterQuery])
                .body(Full::default())
                .map_err(|e| bad(e.to_string()))?;
            *request.headers_mut() = headers;
            request.headers_mut().insert(HOST, HeaderValue::from_str(host).map_err(|e| bad(e.to_string()))?);
            Ok(request)
        };
        if let Some(mut connection) = self.slot.take()
            && connection.serves(url).await
        {
            self.trace.address = Some(connection.address);
            self.trace.peer.clone_from(&connection.peer);
            if let Ok(response) = connection.send(request(headers.clone())?).await {
                self.trace.reused = true;
                return Ok((connection, response));
            }
        }
        let dial = Dial {
            http: &self.spec.http,
            anonymous,
            policy: &self.spec.address_policy,
            timeout: Duration::from_millis(self.spec.timeout_ms),
        };
        let mut connection = Connection::open(url, &dial).await?;
        self.trace.address = Some(connection.address);
        self.trace.peer.clone_from(&connection.peer);
        self.trace.reused = false;
        let response = connection.send(request(headers)?).await.map_err(broken)?;
        Ok((connection, response))
    }

    /// Gives where an answer points, if it is a redirect that we follow.
    fn redirect(&self, url: &Url, response: &Response<Incoming>) -> Result<Option<Url>, ScrapeError> {
        let failed = |text: String| Err(ScrapeError::new(ScrapeErrorKind::Redirect, text));
        let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        if !moved || !self.spec.http.options().follow_redirects {
            return Ok(None);
        }
        if self.trace.redirects >= REDIRECTS_MAX {
            return failed(format!("stopped after {REDIRECTS_MAX} redirects"));
        }
        let Some(location) = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()) else {
            return failed(format!("{} response missing Location header", response.status().as_u16()));
        };
        match url.join(location) {
            Ok(next) if matches!(next.scheme(), "http" | "https") && next.has_host() => Ok(Some(next)),
            Ok(next) => failed(format!("unsupported protocol scheme {:?}", next.scheme())),
            Err(e) => failed(format!("failed to parse Location header {location:?}: {e}")),
        }
    }

    async fn read(&mut self, response: Response<Incoming>) -> Result<Fetched, ScrapeError> {
        let (head, mut body) = response.into_parts();
        let text = |name: HeaderName| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        self.trace.content_type = text(CONTENT_TYPE);
        self.spec.http.judged(head.status);
        if head.status != StatusCode::OK {
            let reason = head.status.canonical_reason().unwrap_or("");
            let message = format!("server returned HTTP status {} {reason}", head.status.as_u16());
            return Err(ScrapeError::new(ScrapeErrorKind::Status, message.trim_end()));
        }
        let gzip = match text(CONTENT_ENCODING).map(|e| e.to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => false,
            Some("gzip" | "x-gzip") => true,
            Some(other) => {
                let message = format!("content encoding {other:?} was not asked for");
                return Err(ScrapeError::new(ScrapeErrorKind::Encoding, message));
            }
        };
        let limit = body_limit(self.spec.limits.body_bytes);
        let expected = body.size_hint().lower();
        if expected > limit {
            return Err(too_large());
        }
        let mut wire = std::mem::take(&mut self.buffer);
        wire.reserve_exact(expected.min(FIRST_BYTES_MAX) as usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            if let Some(data) = frame.data_ref() {
                self.trace.bytes_wire += data.len() as u64;
                if self.trace.bytes_wire > limit {
                    return Err(too_large());
                }
                grow(&mut wire, data.len(), limit);
                wire.extend_from_slice(data);
            }
        }
        Ok(Fetched { wire, gzip })
    }

    fn headers(&self, credentials: Option<&Vec<(HeaderName, HeaderValue)>>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let options = self.spec.http.options();
        if let Ok(accept) = HeaderValue::from_str(&accept_header(&self.spec.protocols, self.spec.escaping)) {
            headers.insert(ACCEPT, accept);
        }
        let encoding = if options.enable_compression { "gzip" } else { "identity" };
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(encoding));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let seconds = (self.spec.timeout_ms as f64 / 1000.0).to_string();
        if let Ok(seconds) = HeaderValue::from_str(&seconds) {
            headers.insert("x-prometheus-scrape-timeout-seconds", seconds);
        }
        if let Some(Ok(parent)) = self.trace.span.map(|span| HeaderValue::from_str(&span.traceparent())) {
            headers.insert("traceparent", parent);
        }
        for (name, value) in credentials.into_iter().flatten() {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }
}

/// Who asks, and how a token would be fetched.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) http: &'a HttpSettings,
    pub(super) policy: &'a AddressPolicy,
    pub(super) timeout: Duration,
}

type Headers = Vec<(HeaderName, HeaderValue)>;

impl<'a> Asking<'a> {
    /// Gives all headers that only the target itself may see.
    ///
    /// Boxed, because a token is fetched by a request that has credentials of its own.
    pub(super) fn credentials(self, url: &'a Url) -> BoxFuture<'a, Result<Headers, ScrapeError>> {
        Box::pin(credentials(self, url))
    }

    /// Signs a request, where that is how we say who we are. Brings its URL into the form that is signed.
    ///
    /// Boxed, because keys are fetched by requests of their own.
    pub(super) fn sign(
        self,
        method: &'a Method,
        url: &'a mut Url,
        headers: &'a mut HeaderMap,
        body: &'a [u8],
    ) -> BoxFuture<'a, Result<(), ScrapeError>> {
        Box::pin(async move {
            match self.http.signer() {
                Some(aws) => aws.sign(self.timeout, method, url, headers, body).await,
                None => Ok(()),
            }
        })
    }
}

async fn credentials(asking: Asking<'_>, url: &Url) -> Result<Headers, ScrapeError> {
    let http = asking.http;
    let bad = |text: String| ScrapeError::new(ScrapeErrorKind::Credentials, text);
    let mut headers = http.headers.clone();
    let (name, value) = match &http.options().auth {
        Auth::None => match basic_of(url) {
            Some(value) => (AUTHORIZATION, value),
            None => return Ok(headers),
        },
        Auth::Basic { username, password } => (AUTHORIZATION, basic(username, &secret(password).await?)),
        Auth::Bearer { kind, token } => (AUTHORIZATION, format!("{kind} {}", secret(token).await?)),
        Auth::ApiKey { header, key } => {
            let name = HeaderName::from_bytes(header.as_bytes()).map_err(|e| bad(e.to_string()))?;
            (name, secret(key).await?)
        }
        Auth::Oauth2(_) | Auth::Google(_) | Auth::Azure(_) => {
            (AUTHORIZATION, format!("Bearer {}", http.bearer(asking.policy, asking.timeout).await?))
        }
        // The request is signed once it is whole.
        Auth::Sigv4(_) => return Ok(headers),
    };
    let mut value = HeaderValue::from_str(&value).map_err(|_| bad("credential is not a header value".into()))?;
    value.set_sensitive(true);
    headers.push((name, value));
    Ok(headers)
}

pub(super) fn broken(error: hyper::Error) -> ScrapeError {
    let text = if error.is_incomplete_message() { "unexpected EOF".to_owned() } else { error.to_string() };
    ScrapeError::new(ScrapeErrorKind::Http, text)
}

/// Tells whether a redirect stays with the party we trust: same host, and no step down from TLS or to another port.
fn same_party(from: &Url, to: &Url) -> bool {
    let at = |url: &Url, scheme, port| url.scheme() == scheme && url.port_or_known_default() == Some(port);
    let upgrade = at(from, "http", 80) && at(to, "https", 443);
    let same_port = from.port_or_known_default() == to.port_or_known_default();
    from.host_str() == to.host_str() && (upgrade || (from.scheme() == to.scheme() && same_port))
}

pub(super) async fn secret(secret: &Secret) -> Result<String, ScrapeError> {
    let path = match secret {
        Secret::Inline(text) => return Ok(text.clone()),
        Secret::Env(name) => {
            let value = std::env::var(name).map(|text| text.trim().to_owned());
            let message = || format!("the environment variable {name} of the credential is not set");
            return value.map_err(|_| ScrapeError::new(ScrapeErrorKind::Credentials, message()));
        }
        Secret::File(path) => path,
    };
    let read = async {
        let mut text = String::new();
        tokio::fs::File::open(path).await?.take(SECRET_BYTES_MAX).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read.await.map_err(|e| {
        let message = format!("unable to read credentials file {}: {e}", path.display());
        ScrapeError::new(ScrapeErrorKind::Credentials, message)
    })?;
    Ok(text.trim().to_owned())
}

fn basic_of(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    Some(basic(&percent_decoded(url.username()), &percent_decoded(url.password().unwrap_or(""))))
}

fn percent_decoded(text: &str) -> String {
    // A query of one key and no value is decoded by the same rules, save for the plus sign.
    let query = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    url::form_urlencoded::parse(query.as_bytes()).map(|(key, _)| key.into_owned()).collect()
}

pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{username}:{password}").as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, b)| word | u32::from(*b) << (16 - 8 * i));
        for digit in 0..4 {
            if digit <= chunk.len() {
                out.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn base64_has_its_padding() {
        for (text, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), want);
        }
        assert_eq!(basic_of(&url("http://a%2Bb:c+d%40@h/")), Some(basic("a+b", "c+d@")));
        assert_eq!(basic_of(&url("http://h/")), None);
    }

    #[test]
    fn credentials_stay_with_their_host() {
        let party = |a, b| same_party(&url(a), &url(b));
        assert!(party("http://h/a", "http://h/b"));
        assert!(party("http://h/a", "https://h/b"));
        assert!(!party("https://h/a", "http://h/b"));
        assert!(!party("http://h/a", "http://g/a"));
        assert!(!party("http://h:1/a", "http://h:2/a"));
        assert!(!party("http://h:1/a", "https://h:2/a"));
    }
}
