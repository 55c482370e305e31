//! TLS, authentication and headers of a scrape config.
//!
//! Certificates, `username_file` and header files are read here, so a changed one needs a reload; passwords and tokens
//! in files are read before each scrape.

use std::path::{Path, PathBuf};

use collect::{Auth, HttpOptions, Oauth2Options, Secret, TlsOptions};

use super::cloud_auth;
use super::fields::{Fields, Problems};
use super::load::read_text;
use super::yaml::{Kind, Node};

/// Reads the keys that Prometheus' HTTP client has.
pub fn read(fields: &mut Fields<'_>, dir: &Path, problems: &mut Problems) -> HttpOptions {
    let mut options = HttpOptions { auth: read_auth(fields, dir, problems), ..HttpOptions::default() };
    if let Some(node) = fields.get("tls_config") {
        options.tls = read_tls(node, dir, problems);
    }
    if let Some(node) = fields.get("http_headers") {
        options.headers = read_headers(node, dir, problems);
    }
    for (key, slot) in [
        ("follow_redirects", &mut options.follow_redirects),
        ("enable_http2", &mut options.enable_http2),
        ("enable_compression", &mut options.enable_compression),
    ] {
        if let Some(yes) = fields.bool(key, problems) {
            *slot = yes;
        }
    }
    fields.not_yet(&["proxy_url", "no_proxy", "proxy_connect_header"], problems);
    if fields.bool("proxy_from_environment", problems) == Some(true) {
        problems.not_yet(fields.place_of("proxy_from_environment"), "proxy_from_environment", fields.what());
    }
    options
}

fn read_auth(fields: &mut Fields<'_>, dir: &Path, problems: &mut Problems) -> Auth {
    let token = fields.string("bearer_token", problems).filter(|t| !t.is_empty());
    let token_file = fields.string("bearer_token_file", problems).filter(|t| !t.is_empty());
    let oauth2 = fields.get("oauth2");
    let basic = fields.get("basic_auth");
    let authorization = fields.get("authorization");
    let at = fields.at();
    if token.is_some() && token_file.is_some() {
        problems.error(at, "at most one of bearer_token & bearer_token_file must be configured");
    }
    let bearer = token.is_some() || token_file.is_some();
    if bearer && basic.is_some() {
        problems.error(at, "at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured");
    }
    if bearer && authorization.is_some() {
        problems.error(at, "authorization is not compatible with bearer_token & bearer_token_file");
    }
    if basic.is_some() && authorization.is_some() {
        problems.error(at, "at most one of basic_auth, oauth2 & authorization must be configured");
    }
    let other = bearer || basic.is_some() || authorization.is_some() || oauth2.is_some();
    if let Some(auth) = cloud_auth::read(fields, dir, other, problems) {
        return auth;
    }
    if let Some(node) = oauth2 {
        if bearer || basic.is_some() || authorization.is_some() {
            problems.error(at, "at most one of basic_auth, oauth2, authorization & bearer_token must be configured");
        }
        return read_oauth2(node, dir, problems);
    }
    if let Some(node) = basic {
        return read_basic(node, dir, problems);
    }
    if let Some(node) = authorization {
        return read_authorization(node, dir, problems);
    }
    match secret(token, token_file, dir) {
        Some(token) => Auth::Bearer { kind: "Bearer".to_owned(), token },
        None => Auth::None,
    }
}

pub(super) fn secret(inline: Option<String>, file: Option<String>, dir: &Path) -> Option<Secret> {
    let file = file.filter(|f| !f.is_empty()).map(|f| Secret::File(dir.join(f)));
    inline.filter(|t| !t.is_empty()).map(Secret::Inline).or(file)
}

fn read_basic(node: &Node, dir: &Path, problems: &mut Problems) -> Auth {
    let mut fields = Fields::open(node, "basic_auth", problems);
    let username = fields.string("username", problems).filter(|t| !t.is_empty());
    let username_file = fields.string("username_file", problems).filter(|t| !t.is_empty());
    let password = fields.string("password", problems).filter(|t| !t.is_empty());
    let password_file = fields.string("password_file", problems).filter(|t| !t.is_empty());
    if username.is_some() && username_file.is_some() {
        problems.error(node.at, "at most one of basic_auth username & username_file must be configured");
    }
    if password.is_some() && password_file.is_some() {
        problems.error(node.at, "at most one of basic_auth password & password_file must be configured");
    }
    let username = match username_file {
        Some(file) => read_file(&dir.join(file), &fields, "username_file", problems).trim().to_owned(),
        None => username.unwrap_or_default(),
    };
    let password = secret(password, password_file, dir).unwrap_or(Secret::Inline(String::new()));
    fields.not_yet(&["username_ref", "password_ref"], problems);
    fields.finish(problems);
    Auth::Basic { username, password }
}

fn read_authorization(node: &Node, dir: &Path, problems: &mut Problems) -> Auth {
    let mut fields = Fields::open(node, "authorization", problems);
    let kind = fields.string("type", problems).unwrap_or_default();
    let kind = kind.trim();
    let credentials = fields.string("credentials", problems).filter(|t| !t.is_empty());
    let file = fields.string("credentials_file", problems).filter(|t| !t.is_empty());
    if credentials.is_some() && file.is_some() {
        problems.error(node.at, "at most one of authorization credentials & credentials_file must be configured");
    }
    if kind.eq_ignore_ascii_case("basic") {
        problems.error(
            fields.place_of("type"),
            "authorization type cannot be set to \"basic\", use \"basic_auth\" instead",
        );
    }
    let kind = if kind.is_empty() { "Bearer" } else { kind }.to_owned();
    let token = secret(credentials, file, dir);
    fields.not_yet(&["credentials_ref"], problems);
    fields.finish(problems);
    token.map_or(Auth::None, |token| Auth::Bearer { kind, token })
}

