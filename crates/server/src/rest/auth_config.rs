//! `authentication` of a `scrape_config`: how a target is shown who asks.
//!
//! A secret comes as `{"value": ...}`, is sealed before anything else is done with the request ([`seal`]), stands in the catalog as
//! `{"sealed", "sha256_8"}`, and is shown as `{"redacted": true, "sha256_8"}` ([`redacted`]). Or it is a reference, `{"ref": "env:NAME"}`.

use collect::{Auth, Oauth2Options, Secret, TlsOptions};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::cloud_auth::{self, CloudConfig};
use super::fields::{Fields, Severity};
use super::problem::Problem;
use crate::access::vault::Vault;

/// Bytes of a secret: a chain of certificates is the longest.
const SECRET_BYTES_MAX: usize = 64 << 10;
/// Characters of a text that is no secret.
const TEXT_CHARS_MAX: usize = 2_048;
const LIST_MAX: usize = 50;
/// Where it stands in a request.
const PLACE: &str = "/scrape_config/authentication";
/// Its fields that hold secrets.
const SECRETS: [&str; 9] =
    ["password", "token", "value", "client_secret", "cert", "key", "ca", "secret_key", "credentials"];

#[derive(Clone, Copy)]
enum Word {
    None,
    Basic,
    Bearer,
    ApiKey,
    Oauth2,
    Mtls,
    Cloud(&'static str),
}

const WORDS: [(&str, Word); 9] = [
    ("NONE", Word::None),
    ("BASIC", Word::Basic),
    ("BEARER", Word::Bearer),
    ("API_KEY", Word::ApiKey),
    ("OAUTH2", Word::Oauth2),
    ("MTLS", Word::Mtls),
    ("SIGV4", Word::Cloud("SIGV4")),
    ("GCP", Word::Cloud("GCP")),
    ("AZURE_AD", Word::Cloud("AZURE_AD")),
];

/// A secret that nobody can read here.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// `env:NAME` or `file:/path`.
    Reference(String),
    /// As [`Vault::seal`] gave it, with its mark.
    Sealed(String, String),
}

/// How a target is shown who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AuthConfig {
    /// It is not.
    #[default]
    None,
    /// A name and a password.
    Basic(String, Held),
    /// A token.
    Bearer(Held),
    /// A header of its own and its value.
    ApiKey(String, Held),
    /// A token that is fetched first.
    Oauth2(Box<Oauth2Config>),
    /// Our certificate and its key.
    Mtls(Box<MtlsConfig>),
    /// Who we are at a cloud provider.
    Cloud(Box<CloudConfig>),
}

/// Where tokens are fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Oauth2Config {
    client_id: String,
    client_secret: Held,
    token_url: String,
    scopes: Vec<String>,
    audience: Option<String>,
}

/// Certificates of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct MtlsConfig {
    cert: Held,
    key: Held,
    /// Whom to trust; `tls` of the scrape config, or the system, says it when absent.
    ca: Option<Held>,
    server_name: Option<String>,
}

impl AuthConfig {
    /// Reads the field; its secrets are sealed already.
    pub fn read(f: &mut Fields) -> AuthConfig {
        let pointer = f.at("authentication");
        let Some(value) = f.value("authentication") else { return AuthConfig::None };
        let Some(mut f) = Fields::open(value, pointer, f.issues) else { return AuthConfig::None };
        let word = f.word("type", &WORDS);
        let read = match f.require("type", word) {
            None => return AuthConfig::None,
            Some(Word::None) => Some(AuthConfig::None),
            Some(Word::Basic) => {
                let username = text(&mut f, "username", true);
                let password = held(&mut f, "password");
                username.zip(password).map(|(username, password)| AuthConfig::Basic(username, password))
            }
            Some(Word::Bearer) => held(&mut f, "token").map(AuthConfig::Bearer),
            Some(Word::ApiKey) => {
                let header = text(&mut f, "header", true);
                let value = held(&mut f, "value");
                header.zip(value).map(|(header, value)| AuthConfig::ApiKey(header, value))
            }
            Some(Word::Oauth2) => read_oauth2(&mut f),
            Some(Word::Mtls) => read_mtls(&mut f),
            Some(Word::Cloud(word)) => CloudConfig::read(&mut f, word).map(|cloud| AuthConfig::Cloud(Box::new(cloud))),
        };
        f.finish();
        read.unwrap_or_default()
    }

