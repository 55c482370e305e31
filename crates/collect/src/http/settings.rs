//! How a target is asked: TLS, authentication, headers. Checked once, shared by all targets of a job.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use hyper_rustls::ConfigBuilderExt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::cloud::{Aws, AzureOptions, Environment, GoogleOptions, Sigv4Options};
use super::identity::Identity;
use super::oauth2::Oauth2Options;
use super::token_answer::failed;
use crate::address::AddressPolicy;
use crate::outcome::ScrapeError;

/// Where Debian and its kin keep the certificates that the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The system's certificates, read once: a thousand targets with default settings share them.
static SYSTEM: LazyLock<Option<Arc<RootCertStore>>> =
    LazyLock::new(|| std::fs::read(SYSTEM_ROOTS).ok().and_then(|pem| roots_from(&pem).ok()).map(Arc::new));

/// A credential: given, or read before each scrape. It has no form that can be printed or written.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The credential itself.
    Inline(String),
    /// Its file; white space around the content does not count.
    File(PathBuf),
    /// The environment variable that holds it.
    Env(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Inline(_) => f.write_str("<secret>"),
            Secret::File(path) => write!(f, "file {}", path.display()),
            Secret::Env(name) => write!(f, "variable {name}"),
        }
    }
}

/// How we say who we are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// HTTP basic authentication.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// `Authorization: <kind> <token>`; the kind is usually `Bearer`.
    Bearer {
        /// The first word.
        kind: String,
        /// The rest.
        token: Secret,
    },
    /// A header of its own.
    ApiKey {
        /// The header's name.
        header: String,
        /// Its value.
        key: Secret,
    },
    /// `Authorization: Bearer` with a token that is fetched first.
    Oauth2(Box<Oauth2Options>),
    /// Each request is signed as AWS wants it.
    Sigv4(Box<Sigv4Options>),
    /// A token of Google's.
    Google(Box<GoogleOptions>),
    /// A token of Microsoft's.
    Azure(Box<AzureOptions>),
}

/// TLS of the connection to a target. PEM texts, not paths.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// Certificates to trust; `None` trusts those of the system.
    pub ca_pem: Option<String>,
    /// Our certificate chain.
    pub cert_pem: Option<String>,
    /// Its key.
    pub key_pem: Option<String>,
    /// The name to expect in the target's certificate, if not the host of the URL.
    pub server_name: Option<String>,
    /// Trusts whatever comes.
    pub insecure_skip_verify: bool,
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsOptions")
            .field("ca_pem", &self.ca_pem.is_some())
            .field("cert_pem", &self.cert_pem.is_some())
            .field("key_pem", &self.key_pem.as_ref().map(|_| "<secret>"))
            .field("server_name", &self.server_name)
            .field("insecure_skip_verify", &self.insecure_skip_verify)
            .finish()
    }
}

/// What can be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpOptions {
    /// TLS.
    pub tls: TlsOptions,
    /// Authentication.
    pub auth: Auth,
    /// More headers. Secrets among them are the giver's business.
    pub headers: Vec<(String, String)>,
    /// Redirects are followed, ten at most.
    pub follow_redirects: bool,
    /// HTTP/2 is offered in the TLS handshake.
    pub enable_http2: bool,
    /// gzip is asked for.
    pub enable_compression: bool,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            tls: TlsOptions::default(),
            auth: Auth::None,
            headers: Vec::new(),
            follow_redirects: true,
            enable_http2: true,
            enable_compression: true,
        }
    }
}

/// Settings that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HttpSettingsError {
    /// The certificates to trust cannot be read.
    #[error("unable to use specified CA cert: {0}")]
    Ca(String),
    /// Our own certificate or key cannot be used.
    #[error("unable to use specified client cert: {0}")]
    Cert(String),
    /// A header that is none, or one that we set ourselves.
    #[error("setting header {0:?} is not allowed")]
    Header(String),
    /// A server name that is none.
    #[error("{0:?} is not a server name")]
    ServerName(String),
    /// The URL of tokens is none, or has credentials in it.
    #[error("token_url is not a URL of http or https without credentials")]
    TokenUrl,
    /// What is said of a cloud provider does not fit together.
    #[error("{0}")]
    Cloud(String),
}

/// Checked settings.
#[derive(Clone)]
pub struct HttpSettings {
    options: HttpOptions,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) tls: Arc<ClientConfig>,
    /// The same without our certificate, for hosts that a redirect leads to.
    pub(super) tls_anonymous: Arc<ClientConfig>,
    pub(super) server_name: Option<ServerName<'static>>,
    identity: Option<Arc<Identity>>,
}

impl HttpSettings {
    /// Checks options and loads certificates.
    ///
    /// **Errors** name the option that cannot be used.
    pub fn new(options: HttpOptions) -> Result<HttpSettings, HttpSettingsError> {
        HttpSettings::within(options, &Environment::default())
    }

