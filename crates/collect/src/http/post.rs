//! Sending a body to somebody, over a connection that is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Mutex;
use url::{Position, Url};

use crate::address::AddressPolicy;
use crate::http::HttpSettings;
use crate::http::connection::{Connection, Dial};
use crate::http::fetch::{AGENT, Asking, broken};
use crate::outcome::{ScrapeError, ScrapeErrorKind};

/// Of an answer so much is read; more of it is cut off, with the connection.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posted {
    /// HTTP status.
    pub status: u16,
    /// The beginning of the body.
    pub text: String,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// All headers.
    pub headers: HeaderMap,
    /// Whether the text is the whole body.
    pub whole: bool,
}

/// Posts bodies to one party, one at a time, or asks it for something. Redirects are not followed.
#[derive(Debug)]
pub struct Poster {
    http: Arc<HttpSettings>,
    policy: AddressPolicy,
    timeout: Duration,
    connection: Mutex<Option<Connection>>,
}

/// One request.
struct Asked<'a> {
    method: Method,
    headers: &'a [(HeaderName, HeaderValue)],
    content_type: &'static str,
    body: Bytes,
    answer_bytes_max: usize,
}

impl Poster {
    /// Makes one; nothing is connected yet.
    pub fn new(http: Arc<HttpSettings>, policy: AddressPolicy, timeout: Duration) -> Poster {
        Poster { http, policy, timeout, connection: Mutex::default() }
    }

    /// Sends a body and reads the answer, within the timeout.
    ///
    /// **Errors** when there is no answer; an answer of any status is none.
    pub async fn post(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Posted, ScrapeError> {
        let asked = Asked { method: Method::POST, headers, content_type, body, answer_bytes_max: ANSWER_BYTES_MAX };
        self.within(url, asked).await
    }

    /// Asks for something, within the timeout. Of the answer so many bytes are read at most; more of it is cut off.
    ///
    /// **Errors** as [`Poster::post`].
    pub async fn get(&self, url: &Url, answer_bytes_max: usize) -> Result<Posted, ScrapeError> {
        let asked = Asked { method: Method::GET, headers: &[], content_type: "", body: Bytes::new(), answer_bytes_max };
        self.within(url, asked).await
    }

    /// Sends a form and reads the answer, up to so many bytes.
    ///
    /// **Errors** as [`Poster::post`].
    pub async fn post_form(&self, url: &Url, form: Bytes, answer_bytes_max: usize) -> Result<Posted, ScrapeError> {
        let content_type = "application/x-www-form-urlencoded";
        self.within(url, Asked { method: Method::POST, headers: &[], content_type, body: form, answer_bytes_max }).await
    }

    /// Asks in some other way, and reads the answer as of a post.
    ///
    /// **Errors** as [`Poster::post`].
    pub(super) async fn ask(
        &self,
        method: Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        (content_type, body): (&'static str, Bytes),
    ) -> Result<Posted, ScrapeError> {
        self.within(url, Asked { method, headers, content_type, body, answer_bytes_max: ANSWER_BYTES_MAX }).await
    }

    async fn within(&self, url: &Url, asked: Asked<'_>) -> Result<Posted, ScrapeError> {
        match tokio::time::timeout(self.timeout, self.exchange(url, asked)).await {
            Ok(result) => result,
            Err(_) => Err(ScrapeError::new(ScrapeErrorKind::Timeout, "context deadline exceeded")),
        }
    }

    async fn exchange(&self, url: &Url, asked: Asked<'_>) -> Result<Posted, ScrapeError> {
        let bad = |e: http::Error| ScrapeError::new(ScrapeErrorKind::Http, e.to_string());
        let asking = Asking { http: &self.http, policy: &self.policy, timeout: self.timeout };
        let credentials = asking.credentials(url).await?;
        let mut url = url.clone();
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if !asked.content_type.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(asked.content_type));
        }
        for (name, value) in asked.headers.iter().chain(&credentials) {
            headers.insert(name, value.clone());
        }
        asking.sign(&asked.method, &mut url, &mut headers, &asked.body).await?;
        let host = &url[Position::BeforeHost..Position::AfterPort];
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|e| bad(e.into()))?);
        let request = || {
            let mut request = Request::builder()
                .method(asked.method.clone())
                .uri(&url[Position::BeforeScheme..Position::AfterQuery])
                .body(Full::new(asked.body.clone()))
                .map_err(bad)?;
            *request.headers_mut() = headers.clone();
            Ok::<_, ScrapeError>(request)
        };
        let mut slot = self.connection.lock().await;
        if let Some(mut connection) = slot.take()
            && connection.serves(&url).await
            && let Ok(response) = connection.send(request()?).await
        {
            self.http.judged(response.status());
            let (posted, whole) = read(response, asked.answer_bytes_max).await?;
            *slot = whole.then_some(connection);
            return Ok(posted);
        }
        let dial = Dial { http: &self.http, anonymous: false, policy: &self.policy, timeout: self.timeout };
        let mut connection = Connection::open(&url, &dial).await?;
        let response = connection.send(request()?).await.map_err(broken)?;
        self.http.judged(response.status());
        let (posted, whole) = read(response, asked.answer_bytes_max).await?;
        *slot = whole.then_some(connection);
        Ok(posted)
    }
}

/// Reads an answer; tells whether it was read to its end.
async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<(Posted, bool), ScrapeError> {
    let (head, mut body) = response.into_parts();
    let retry_after_s = head.headers.get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    let mut bytes = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(broken)?.data_ref() {
            let room = bytes_max - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                whole = false;
                break;
            }
        }
    }
    let text = String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Ok((Posted { status: head.status.as_u16(), text, retry_after_s, headers: head.headers, whole }, whole))
}