fn read_oauth2(node: &Node, dir: &Path, problems: &mut Problems) -> Auth {
    let mut fields = Fields::open(node, "oauth2", problems);
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let client_secret = given(fields.string("client_secret", problems));
    let file = given(fields.string("client_secret_file", problems));
    if client_secret.is_some() && file.is_some() {
        problems.error(node.at, "at most one of oauth2 client_secret & client_secret_file must be configured");
    }
    let options = Oauth2Options {
        client_id: fields.string("client_id", problems).unwrap_or_default(),
        client_secret: secret(client_secret, file, dir).unwrap_or(Secret::Inline(String::new())),
        token_url: fields.string("token_url", problems).unwrap_or_default(),
        scopes: fields.strings("scopes", problems).unwrap_or_default(),
        endpoint_params: fields.string_map("endpoint_params", problems).unwrap_or_default(),
        tls: fields.get("tls_config").map(|node| read_tls(node, dir, problems)).unwrap_or_default(),
    };
    for (key, absent) in [("client_id", options.client_id.is_empty()), ("token_url", options.token_url.is_empty())] {
        if absent {
            problems.error(node.at, format!("oauth2 {key} must be configured"));
        }
    }
    fields.not_yet(&["client_secret_ref", "proxy_url", "no_proxy", "proxy_connect_header", "grant_type"], problems);
    if fields.bool("proxy_from_environment", problems) == Some(true) {
        problems.not_yet(fields.place_of("proxy_from_environment"), "proxy_from_environment", "oauth2");
    }
    fields.finish(problems);
    Auth::Oauth2(Box::new(options))
}

fn read_tls(node: &Node, dir: &Path, problems: &mut Problems) -> TlsOptions {
    let mut fields = Fields::open(node, "tls_config", problems);
    let ca_pem = pem(&mut fields, "ca", "ca_file", dir, problems);
    let cert_pem = pem(&mut fields, "cert", "cert_file", dir, problems);
    let key_pem = pem(&mut fields, "key", "key_file", dir, problems);
    if cert_pem.is_some() && key_pem.is_none() {
        problems.error(
            node.at,
            "exactly one of key or key_file must be configured when a client certificate is configured",
        );
    } else if key_pem.is_some() && cert_pem.is_none() {
        problems.error(node.at, "exactly one of cert or cert_file must be configured when a client key is configured");
    }
    // The lowest that is spoken at all; higher floors and ceilings are not served.
    let min = fields.string("min_version", problems).unwrap_or_default();
    if !matches!(min.as_str(), "" | "TLS10" | "TLS11" | "TLS12" | "TLS13") {
        problems.error(fields.place_of("min_version"), format!("unknown TLS version: {min}"));
    } else if min == "TLS13" {
        problems.not_yet(fields.place_of("min_version"), "min_version: TLS13", "tls_config");
    }
    fields.not_yet(&["max_version", "ca_ref", "cert_ref", "key_ref"], problems);
    let options = TlsOptions {
        ca_pem,
        cert_pem,
        key_pem,
        server_name: fields.string("server_name", problems).filter(|n| !n.is_empty()),
        insecure_skip_verify: fields.bool("insecure_skip_verify", problems).unwrap_or(false),
    };
    fields.finish(problems);
    options
}

fn pem(
    fields: &mut Fields<'_>,
    inline: &'static str,
    file: &'static str,
    dir: &Path,
    problems: &mut Problems,
) -> Option<String> {
    let text = fields.string(inline, problems).filter(|t| !t.is_empty());
    let path = fields.string(file, problems).filter(|t| !t.is_empty());
    if text.is_some() && path.is_some() {
        problems.error(fields.at(), format!("at most one of {inline} and {file} must be configured"));
    }
    text.or_else(|| path.map(|path| read_file(&dir.join(path), fields, file, problems)))
}

/// Reads a file that the configuration names; one that cannot be read is a problem at its key.
fn read_file(path: &Path, fields: &Fields<'_>, key: &str, problems: &mut Problems) -> String {
    match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            problems.error(fields.place_of(key), format!("{key}: cannot read {}: {error}", path.display()));
            String::new()
        }
    }
}

/// `http_headers`: names, each with values, secrets and files; every one becomes a header line.
fn read_headers(node: &Node, dir: &Path, problems: &mut Problems) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let Kind::Map(entries) = &node.kind else {
        problems.error(node.at, format!("http_headers must be a mapping, not {}", node.kind_name()));
        return headers;
    };
    for entry in entries {
        let mut fields = Fields::open(&entry.value, format!("http_headers: {}", entry.key), problems);
        let mut values = fields.strings("values", problems).unwrap_or_default();
        values.extend(fields.strings("secrets", problems).unwrap_or_default());
        for file in fields.strings("files", problems).unwrap_or_default() {
            let path: PathBuf = dir.join(file);
            values.push(read_file(&path, &fields, "files", problems).trim().to_owned());
        }
        fields.finish(problems);
        headers.extend(values.into_iter().map(|value| (entry.key.clone(), value)));
    }
    headers
}
