//! `--web.config.file`: TLS, users and headers in the words of Prometheus' exporter toolkit.

use std::path::Path;

use super::access::check_bcrypt;
use super::fields::{Fields, Problems};
use super::load::{Found, LoadError, read_text};
use super::yaml::Node;
use crate::access::role::Roles;
use crate::access::settings::{AccessSettings, ClientAuth, TlsSettings, UserEntry};

/// Headers that may be set, as there.
const HEADERS: [&str; 6] = [
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
    "Referrer-Policy",
];

/// Reads the file.
///
/// **Errors** name every place that is wrong.
pub fn load(path: &Path) -> Result<AccessSettings, LoadError> {
    let text = read_text(path).map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
    let mut found = Found::default();
    let Some(root) = found.parse(path, &text) else { return Err(LoadError::Refused(found.0)) };
    let mut problems = Problems::default();
    let settings = read(&root, path.parent().unwrap_or(Path::new("")), &mut problems);
    found.take(path, problems);
    if found.0.is_empty() { Ok(settings) } else { Err(LoadError::Refused(found.0)) }
}

fn read(root: &Node, dir: &Path, problems: &mut Problems) -> AccessSettings {
    let mut settings = AccessSettings::default();
    let mut fields = Fields::open(root, "the web configuration", problems);
    if let Some(node) = fields.get("tls_server_config") {
        settings.tls = read_tls(node, dir, problems);
    }
    for (name, hash) in fields.string_map("basic_auth_users", problems).unwrap_or_default() {
        match check_bcrypt(&hash) {
            // Who has a password there may do everything.
            Ok(bcrypt) => {
                settings.auth.users.push(UserEntry { name, bcrypt, roles: Roles::ADMIN, source_ids: Vec::new() });
            }
            Err(reason) => {
                problems.error(fields.place_of("basic_auth_users"), format!("the password of {name:?} {reason}"));
            }
        }
    }
    settings.auth.certificate_suffices = settings.auth.users.is_empty()
        && settings.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
    if let Some(node) = fields.get("http_server_config") {
        let mut server = Fields::open(node, "http_server_config", problems);
        if server.bool("http2", problems) == Some(false) {
            problems.not_yet(server.place_of("http2"), "http2: false", "http_server_config");
        }
        for (name, value) in server.string_map("headers", problems).unwrap_or_default() {
            if !HEADERS.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
                let text = format!("header {name:?} cannot be set; these can: {}", HEADERS.join(", "));
                problems.error(server.place_of("headers"), text);
            } else if http::HeaderValue::from_str(&value).is_err() {
                problems.error(server.place_of("headers"), format!("the value of {name:?} is not one"));
            } else {
                settings.headers.push((name, value));
            }
        }
        server.finish(problems);
    }
    fields.not_yet(&["rate_limit"], problems);
    fields.finish(problems);
    settings
}

fn read_tls(node: &Node, dir: &Path, problems: &mut Problems) -> Option<TlsSettings> {
    let mut fields = Fields::open(node, "tls_server_config", problems);
    let mut file = |key, problems: &mut Problems| {
        fields.string(key, problems).filter(|f| !f.is_empty()).map(|file| dir.join(file))
    };
    let (cert, key, ca) = (file("cert_file", problems), file("key_file", problems), file("client_ca_file", problems));
    let word = fields.string("client_auth_type", problems).unwrap_or_default();
    let client_auth = match word.as_str() {
        "" | "NoClientCert" => ClientAuth::None,
        "VerifyClientCertIfGiven" => ClientAuth::Optional,
        "RequireAndVerifyClientCert" => ClientAuth::Required,
        // Certificates that nobody checks say nothing.
        _ => {
            let at = fields.place_of("client_auth_type");
            problems.error(
                at,
                format!("client_auth_type {word:?} is not served; certificates are verified or not asked for"),
            );
            ClientAuth::None
        }
    };
    if client_auth != ClientAuth::None && ca.is_none() {
        problems.error(fields.at(), "client_auth_type needs client_ca_file");
    }
    let min = fields.string("min_version", problems).unwrap_or_default();
    if !matches!(min.as_str(), "" | "TLS10" | "TLS11" | "TLS12" | "TLS13") {
        problems.error(fields.place_of("min_version"), format!("unknown TLS version: {min}"));
    }
    let max = fields.string("max_version", problems).unwrap_or_default();
    if !matches!(max.as_str(), "" | "TLS13") {
        problems.not_yet(fields.place_of("max_version"), "max_version", "tls_server_config");
    }
    // What is spoken are the suites that rustls has, all of them good.
    fields.ignore(&["cipher_suites", "curve_preferences", "prefer_server_cipher_suites"]);
    fields.not_yet(&["cert", "key", "client_ca", "client_allowed_sans"], problems);
    if cert.is_none() || key.is_none() {
        problems.error(fields.at(), "tls_server_config needs cert_file and key_file");
    }
    fields.finish(problems);
    Some(TlsSettings { cert_file: cert?, key_file: key?, client_ca_file: ca, client_auth, only_tls13: min == "TLS13" })
}
