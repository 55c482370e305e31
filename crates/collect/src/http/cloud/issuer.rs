//! Asking who gives tokens and keys.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use crate::address::AddressPolicy;
use crate::http::fetch::secret;
use crate::http::post::{Posted, Poster};
use crate::http::settings::{HttpSettings, Secret};
use crate::http::token_answer::failed;
use crate::outcome::ScrapeError;

/// A metadata server is next door, or not there at all: where none is, nothing answers.
const NEXT_DOOR: Duration = Duration::from_secs(2);
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// Somebody who gives tokens or keys.
pub(super) struct Issuer {
    /// For errors.
    who: &'static str,
    url: Url,
    poster: Poster,
}

impl Issuer {
    /// **Errors** when the address is none.
    pub(super) fn new(
        who: &'static str,
        url: &str,
        (http, policy, timeout): (&Arc<HttpSettings>, AddressPolicy, Duration),
    ) -> Result<Issuer, ScrapeError> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| failed(format!("{who}: its address is not a URL of http or https")))?;
        Ok(Issuer { who, url, poster: Poster::new(http.clone(), policy, timeout) })
    }

    /// One that is on this machine or beside it.
    pub(super) fn next_door(
        who: &'static str,
        url: &str,
        http: &Arc<HttpSettings>,
        timeout: Duration,
    ) -> Result<Issuer, ScrapeError> {
        Issuer::new(who, url, (http, AddressPolicy::allow_all(), timeout.min(NEXT_DOOR)))
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) async fn get(&self, headers: &[(&'static str, &str)]) -> Result<Posted, ScrapeError> {
        self.ask(Method::GET, headers, "", String::new()).await
    }

    pub(super) async fn post_form(&self, form: String) -> Result<Posted, ScrapeError> {
        self.ask(Method::POST, &[], FORM, form).await
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        headers: &[(&'static str, &str)],
        content_type: &'static str,
        body: String,
    ) -> Result<Posted, ScrapeError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|_| failed(format!("{name} is not a header value")))?;
            map.insert(*name, value);
        }
        self.send(method, map, content_type, body).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        content_type: &'static str,
        body: String,
    ) -> Result<Posted, ScrapeError> {
        let pairs = headers.into_iter().filter_map(|(name, value)| Some((name?, value)));
        let pairs: Vec<(HeaderName, HeaderValue)> = pairs.collect();
        let asked = self.poster.ask(method, &self.url, &pairs, (content_type, Bytes::from(body))).await;
        let host = self.url.host_str().unwrap_or("");
        asked.map_err(|e| failed(format!("{} at {host}: {}", self.who, e.message)))
    }
}

/// Reads a small file that is named by who runs us.
pub(super) async fn file(path: &str) -> Result<String, ScrapeError> {
    secret(&Secret::File(Path::new(path).to_owned())).await
}

/// Writes a form.
pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
