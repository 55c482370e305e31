//! OAuth 2 for machines: a token for client id and secret (RFC 6749, 4.4), kept until shortly before it expires.
//!
//! The token's URL is connected to under the same address policy as the target: it is given by the same hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use url::Url;

use crate::address::AddressPolicy;
use crate::http::fetch::{basic, secret};
use crate::http::kept::Kept;
use crate::http::post::{Posted, Poster};
use crate::http::settings::{HttpOptions, HttpSettings, HttpSettingsError, Secret, TlsOptions};
use crate::http::token_answer::{failed, read};
use crate::outcome::ScrapeError;

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
    kept: Kept<String>,
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
        Ok(TokenSource { options: options.clone(), url, http: Arc::new(http), kept: Kept::default() })
    }

    /// Gives a token that is still good.
    pub(crate) async fn token(&self, policy: &AddressPolicy, timeout: Duration) -> Result<String, ScrapeError> {
        self.kept.get(|| self.fetch(policy, timeout)).await
    }

    /// Forgets a token that a target would not have.
    pub(crate) fn forget(&self) {
        self.kept.forget();
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
            400 | 401 => read(&self.ask(&poster, &[], self.form(Some(&secret))).await?, "oauth2", "access_token"),
            _ => read(&posted, "oauth2", "access_token"),
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