    /// The same, with other variables than those of the process: cloud providers' programs are configured by them.
    pub fn within(options: HttpOptions, environment: &Environment) -> Result<HttpSettings, HttpSettingsError> {
        let mut headers = Vec::new();
        for (name, value) in &options.headers {
            let bad = || HttpSettingsError::Header(name.clone());
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            if RESERVED_HEADERS.contains(&parsed.as_str()) {
                return Err(bad());
            }
            headers.push((parsed, HeaderValue::from_str(value).map_err(|_| bad())?));
        }
        if let Auth::ApiKey { header, .. } = &options.auth {
            let name = HeaderName::from_bytes(header.as_bytes());
            if !name.is_ok_and(|n| n == http::header::AUTHORIZATION || !RESERVED_HEADERS.contains(&n.as_str())) {
                return Err(HttpSettingsError::Header(header.clone()));
            }
        }
        let server_name = match &options.tls.server_name {
            Some(name) => {
                Some(ServerName::try_from(name.clone()).map_err(|_| HttpSettingsError::ServerName(name.clone()))?)
            }
            None => None,
        };
        let identity = Identity::of(&options.auth, environment)?.map(Arc::new);
        let tls = Arc::new(client_config(&options)?);
        let tls_anonymous = if options.tls.cert_pem.is_none() {
            tls.clone()
        } else {
            let without = TlsOptions { cert_pem: None, key_pem: None, ..options.tls.clone() };
            Arc::new(client_config(&HttpOptions { tls: without, ..options.clone() })?)
        };
        Ok(HttpSettings { options, headers, tls, tls_anonymous, server_name, identity })
    }

    /// Gives what was set.
    pub fn options(&self) -> &HttpOptions {
        &self.options
    }

    /// Gives a token that is still good.
    pub(super) async fn bearer(&self, policy: &AddressPolicy, timeout: Duration) -> Result<String, ScrapeError> {
        match self.identity.as_deref() {
            Some(identity) => identity.bearer(policy, timeout).await,
            None => Err(failed("there is nobody to ask for a token")),
        }
    }

    /// Gives who signs requests.
    pub(super) fn signer(&self) -> Option<&Aws> {
        self.identity.as_deref()?.signer()
    }

    /// Hears how a request was answered: credentials that were not accepted are fetched anew.
    pub(super) fn judged(&self, status: StatusCode) {
        if let Some(identity) = &self.identity {
            identity.judged(status);
        }
    }
}

/// Headers that belong to us: Prometheus refuses the same ones.
const RESERVED_HEADERS: [&str; 16] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-prometheus-scrape-timeout-seconds",
];

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        // Without options there is nothing that could be wrong.
        HttpSettings::new(HttpOptions::default()).unwrap_or_else(|e| unreachable!("{e}"))
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl PartialEq for HttpSettings {
    fn eq(&self, other: &HttpSettings) -> bool {
        self.options == other.options
    }
}

fn client_config(options: &HttpOptions) -> Result<ClientConfig, HttpSettingsError> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| HttpSettingsError::Ca(e.to_string()))?;
    let tls = &options.tls;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAll(algorithms)))
    } else if let Some(pem) = &tls.ca_pem {
        builder.with_root_certificates(roots_from(pem.as_bytes()).map_err(HttpSettingsError::Ca)?)
    } else {
        match &*SYSTEM {
            Some(roots) => builder.with_root_certificates(roots.clone()),
            None => builder.with_webpki_roots(),
        }
    };
    let mut config = match (&tls.cert_pem, &tls.key_pem) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let bad = |e: String| HttpSettingsError::Cert(e);
            let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| bad(e.to_string()))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad(e.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| bad(e.to_string()))?
        }
        _ => return Err(HttpSettingsError::Cert("certificate and key must be given together".into())),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if options.enable_http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(config)
}

fn roots_from(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        roots.add(cert.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("no certificates in it".to_owned()) } else { Ok(roots) }
}

/// `insecure_skip_verify`: the operator's own choice, per job.
#[derive(Debug)]
struct TrustAll(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_said_at_once() {
        let with = |options: HttpOptions| HttpSettings::new(options).err().map(|e| e.to_string());
        let header = |name: &str| HttpOptions { headers: vec![(name.into(), "x".into())], ..Default::default() };
        assert_eq!(with(header("X-Scope-OrgID")), None);
        assert_eq!(with(header("Accept")), Some("setting header \"Accept\" is not allowed".into()));
        assert_eq!(with(header("a b")), Some("setting header \"a b\" is not allowed".into()));
        let tls = TlsOptions { ca_pem: Some("nothing".into()), ..Default::default() };
        assert_eq!(
            with(HttpOptions { tls, ..Default::default() }),
            Some("unable to use specified CA cert: no certificates in it".into())
        );
        let tls = TlsOptions { cert_pem: Some("x".into()), ..Default::default() };
        assert!(with(HttpOptions { tls, ..Default::default() }).is_some_and(|e| e.contains("together")));
    }

    #[test]
    fn secrets_are_not_printed() {
        let auth = Auth::Basic { username: "u".into(), password: Secret::Inline("hunter2".into()) };
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
