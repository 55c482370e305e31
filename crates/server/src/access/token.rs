//! Tokens: made once, known by their hash.
//!
//! A token is `qvr_` and 256 random bits in base64url; guessing one is hopeless, so a fast hash is as good as a slow one. Only the hash
//! is kept anywhere.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

/// What every token of ours begins with, so that scanners of leaked secrets know one.
pub const PREFIX: &str = "qvr_";
/// Longer credentials are not looked at.
pub const CREDENTIAL_BYTES_MAX: usize = 16 << 10;

/// SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}…", &self.to_hex()[..8])
    }
}

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &str) -> TokenHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        TokenHash(hash)
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<TokenHash> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(TokenHash(hash))
    }

    /// Gives 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Compares in a time that says nothing of where two differ.
    pub fn same(&self, other: &TokenHash) -> bool {
        self.0.iter().zip(other.0).fold(0u8, |all, (a, b)| all | (a ^ b)) == 0
    }
}

/// Makes a token.
///
/// **Errors** when the system gives no random bytes.
pub fn make() -> Result<String, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| format!("the system gives no random bytes: {e}"))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_are_known_by_their_hash() {
        let (a, b) = (make().unwrap(), make().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 4 + 43);
        let hash = TokenHash::of(&a);
        assert!(hash.same(&TokenHash::parse(&hash.to_hex()).unwrap()) && !hash.same(&TokenHash::of(&b)));
        assert_eq!(TokenHash::of("abc").to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        for bad in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(TokenHash::parse(bad), None, "{bad}");
        }
        assert!(!format!("{hash:?}").contains(&hash.to_hex()));
    }
}
