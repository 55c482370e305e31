//! Signed tokens (RFC 7519): taken apart, their signature and their claims checked.
//!
//! Invariants: 1. only RS256, ES256 and EdDSA are taken, and only with a key of that kind: what a token says of itself chooses among the
//! keys of the issuer, never how one is used; 2. `iss`, `aud` and `exp` must be there and right; 3. a critical header that we do not
//! know is refused.
//! Limits: the caller bounds the token ([`super::token::CREDENTIAL_BYTES_MAX`]); JSON nests 128 levels at most.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;

/// What must be true of claims.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `aud` holds it.
    pub audience: &'a str,
    /// How far clocks may be apart, in seconds.
    pub leeway_s: f64,
    /// The time, in seconds since 1970.
    pub now_s: f64,
}

/// A token taken apart; nothing of it is to be believed yet.
pub struct Unverified<'t> {
    /// The algorithm that it names.
    pub alg: String,
    /// The key that it names.
    pub kid: Option<String>,
    signed: &'t str,
    signature: Vec<u8>,
    payload: Vec<u8>,
}

/// A public key of the issuer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// Its name.
    pub kid: Option<String>,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why a token is not taken.
pub type Refusal = &'static str;

impl<'t> Unverified<'t> {
    /// Takes a token apart.
    pub fn read(token: &'t str) -> Result<Unverified<'t>, Refusal> {
        let (signed, signature) = token.rsplit_once('.').ok_or("malformed")?;
        let (header, payload) = signed.split_once('.').ok_or("malformed")?;
        if payload.contains('.') {
            return Err("malformed");
        }
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "malformed");
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| "malformed")?;
        if header.get("crit").is_some() || header.get("b64").is_some() {
            return Err("critical_header");
        }
        let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Unverified {
            alg: text("alg").ok_or("malformed")?,
            kid: text("kid"),
            signed,
            signature: decode(signature)?,
            payload: decode(payload)?,
        })
    }

    /// Checks signature and claims; gives the claims.
    pub fn verify(&self, key: &Key, expected: &Expected<'_>) -> Result<Value, Refusal> {
        if key.alg() != self.alg {
            return Err("algorithm");
        }
        let signed = self.signed.as_bytes();
        let good = match &key.kind {
            Kind::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, &self.signature)
            }
            Kind::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, &self.signature)
            }
            Kind::Ed25519(point) => UnparsedPublicKey::new(&signature::ED25519, point).verify(signed, &self.signature),
        };
        good.map_err(|_| "signature")?;
        let claims: Value = serde_json::from_slice(&self.payload).map_err(|_| "malformed")?;
        check(&claims, expected)?;
        Ok(claims)
    }
}

fn check(claims: &Value, expected: &Expected<'_>) -> Result<(), Refusal> {
    let number = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().filter(|n| n.is_finite()).map(Some).ok_or("malformed"),
    };
    if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
        return Err("issuer");
    }
    let ours = |value: &Value| value.as_str() == Some(expected.audience);
    let audience = match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    };
    if !audience {
        return Err("audience");
    }
    if number("exp")?.ok_or("no_expiry")? + expected.leeway_s <= expected.now_s {
        return Err("expired");
    }
    if number("nbf")?.is_some_and(|nbf| nbf - expected.leeway_s > expected.now_s) {
        return Err("not_yet_valid");
    }
    Ok(())
}

