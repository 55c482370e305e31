//! What others run for us: the catalog's database and the cache.
//!
//! Invariant: a password is held where it cannot be printed, and may stand in a file or a variable that is read at each
//! connect, so that a rotated one is found.

use std::fmt;
use std::path::{Path, PathBuf};

use catalog::{Password, PostgresPlace};
use url::Url;

use super::fields::{Fields, Problems};
use super::yaml::Node;

/// A secret, or where it is read when it is needed.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretFrom {
    /// The secret itself.
    Inline(String),
    /// A variable of the environment.
    Env(String),
    /// A file; white space around the content does not count.
    File(PathBuf),
}

impl fmt::Debug for SecretFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretFrom::Inline(_) => f.write_str("<secret>"),
            SecretFrom::Env(name) => write!(f, "variable {name}"),
            SecretFrom::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl SecretFrom {
    /// Reads the keys `<name>`, `<name>_env` and `<name>_file` of a mapping, of which one may be given.
    pub fn read(
        fields: &mut Fields<'_>,
        [plain, env, file]: [&'static str; 3],
        dir: &Path,
        problems: &mut Problems,
    ) -> Option<SecretFrom> {
        let given = [
            fields.string(plain, problems).filter(|t| !t.is_empty()).map(SecretFrom::Inline),
            fields.string(env, problems).filter(|t| !t.is_empty()).map(SecretFrom::Env),
            fields.string(file, problems).filter(|t| !t.is_empty()).map(|path| SecretFrom::File(dir.join(path))),
        ];
        let mut given = given.into_iter().flatten();
        let first = given.next();
        if given.next().is_some() {
            problems.error(fields.at(), format!("at most one of {plain}, {env} & {file} must be configured"));
        }
        first
    }

    /// Gives the secret as it is now.
    ///
    /// **Errors** name the file or variable, never its content.
    pub fn get(&self) -> Result<String, String> {
        match self {
            SecretFrom::Inline(secret) => Ok(secret.clone()),
            SecretFrom::Env(name) => std::env::var(name).map_err(|_| format!("the variable {name} is not set")),
            SecretFrom::File(path) => super::load::read_text(path)
                .map(|text| text.trim().to_owned())
                .map_err(|e| format!("{}: {e}", path.display())),
        }
    }
}

/// A URL of which passwords are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(pub String);

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl SecretUrl {
    /// Gives the URL without password and parameters.
    pub fn shown(&self) -> String {
        let Ok(mut url) = Url::parse(&self.0) else { return "<not a URL>".to_owned() };
        url.set_query(None);
        url.set_fragment(None);
        // A URL without a host has no password.
        let _ = url.set_password(None);
        url.to_string()
    }
}

/// `catalog`: a PostgreSQL for targets and collections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogSettings {
    /// `postgres://user@host:5432/database`
    pub url: SecretUrl,
    /// Wins over the one in the URL.
    pub password: Option<SecretFrom>,
}

impl CatalogSettings {
    /// Takes a URL alone.
    pub fn of_url(url: &str) -> Result<CatalogSettings, String> {
        let settings = CatalogSettings { url: SecretUrl(url.to_owned()), password: None };
        settings.place().map(|_| settings)
    }

    /// Gives the place to connect to.
    pub fn place(&self) -> Result<PostgresPlace, String> {
        let password = self.password.clone().map(|secret| {
            let get: Password = std::sync::Arc::new(move || secret.get());
            get
        });
        PostgresPlace::parse(&self.url.0, password)
    }
}

/// `cache`: a Redis that others read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheSettings {
    /// `redis://host:6379/0`, or `rediss://` for TLS.
    pub url: SecretUrl,
    /// Wins over the one in the URL.
    pub password: Option<SecretFrom>,
    /// Stands in front of each key; empty unless servers with different targets share one Redis.
    pub key_prefix: String,
    /// Certificates to trust, in place of those that everybody trusts.
    pub ca_file: Option<PathBuf>,
}

impl CacheSettings {
    /// Takes a URL alone.
    pub fn of_url(url: &str) -> Result<CacheSettings, String> {
        let known = ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme));
        match Url::parse(url) {
            Ok(parsed) if known && parsed.has_host() => {
                let url = SecretUrl(url.to_owned());
                Ok(CacheSettings { url, password: None, key_prefix: String::new(), ca_file: None })
            }
            _ => Err("it must begin with redis:// or rediss:// and name a host".to_owned()),
        }
    }
}

