//! `quiver: auth:` and `quiver: tls:`.

use std::path::Path;

use collect::{Cidr, HttpSettings};

use super::fields::{Fields, Problems};
use super::yaml::{Kind, Node};
use crate::access::role::{Roles, WORDS};
use crate::access::settings::{
    AuthSettings, CertificateEntry, ClientAuth, OidcSettings, Rates, TargetAddresses, TlsSettings, TokenEntry,
    UserEntry,
};
use crate::access::token::TokenHash;
use crate::access::vault::SecretSettings;

/// Entries of one kind.
const ENTRIES_MAX: usize = 10_000;
const LEEWAY_MS: i64 = 30_000;
const LEEWAY_MS_MAX: i64 = 300_000;

/// Reads the value of `auth`.
pub fn read_auth(node: &Node, dir: &Path, problems: &mut Problems) -> AuthSettings {
    let mut fields = Fields::open(node, "quiver.auth", problems);
    let mut auth = AuthSettings {
        tokens: read_entries(&mut fields, "tokens", problems, read_token),
        users: read_entries(&mut fields, "users", problems, read_user),
        certificates: read_entries(&mut fields, "certificates", problems, read_certificate),
        audit_ingestion: fields.bool("audit_ingestion", problems).unwrap_or(false),
        ..AuthSettings::default()
    };
    if let Some(node) = fields.get("oidc") {
        auth.oidc = read_oidc(node, dir, problems);
    }
    auth.anonymous = fields.parsed("anonymous", problems, |word| match word {
        "none" => Ok(Roles::NONE),
        "read" => Ok(Roles::READ),
        other => Err(format!("{other:?} is neither none nor read")),
    });
    for (names, key) in [
        (auth.tokens.iter().map(|t| &t.name).collect::<Vec<_>>(), "tokens"),
        (auth.users.iter().map(|u| &u.name).collect(), "users"),
        (auth.certificates.iter().map(|c| &c.subject).collect(), "certificates"),
    ] {
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = names.into_iter().find(|name| !seen.insert(*name)) {
            problems.error(fields.place_of(key), format!("{key}: {twice:?} stands twice"));
        }
    }
    fields.finish(problems);
    auth
}

