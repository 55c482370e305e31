//! Who asks: from headers and certificate to a pass.
//!
//! Invariant: whoever shows a credential is judged by it alone; a bad one is not made good by a certificate or by what anonymous ones
//! may.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

use super::bucket::Bucket;
use super::oidc::Oidc;
use super::pass::Pass;
use super::role::Roles;
use super::settings::{AuthSettings, TokenEntry};
use super::subject::Subject;
use super::token::{CREDENTIAL_BYTES_MAX, PREFIX, TokenHash};
use super::users::{Checked, Passwords};

/// The rules in force, ready to be asked.
pub struct Rules {
    /// Everybody may do everything: nothing is configured.
    open: bool,
    tokens: HashMap<TokenHash, Known>,
    users: HashMap<String, (String, Arc<Pass>)>,
    certificates: HashMap<String, Arc<Pass>>,
    any_certificate: bool,
    oidc: Option<Arc<Oidc>>,
    anonymous: Arc<Pass>,
    /// Ingestion goes to the audit log, too.
    pub audit_ingestion: bool,
}

struct Known {
    entry: TokenEntry,
    pass: Arc<Pass>,
}

/// Why somebody is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// What he showed is none, or not any more; a word for the counters.
    Bad(&'static str),
    /// Too many passwords are being checked.
    Busy,
}

impl Rules {
    /// Makes rules.
    ///
    /// **Takes** tokens that were made while the server runs, and the issuer in force, which keeps its keys if it is the same.
    /// **Errors** when the issuer's certificates cannot be read.
    pub fn new(auth: &AuthSettings, made: &[TokenEntry], before: Option<&Rules>) -> Result<Rules, String> {
        // Whoever is who he was keeps his pass: what he has used of his rates counts on.
        let known = |entry: &TokenEntry| {
            let same = before.and_then(|rules| rules.tokens.get(&entry.hash)).filter(|known| known.entry == *entry);
            same.map_or_else(|| Known::new(entry), |known| Known { entry: entry.clone(), pass: known.pass.clone() })
        };
        let tokens = auth.tokens.iter().chain(made).map(|entry| (entry.hash, known(entry))).collect();
        let scoped = |name: String, roles, sources: &Vec<String>| {
            let mut pass = Pass::new(name, roles);
            pass.sources = Some(sources.clone()).filter(|s| !s.is_empty());
            Arc::new(pass)
        };
        let users = auth.users.iter().map(|user| {
            let pass = scoped(format!("user:{}", user.name), user.roles, &user.source_ids);
            (user.name.clone(), (user.bcrypt.clone(), pass))
        });
        let certificates = auth.certificates.iter().map(|entry| {
            let pass = scoped(format!("certificate:{}", entry.subject), entry.roles, &entry.source_ids);
            (entry.subject.clone(), pass)
        });
        let kept = before.and_then(|rules| rules.oidc.clone()).filter(|old| Some(old.settings()) == auth.oidc.as_ref());
        let oidc = match (&auth.oidc, kept) {
            (_, Some(kept)) => Some(kept),
            (Some(settings), None) => Some(Arc::new(Oidc::new(settings.clone())?)),
            (None, None) => None,
        };
        let open = !auth.is_configured() && !made.iter().any(|t| t.roles.is_admin());
        let anonymous = if open { Roles::ADMIN } else { auth.anonymous.unwrap_or(Roles::NONE) };
        Ok(Rules {
            open,
            tokens,
            users: users.collect(),
            certificates: certificates.collect(),
            any_certificate: auth.certificate_suffices,
            oidc,
            anonymous: Arc::new(Pass::new("anonymous", anonymous)),
            audit_ingestion: auth.audit_ingestion,
        })
    }

    /// Tells whether everybody may do everything.
    pub fn are_open(&self) -> bool {
        self.open
    }

    /// Tells who asks.
    pub async fn who(
        &self,
        headers: &HeaderMap,
        subject: Option<&Subject>,
        passwords: &Passwords,
        now_ms: i64,
    ) -> Result<Arc<Pass>, Unknown> {
        if self.open {
            return Ok(self.anonymous.clone());
        }
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        if let Some(credential) = shown.next() {
            if shown.next().is_some() {
                return Err(Unknown::Bad("many_credentials"));
            }
            let text = credential.to_str().map_err(|_| Unknown::Bad("malformed"))?;
            return self.by_credential(text, passwords, now_ms).await;
        }
        if let Some(subject) = subject {
            let named = self.certificates.get(&subject.text);
            // A common name that looks like a subject is nobody's subject.
            let plain = subject.common_name.as_deref().filter(|name| !name.contains('='));
            let by_common_name = || self.certificates.get(plain?);
            if let Some(pass) = named.or_else(by_common_name) {
                return Ok(pass.clone());
            }
            if self.any_certificate {
                return Ok(Arc::new(Pass::new(format!("certificate:{}", subject.text), Roles::ADMIN)));
            }
        }
        if self.anonymous.roles != Roles::NONE {
            return Ok(self.anonymous.clone());
        }
        Err(Unknown::Bad(if subject.is_some() { "certificate" } else { "nothing_shown" }))
    }

