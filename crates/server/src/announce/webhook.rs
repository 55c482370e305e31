//! A webhook: events as JSON, posted and signed as Standard Webhooks has it.
//!
//! Headers: `webhook-id` (id of the first event of the delivery), `webhook-timestamp` (Unix seconds), and with a secret
//! `webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`.
//! Invariant: a delivery that is tried again has the same id and events.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use collect::{AddressPolicy, HttpSettings, Poster};
use events::Event;
use http::{HeaderName, HeaderValue};
use ring::hmac;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::sink::{Outcome, Wants};
use crate::config::WebhookSettings;

/// A receiver that wants to be left alone longer is tried after this time anyway.
const AFTER_MAX: Duration = Duration::from_secs(300);
/// Characters of an answer in the log.
const ANSWER_CHARS_MAX: usize = 200;

/// A webhook.
pub struct Webhook {
    settings: WebhookSettings,
    poster: Poster,
}

impl Webhook {
    /// Connects to nobody yet.
    pub fn new(settings: WebhookSettings) -> Webhook {
        let http: Arc<HttpSettings> = settings.http.clone();
        let timeout = Duration::from_millis(settings.timeout_ms.max(1).unsigned_abs());
        Webhook { poster: Poster::new(http, AddressPolicy::allow_all(), timeout), settings }
    }

    /// Gives which events it gets.
    pub fn wants(&self) -> &Wants {
        &self.settings.wants
    }

    /// Posts events: one alone when deliveries hold one, otherwise a list.
    pub async fn deliver(&self, events: &[Event], node: &str) -> Outcome {
        let Some(first) = events.first() else { return Outcome::Done };
        let wants = self.wants();
        let mut shown: Vec<Value> = events.iter().map(|event| wants.format.show(event, node)).collect();
        let is_list = wants.batch_max > 1;
        let body = if is_list { Value::Array(shown) } else { shown.swap_remove(0) };
        let body = Bytes::from(body.to_string());
        let id = Uuid::from_bytes(first.id()).to_string();
        let headers = match self.headers(&id, &body) {
            Ok(headers) => headers,
            Err(reason) => return Outcome::Again { reason, after: None, answered: false },
        };
        let url: &Url = &self.settings.url.0;
        match self.poster.post(url, &headers, wants.format.content_type(is_list), body).await {
            Ok(answer) => judge(answer.status, &answer.text, answer.retry_after_s),
            Err(error) => Outcome::Again { reason: error.message, after: None, answered: false },
        }
    }

    fn headers(&self, id: &str, body: &[u8]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()).to_string();
        let mut headers = vec![("webhook-id", id.to_owned()), ("webhook-timestamp", timestamp.clone())];
        if let Some(secret) = &self.settings.secret {
            headers.push(("webhook-signature", signature(&secret.get()?, id, &timestamp, body)?));
        }
        headers
            .into_iter()
            .map(|(name, value)| {
                Ok((HeaderName::from_static(name), HeaderValue::from_str(&value).map_err(|e| e.to_string())?))
            })
            .collect()
    }
}

/// Signs a delivery; a secret that begins with `whsec_` is base64 behind that, any other is taken as it stands.
pub fn signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Result<String, String> {
    let key = match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| "the secret behind whsec_ is not base64".to_owned())?,
        None => secret.as_bytes().to_vec(),
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    Ok(format!("v1,{}", STANDARD.encode(context.sign())))
}

/// Says what an answer means. Only what is said of the body itself is final; a wrong path or password can be put right.
fn judge(status: u16, text: &str, retry_after_s: Option<u64>) -> Outcome {
    let text: String = text.trim().chars().take(ANSWER_CHARS_MAX).collect();
    let reason = if text.is_empty() { format!("status {status}") } else { format!("status {status}: {text}") };
    match status {
        200..300 => Outcome::Done,
        400 | 413 | 415 | 422 => Outcome::Refused(reason),
        _ => {
            let after = retry_after_s.map(|s| Duration::from_secs(s).min(AFTER_MAX));
            Outcome::Again { reason, after, answered: matches!(status, 500 | 501 | 505..600) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        // The example of the Standard Webhooks specification's libraries.
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.as_deref(), Ok("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert!(signature("whsec_%", "a", "1", b"").is_err());
        assert_ne!(signature("a", "a", "1", b""), signature("b", "a", "1", b""));
    }

    #[test]
    fn only_what_is_said_of_the_body_is_final() {
        assert_eq!(judge(204, "", None), Outcome::Done);
        assert_eq!(judge(422, "no", None), Outcome::Refused("status 422: no".into()));
        for (status, answered) in [(301, false), (401, false), (404, false), (429, false), (500, true), (503, false)] {
            let outcome = judge(status, "", Some(1_000_000));
            assert!(
                matches!(outcome, Outcome::Again { answered: a, after: Some(AFTER_MAX), .. } if a == answered),
                "{status}: {outcome:?}"
            );
        }
    }
}