/// Reads `catalog`.
pub fn read_catalog(node: &Node, dir: &Path, problems: &mut Problems) -> Option<CatalogSettings> {
    let fields = Fields::open(node, "quiver.catalog", problems);
    let example = "postgres://user@host:5432/database";
    let (settings, password) = read_place(fields, example, CatalogSettings::of_url, dir, problems)?;
    Some(CatalogSettings { password, ..settings })
}

/// Reads `cache`.
pub fn read_cache(node: &Node, dir: &Path, problems: &mut Problems) -> Option<CacheSettings> {
    let mut fields = Fields::open(node, "quiver.cache", problems);
    let key_prefix = fields.string("key_prefix", problems).unwrap_or_default();
    let ca_file = fields.string("ca_file", problems).map(|path| dir.join(path));
    let example = "redis://host:6379/0";
    let (settings, password) = read_place(fields, example, CacheSettings::of_url, dir, problems)?;
    if ca_file.is_some() && !settings.url.0.starts_with("rediss://") {
        problems.error(node.at, "ca_file of quiver.cache is for TLS: the url must begin with rediss://");
        return None;
    }
    Some(CacheSettings { password, key_prefix, ca_file, ..settings })
}

/// Reads `url` and the password beside it, the last fields of a section.
fn read_place<T>(
    mut fields: Fields<'_>,
    example: &str,
    of_url: fn(&str) -> Result<T, String>,
    dir: &Path,
    problems: &mut Problems,
) -> Option<(T, Option<SecretFrom>)> {
    let url = fields.string("url", problems);
    let password = SecretFrom::read(&mut fields, ["password", "password_env", "password_file"], dir, problems);
    let (place, at, what) = (fields.at(), fields.place_of("url"), fields.what().to_owned());
    fields.finish(problems);
    let Some(url) = url else {
        problems.error(place, format!("{what} needs a url such as {example}"));
        return None;
    };
    match of_url(&url) {
        Ok(settings) => Some((settings, password)),
        Err(reason) => {
            problems.error(at, format!("url of {what}: {reason}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    #[test]
    fn secrets_are_read_when_needed_and_never_shown() {
        let dir = tempfile::TempDir::new().unwrap();
        let text = "{url: 'postgres://u:in-url@h/d?sslmode=require', password_file: pw}";
        let mut problems = Problems::default();
        let catalog = read_catalog(&yaml::parse(text).unwrap(), dir.path(), &mut problems).unwrap();
        assert!(problems.0.is_empty(), "{problems:?}");
        let password = catalog.password.clone().unwrap();
        assert!(password.get().unwrap_err().contains("pw"));
        std::fs::write(dir.path().join("pw"), "s3cret\n").unwrap();
        assert_eq!(password.get().as_deref(), Ok("s3cret"));
        let shown = format!("{catalog:?} {:?}", SecretFrom::Inline("s3cret".into()));
        assert!(!shown.contains("s3cret") && !shown.contains("in-url") && shown.contains("u@h/d"), "{shown}");
        let unset = SecretFrom::Env("QUIVER_TEST_NOT_SET".into());
        assert_eq!(unset.get(), Err("the variable QUIVER_TEST_NOT_SET is not set".to_owned()));
    }

    #[test]
    fn wrong_places_are_said() {
        let dir = Path::new("");
        for text in ["{}", "{url: 'mysql://h'}", "{url: 'postgres://h/d?sslmode=odd'}"] {
            let mut problems = Problems::default();
            assert_eq!(read_catalog(&yaml::parse(text).unwrap(), dir, &mut problems), None);
            assert_eq!(problems.0.len(), 1, "{text}: {problems:?}");
        }
        for text in ["{}", "{url: 'http://h'}", "{url: 'redis://'}", "{url: 'redis://h', ca_file: ca.pem}"] {
            let mut problems = Problems::default();
            assert_eq!(read_cache(&yaml::parse(text).unwrap(), dir, &mut problems), None, "{text}");
        }
        let both = "{url: 'redis://h', password: a, password_env: b}";
        let mut problems = Problems::default();
        read_cache(&yaml::parse(both).unwrap(), dir, &mut problems);
        assert_eq!(problems.0.len(), 1);
    }
}
