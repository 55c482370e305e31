//! Tokens that an issuer of our own making signs.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::world::World;
use crate::support::now_ms;

/// Signs, and serves its keys.
struct IssuerOfTokens {
    url: String,
    keys: Arc<Mutex<Value>>,
    asked: Arc<AtomicU64>,
}

impl IssuerOfTokens {
    fn start(keys: Value) -> IssuerOfTokens {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let keys = Arc::new(Mutex::new(keys));
        let asked = Arc::new(AtomicU64::new(0));
        let (served, count, issuer) = (keys.clone(), asked.clone(), url.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
                let body = if first.contains("openid-configuration") {
                    json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}).to_string()
                } else {
                    count.fetch_add(1, Ordering::Relaxed);
                    served.lock().expect("a lock").to_string()
                };
                let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        IssuerOfTokens { url, keys, asked }
    }

    fn claims(&self, groups: Value) -> Value {
        json!({"iss": self.url, "aud": "quiver", "sub": "me", "exp": now_ms() / 1_000 + 600, "groups": groups})
    }
}

fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(text.as_bytes()));
    format!("{text}.{signature}")
}

#[test]
fn signed_tokens_give_the_roles_of_their_groups_and_bent_ones_nothing() {
    let random = SystemRandom::new();
    let ed = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).expect("a key");
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("a key");
    let x = URL_SAFE_NO_PAD.encode(ed.public_key().as_ref());
    let point = ec.public_key().as_ref();
    let (ex, ey) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let ed_jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": x});
    let ec_jwk = json!({"kty": "EC", "crv": "P-256", "kid": "ec", "x": ex, "y": ey});
    let issuer = IssuerOfTokens::start(json!({"keys": [{"kty": "oct", "k": "AQAB"}, ed_jwk]}));
    let auth = format!(
        "    oidc: {{issuer: '{}', audience: quiver, roles: {{watchers: read, robots: write}}, sources_claim: sources}}\n",
        issuer.url
    );
    let world = World::start_with(&auth, &[]);
    let by_ed = |header: Value, claims: &Value| token(&header, claims, |text| ed.sign(text).as_ref().to_vec());
    let by_ec = |header: Value, claims: &Value| {
        token(&header, claims, |text| ec.sign(&random, text).expect("a signature").as_ref().to_vec())
    };
    let reads = |token: &str| world.ask(token, "GET", "/api/v1/query?query=1", b"").status;
    let header = || json!({"alg": "EdDSA", "kid": "ed"});
    let watcher = issuer.claims(json!(["watchers"]));
    assert_eq!(reads(&by_ed(header(), &watcher)), 200);
    assert_eq!(world.ask(&by_ed(header(), &watcher), "POST", "/-/reload", b"").status, 403);
    assert_eq!(reads(&by_ed(header(), &issuer.claims(json!(["strangers"])))), 401);
    // A robot writes as the sources of its claim.
    let mut robot = issuer.claims(json!("robots"));
    robot["sources"] = json!(["mine"]);
    let robot = by_ed(header(), &robot);
    assert_eq!(world.ask(&robot, "PUT", "/metrics/job/mine", b"a 1\n").status, 200);
    assert_eq!(world.ask(&robot, "PUT", "/metrics/job/other", b"a 1\n").status, 403);
    assert_eq!(reads(&robot), 403);
    // Who may read, too, writes as no more sources.
    let mut both = issuer.claims(json!(["watchers", "robots"]));
    both["sources"] = json!(["mine"]);
    let both = by_ed(header(), &both);
    assert_eq!(reads(&both), 200);
    assert_eq!(world.ask(&both, "PUT", "/metrics/job/mine", b"a 1\n").status, 200);
    assert_eq!(world.ask(&both, "PUT", "/metrics/job/other", b"a 1\n").status, 403);
    // Bent ones.
    let with = |name: &str, value: Value| {
        let mut claims = watcher.clone();
        claims[name] = value;
        reads(&by_ed(header(), &claims))
    };
    assert_eq!(with("iss", json!("https://elsewhere")), 401);
    assert_eq!(with("aud", json!(["others"])), 401);
    assert_eq!(with("exp", json!(now_ms() / 1_000 - 60)), 401);
    assert_eq!(with("nbf", json!(now_ms() / 1_000 + 600)), 401);
    for alg in ["none", "None", "HS256", "RS256", "ES256"] {
        assert_eq!(reads(&by_ed(json!({"alg": alg, "kid": "ed"}), &watcher)), 401, "{alg}");
    }
    // The public key as a secret: the confusion of algorithms that libraries fell for.
    let confused = token(&json!({"alg": "HS256", "kid": "ed"}), &watcher, |text| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, ed.public_key().as_ref());
        ring::hmac::sign(&key, text).as_ref().to_vec()
    });
    assert_eq!(reads(&confused), 401);
    let unsigned = token(&json!({"alg": "none"}), &watcher, |_| Vec::new());
    assert_eq!(reads(&unsigned), 401);
    // Names of keys that are not there make no traffic.
    let before = issuer.asked.load(Ordering::Relaxed);
    for n in 0..50 {
        assert_eq!(reads(&by_ec(json!({"alg": "ES256", "kid": format!("k{n}")}), &watcher)), 401);
    }
    assert!(issuer.asked.load(Ordering::Relaxed) <= before + 20, "asked too often");
    // A new key is learned.
    *issuer.keys.lock().expect("a lock") = json!({"keys": [ec_jwk]});
    let fresh = by_ec(json!({"alg": "ES256", "kid": "ec"}), &watcher);
    crate::support::wait_until("the new key is known", || reads(&fresh) == 200);
    assert_eq!(reads(&by_ed(header(), &watcher)), 401, "the old key is worth nothing any more");
}