    /// Gives the normal form, as the catalog keeps it.
    pub fn normal(&self) -> Value {
        match self {
            AuthConfig::None => json!({"type": "NONE"}),
            AuthConfig::Basic(username, password) => {
                json!({"type": "BASIC", "username": username, "password": password.normal()})
            }
            AuthConfig::Bearer(token) => json!({"type": "BEARER", "token": token.normal()}),
            AuthConfig::ApiKey(header, value) => json!({"type": "API_KEY", "header": header, "value": value.normal()}),
            AuthConfig::Oauth2(o) => json!({
                "type": "OAUTH2", "client_id": o.client_id, "client_secret": o.client_secret.normal(),
                "token_url": o.token_url, "scopes": o.scopes, "audience": o.audience,
            }),
            AuthConfig::Mtls(m) => json!({
                "type": "MTLS", "cert": m.cert.normal(), "key": m.key.normal(),
                "ca": m.ca.as_ref().map(Held::normal), "server_name": m.server_name,
            }),
            AuthConfig::Cloud(cloud) => cloud.normal(),
        }
    }

    /// Opens the secrets for the collector.
    ///
    /// **Takes** the TLS of the connection, which certificates go into. **Errors** name the place.
    pub fn open(&self, vault: &Vault, tls: &mut TlsOptions) -> Result<Auth, Problem> {
        let open = |name: &str, held: &Held| open(vault, &format!("{PLACE}/{name}"), held);
        Ok(match self {
            AuthConfig::None => Auth::None,
            AuthConfig::Basic(username, password) => {
                Auth::Basic { username: username.clone(), password: open("password", password)? }
            }
            AuthConfig::Bearer(token) => Auth::Bearer { kind: "Bearer".to_owned(), token: open("token", token)? },
            AuthConfig::ApiKey(header, value) => Auth::ApiKey { header: header.clone(), key: open("value", value)? },
            AuthConfig::Oauth2(o) => {
                let audience = o.audience.iter().map(|a| ("audience".to_owned(), a.clone()));
                Auth::Oauth2(Box::new(Oauth2Options {
                    client_id: o.client_id.clone(),
                    client_secret: open("client_secret", &o.client_secret)?,
                    token_url: o.token_url.clone(),
                    scopes: o.scopes.clone(),
                    endpoint_params: audience.collect(),
                    // The issuer of tokens is another party than the target: the target's name and leniency are not for it.
                    tls: TlsOptions { ca_pem: tls.ca_pem.clone(), ..TlsOptions::default() },
                }))
            }
            AuthConfig::Cloud(cloud) => cloud.open(&open)?,
            AuthConfig::Mtls(m) => {
                tls.cert_pem = Some(plain("cert", open("cert", &m.cert)?)?);
                tls.key_pem = Some(plain("key", open("key", &m.key)?)?);
                if let Some(ca) = &m.ca {
                    tls.ca_pem = Some(plain("ca", open("ca", ca)?)?);
                }
                if m.server_name.is_some() {
                    tls.server_name.clone_from(&m.server_name);
                }
                Auth::None
            }
        })
    }
}

fn read_oauth2(f: &mut Fields) -> Option<AuthConfig> {
    let client_id = text(f, "client_id", true);
    let client_secret = held(f, "client_secret");
    let token_url = text(f, "token_url", true);
    let scopes = f.array("scopes").cloned().unwrap_or_default();
    let words: Option<Vec<String>> = scopes.iter().map(|v| v.as_str().map(str::to_owned)).collect();
    if words.as_ref().is_none_or(|w| w.len() > LIST_MAX) {
        f.issue(Severity::Malformed, "scopes", "wrong_type", format!("scopes: expected at most {LIST_MAX} texts"));
    }
    let audience = text(f, "audience", false);
    Some(AuthConfig::Oauth2(Box::new(Oauth2Config {
        client_id: client_id?,
        client_secret: client_secret?,
        token_url: token_url?,
        scopes: words?,
        audience,
    })))
}