fn read_entries<T>(
    fields: &mut Fields<'_>,
    key: &'static str,
    problems: &mut Problems,
    read: fn(&mut Fields<'_>, &mut Problems) -> Option<T>,
) -> Vec<T> {
    let nodes = fields.list(key, problems).unwrap_or_default();
    if nodes.len() > ENTRIES_MAX {
        problems.error(fields.place_of(key), format!("{key} has more than {ENTRIES_MAX} entries"));
        return Vec::new();
    }
    let mut out = Vec::new();
    for node in nodes {
        let mut entry = Fields::open(node, format!("an entry of quiver.auth.{key}"), problems);
        out.extend(read(&mut entry, problems));
        entry.finish(problems);
    }
    out
}

/// Reads a name that stands in logs.
fn read_name(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<String> {
    let good = |text: &str| (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    let name = fields.parsed(key, problems, |text| {
        if good(text) { Ok(text.to_owned()) } else { Err("is empty, long or holds control characters".to_owned()) }
    });
    if name.is_none() {
        problems.error(fields.place_of(key), format!("{key} is missing in {}", fields.what()));
    }
    name
}

/// Reads `role` (one) or `roles` (some).
fn read_roles(fields: &mut Fields<'_>, problems: &mut Problems) -> Roles {
    let mut words = fields.strings("roles", problems).unwrap_or_default();
    words.extend(fields.string("role", problems));
    let mut roles = Roles::NONE;
    for word in &words {
        match Roles::parse(word) {
            Some(more) => roles = roles.or(more),
            None => problems.error(fields.at(), format!("role {word:?} is none of {WORDS}")),
        }
    }
    if words.is_empty() {
        problems.error(fields.at(), format!("{} has no role: {WORDS}", fields.what()));
    }
    roles
}

/// Reads the sources of one who writes.
fn read_sources(fields: &mut Fields<'_>, roles: Roles, problems: &mut Problems) -> Vec<String> {
    let sources = fields.strings("source_ids", problems).unwrap_or_default();
    if !sources.is_empty() && !roles.only_writes() {
        let text = "source_ids limits what is written, not what is read or changed: the role must be write alone";
        problems.error(fields.place_of("source_ids"), text);
    }
    sources
}

fn read_rate(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<f64> {
    fields.parsed(key, problems, |text| match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("{text:?} is not a number above 0")),
    })
}

fn read_token(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<TokenEntry> {
    let name = read_name(fields, "name", problems);
    let hash = fields.parsed("sha256", problems, |text| {
        TokenHash::parse(text)
            .ok_or_else(|| "is not 64 hexadecimal digits; `quiver token create` gives them".to_owned())
    });
    if hash.is_none() {
        problems.error(fields.at(), "a token needs sha256: run `quiver token create`");
    }
    let roles = read_roles(fields, problems);
    let source_ids = read_sources(fields, roles, problems);
    let expires_at_ms = fields.parsed("expires", problems, |text| {
        text.parse::<jiff::Timestamp>().map(|t| t.as_millisecond()).map_err(|_| format!("{text:?} is not RFC 3339"))
    });
    let rates = Rates {
        requests_per_second: read_rate(fields, "requests_per_second", problems),
        samples_per_second: read_rate(fields, "samples_per_second", problems),
    };
    Some(TokenEntry { name: name?, hash: hash?, roles, source_ids, expires_at_ms, rates })
}

fn read_user(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<UserEntry> {
    let name = read_name(fields, "name", problems);
    let bcrypt = fields.parsed("bcrypt", problems, check_bcrypt);
    if bcrypt.is_none() {
        problems.error(fields.at(), "a user needs bcrypt: the hash of the password, as `htpasswd -nBC 10` makes it");
    }
    let roles = read_roles(fields, problems);
    let source_ids = read_sources(fields, roles, problems);
    Some(UserEntry { name: name?, bcrypt: bcrypt?, roles, source_ids })
}

/// Checks the shape of a bcrypt hash; a cost that would hold the server up is refused.
pub fn check_bcrypt(text: &str) -> Result<String, String> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| "is not a bcrypt hash".to_owned())?;
    match parts.get_cost() {
        4..=15 => Ok(text.to_owned()),
        cost => Err(format!("has the cost {cost}; 4 to 15 are taken")),
    }
}

fn read_certificate(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<CertificateEntry> {
    let subject = read_name(fields, "subject", problems);
    let roles = read_roles(fields, problems);
    let source_ids = read_sources(fields, roles, problems);
    Some(CertificateEntry { subject: subject?, roles, source_ids })
}

fn read_oidc(node: &Node, dir: &Path, problems: &mut Problems) -> Option<OidcSettings> {
    let mut fields = Fields::open(node, "quiver.auth.oidc", problems);
    let issuer = fields.parsed("issuer", problems, web_url);
    let audience = fields.string("audience", problems).filter(|a| !a.is_empty());
    for (key, absent) in [("issuer", issuer.is_none()), ("audience", audience.is_none())] {
        if absent {
            problems.error(fields.at(), format!("{key} is missing in quiver.auth.oidc"));
        }
    }
    let mut roles = Vec::new();
    for (value, word) in fields.string_map("roles", problems).unwrap_or_default() {
        match Roles::parse(&word) {
            Some(role) => roles.push((value, role)),
            None => problems.error(fields.place_of("roles"), format!("role {word:?} is none of {WORDS}")),
        }
    }
    let leeway_ms = fields.duration_ms("leeway", problems).unwrap_or(LEEWAY_MS);
    if leeway_ms > LEEWAY_MS_MAX {
        problems.error(fields.place_of("leeway"), "leeway is at most 5m");
    }
    let settings = OidcSettings {
        issuer: issuer.unwrap_or_default(),
        audience: audience.unwrap_or_default(),
        jwks_url: fields.parsed("jwks_url", problems, web_url),
        ca_file: fields.string("ca_file", problems).map(|file| dir.join(file)),
        roles_claim: fields.string("roles_claim", problems).unwrap_or_else(|| "groups".to_owned()),
        roles,
        sources_claim: fields.string("sources_claim", problems),
        leeway_ms,
    };
    if let Some(file) = &settings.ca_file {
        let readable = super::load::read_text(file).map_err(|e| e.to_string()).and_then(|pem| {
            let tls = collect::TlsOptions { ca_pem: Some(pem), ..collect::TlsOptions::default() };
            let options = collect::HttpOptions { tls, ..collect::HttpOptions::default() };
            HttpSettings::new(options).map(drop).map_err(|e| e.to_string())
        });
        if let Err(error) = readable {
            problems.error(fields.place_of("ca_file"), format!("ca_file: {error}"));
        }
    }
    fields.finish(problems);
    Some(settings).filter(|s| !s.issuer.is_empty() && !s.audience.is_empty())
}

fn web_url(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not a URL of http or https")),
    }
}

/// Reads the value of `tls`.
pub fn read_tls(node: &Node, dir: &Path, problems: &mut Problems) -> Option<TlsSettings> {
    if matches!(node.kind, Kind::Null) {
        return None;
    }
    let mut fields = Fields::open(node, "quiver.tls", problems);
    let file =
        |fields: &mut Fields<'_>, key, problems: &mut Problems| fields.string(key, problems).map(|f| dir.join(f));
    let cert_file = file(&mut fields, "cert_file", problems);
    let key_file = file(&mut fields, "key_file", problems);
    let client_ca_file = file(&mut fields, "client_ca_file", problems);
    let client_auth = fields.parsed("client_auth", problems, |word| match word {
        "optional" => Ok(ClientAuth::Optional),
        "required" => Ok(ClientAuth::Required),
        "none" => Ok(ClientAuth::None),
        other => Err(format!("{other:?} is none of none, optional, required")),
    });
    let only_tls13 = fields.parsed("min_version", problems, |word| match word {
        "1.2" => Ok(false),
        "1.3" => Ok(true),
        other => Err(format!("{other:?} is neither 1.2 nor 1.3")),
    });
    let client_auth = client_auth.unwrap_or(match client_ca_file {
        Some(_) => ClientAuth::Required,
        None => ClientAuth::None,
    });
    if client_auth != ClientAuth::None && client_ca_file.is_none() {
        problems.error(fields.at(), "client_auth needs client_ca_file: who signs certificates of clients");
    }
    if cert_file.is_none() || key_file.is_none() {
        problems.error(fields.at(), "quiver.tls needs cert_file and key_file");
    }
    fields.finish(problems);
    Some(TlsSettings {
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
        client_auth,
        only_tls13: only_tls13.unwrap_or(false),
    })
}

/// Folders, variables or blocks of one setting.
const LIST_MAX: usize = 1_000;

/// Reads the value of `secrets`.
pub fn read_secrets(node: &Node, dir: &Path, problems: &mut Problems) -> SecretSettings {
    let mut fields = Fields::open(node, "quiver.secrets", problems);
    let dirs = fields.strings("dirs", problems).unwrap_or_default();
    let env = fields.strings("env", problems).unwrap_or_default();
    if dirs.len() > LIST_MAX || env.len() > LIST_MAX {
        problems.error(fields.at(), format!("quiver.secrets: at most {LIST_MAX} dirs and env"));
    }
    let settings = SecretSettings {
        dirs: dirs.into_iter().map(|folder| dir.join(folder)).collect(),
        env,
        key_file: fields.string("key_file", problems).map(|file| dir.join(file)),
    };
    fields.finish(problems);
    settings
}

/// Reads the value of `targets`: where targets given over REST may and may not lead.
pub fn read_targets(node: &Node, problems: &mut Problems) -> TargetAddresses {
    let mut fields = Fields::open(node, "quiver.targets", problems);
    let mut blocks = |key: &'static str, problems: &mut Problems| {
        let mut out = Vec::new();
        for text in fields.strings(key, problems).unwrap_or_default().into_iter().take(LIST_MAX) {
            match Cidr::parse(&text) {
                Some(block) => out.push(block),
                None => {
                    let sentence = format!("{key}: {text:?} is not a block of addresses such as 10.0.0.0/8");
                    problems.error(fields.place_of(key), sentence);
                }
            }
        }
        out
    };
    let addresses = TargetAddresses { allow: blocks("allow", problems), deny: blocks("deny", problems) };
    fields.finish(problems);
    addresses
}
