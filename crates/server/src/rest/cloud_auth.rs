//! `SIGV4`, `GCP` and `AZURE_AD` of `authentication`: who we are at the cloud providers.
//!
//! Invariant: where a registration brings no credentials of its own, the server's own identity in the cloud would be shown to the
//! target. As references to the server's files, that is for admins.

use collect::{Auth, AzureCloud, AzureOptions, AzureWay, GoogleOptions, Secret, Sigv4Options};
use http::StatusCode;
use serde_json::{Value, json};

use super::auth_config::{Held, held, text};
use super::fields::{Fields, Severity};
use super::problem::Problem;

const PLACE: &str = "/scrape_config/authentication";
const SCOPES_MAX: usize = 50;

/// One of the three.
#[derive(Clone, Debug, PartialEq)]
pub enum CloudConfig {
    /// Requests are signed for AWS.
    Sigv4(Sigv4Config),
    /// A token of Google's.
    Gcp(GcpConfig),
    /// A token of Microsoft's.
    AzureAd(AzureConfig),
}

/// Keys, or where they come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sigv4Config {
    region: Option<String>,
    service: Option<String>,
    access_key: Option<String>,
    secret_key: Option<Held>,
    profile: Option<String>,
    role_arn: Option<String>,
    external_id: Option<String>,
}

/// A service account, or the machine's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GcpConfig {
    credentials: Option<Held>,
    audience: Option<String>,
    scopes: Vec<String>,
}

/// An application's secret, or the machine's identity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AzureConfig {
    cloud: AzureCloud,
    client_id: Option<String>,
    tenant_id: Option<String>,
    client_secret: Option<Held>,
    scope: Option<String>,
}

impl CloudConfig {
    /// Reads the rest of the object whose type is known.
    pub fn read(f: &mut Fields, word: &str) -> Option<CloudConfig> {
        match word {
            "SIGV4" => read_sigv4(f).map(CloudConfig::Sigv4),
            "GCP" => read_gcp(f).map(CloudConfig::Gcp),
            _ => read_azure(f).map(CloudConfig::AzureAd),
        }
    }

    /// Gives the normal form, as the catalog keeps it.
    pub fn normal(&self) -> Value {
        let held = |held: &Option<Held>| held.as_ref().map(Held::normal);
        match self {
            CloudConfig::Sigv4(c) => json!({
                "type": "SIGV4", "region": c.region, "service": c.service, "access_key": c.access_key,
                "secret_key": held(&c.secret_key), "profile": c.profile, "role_arn": c.role_arn, "external_id": c.external_id,
            }),
            CloudConfig::Gcp(c) => json!({
                "type": "GCP", "credentials": held(&c.credentials), "audience": c.audience, "scopes": c.scopes,
            }),
            CloudConfig::AzureAd(c) => json!({
                "type": "AZURE_AD", "cloud": c.cloud.as_str(), "client_id": c.client_id, "tenant_id": c.tenant_id,
                "client_secret": held(&c.client_secret), "scope": c.scope,
            }),
        }
    }

    /// Opens the secrets for the collector.
    ///
    /// **Takes** what opens the secret of a field.
    pub fn open(&self, open: &dyn Fn(&str, &Held) -> Result<Secret, Problem>) -> Result<Auth, Problem> {
        let open = |name: &str, held: &Option<Held>| held.as_ref().map(|held| open(name, held)).transpose();
        Ok(match self {
            CloudConfig::Sigv4(c) => Auth::Sigv4(Box::new(Sigv4Options {
                region: c.region.clone(),
                service: c.service.clone().unwrap_or_else(|| Sigv4Options::default().service),
                access_key: c.access_key.clone(),
                secret_key: open("secret_key", &c.secret_key)?,
                profile: c.profile.clone(),
                role_arn: c.role_arn.clone(),
                external_id: c.external_id.clone(),
                use_fips_sts_endpoint: false,
            })),
            CloudConfig::Gcp(c) => Auth::Google(Box::new(GoogleOptions {
                credentials: open("credentials", &c.credentials)?,
                audience: c.audience.clone(),
                scopes: c.scopes.clone(),
            })),
            CloudConfig::AzureAd(c) => {
                let (client_id, tenant_id) = (c.client_id.clone(), c.tenant_id.clone());
                let way = match (open("client_secret", &c.client_secret)?, client_id, tenant_id) {
                    (Some(client_secret), Some(client_id), Some(tenant_id)) => {
                        AzureWay::Secret { client_id, client_secret, tenant_id }
                    }
                    (None, client_id @ Some(_), None) => AzureWay::Managed { client_id },
                    (_, _, tenant_id) => AzureWay::Environment { tenant_id },
                };
                Auth::Azure(Box::new(AzureOptions { cloud: c.cloud, way, scope: c.scope.clone() }))
            }
        })
    }
}

fn read_sigv4(f: &mut Fields) -> Option<Sigv4Config> {
    let secret_key = f.value("secret_key").is_some();
    let config = Sigv4Config {
        region: text(f, "region", false),
        service: text(f, "service", false),
        access_key: text(f, "access_key", secret_key),
        secret_key: if secret_key { Some(held(f, "secret_key")?) } else { None },
        profile: text(f, "profile", false),
        role_arn: text(f, "role_arn", false),
        external_id: text(f, "external_id", false),
    };
    if config.access_key.is_some() && !secret_key {
        f.issue(Severity::Malformed, "secret_key", "required", "access_key needs its secret_key");
    }
    if config.profile.is_some() && secret_key {
        f.issue(Severity::Refused, "profile", "conflict", "either a profile or keys");
    }
    Some(config)
}

