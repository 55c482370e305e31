//! Who may come in and what he may do: TLS, tokens, passwords, certificates, OpenID, roles, rates, the audit log.
//!
//! A request's way: `tls.rs` shakes hands and knows the certificate → [`guard`] asks `who.rs` who it is, `table.rs` what the route needs,
//! `pass.rs` as which source and how often → the handler runs with the pass in force, which judges the samples, too.
//! Owns: the rules in force, the tokens made while the server runs (`book.rs`), the audit log (`audit.rs`).
//! Invariants: 1. nothing but `/-/healthy` and `/-/ready` is answered unjudged; 2. no credential is in a log, an answer, a metric or a
//! file, but for hashes; 3. a server that listens beyond loopback is never without rules, unless it was told so in so many words; 4. new
//! rules are taken whole or not at all.

pub mod audit;
pub mod book;
pub mod bucket;
pub mod guard;
pub mod jwt;
pub mod oidc;
pub mod pass;
pub mod role;
pub mod settings;
pub mod stats;
pub mod subject;
pub mod table;
pub mod tls;
pub mod token;
pub mod tokens_api;
pub mod users;
pub mod vault;
pub mod who;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::telemetry::Exposition;
use audit::Audit;
use book::{Book, Written};
use settings::{AccessSettings, AuthSettings, TokenEntry};
use stats::AccessStats;
use tls::Tls;
use users::Passwords;
use who::Rules;

pub use pass::{NotYours, Pass};

/// What a server that would be open to everybody says.
const OPEN_BEYOND_LOOPBACK: &str = "is reachable from other machines, and nothing says who may come in. Either make a token \
    (`quiver token create --role admin` prints it and what to put under `quiver: auth: tokens:` of the configuration), or give a \
    --web.config.file with basic_auth_users, or listen on 127.0.0.1, or say --web.insecure-open to let everybody in";

/// Gives the time, in milliseconds since 1970.
pub type Now = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Who may come in.
pub struct Access {
    rules: ArcSwap<Rules>,
    book: Mutex<Book>,
    auth: Mutex<AuthSettings>,
    /// TLS of the listeners, if they have it.
    pub tls: Option<Arc<Tls>>,
    /// Headers of every answer.
    headers: Vec<(http::HeaderName, http::HeaderValue)>,
    passwords: Passwords,
    /// The figures.
    pub stats: AccessStats,
    audit: OnceLock<Audit>,
    /// An address beyond loopback that is listened on, unless everybody is meant to come in.
    exposed: Option<String>,
    now: Now,
}

impl Access {
    /// Reads what is needed before anything listens.
    ///
    /// **Takes** `exposed`: an address beyond loopback that will be listened on, unless everybody is meant to come in.
    /// **Errors** say what to do.
    pub fn open(
        settings: AccessSettings,
        data_dir: &Path,
        exposed: Option<String>,
        now: Now,
    ) -> Result<Access, String> {
        let book =
            Book::read(data_dir).map_err(|e| format!("{}: {e}", data_dir.join("access/tokens.json").display()))?;
        let rules = Rules::new(&settings.auth, &made(&book), None)?;
        check_open(&rules, exposed.as_deref())?;
        let tls = settings.tls.map(Tls::load).transpose().map_err(|e| format!("TLS: {e}"))?;
        let header = |(name, value): &(String, String)| Some((name.parse().ok()?, value.parse().ok()?));
        Ok(Access {
            rules: ArcSwap::from_pointee(rules),
            book: Mutex::new(book),
            auth: Mutex::new(settings.auth),
            tls: tls.map(Arc::new),
            headers: settings.headers.iter().filter_map(header).collect(),
            passwords: Passwords::new()?,
            stats: AccessStats::default(),
            audit: OnceLock::new(),
            exposed,
            now,
        })
    }

    /// Opens the audit log; once the data directory is ours.
    pub fn start_audit(&self, data_dir: &Path) -> std::io::Result<()> {
        let audit = Audit::start(data_dir)?;
        let _ = self.audit.set(audit);
        Ok(())
    }

    /// Puts new settings in force; may block.
    ///
    /// **Errors** leave everything as it was.
    pub fn apply(&self, settings: AccessSettings) -> Result<(), String> {
        let book = self.book.lock();
        let rules = Rules::new(&settings.auth, &made(&book), Some(&self.rules.load()))?;
        check_open(&rules, self.exposed.as_deref())?;
        match (&self.tls, settings.tls) {
            (Some(tls), Some(settings)) => tls.reload(settings).map_err(|e| format!("TLS: {e}"))?,
            (None, None) => {}
            // With rules that count on certificates nobody could come in.
            _ => return Err("TLS is switched on and off at the start only: restart".to_owned()),
        }
        *self.auth.lock() = settings.auth;
        self.rules.store(Arc::new(rules));
        Ok(())
    }

    /// Gives the rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Gives the headers of every answer.
    pub fn headers(&self) -> &[(http::HeaderName, http::HeaderValue)] {
        &self.headers
    }

    fn now_ms(&self) -> i64 {
        (self.now)()
    }

    /// Changes the tokens that were made while the server runs; may block. Durable and in force when it returns.
    ///
    /// **Errors** of `change` leave everything as it was.
    fn change_book<E: From<std::io::Error> + From<Refused>>(
        &self,
        change: impl FnOnce(&AuthSettings, &mut Vec<Written>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut book = self.book.lock();
        let mut tokens = book.tokens.clone();
        let auth = self.auth.lock().clone();
        change(&auth, &mut tokens)?;
        let entries: Vec<TokenEntry> = tokens.iter().filter_map(Written::entry).collect();
        let before = self.rules.load();
        let rules = Rules::new(&auth, &entries, Some(&before)).map_err(|e| E::from(Refused(e)))?;
        if rules.are_open() && !before.are_open() {
            let text = "it is the last way in for an admin: everybody would be let in without it";
            return Err(E::from(Refused(text.to_owned())));
        }
        if rules.are_open() {
            let text = "make a token with the role admin first: until there is one everybody is let in";
            return Err(E::from(Refused(text.to_owned())));
        }
        book.replace(tokens)?;
        self.rules.store(Arc::new(rules));
        Ok(())
    }

    /// Writes the figures.
    pub fn render(&self, page: &mut Exposition) {
        self.stats.render(page);
        let (written, failed) = self.audit.get().map_or((0, 0), Audit::counts);
        page.counter("quiver_audit_lines_total", "Lines of the audit log.", written);
        page.counter("quiver_audit_lines_failed_total", "Lines of the audit log that could not be written.", failed);
        if let Some(tls) = &self.tls {
            tls.render(page);
        }
    }
}

/// A change that is understood and refused.
pub struct Refused(pub String);

fn made(book: &Book) -> Vec<TokenEntry> {
    book.tokens.iter().filter_map(Written::entry).collect()
}

fn check_open(rules: &Rules, exposed: Option<&str>) -> Result<(), String> {
    match exposed {
        Some(address) if rules.are_open() => Err(format!("{address} {OPEN_BEYOND_LOOPBACK}")),
        _ => Ok(()),
    }
}
