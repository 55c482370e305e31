//! Tokens of Google: for a service account's key, for a user's refresh token, or from the metadata server. An ID token where an
//! audience is named, as Cloud Run and IAP want it, else an access token.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::environment::Environment;
use super::issuer::{Issuer, file, form};
use crate::address::AddressPolicy;
use crate::http::fetch::secret;
use crate::http::kept::Kept;
use crate::http::settings::{HttpSettings, HttpSettingsError, Secret};
use crate::http::token_answer::{TOKEN_BYTES_MAX, failed, life, read};
use crate::outcome::ScrapeError;

const WHO: &str = "google";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// What is asked for when nothing is said.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const ASSERTED_S: i64 = 3_600;

/// How Google is shown who asks; Prometheus' `google_iam`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GoogleOptions {
    /// A credentials file's content; what the environment or the metadata server gives when absent.
    pub credentials: Option<Secret>,
    /// Whom an ID token is for; an access token when absent.
    pub audience: Option<String>,
    /// What an access token is for.
    pub scopes: Vec<String>,
}

/// Gets tokens and keeps the last one.
pub(crate) struct Google {
    options: GoogleOptions,
    environment: Environment,
    http: Arc<HttpSettings>,
    kept: Kept<String>,
}

type Lasting = (String, Duration);

impl Google {
    /// **Errors** when scopes and an audience are given: no token is for both.
    pub(crate) fn new(options: &GoogleOptions, environment: &Environment) -> Result<Google, HttpSettingsError> {
        if options.audience.is_some() && !options.scopes.is_empty() {
            return Err(HttpSettingsError::Cloud("at most one of audience and scopes can be given".to_owned()));
        }
        let http = Arc::new(HttpSettings::default());
        Ok(Google { options: options.clone(), environment: environment.clone(), http, kept: Kept::default() })
    }

    /// Gives a token that is still good.
    pub(crate) async fn token(&self, policy: &AddressPolicy, timeout: Duration) -> Result<String, ScrapeError> {
        self.kept.get(|| self.fetch(policy, timeout)).await
    }

    pub(crate) fn forget(&self) {
        self.kept.forget();
    }

    async fn fetch(&self, policy: &AddressPolicy, timeout: Duration) -> Result<Lasting, ScrapeError> {
        let (text, policy) = match &self.options.credentials {
            Some(credentials) => (Some(secret(credentials).await?), policy.clone()),
            None => (self.default_file().await?, AddressPolicy::allow_all()),
        };
        let Some(text) = text else { return self.of_machine(timeout).await };
        let said: Value = serde_json::from_str(&text).map_err(|_| failed("google: the credentials are not JSON"))?;
        let uri = said["token_uri"].as_str().unwrap_or(TOKEN_URI);
        let issuer = Issuer::new(WHO, uri, (&self.http, policy, timeout))?;
        match said["type"].as_str() {
            Some("service_account") => self.of_account(&said, uri, &issuer).await,
            Some("authorized_user") => self.of_user(&said, &issuer).await,
            _ => Err(failed("google: credentials are of type service_account or authorized_user")),
        }
    }

    /// Reads the file that Google's own libraries would read.
    async fn default_file(&self) -> Result<Option<String>, ScrapeError> {
        if let Some(path) = self.environment.get("GOOGLE_APPLICATION_CREDENTIALS") {
            return file(&path).await.map(Some);
        }
        let Some(home) = self.environment.get("HOME") else { return Ok(None) };
        let path = format!("{home}/.config/gcloud/application_default_credentials.json");
        // Whether it is there decides; one that cannot be read is said.
        if tokio::fs::try_exists(&path).await.unwrap_or(false) { file(&path).await.map(Some) } else { Ok(None) }
    }

    fn scopes(&self, between: &str) -> String {
        if self.options.scopes.is_empty() { SCOPE.to_owned() } else { self.options.scopes.join(between) }
    }

    /// Signs a statement of who we are, and exchanges it (RFC 7523).
    async fn of_account(&self, said: &Value, uri: &str, issuer: &Issuer) -> Result<Lasting, ScrapeError> {
        let text =
            |name: &str| said[name].as_str().ok_or_else(|| failed(format!("google: the credentials have no {name}")));
        let now = Timestamp::now().as_second();
        let mut claims = json!({"iss": text("client_email")?, "aud": uri, "iat": now, "exp": now + ASSERTED_S});
        match &self.options.audience {
            Some(audience) => claims["target_audience"] = audience.as_str().into(),
            None => claims["scope"] = self.scopes(" ").into(),
        }
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": said["private_key_id"]});
        let assertion = signed(&header, &claims, text("private_key")?)?;
        let kind = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let posted = issuer.post_form(form(&[("grant_type", kind), ("assertion", &assertion)])).await?;
        match self.options.audience {
            Some(_) => read(&posted, WHO, "id_token").and_then(|(token, _)| lasting(token)),
            None => read(&posted, WHO, "access_token"),
        }
    }

    async fn of_user(&self, said: &Value, issuer: &Issuer) -> Result<Lasting, ScrapeError> {
        if self.options.audience.is_some() {
            return Err(failed("google: a user's credentials give no ID token for an audience"));
        }
        let mut pairs = vec![("grant_type", "refresh_token")];
        for name in ["client_id", "client_secret", "refresh_token"] {
            let value = said[name].as_str();
            pairs.push((name, value.ok_or_else(|| failed(format!("google: the credentials have no {name}")))?));
        }
        read(&issuer.post_form(form(&pairs)).await?, WHO, "access_token")
    }

    async fn of_machine(&self, timeout: Duration) -> Result<Lasting, ScrapeError> {
        let host = self.environment.get("GCE_METADATA_HOST").unwrap_or_else(|| "169.254.169.254".to_owned());
        let base = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default");
        let url = match &self.options.audience {
            Some(audience) => format!("{base}/identity?{}", form(&[("audience", audience), ("format", "full")])),
            None if self.options.scopes.is_empty() => format!("{base}/token"),
            None => format!("{base}/token?{}", form(&[("scopes", &self.scopes(","))])),
        };
        let issuer = Issuer::next_door("the metadata server of Google", &url, &self.http, timeout)?;
        let posted = issuer.get(&[("metadata-flavor", "Google")]).await?;
        if posted.headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            return Err(failed(format!("google: {host} is no metadata server (status {})", posted.status)));
        }
        match (&self.options.audience, posted.status) {
            (Some(_), 200) => lasting(posted.text.trim().to_owned()),
            (Some(_), status) => Err(failed(format!("google: no ID token in an answer of status {status}"))),
            (None, _) => read(&posted, WHO, "access_token"),
        }
    }
}

/// Finds the life of an ID token in itself.
fn lasting(token: String) -> Result<Lasting, ScrapeError> {
    let claims = || -> Option<Value> {
        let middle = token.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(middle.trim_end_matches('=')).ok()?).ok()
    };
    let end = claims().and_then(|claims| claims["exp"].as_f64()).filter(|_| token.len() <= TOKEN_BYTES_MAX);
    let end = end.ok_or_else(|| failed("google: what came is no ID token"))?;
    Ok((token, life(end - Timestamp::now().as_second() as f64)))
}

fn signed(header: &Value, claims: &Value, pem: &str) -> Result<String, ScrapeError> {
    let bad = || failed("google: private_key is no RSA key in PEM");
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad())?;
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(|_| bad())?;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).map_err(|_| bad())?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
