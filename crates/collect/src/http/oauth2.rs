//! OAuth 2 for machines: a token for client id and secret (RFC 6749, 4.4), kept until shortly before it expires.
//!
//! The token's URL is connected to under the same address policy as the target: it is given by the same hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use crate::address::AddressPolicy;
use crate::http::fetch::{basic, secret};
use crate::http::post::{Posted, Poster};
use crate::http::settings::{HttpOptions, HttpSettings, HttpSettingsError, Secret, TlsOptions};
use crate::outcome::{ScrapeError, ScrapeErrorKind};

/// A token is not used in the last moments of its life.
const MARGIN: Duration = Duration::from_secs(10);
/// Of a token that says nothing of its life so much is believed.
const LIFE_DEFAULT_S: f64 = 300.0;
const LIFE_S_MAX: f64 = 86_400.0;
/// Longer ones are no header value that a target would take.
const TOKEN_BYTES_MAX: usize = 16 << 10;
const FORM: &str = "application/x-www-form-urlencoded";

/// Where tokens come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Oauth2Options {
    /// Who we are there.
    pub client_id: String,
    /// Our secret there.
    pub client_secret: Secret,
    /// Where to ask.
    pub token_url: String,
    /// What to ask for.
    pub scopes: Vec<String>,
    /// More parameters, `audience` among them.
    pub endpoint_params: Vec<(String, String)>,
    /// TLS of the connection there.
    pub tls: TlsOptions,
}

/// Gets tokens and keeps the last one.
pub(crate) struct TokenSource {
    options: Oauth2Options,
    url: Url,
    http: Arc<HttpSettings>,
    kept: Mutex<Option<(String, Instant)>>,
}

impl TokenSource {
    pub(crate) fn new(options: &Oauth2Options) -> Result<TokenSource, HttpSettingsError> {
        let bad = || HttpSettingsError::TokenUrl;
        let url = Url::parse(&options.token_url).map_err(|_| bad())?;
        if !matches!(url.scheme(), "http" | "https")
            || !url.has_host()
            || !url.username().is_empty()
            || url.password().is_some()
        {
            return Err(bad());
        }
        let http = HttpSettings::new(HttpOptions { tls: options.tls.clone(), ..HttpOptions::default() })?;
        Ok(TokenSource { options: options.clone(), url, http: Arc::new(http), kept: Mutex::default() })
    }

    /// Gives a token that is still good.
    pub(crate) async fn token(&self, policy: &AddressPolicy, timeout: Duration) -> Result<String, ScrapeError> {
        let mut kept = self.kept.lock().await;
        if let Some((token, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let (token, life) = self.fetch(policy, timeout).await?;
        *kept = Some((token.clone(), Instant::now() + life.saturating_sub(MARGIN)));
        Ok(token)
    }

    /// Forgets a token that a target would not have.
    pub(crate) async fn forget(&self) {
        *self.kept.lock().await = None;
    }

    /// Asks with the secret in a header, and, of who does not take that, once more with the secret in the form: so Prometheus does.
    async fn fetch(&self, policy: &AddressPolicy, timeout: Duration) -> Result<(String, Duration), ScrapeError> {
        let poster = Poster::new(self.http.clone(), policy.clone(), timeout);
        let secret = secret(&self.options.client_secret).await?;
        let escape = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let login = basic(&escape(&self.options.client_id), &escape(&secret));
        let mut login =
            HeaderValue::from_str(&login).map_err(|_| failed("client id or secret is not a header value"))?;
        login.set_sensitive(true);
        let posted = self.ask(&poster, &[(AUTHORIZATION, login)], self.form(None)).await?;
        match posted.status {
            400 | 401 => read(&self.ask(&poster, &[], self.form(Some(&secret))).await?),
            _ => read(&posted),
        }
    }

    async fn ask(
        &self,
        poster: &Poster,
        headers: &[(http::HeaderName, HeaderValue)],
        form: String,
    ) -> Result<Posted, ScrapeError> {
        let posted = poster.post(&self.url, headers, FORM, Bytes::from(form)).await;
        posted.map_err(|e| ScrapeError::new(e.kind, format!("token of {}: {}", self.url, e.message)))
    }

    fn form(&self, secret: Option<&str>) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !self.options.scopes.is_empty() {
            form.append_pair("scope", &self.options.scopes.join(" "));
        }
        form.extend_pairs(&self.options.endpoint_params);
        if let Some(secret) = secret {
            form.append_pair("client_id", &self.options.client_id).append_pair("client_secret", secret);
        }
        form.finish()
    }
}

fn failed(text: impl Into<String>) -> ScrapeError {
    ScrapeError::new(ScrapeErrorKind::Credentials, text)
}

/// Reads the answer; of one that is no token only the status and the word of the error are told, for the rest may be anything.
fn read(posted: &Posted) -> Result<(String, Duration), ScrapeError> {
    let answer: Value = serde_json::from_str(&posted.text).unwrap_or_default();
    let token = answer["access_token"].as_str().filter(|t| !t.is_empty() && t.len() <= TOKEN_BYTES_MAX);
    let Some(token) = token.filter(|_| posted.status == 200) else {
        let word = answer["error"]
            .as_str()
            .filter(|w| w.len() <= 50 && w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        let why = word.map(|w| format!(": {w}")).unwrap_or_default();
        return Err(failed(format!("oauth2: no token in an answer of status {}{why}", posted.status)));
    };
    let given = answer["expires_in"].as_f64().or_else(|| answer["expires_in"].as_str()?.parse().ok());
    let life = given.filter(|s| s.is_finite()).unwrap_or(LIFE_DEFAULT_S).clamp(0.0, LIFE_S_MAX);
    Ok((token.to_owned(), Duration::from_secs_f64(life)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(status: u16, text: &str) -> Posted {
        Posted { status, text: text.to_owned(), retry_after_s: None, headers: http::HeaderMap::new(), whole: true }
    }

    #[test]
    fn answers_give_a_token_or_a_word() {
        let good = read(&posted(200, r#"{"access_token": "t", "expires_in": 60}"#)).ok();
        assert_eq!(good, Some(("t".to_owned(), Duration::from_secs(60))));
        let text = |posted: &Posted| read(posted).err().map(|e| e.message).unwrap_or_default();
        assert_eq!(
            text(&posted(401, r#"{"error": "invalid_client"}"#)),
            "oauth2: no token in an answer of status 401: invalid_client"
        );
        assert!(!text(&posted(400, r#"{"error": "secret was Hunter2"}"#)).contains("Hunter2"));
        assert!(read(&posted(200, "nonsense")).is_err() && read(&posted(500, r#"{"access_token": "t"}"#)).is_err());
    }
}
