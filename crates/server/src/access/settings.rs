//! Who may come in, as the configuration says it.

use std::path::{Path, PathBuf};

use collect::Cidr;

use super::role::Roles;
use super::token::TokenHash;

/// What stands below `quiver: auth:` and in a web configuration of Prometheus.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthSettings {
    /// Tokens, by their hashes.
    pub tokens: Vec<TokenEntry>,
    /// People and programs with passwords.
    pub users: Vec<UserEntry>,
    /// Subjects of client certificates.
    pub certificates: Vec<CertificateEntry>,
    /// An issuer of signed tokens.
    pub oidc: Option<OidcSettings>,
    /// What those may who show nothing; nothing when absent.
    pub anonymous: Option<Roles>,
    /// Any client certificate that our CA signed gives all roles: so Prometheus has it.
    pub certificate_suffices: bool,
    /// Ingestion is written to the audit log, too.
    pub audit_ingestion: bool,
}

/// Limits of one who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Requests in a second.
    pub requests_per_second: Option<f64>,
    /// Samples in a second.
    pub samples_per_second: Option<f64>,
}

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenEntry {
    /// How it is called.
    pub name: String,
    /// Its hash.
    pub hash: TokenHash,
    /// What it may.
    pub roles: Roles,
    /// The sources that it may write as; empty for all.
    pub source_ids: Vec<String>,
    /// From when on it is worth nothing; milliseconds since 1970.
    pub expires_at_ms: Option<i64>,
    /// Its limits.
    pub rates: Rates,
}

/// One user.
#[derive(Clone, PartialEq)]
pub struct UserEntry {
    /// The name.
    pub name: String,
    /// The bcrypt hash of the password.
    pub bcrypt: String,
    /// What he may.
    pub roles: Roles,
    /// The sources that he may write as; empty for all.
    pub source_ids: Vec<String>,
}

impl std::fmt::Debug for UserEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserEntry").field("name", &self.name).field("roles", &self.roles).finish_non_exhaustive()
    }
}

/// A subject of a client certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateEntry {
    /// Such as `CN=agent-1,O=example`, or a common name alone.
    pub subject: String,
    /// What it may.
    pub roles: Roles,
    /// The sources that it may write as; empty for all.
    pub source_ids: Vec<String>,
}

/// An issuer of signed tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct OidcSettings {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// Where the keys are; the issuer's discovery document says it when absent.
    pub jwks_url: Option<String>,
    /// Certificates to trust for it; those of the system when absent.
    pub ca_file: Option<PathBuf>,
    /// The claim that holds groups or roles; a dot leads into an object.
    pub roles_claim: String,
    /// What a value of the claim gives.
    pub roles: Vec<(String, Roles)>,
    /// The claim that holds the sources of one who only writes; absent gives all.
    pub sources_claim: Option<String>,
    /// How far clocks may be apart, in milliseconds.
    pub leeway_ms: i64,
}

impl AuthSettings {
    /// Tells whether anybody has to say who he is.
    pub fn is_configured(&self) -> bool {
        !self.tokens.is_empty()
            || !self.users.is_empty()
            || !self.certificates.is_empty()
            || self.oidc.is_some()
            || self.certificate_suffices
            // Who says what strangers may does not mean everything.
            || self.anonymous.is_some()
    }
}

/// TLS of our own listeners.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// The certificate chain.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Who signs certificates of clients.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show one.
    pub client_auth: ClientAuth,
    /// TLS 1.2 is not spoken.
    pub only_tls13: bool,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    None,
    /// They may; one that is shown must be good.
    Optional,
    /// They must.
    Required,
}

impl TlsSettings {
    /// Lists the files, to see when one has changed.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.cert_file), Some(&self.key_file), self.client_ca_file.as_ref()]
            .into_iter()
            .flatten()
            .map(|p| p.as_path())
    }
}

impl AccessSettings {
    /// Adds what a web configuration says.
    ///
    /// **Errors** when both say the same thing.
    pub fn join(&mut self, web: AccessSettings) -> Result<(), String> {
        if self.tls.is_some() && web.tls.is_some() {
            return Err("TLS is configured there and under `quiver: tls:`, too".to_owned());
        }
        if let Some(twice) = web.auth.users.iter().find(|u| self.auth.users.iter().any(|own| own.name == u.name)) {
            return Err(format!("user {:?} stands there and under `quiver: auth: users:`, too", twice.name));
        }
        // Where roles are given, a certificate alone gives none.
        self.auth.certificate_suffices = web.auth.certificate_suffices && !self.auth.is_configured();
        self.auth.users.extend(web.auth.users);
        self.tls = self.tls.take().or(web.tls);
        self.headers.extend(web.headers);
        Ok(())
    }
}

/// Where targets given over REST may and may not lead, beside the rules that always hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetAddresses {
    /// Allowed although a rule forbids it.
    pub allow: Vec<Cidr>,
    /// Forbidden, whatever else is said.
    pub deny: Vec<Cidr>,
}

/// What a configuration says about access.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessSettings {
    /// Who may come in.
    pub auth: AuthSettings,
    /// TLS, if any.
    pub tls: Option<TlsSettings>,
    /// Headers of every answer.
    pub headers: Vec<(String, String)>,
}