fn read_gcp(f: &mut Fields) -> Option<GcpConfig> {
    let scopes = f.array("scopes").cloned().unwrap_or_default();
    let words: Option<Vec<String>> = scopes.iter().map(|v| v.as_str().map(str::to_owned)).collect();
    if words.as_ref().is_none_or(|w| w.len() > SCOPES_MAX) {
        f.issue(Severity::Malformed, "scopes", "wrong_type", format!("scopes: expected at most {SCOPES_MAX} texts"));
    }
    let credentials = if f.value("credentials").is_some() { Some(held(f, "credentials")?) } else { None };
    let audience = text(f, "audience", false);
    Some(GcpConfig { credentials, audience, scopes: words? })
}

fn read_azure(f: &mut Fields) -> Option<AzureConfig> {
    let cloud = match f.string("cloud") {
        None => AzureCloud::Public,
        Some(word) => AzureCloud::parse(word).unwrap_or_else(|| {
            let detail = "cloud is AzurePublic, AzureChina or AzureGovernment";
            f.issue(Severity::Malformed, "cloud", "unknown_value", detail);
            AzureCloud::Public
        }),
    };
    let with_secret = f.value("client_secret").is_some();
    Some(AzureConfig {
        cloud,
        client_id: text(f, "client_id", with_secret),
        tenant_id: text(f, "tenant_id", with_secret),
        client_secret: if with_secret { Some(held(f, "client_secret")?) } else { None },
        scope: text(f, "scope", false),
    })
}

/// Tells whether a target of a request would be shown the server's own identity.
pub fn lends_identity(request: &Value) -> bool {
    let Some(auth) = request.pointer(PLACE) else { return false };
    let secret = match auth["type"].as_str().map(str::to_ascii_uppercase).as_deref() {
        Some("SIGV4") => "secret_key",
        Some("GCP") => "credentials",
        Some("AZURE_AD") => "client_secret",
        _ => return false,
    };
    !auth[secret].is_object()
}

/// Says so to who is no admin.
pub fn not_lent() -> Problem {
    let detail = "the server's own identity in the cloud is for admins: give secret_key, credentials or client_secret";
    Problem::at(StatusCode::FORBIDDEN, "forbidden_reference", PLACE, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::vault::{SecretSettings, Vault};
    use crate::rest::auth_config::{AuthConfig, seal};
    use crate::rest::fields::Issues;

    fn read(auth: Value) -> (AuthConfig, Result<(), Problem>) {
        let value = json!({"authentication": auth});
        let mut issues = Issues::new(true);
        let read = match Fields::open(&value, "/scrape_config", &mut issues) {
            Some(mut f) => AuthConfig::read(&mut f),
            None => AuthConfig::None,
        };
        (read, issues.into_result())
    }

    #[test]
    fn the_normal_form_reads_as_itself_and_opens() {
        let vault = Vault::of(&[7; 32], SecretSettings::default()).unwrap();
        let secret = || json!({"value": "hunter2"});
        for auth in [
            json!({"type": "SIGV4", "region": "eu-west-1", "access_key": "AK", "secret_key": secret(), "role_arn": "r"}),
            json!({"type": "sigv4", "profile": "p", "service": "execute-api"}),
            json!({"type": "GCP", "credentials": secret(), "audience": "https://run"}),
            json!({"type": "GCP"}),
            json!({"type": "AZURE_AD", "client_id": "c", "tenant_id": "t", "client_secret": secret(), "cloud": "azurechina"}),
            json!({"type": "AZURE_AD", "client_id": "c"}),
        ] {
            let mut request = json!({"scrape_config": {"authentication": auth.clone()}});
            seal(&mut request, &vault, true).unwrap();
            let (config, result) = read(request["scrape_config"]["authentication"].clone());
            assert!(result.is_ok(), "{auth}: {result:?}");
            let (again, result) = read(config.normal());
            assert_eq!((again, result.is_ok()), (config.clone(), true), "{auth}");
            assert!(!config.normal().to_string().contains("hunter2"));
            let opened = config.open(&vault, &mut collect::TlsOptions::default()).unwrap();
            assert!(opened != Auth::None && !format!("{opened:?}").contains("hunter2"), "{auth}");
            let mut request = json!({"scrape_config": {"authentication": auth.clone()}});
            let lent = seal(&mut request, &vault, false);
            assert_eq!(lent.is_err(), !auth.to_string().contains("hunter2"), "{auth}: lent to admins alone");
        }
    }

    #[test]
    fn half_of_a_credential_is_refused() {
        for (auth, pointer) in [
            (json!({"type": "SIGV4", "access_key": "AK"}), "secret_key"),
            (json!({"type": "SIGV4", "secret_key": {"ref": "env:X"}}), "access_key"),
            (json!({"type": "SIGV4", "access_key": "A", "secret_key": {"ref": "env:X"}, "profile": "p"}), "profile"),
            (json!({"type": "GCP", "scopes": [1]}), "scopes"),
            (json!({"type": "AZURE_AD", "client_secret": {"ref": "env:X"}, "client_id": "c"}), "tenant_id"),
            (json!({"type": "AZURE_AD", "cloud": "Mars"}), "cloud"),
            (json!({"type": "GCP", "audiense": "x"}), "audiense"),
        ] {
            let problem = read(auth.clone()).1.unwrap_err();
            assert!(
                format!("{problem:?}").contains(&format!("/scrape_config/authentication/{pointer}")),
                "{auth}: {problem:?}"
            );
        }
    }
}