fn read_mtls(f: &mut Fields) -> Option<AuthConfig> {
    let (cert, key) = (held(f, "cert"), held(f, "key"));
    let ca = if f.value("ca").is_some() { held(f, "ca") } else { None };
    if f.string("min_version").is_some_and(|version| version != "1.2") {
        f.issue(Severity::NotYet, "min_version", "not_yet", "1.2 is the only floor that is built");
    }
    let server_name = text(f, "server_name", false);
    Some(AuthConfig::Mtls(Box::new(MtlsConfig { cert: cert?, key: key?, ca, server_name })))
}

pub(super) fn text(f: &mut Fields, name: &'static str, required: bool) -> Option<String> {
    let found = f.string_max(name, TEXT_CHARS_MAX);
    let found = if required { f.require(name, found) } else { found };
    found.map(str::to_owned)
}

pub(super) fn held(f: &mut Fields, name: &'static str) -> Option<Held> {
    let pointer = f.at(name);
    let value = f.value(name);
    let value = f.require(name, value)?;
    let (at, outer) = (pointer.clone(), &mut *f.issues);
    let mut f = Fields::open(value, pointer, outer)?;
    let (reference, sealed, mark) = (f.string("ref"), f.string("sealed"), f.string("sha256_8"));
    f.finish();
    match (reference, sealed, mark) {
        (Some(reference), None, None) => Some(Held::Reference(reference.to_owned())),
        (None, Some(sealed), Some(mark)) => Some(Held::Sealed(sealed.to_owned(), mark.to_owned())),
        _ => {
            outer.add(Severity::Malformed, at, "invalid_secret", "a secret is {\"value\": ...} or {\"ref\": ...}");
            None
        }
    }
}

impl Held {
    pub(super) fn normal(&self) -> Value {
        match self {
            Held::Reference(reference) => json!({"ref": reference}),
            Held::Sealed(sealed, mark) => json!({"sealed": sealed, "sha256_8": mark}),
        }
    }
}

fn open(vault: &Vault, place: &str, held: &Held) -> Result<Secret, Problem> {
    let refused = |word: &str, detail: String| Problem::at(StatusCode::UNPROCESSABLE_ENTITY, word, place, detail);
    match held {
        Held::Sealed(sealed, _) => {
            let detail = "the secret was sealed under another key: give it again";
            vault.open_sealed(sealed).map(Secret::Inline).ok_or_else(|| refused("sealed_elsewhere", detail.to_owned()))
        }
        Held::Reference(reference) => match vault.refer(reference) {
            Ok(secret) => Ok(secret),
            Err(("not_yet", detail)) => Err(Problem::not_yet(place, detail)),
            Err((word, detail)) => Err(refused(word, detail)),
        },
    }
}

/// Certificates are read once, when the target is put in force.
fn plain(name: &str, secret: Secret) -> Result<String, Problem> {
    let place = format!("{PLACE}/{name}");
    let text = match secret {
        Secret::Inline(text) => Ok(text),
        Secret::File(path) => crate::config::load::read_text(&path).map_err(|_| "the file cannot be read"),
        Secret::Env(name) => std::env::var(name).map_err(|_| "the variable is not set"),
    };
    text.map_err(|detail| Problem::at(StatusCode::UNPROCESSABLE_ENTITY, "unreadable_reference", place, detail))
}