    async fn by_credential(&self, text: &str, passwords: &Passwords, now_ms: i64) -> Result<Arc<Pass>, Unknown> {
        if text.len() > CREDENTIAL_BYTES_MAX {
            return Err(Unknown::Bad("too_long"));
        }
        let (scheme, rest) = text.trim().split_once(' ').ok_or(Unknown::Bad("malformed"))?;
        let rest = rest.trim();
        match scheme.to_ascii_lowercase().as_str() {
            // InfluxDB's clients say Token.
            "bearer" | "token" if rest.starts_with(PREFIX) => self.by_token(rest, now_ms),
            "bearer" => match &self.oidc {
                Some(oidc) => oidc.check(rest, now_ms).await.map(Arc::new).map_err(Unknown::Bad),
                None => Err(Unknown::Bad("unknown_token")),
            },
            "basic" => {
                let bytes = STANDARD.decode(rest).map_err(|_| Unknown::Bad("malformed"))?;
                let login = String::from_utf8(bytes).map_err(|_| Unknown::Bad("malformed"))?;
                let (name, password) = login.split_once(':').ok_or(Unknown::Bad("malformed"))?;
                if password.starts_with(PREFIX) {
                    return self.by_token(password, now_ms);
                }
                self.by_password(name, password, passwords).await
            }
            _ => Err(Unknown::Bad("unknown_scheme")),
        }
    }

    /// The look-up is by hash: what it takes says nothing about the token; the hashes are compared in constant time besides.
    fn by_token(&self, token: &str, now_ms: i64) -> Result<Arc<Pass>, Unknown> {
        let hash = TokenHash::of(token);
        match self.tokens.get(&hash) {
            Some(known) if !known.entry.hash.same(&hash) => Err(Unknown::Bad("unknown_token")),
            Some(known) if known.entry.expires_at_ms.is_some_and(|at| at <= now_ms) => Err(Unknown::Bad("expired")),
            Some(known) => Ok(known.pass.clone()),
            None => Err(Unknown::Bad("unknown_token")),
        }
    }

    async fn by_password(&self, name: &str, password: &str, passwords: &Passwords) -> Result<Arc<Pass>, Unknown> {
        let known = self.users.get(name);
        let Some((bcrypt, _)) = known.or_else(|| self.users.values().next()) else {
            return Err(Unknown::Bad("unknown_user"));
        };
        match (passwords.check(name, password, bcrypt, known.is_some()).await, known) {
            (Checked::Good, Some((_, pass))) => Ok(pass.clone()),
            (Checked::Busy, _) => Err(Unknown::Busy),
            _ => Err(Unknown::Bad("wrong_password")),
        }
    }
}

