//! Secrets that users give with their targets: sealed at rest, opened only to be sent to the target.
//!
//! What is sealed is encrypted with AES-256-GCM under a key of `access/secrets.key` (made with mode 0600) or of a file of the operator's.
//! The nonce is a keyed hash of the secret, so the same secret is sealed the same: a registration that is sent again is seen to be the
//! same. It tells whoever has the catalog that two secrets are equal, and no more.
//! Invariants: 1. a secret that was given goes nowhere but to the target: not into answers, logs, events, metrics or files; 2. a
//! reference to a file or variable is followed only where the operator allows it, and taken from admins only.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use collect::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Environment variables that begin so may be referred to without being listed.
const FREE_PREFIX: &str = "QUIVER_SECRET_";

/// What the operator allows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretSettings {
    /// Folders whose files may be referred to.
    pub dirs: Vec<PathBuf>,
    /// Variables that may be referred to, beside those that begin with `QUIVER_SECRET_`.
    pub env: Vec<String>,
    /// The key, if it is not to lie in the data directory: 32 bytes, or as many in base64.
    pub key_file: Option<PathBuf>,
}

/// Seals and opens.
pub struct Vault {
    sealing: LessSafeKey,
    nonces: hmac::Key,
    marks: hmac::Key,
    settings: SecretSettings,
}

impl Vault {
    /// Reads the key; makes one in the data directory if there is none and none is named.
    pub fn open(data_dir: &Path, settings: SecretSettings) -> Result<Vault, String> {
        let path = settings.key_file.clone().unwrap_or_else(|| data_dir.join("access").join("secrets.key"));
        let said = |e: &dyn std::fmt::Display| format!("key of secrets {}: {e}", path.display());
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound && settings.key_file.is_none() => {
                make_key(&path).map_err(|e| said(&e))?
            }
            Err(e) => return Err(said(&e)),
        };
        let key = match bytes.len() {
            KEY_BYTES => bytes,
            _ => {
                let text = String::from_utf8(bytes).unwrap_or_default();
                STANDARD_NO_PAD.decode(text.trim().trim_end_matches('=')).unwrap_or_default()
            }
        };
        let key: [u8; KEY_BYTES] = key.try_into().map_err(|_| said(&"it is not 32 bytes, nor 32 bytes in base64"))?;
        Vault::of(&key, settings).ok_or_else(|| said(&"it is no key"))
    }

    /// Makes one of a key.
    pub fn of(key: &[u8; KEY_BYTES], settings: SecretSettings) -> Option<Vault> {
        let master = hmac::Key::new(hmac::HMAC_SHA256, key);
        let derived = |what: &[u8]| hmac::sign(&master, what);
        let sealing = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derived(b"seal").as_ref()).ok()?);
        Some(Vault {
            sealing,
            nonces: hmac::Key::new(hmac::HMAC_SHA256, derived(b"nonce").as_ref()),
            marks: hmac::Key::new(hmac::HMAC_SHA256, derived(b"mark").as_ref()),
            settings,
        })
    }

    /// Seals a secret.
    pub fn seal(&self, secret: &str) -> Option<String> {
        let hash = hmac::sign(&self.nonces, secret.as_bytes());
        let nonce: [u8; NONCE_LEN] = hash.as_ref().get(..NONCE_LEN)?.try_into().ok()?;
        let mut bytes = secret.as_bytes().to_vec();
        let nonce_again = Nonce::assume_unique_for_key(nonce);
        self.sealing.seal_in_place_append_tag(nonce_again, Aad::empty(), &mut bytes).ok()?;
        Some(STANDARD_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    /// Opens what was sealed under the same key.
    pub fn open_sealed(&self, sealed: &str) -> Option<String> {
        let bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, rest) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut rest = rest.to_vec();
        let plain = self.sealing.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut rest).ok()?;
        String::from_utf8(plain.to_vec()).ok()
    }

    /// Gives eight digits by which an owner sees whether two secrets are the same; keyed, so that they help nobody to guess.
    pub fn mark(&self, secret: &str) -> String {
        hmac::sign(&self.marks, secret.as_bytes()).as_ref().iter().take(4).map(|b| format!("{b:02x}")).collect()
    }

    /// Follows a reference: `env:NAME` or `file:/path`.
    ///
    /// **Errors** with a reason word and a sentence when the operator does not allow it.
    pub fn refer(&self, reference: &str) -> Result<Secret, (&'static str, String)> {
        if let Some(name) = reference.strip_prefix("env:") {
            let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let allowed = name.starts_with(FREE_PREFIX) || self.settings.env.iter().any(|known| known == name);
            return match good && allowed {
                true => Ok(Secret::Env(name.to_owned())),
                false => {
                    let detail = "variables that may be referred to begin with QUIVER_SECRET_ or stand under `quiver: secrets: env:`";
                    Err(("forbidden_reference", detail.to_owned()))
                }
            };
        }
        if let Some(path) = reference.strip_prefix("file:") {
            return self.refer_to_file(Path::new(path));
        }
        if ["k8s:", "vault:"].iter().any(|kind| reference.starts_with(kind)) {
            return Err((
                "not_yet",
                "references to Kubernetes and Vault are not built yet; env: and file: are".to_owned(),
            ));
        }
        Err(("invalid_reference", "a reference is env:NAME or file:/path".to_owned()))
    }

    fn refer_to_file(&self, path: &Path) -> Result<Secret, (&'static str, String)> {
        let forbidden = || {
            let detail = "files that may be referred to lie in the folders of `quiver: secrets: dirs:`";
            Err(("forbidden_reference", detail.to_owned()))
        };
        let climbs = path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir));
        if !path.is_absolute() || climbs {
            return forbidden();
        }
        // A link must not lead out of the folder. What is not there yet is judged by its name. The name is what is followed: whoever
        // replaces secrets moves links within the folder.
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let within = self.settings.dirs.iter().any(|dir| {
            let real_dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
            real.starts_with(&real_dir) && real != real_dir
        });
        if within { Ok(Secret::File(path.to_owned())) } else { forbidden() }
    }
}