/// Seals the secrets of a request in place, and judges its references.
///
/// **Takes** `admin`: whether who asks is one; others refer to nothing.
pub fn seal(request: &mut Value, vault: &Vault, admin: bool) -> Result<(), Problem> {
    if !admin && cloud_auth::lends_identity(request) {
        return Err(cloud_auth::not_lent());
    }
    let Some(Value::Object(auth)) = request.pointer_mut(PLACE) else { return Ok(()) };
    for name in SECRETS {
        if let Some(Value::Object(secret)) = auth.get_mut(name) {
            seal_one(secret, &format!("{PLACE}/{name}"), vault, admin)?;
        }
    }
    Ok(())
}

fn seal_one(secret: &mut Map<String, Value>, place: &str, vault: &Vault, admin: bool) -> Result<(), Problem> {
    let refused = |word: &str, detail: &str| Err(Problem::at(StatusCode::UNPROCESSABLE_ENTITY, word, place, detail));
    if secret.contains_key("sealed") || secret.contains_key("redacted") {
        return refused(
            "redacted",
            "what was shown is not the secret: give {\"value\": ...} or leave the field out of a patch",
        );
    }
    if secret.contains_key("ref") && !admin {
        let detail = "references to files and variables of the server are for admins";
        return Err(Problem::at(StatusCode::FORBIDDEN, "forbidden_reference", place, detail));
    }
    if let Some(Value::String(reference)) = secret.get("ref")
        && let Err((word, detail)) = vault.refer(reference)
    {
        return match word {
            "not_yet" => Err(Problem::not_yet(place, detail)),
            word => refused(word, &detail),
        };
    }
    let Some(value) = secret.get("value") else { return Ok(()) };
    if secret.len() > 1 {
        return refused("conflict", "a secret is {\"value\": ...} or {\"ref\": ...}, and nothing else");
    }
    let Some(text) = value.as_str().filter(|text| !text.is_empty() && text.len() <= SECRET_BYTES_MAX) else {
        return refused("invalid_secret", "a secret is a text of 1 byte to 64 KiB");
    };
    let Some(sealed) = vault.seal(text) else { return refused("invalid_secret", "the secret could not be sealed") };
    let mark = vault.mark(text);
    *secret = Map::from_iter([("sealed".to_owned(), sealed.into()), ("sha256_8".to_owned(), mark.into())]);
    Ok(())
}

/// Takes the secrets out of a request that a patch gives anew: they are replaced, not merged.
pub fn make_way(request: &mut Value, patch: &Value) {
    let Some(auth) = request.pointer_mut(PLACE).and_then(Value::as_object_mut) else { return };
    for name in SECRETS {
        if patch.pointer(&format!("{PLACE}/{name}")).is_some() {
            auth.remove(name);
        }
    }
}

/// Tells whether a change by one who is no admin would send a secret that he did not give, or the server's own identity, elsewhere.
///
/// **Takes** the registration before and after, and the change that was asked for.
pub fn carries_secrets_away(before: &Value, after: &Value, patch: &Value) -> bool {
    let bare = |request: &Value| {
        let mut scrape = request["scrape_config"].clone();
        if let Some(scrape) = scrape.as_object_mut() {
            for name in ["scrape_interval", "scrape_timeout", "honor_labels", "honor_timestamps", "body_size_limit"] {
                scrape.remove(name);
            }
        }
        scrape
    };
    let held = |name: &str| after.pointer(&format!("{PLACE}/{name}")).is_some_and(Value::is_object);
    let given = |name: &str| patch.pointer(&format!("{PLACE}/{name}")).is_some_and(Value::is_object);
    let lent = cloud_auth::lends_identity(after);
    bare(before) != bare(after) && (lent || SECRETS.iter().any(|name| held(name) && !given(name)))
}

/// Gives a value without what is sealed in it.
pub fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.contains_key("sealed") => json!({"redacted": true, "sha256_8": map.get("sha256_8")}),
        Value::Object(map) => Value::Object(map.iter().map(|(name, value)| (name.clone(), redacted(value))).collect()),
        Value::Array(all) => Value::Array(all.iter().map(redacted).collect()),
        other => other.clone(),
    }
}

