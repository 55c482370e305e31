//! What an issuer of tokens answers: a token with its life, or why there is none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::http::post::Posted;
use crate::outcome::{ScrapeError, ScrapeErrorKind};

/// Of a token that says nothing of its life so much is believed.
const LIFE_DEFAULT_S: f64 = 300.0;
const LIFE_S_MAX: f64 = 86_400.0;
/// Longer ones are no header value that a target would take.
pub(super) const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Reads the answer; of one that is no token only the status and the word of the error are told, for the rest may be anything.
///
/// **Takes** who was asked, for the error, and the field that the token stands in.
pub(super) fn read(posted: &Posted, who: &str, field: &str) -> Result<(String, Duration), ScrapeError> {
    let answer: Value = serde_json::from_str(&posted.text).unwrap_or_default();
    let token = answer[field].as_str().filter(|t| !t.is_empty() && t.len() <= TOKEN_BYTES_MAX);
    match token.filter(|_| posted.status == 200) {
        Some(token) => Ok((token.to_owned(), life_of(&answer))),
        None => Err(failed(format!("{who}: no token in an answer of status {}{}", posted.status, why(&answer)))),
    }
}

/// Makes an error that says which credential is missing.
pub(super) fn failed(text: impl Into<String>) -> ScrapeError {
    ScrapeError::new(ScrapeErrorKind::Credentials, text)
}

/// Bounds a life, for nobody knows who the issuer is.
pub(super) fn life(seconds: f64) -> Duration {
    Duration::from_secs_f64(if seconds.is_finite() { seconds.clamp(0.0, LIFE_S_MAX) } else { LIFE_DEFAULT_S })
}

fn life_of(answer: &Value) -> Duration {
    let number = |name: &str| answer[name].as_f64().or_else(|| answer[name].as_str()?.parse().ok());
    let left = |at: f64| Some(at - SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64());
    life(number("expires_in").or_else(|| left(number("expires_on")?)).unwrap_or(LIFE_DEFAULT_S))
}

/// Gives the error's word, and the number that Microsoft's descriptions begin with.
fn why(answer: &Value) -> String {
    let is_word = |w: &&str| w.len() <= 50 && w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let word = answer["error"].as_str().filter(is_word).map(|w| format!(": {w}")).unwrap_or_default();
    let code = answer["error_description"].as_str().and_then(|text| text.strip_prefix("AADSTS"));
    let digits = code.map(|text| text.bytes().take(10).take_while(u8::is_ascii_digit).count());
    let code = code.zip(digits).filter(|(_, n)| *n > 0).map(|(text, n)| format!(" (AADSTS{})", &text[..n]));
    word + &code.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(status: u16, text: &str) -> Posted {
        Posted { status, text: text.to_owned(), retry_after_s: None, headers: http::HeaderMap::new(), whole: true }
    }

    #[test]
    fn answers_give_a_token_or_a_word() {
        let read = |posted: &Posted| read(posted, "oauth2", "access_token");
        let good = read(&posted(200, r#"{"access_token": "t", "expires_in": 60}"#)).ok();
        assert_eq!(good, Some(("t".to_owned(), Duration::from_secs(60))));
        let text = |posted: &Posted| read(posted).err().map(|e| e.message).unwrap_or_default();
        assert_eq!(
            text(&posted(401, r#"{"error": "invalid_client"}"#)),
            "oauth2: no token in an answer of status 401: invalid_client"
        );
        let azure = r#"{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid secret Hunter2"}"#;
        assert!(
            text(&posted(401, azure)).ends_with("401: invalid_client (AADSTS7000215)"),
            "{}",
            text(&posted(401, azure))
        );
        assert!(!text(&posted(400, r#"{"error": "secret was Hunter2"}"#)).contains("Hunter2"));
        assert!(read(&posted(200, "nonsense")).is_err() && read(&posted(500, r#"{"access_token": "t"}"#)).is_err());
    }

    #[test]
    fn a_life_may_be_told_by_its_end() {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1_000;
        let (_, life) = read(&posted(200, &format!(r#"{{"t": "x", "expires_on": "{end}"}}"#)), "x", "t").unwrap();
        assert!((900..=1_000).contains(&life.as_secs()), "{life:?}");
        let endless = read(&posted(200, r#"{"t": "x", "expires_in": "1e99"}"#), "x", "t").unwrap();
        assert_eq!(endless.1.as_secs_f64(), LIFE_S_MAX);
    }
}