fn make_key(path: &Path) -> io::Result<Vec<u8>> {
    let mut key = vec![0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    // Under another name until it is whole. Nobody else makes one: the store holds the data directory.
    let draft = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&key)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    std::fs::File::open(dir)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(settings: SecretSettings) -> Vault {
        Vault::of(&[7; KEY_BYTES], settings).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_under_its_key_and_no_other() {
        let ours = vault(SecretSettings::default());
        let sealed = ours.seal("hunter2").unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_eq!(ours.open_sealed(&sealed).as_deref(), Some("hunter2"));
        assert_eq!(ours.seal("hunter2"), Some(sealed.clone()));
        let other = Vault::of(&[8; KEY_BYTES], SecretSettings::default()).unwrap();
        assert_eq!(other.open_sealed(&sealed), None);
        assert_ne!(other.mark("hunter2"), ours.mark("hunter2"));
        for bad in [
            "",
            "AAAA",
            &sealed[1..],
            &sealed.replacen(&sealed[20..21], if &sealed[20..21] == "A" { "B" } else { "A" }, 1),
        ] {
            assert_eq!(ours.open_sealed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_reference_is_followed_when_its_link_is_moved_and_not_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = vec![dir.path().to_owned()];
        let ours = vault(SecretSettings { dirs, ..SecretSettings::default() });
        let link = dir.path().join("token");
        for (n, secret) in ["first", "second"].iter().enumerate() {
            let version = dir.path().join(format!("..version{n}"));
            std::fs::create_dir(&version).unwrap();
            std::fs::write(version.join("token"), secret).unwrap();
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(version.join("token"), &link).unwrap();
            let Ok(Secret::File(path)) = ours.refer_to_file(&link) else { panic!("it is within") };
            // The name that moves, not where it leads just now.
            assert_eq!((path.as_path(), std::fs::read_to_string(&path).unwrap().as_str()), (link.as_path(), *secret));
        }
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(ours.refer_to_file(&link).is_err());
    }

    #[test]
    fn the_key_is_made_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let sealed = Vault::open(dir.path(), SecretSettings::default()).unwrap().seal("x").unwrap();
        let path = dir.path().join("access/secrets.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Vault::open(dir.path(), SecretSettings::default()).unwrap();
        assert_eq!(again.open_sealed(&sealed).as_deref(), Some("x"));
        let named = SecretSettings { key_file: Some(dir.path().join("none")), ..SecretSettings::default() };
        assert!(Vault::open(dir.path(), named).is_err(), "a key that is named is not made up");
        std::fs::write(&path, "short").unwrap();
        assert!(Vault::open(dir.path(), SecretSettings::default()).is_err());
    }

    #[test]
    fn references_lead_where_the_operator_allows_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = dir.path().join("allowed");
        std::fs::create_dir(&allowed).unwrap();
        std::fs::write(allowed.join("good"), "x").unwrap();
        std::fs::write(dir.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), allowed.join("link")).unwrap();
        let vault = vault(SecretSettings { dirs: vec![allowed.clone()], env: vec!["MINE".into()], key_file: None });
        let word = |reference: &str| vault.refer(reference).err().map(|(word, _)| word);
        let file = |name: &str| format!("file:{}/{name}", allowed.display());
        for good in [&file("good"), &file("later"), "env:MINE", "env:QUIVER_SECRET_X"] {
            assert_eq!(word(good), None, "{good}");
        }
        for bad in [
            &file("link"),
            &file("../outside"),
            &file(""),
            "file:/etc/passwd",
            "file:good",
            "env:PATH",
            "env:",
            "env:A B",
        ] {
            assert_eq!(word(bad), Some("forbidden_reference"), "{bad}");
        }
        assert_eq!((word("k8s:a/b/c"), word("nonsense")), (Some("not_yet"), Some("invalid_reference")));
    }
}