/// Tells whether a header is likely to hold a secret: such ones belong into `authentication`, where they are sealed.
pub fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if name.ends_with("-key") || name.starts_with("x-auth") {
        return true;
    }
    ["authorization", "cookie", "token", "secret", "api-key", "apikey", "api_key", "password", "credential"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::vault::SecretSettings;

    fn vault() -> Vault {
        Vault::of(&[7; 32], SecretSettings::default()).unwrap()
    }

    fn sealed(auth: Value, admin: bool) -> Result<Value, Problem> {
        let mut request = json!({"scrape_config": {"authentication": auth}});
        seal(&mut request, &vault(), admin)?;
        Ok(request)
    }

    #[test]
    fn secrets_are_sealed_and_shown_as_a_mark() {
        let auth = json!({"type": "BASIC", "username": "u", "password": {"value": "hunter2"}});
        let request = sealed(auth.clone(), false).unwrap();
        assert!(!request.to_string().contains("hunter2"));
        assert_eq!(sealed(auth, false).unwrap(), request, "the same again");
        let shown = redacted(&request).to_string();
        assert!(shown.contains("\"redacted\":true") && !shown.contains("sealed"), "{shown}");
        for (bad, status, word) in [
            (json!({"sealed": "x", "sha256_8": "y"}), 422, "redacted"),
            (json!({"redacted": true}), 422, "redacted"),
            (json!({"value": "a", "ref": "env:QUIVER_SECRET_A"}), 403, "forbidden_reference"),
            (json!({"ref": "env:QUIVER_SECRET_A"}), 403, "forbidden_reference"),
            (json!({"value": ""}), 422, "invalid_secret"),
            (json!({"value": 7}), 422, "invalid_secret"),
            (json!({"value": "x".repeat(70_000)}), 422, "invalid_secret"),
        ] {
            let problem = sealed(json!({"type": "BEARER", "token": bad}), false).unwrap_err();
            assert_eq!((problem.status, problem.code.as_str()), (status, word));
        }
        let admins = |reference: &str| sealed(json!({"type": "BEARER", "token": {"ref": reference}}), true);
        assert!(admins("env:QUIVER_SECRET_A").is_ok());
        assert_eq!(admins("file:/etc/passwd").unwrap_err().code, "forbidden_reference");
        assert_eq!(admins("k8s:a/b/c").unwrap_err().status, 501);
    }

    #[test]
    fn nobody_points_a_target_elsewhere_and_takes_its_secret_along() {
        let before = json!({"scrape_config": {"target_url": "a:1", "scrape_interval": "15s",
            "authentication": {"type": "BEARER", "token": {"sealed": "s", "sha256_8": "m"}}}});
        let mut referring = before.clone();
        let reference = json!({"scrape_config": {"authentication": {"token": {"ref": "env:X"}}}});
        make_way(&mut referring, &reference);
        crate::rest::registration::merge(&mut referring, &reference, 8);
        assert_eq!(referring["scrape_config"]["authentication"]["token"], json!({"ref": "env:X"}));
        let changed = |patch: Value| {
            let mut after = before.clone();
            crate::rest::registration::merge(&mut after, &patch, 8);
            carries_secrets_away(&before, &after, &patch)
        };
        assert!(changed(json!({"scrape_config": {"target_url": "evil:1"}})));
        assert!(changed(json!({"scrape_config": {"tls": {"insecure_skip_verify": true}}})));
        assert!(changed(json!({"scrape_config": {"authentication": {"type": "API_KEY", "header": "x"}}})));
        assert!(!changed(json!({"scrape_config": {"scrape_interval": "1m"}, "enabled": false})));
        assert!(!changed(
            json!({"scrape_config": {"target_url": "b:1", "authentication": {"token": {"sealed": "s", "sha256_8": "m"}}}})
        ));
        assert!(!changed(json!({"scrape_config": {"target_url": "b:1", "authentication": null}})));
        assert!(changed(json!({"scrape_config": {"authentication": {"type": "GCP", "token": null}}})));
    }
}
