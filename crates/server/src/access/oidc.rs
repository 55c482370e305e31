//! Who an OpenID issuer says somebody is.
//!
//! The issuer's keys are fetched with our own client, [`KEYS_BYTES_MAX`] and [`TIMEOUT`] at most, and kept: for [`FRESH`] without
//! asking again, and as long as asking fails. A key that is not known is asked for at once, but not twice within [`PAUSE`], so that
//! tokens with made-up names of keys make no traffic.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use collect::{AddressPolicy, HttpOptions, HttpSettings, Poster, TlsOptions};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::jwt::{Expected, Key, Unverified};
use super::pass::Pass;
use super::role::Roles;
use super::settings::OidcSettings;

/// Bytes of a set of keys.
pub const KEYS_BYTES_MAX: usize = 256 << 10;
/// Keys of a set.
const KEYS_MAX: usize = 100;
/// How long the issuer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long keys are used without asking again.
const FRESH: Duration = Duration::from_secs(600);
/// From one attempt to the next.
const PAUSE: Duration = Duration::from_secs(10);
/// Values of a claim that are looked at.
const VALUES_MAX: usize = 200;
/// Characters of a subject in logs.
const SUBJECT_CHARS_MAX: usize = 100;

/// An issuer.
pub struct Oidc {
    settings: OidcSettings,
    client: Poster,
    keys: ArcSwap<Keys>,
    attempts: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Keys {
    keys: Vec<Key>,
    at: Option<Instant>,
}

impl Oidc {
    /// Makes one; nothing is fetched yet.
    ///
    /// **Errors** when the certificates to trust cannot be read.
    pub fn new(settings: OidcSettings) -> Result<Oidc, String> {
        let ca_pem = settings.ca_file.as_deref().map(read).transpose()?;
        let options = HttpOptions { tls: TlsOptions { ca_pem, ..TlsOptions::default() }, ..HttpOptions::default() };
        let http = HttpSettings::new(options).map_err(|e| e.to_string())?;
        // The operator named the issuer.
        let client = Poster::new(Arc::new(http), AddressPolicy::allow_all(), TIMEOUT);
        Ok(Oidc { settings, client, keys: ArcSwap::default(), attempts: Mutex::default() })
    }

    /// Gives what it was made of.
    pub fn settings(&self) -> &OidcSettings {
        &self.settings
    }

    /// Checks a token.
    ///
    /// **Errors** with a word for the counters; the token is in no message.
    pub async fn check(self: &Arc<Oidc>, token: &str, now_ms: i64) -> Result<Pass, &'static str> {
        let token = Unverified::read(token)?;
        let key = self.key(&token).await?;
        let settings = &self.settings;
        let expected = Expected {
            issuer: &settings.issuer,
            audience: &settings.audience,
            leeway_s: settings.leeway_ms as f64 / 1e3,
            now_s: now_ms as f64 / 1e3,
        };
        let claims = token.verify(&key, &expected)?;
        let roles = self.roles(&claims);
        if roles == Roles::NONE {
            return Err("no_role");
        }
        let subject: String = claims
            .get("sub")
            .and_then(Value::as_str)
            .unwrap_or("?")
            .chars()
            .filter(|c| !c.is_control())
            .take(SUBJECT_CHARS_MAX)
            .collect();
        let mut pass = Pass::new(format!("oidc:{subject}"), roles);
        if let Some(name) = &settings.sources_claim
            && roles.writes()
            && !roles.is_admin()
        {
            // Who should have sources and has none writes as nobody.
            pass.sources = Some(values(&claims, name));
        }
        Ok(pass)
    }

    fn roles(&self, claims: &Value) -> Roles {
        let held = values(claims, &self.settings.roles_claim);
        let given = self.settings.roles.iter().filter(|(value, _)| held.contains(value));
        given.fold(Roles::NONE, |all, (_, role)| all.or(*role))
    }