impl Known {
    fn new(entry: &TokenEntry) -> Known {
        let mut pass = Pass::new(format!("token:{}", entry.name), entry.roles);
        pass.sources = Some(entry.source_ids.clone()).filter(|sources| !sources.is_empty());
        pass.requests = entry.rates.requests_per_second.map(Bucket::new);
        pass.samples = entry.rates.samples_per_second.map(Bucket::new);
        Known { entry: entry.clone(), pass: Arc::new(pass) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::settings::{CertificateEntry, Rates, UserEntry};

    fn settings() -> AuthSettings {
        let token = |name: &str, expires_at_ms| TokenEntry {
            name: name.into(),
            hash: TokenHash::of(&format!("{PREFIX}{name}")),
            roles: Roles::READ,
            source_ids: Vec::new(),
            expires_at_ms,
            rates: Rates::default(),
        };
        AuthSettings {
            tokens: vec![token("a", None), token("old", Some(1_000))],
            users: vec![UserEntry {
                name: "u".into(),
                bcrypt: bcrypt::hash("p", 4).unwrap(),
                roles: Roles::WRITE,
                source_ids: vec!["s".into()],
            }],
            certificates: vec![CertificateEntry {
                subject: "CN=c,O=o".into(),
                roles: Roles::ADMIN,
                source_ids: Vec::new(),
            }],
            ..AuthSettings::default()
        }
    }

    async fn asked(auth: &AuthSettings, credentials: &[&str], subject: Option<&Subject>) -> Result<String, Unknown> {
        let rules = Rules::new(auth, &[], None).unwrap();
        let mut headers = HeaderMap::new();
        for text in credentials {
            headers.append(header::AUTHORIZATION, text.parse().unwrap());
        }
        rules.who(&headers, subject, &Passwords::new().unwrap(), 2_000).await.map(|pass| pass.name.clone())
    }

    #[tokio::test]
    async fn a_credential_is_good_or_bad_whatever_else_is_shown() {
        let (auth, basic) = (settings(), |login: &str| format!("Basic {}", STANDARD.encode(login)));
        let subject = Subject { text: "CN=c,O=o".into(), common_name: Some("c".into()) };
        for (credential, wanted) in [
            ("Bearer qvr_a".to_owned(), Ok("token:a")),
            ("bearer  qvr_a".to_owned(), Ok("token:a")),
            ("Token qvr_a".to_owned(), Ok("token:a")),
            (basic("anybody:qvr_a"), Ok("token:a")),
            (basic("u:p"), Ok("user:u")),
            ("Bearer qvr_b".to_owned(), Err("unknown_token")),
            ("Bearer qvr_old".to_owned(), Err("expired")),
            ("Bearer a.b.c".to_owned(), Err("unknown_token")),
            ("qvr_a".to_owned(), Err("malformed")),
            ("Digest x".to_owned(), Err("unknown_scheme")),
            (basic("u"), Err("malformed")),
            (basic("u:q"), Err("wrong_password")),
            (basic("nobody:p"), Err("wrong_password")),
            ("Basic !!".to_owned(), Err("malformed")),
            (format!("Bearer {}", "x".repeat(20_000)), Err("too_long")),
        ] {
            for shown in [None, Some(&subject)] {
                let got = asked(&auth, &[&credential], shown).await;
                assert_eq!(got, wanted.map(str::to_owned).map_err(Unknown::Bad), "{credential}");
            }
        }
        assert_eq!(asked(&auth, &["Bearer qvr_a"; 2], None).await, Err(Unknown::Bad("many_credentials")));
        assert_eq!(asked(&auth, &[], Some(&subject)).await, Ok("certificate:CN=c,O=o".into()));
        assert_eq!(asked(&auth, &[], None).await, Err(Unknown::Bad("nothing_shown")));
        let stranger = Subject { text: "CN=x".into(), common_name: Some("x".into()) };
        assert_eq!(asked(&auth, &[], Some(&stranger)).await, Err(Unknown::Bad("certificate")));
        let reading = AuthSettings { anonymous: Some(Roles::READ), ..settings() };
        assert_eq!(asked(&reading, &[], None).await, Ok("anonymous".into()));
        assert!(asked(&reading, &["Bearer qvr_b"], None).await.is_err());
    }

    #[test]
    fn who_says_what_strangers_may_does_not_mean_everything() {
        for roles in [Roles::NONE, Roles::READ] {
            let auth = AuthSettings { anonymous: Some(roles), ..AuthSettings::default() };
            assert!(!Rules::new(&auth, &[], None).unwrap().are_open());
        }
        assert!(Rules::new(&AuthSettings::default(), &[], None).unwrap().are_open());
    }

    #[test]
    fn what_was_used_of_rates_counts_on_over_a_reload() {
        let pass = |rules: &Rules, name: &str| {
            rules.tokens.values().find(|known| known.entry.name == name).map(|known| known.pass.clone()).unwrap()
        };
        let first = Rules::new(&settings(), &[], None).unwrap();
        let again = Rules::new(&settings(), &[], Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&pass(&first, "a"), &pass(&again, "a")));
        let mut changed = settings();
        changed.tokens[0].roles = Roles::WRITE;
        let changed = Rules::new(&changed, &[], Some(&again)).unwrap();
        assert_eq!(pass(&changed, "a").roles, Roles::WRITE);
    }

    #[tokio::test]
    async fn a_common_name_that_looks_like_a_subject_is_nobodys() {
        let forged = Subject { text: "O=x,CN=CN\\=c".into(), common_name: Some("CN=c,O=o".into()) };
        assert_eq!(asked(&settings(), &[], Some(&forged)).await, Err(Unknown::Bad("certificate")));
    }
}
