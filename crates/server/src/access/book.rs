//! Tokens that were made while the server runs: `access/tokens.json` of the data directory. Hashes, never tokens.
//!
//! Invariants: 1. a change is durable before it is in force, and in force before it is answered; 2. a file that cannot be read keeps the
//! server from starting: without it a token that was revoked could not be told from one that was never made.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::role::Roles;
use super::settings::{Rates, TokenEntry};
use super::token::TokenHash;

/// Tokens of one server.
pub const TOKENS_MAX: usize = 10_000;

/// One token, as it stands in the file and in answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// How it is called.
    pub name: String,
    /// SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// Words of roles.
    pub roles: Vec<String>,
    /// The sources that it may write as; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ids: Vec<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Requests in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<f64>,
    /// Samples in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// RFC 3339.
    #[serde(default)]
    pub created_at: String,
}

impl Written {
    /// Gives the entry; `None` when something in it is not understood.
    pub fn entry(&self) -> Option<TokenEntry> {
        let roles = Roles::parse_all(&self.roles)?;
        let expires_at_ms = match &self.expires {
            Some(text) => Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()),
            None => None,
        };
        Some(TokenEntry {
            name: self.name.clone(),
            hash: TokenHash::parse(&self.sha256)?,
            roles,
            source_ids: self.source_ids.clone(),
            expires_at_ms,
            rates: Rates { requests_per_second: self.requests_per_second, samples_per_second: self.samples_per_second },
        })
    }
}

/// The file.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    /// All tokens, in the order they were made.
    pub tokens: Vec<Written>,
}

impl Book {
    /// Reads the file, if there is one.
    pub fn read(data_dir: &Path) -> io::Result<Book> {
        let path = data_dir.join("access").join("tokens.json");
        let tokens = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let book = Book { path, tokens };
        match book.tokens.iter().find(|t| t.entry().is_none()) {
            Some(bad) => Err(io::Error::other(format!("token {:?} is not understood", bad.name))),
            None => Ok(book),
        }
    }

    /// Gives the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts other tokens in the file's place; durable when it returns.
    pub fn replace(&mut self, tokens: Vec<Written>) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let temporary = self.path.with_extension("json.tmp");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(&tokens)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        std::fs::File::open(dir)?.sync_all()?;
        self.tokens = tokens;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_reads_back_and_a_bent_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::read(dir.path()).unwrap();
        let token = Written {
            name: "a".into(),
            sha256: TokenHash::of("x").to_hex(),
            roles: vec!["write".into()],
            source_ids: vec!["s".into()],
            expires: Some("2030-01-01T00:00:00Z".into()),
            requests_per_second: Some(1.5),
            samples_per_second: None,
            created_at: String::new(),
        };
        book.replace(vec![token.clone()]).unwrap();
        let again = Book::read(dir.path()).unwrap();
        assert_eq!(again.tokens, [token]);
        assert_eq!(again.tokens[0].entry().unwrap().expires_at_ms, Some(1_893_456_000_000));
        std::fs::write(again.path(), "[{\"name\": \"a\"").unwrap();
        assert!(Book::read(dir.path()).is_err());
        let bad = r#"[{"name": "a", "sha256": "zz", "roles": ["god"]}]"#;
        std::fs::write(again.path(), bad).unwrap();
        assert!(Book::read(dir.path()).unwrap_err().to_string().contains("\"a\""));
    }
}