    async fn key(self: &Arc<Oidc>, token: &Unverified<'_>) -> Result<Key, &'static str> {
        let keys = self.keys.load_full();
        let stale = keys.at.is_none_or(|at| at.elapsed() >= FRESH);
        match keys.find(token) {
            Some(key) => {
                if stale {
                    let oidc = self.clone();
                    tokio::spawn(async move { oidc.refresh().await });
                }
                Ok(key.clone())
            }
            None => {
                self.refresh().await;
                self.keys.load().find(token).cloned().ok_or("unknown_key")
            }
        }
    }

    /// Fetches the keys, unless somebody did a moment ago.
    async fn refresh(&self) {
        let mut last = self.attempts.lock().await;
        if last.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        // Whoever goes away meanwhile has asked all the same.
        *last = Some(Instant::now());
        let fetched = self.fetch().await;
        // Those who waited meanwhile need not try again.
        *last = Some(Instant::now());
        match fetched {
            Ok(keys) => self.keys.store(Arc::new(Keys { keys, at: Some(Instant::now()) })),
            Err(error) => {
                tracing::warn!(issuer = self.settings.issuer, "keys of the issuer: {error}; those at hand are used")
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let url = match &self.settings.jwks_url {
            Some(url) => url.clone(),
            None => {
                let issuer = self.settings.issuer.trim_end_matches('/');
                let document = self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
                if document["issuer"].as_str() != Some(&self.settings.issuer) {
                    return Err("the discovery document is another issuer's".to_owned());
                }
                document["jwks_uri"].as_str().ok_or("the discovery document names no jwks_uri")?.to_owned()
            }
        };
        let set = self.get(&url).await?;
        let list = set["keys"].as_array().ok_or("no keys in the answer")?;
        let keys: Vec<Key> = list.iter().take(KEYS_MAX).filter_map(Key::read).collect();
        if keys.is_empty() { Err("no key in the answer is of use".to_owned()) } else { Ok(keys) }
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let parsed = Url::parse(url).map_err(|e| format!("{url}: {e}"))?;
        let answer = self.client.get(&parsed, KEYS_BYTES_MAX).await.map_err(|e| format!("{url}: {}", e.message))?;
        if answer.status != 200 {
            return Err(format!("{url}: HTTP status {}", answer.status));
        }
        serde_json::from_str(&answer.text).map_err(|_| format!("{url}: not JSON, or more than {KEYS_BYTES_MAX} bytes"))
    }
}

impl Keys {
    /// Finds the key that a token names, or the only one of its kind if it names none.
    fn find(&self, token: &Unverified<'_>) -> Option<&Key> {
        let mut fitting = self.keys.iter().filter(|key| key.alg() == token.alg);
        match &token.kid {
            Some(kid) => {
                // A token that lies about its algorithm is told so, not sent for new keys.
                self.keys.iter().find(|key| key.kid.as_ref() == Some(kid))
            }
            None => {
                let only = fitting.next()?;
                fitting.next().is_none().then_some(only)
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    crate::config::load::read_text(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Gives the values of a claim: a list, or words of a text. A name that is none is a way into objects.
fn values(claims: &Value, name: &str) -> Vec<String> {
    let found = claims.get(name).or_else(|| name.split('.').try_fold(claims, |at, step| at.get(step)));
    match found {
        Some(Value::String(text)) => text.split_ascii_whitespace().take(VALUES_MAX).map(str::to_owned).collect(),
        Some(Value::Array(all)) => all.iter().take(VALUES_MAX).filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_are_lists_words_or_within_objects() {
        let claims = json!({"groups": ["a", 1, "b"], "scope": "c d", "realm": {"roles": ["e"]}, "https://x/y": ["f"]});
        assert_eq!(values(&claims, "groups"), ["a", "b"]);
        assert_eq!(values(&claims, "scope"), ["c", "d"]);
        assert_eq!(values(&claims, "realm.roles"), ["e"]);
        assert_eq!(values(&claims, "https://x/y"), ["f"]);
        assert!(values(&claims, "nothing.there").is_empty());
    }
}