impl Key {
    /// Reads a JWK; `None` when it is of no kind that we use, or not for signatures.
    pub fn read(jwk: &Value) -> Option<Key> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let kind = match (text("kty")?, text("crv")) {
            ("RSA", _) => Kind::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Kind::P256([&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => Kind::Ed25519(bytes("x")?),
            _ => return None,
        };
        let key = Key { kid: text("kid").map(str::to_owned), kind };
        // A key for RS512 or PS256 is not one for RS256.
        text("alg").is_none_or(|alg| alg == key.alg()).then_some(key)
    }

    /// Gives the only algorithm that the key is used with.
    pub fn alg(&self) -> &'static str {
        match self.kind {
            Kind::Rsa { .. } => "RS256",
            Kind::P256(_) => "ES256",
            Kind::Ed25519(_) => "EdDSA",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};
    use serde_json::json;

    fn encode(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn pair() -> (Ed25519KeyPair, Key) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let key = Key::read(&json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x})).unwrap();
        (pair, key)
    }

    fn signed(header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", encode(header), encode(claims));
        let signature = pair().0.sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn verdict(token: &str) -> Result<Value, Refusal> {
        let expected = Expected { issuer: "https://i", audience: "quiver", leeway_s: 30.0, now_s: 1_000.0 };
        Unverified::read(token)?.verify(&pair().1, &expected)
    }

    fn claims() -> Value {
        json!({"iss": "https://i", "aud": ["x", "quiver"], "exp": 1_001, "sub": "me"})
    }

    #[test]
    fn only_what_is_signed_and_meant_for_us_is_taken() {
        let header = json!({"alg": "EdDSA", "kid": "k"});
        assert_eq!(verdict(&signed(&header, &claims())).unwrap()["sub"], "me");
        let with = |name: &str, value: Value| {
            let mut all = claims();
            all[name] = value;
            verdict(&signed(&header, &all)).err()
        };
        assert_eq!(with("iss", json!("https://other")), Some("issuer"));
        assert_eq!(with("aud", json!("other")), Some("audience"));
        assert_eq!(with("aud", json!({"quiver": 1})), Some("audience"));
        assert_eq!(with("exp", json!(970)), Some("expired"));
        assert_eq!(with("exp", json!(971)), None);
        assert_eq!(with("exp", json!("1001")), Some("malformed"));
        assert_eq!(with("exp", Value::Null), Some("malformed"));
        assert_eq!(with("nbf", json!(1_031)), Some("not_yet_valid"));
        assert_eq!(with("nbf", json!(1_030)), None);
        let mut without = claims();
        without.as_object_mut().unwrap().remove("exp");
        assert_eq!(verdict(&signed(&header, &without)).err(), Some("no_expiry"));
    }

    #[test]
    fn algorithms_are_those_of_the_key() {
        for alg in ["none", "None", "", "HS256", "RS256", "ES256", "eddsa"] {
            assert_eq!(verdict(&signed(&json!({"alg": alg, "kid": "k"}), &claims())).err(), Some("algorithm"), "{alg}");
        }
        let header = json!({"alg": "EdDSA", "crit": ["exp"]});
        assert_eq!(verdict(&signed(&header, &claims())).err(), Some("critical_header"));
        let good = signed(&json!({"alg": "EdDSA"}), &claims());
        let (text, _) = good.rsplit_once('.').unwrap();
        assert_eq!(verdict(&format!("{text}.")).err(), Some("signature"));
        let other = format!("{}.{}.{}", encode(&json!({"alg": "EdDSA"})), encode(&json!({"iss": "x"})), "AAAA");
        assert_eq!(verdict(&other).err(), Some("signature"));
        for bad in ["", "a", "a.b", "a.b.c.d", "..", "é.é.é"] {
            assert!(verdict(bad).is_err(), "{bad}");
        }
        // Nesting does not reach the stack's end.
        let deep = URL_SAFE_NO_PAD.encode("[".repeat(9_000));
        assert_eq!(verdict(&format!("{deep}.{deep}.AAAA")).err(), Some("malformed"));
    }

    #[test]
    fn keys_for_other_ends_are_left_out() {
        let rsa = |more: Value| {
            let mut jwk = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
            jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Key::read(&jwk).map(|k| k.alg())
        };
        assert_eq!(rsa(json!({})), Some("RS256"));
        assert_eq!(rsa(json!({"use": "enc"})), None);
        assert_eq!(rsa(json!({"alg": "PS256"})), None);
        assert_eq!(Key::read(&json!({"kty": "oct", "k": "AQAB"})), None);
        assert_eq!(Key::read(&json!({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"})), None);
    }
}
