//! NATS JetStream: each event a message, confirmed by the stream, with its id so that the stream leaves out doubles.
//!
//! Invariant: of one delivery no two events are of one source, and the next one begins when the stream has all of this one;
//! so messages of a source are in order whatever is sent again.

use std::error::Error as _;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use events::Event;
use tokio::time::timeout;
use uuid::Uuid;

use super::sink::{Outcome, Wants};
use crate::config::NatsSettings;

/// For connecting, and for a delivery to be confirmed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// So long a new stream remembers ids.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);
/// So long a new stream keeps messages.
const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);

/// A stream.
pub struct Nats {
    settings: NatsSettings,
    connected: Option<(Client, Context)>,
}

impl Nats {
    /// Connects to nobody yet.
    pub fn new(settings: NatsSettings) -> Nats {
        Nats { settings, connected: None }
    }

    /// Gives which events it gets.
    pub fn wants(&self) -> &Wants {
        &self.settings.wants
    }

    /// Publishes events and waits until the stream has them.
    pub async fn deliver(&mut self, events: &[Event], node: &str) -> Outcome {
        let outcome = match timeout(2 * CALL_TIMEOUT, self.publish(events, node)).await {
            Ok(outcome) => outcome,
            Err(_) => again(format!("no answer within {:?}", 2 * CALL_TIMEOUT)),
        };
        if outcome != Outcome::Done {
            // What a broken connection still holds must not come behind what is sent next.
            self.connected = None;
        }
        outcome
    }

    async fn publish(&mut self, events: &[Event], node: &str) -> Outcome {
        let context = match self.context().await {
            Ok(context) => context,
            Err(reason) => return again(reason),
        };
        let wants = &self.settings.wants;
        let mut confirmations = Vec::with_capacity(events.len());
        for event in events {
            let subject = format!("{}.{}", self.settings.subject, token(&event.report.origin.source_id));
            let payload = Bytes::from(wants.format.show(event, node).to_string());
            let mut message = PublishMessage::build()
                .message_id(Uuid::from_bytes(event.id()).to_string())
                .header("content-type", wants.format.content_type(false))
                .payload(payload);
            if let Some(stream) = &self.settings.stream {
                message = message.expected_stream(stream);
            }
            match context.send_publish(subject, message).await {
                Ok(confirmation) => confirmations.push(confirmation),
                Err(error) => return self.judge(&error),
            }
        }
        for confirmation in confirmations {
            if let Err(error) = confirmation.await {
                return self.judge(&error);
            }
        }
        Outcome::Done
    }

    fn judge(&self, error: &PublishError) -> Outcome {
        match error.kind() {
            PublishErrorKind::StreamNotFound => {
                return again(format!(
                    "no stream takes the subject {}.*; make one, or set create_stream",
                    self.settings.subject
                ));
            }
            PublishErrorKind::MaxPayloadExceeded => return Outcome::Refused(error.to_string()),
            _ => {}
        }
        let Some(answer) = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) else {
            return again(error.to_string());
        };
        match answer.error_code() {
            ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => Outcome::Refused(answer.to_string()),
            ErrorCode::STREAM_NOT_MATCH => {
                let stream = self.settings.stream.as_deref().unwrap_or_default();
                again(format!("another stream than {stream} takes the subject {}.*", self.settings.subject))
            }
            // What is said of the message; a stream that is full or has no leader may have room later.
            _ => Outcome::Again { reason: answer.to_string(), after: None, answered: answer.code() == 400 },
        }
    }

    async fn context(&mut self) -> Result<Context, String> {
        if let Some((_, context)) = &self.connected {
            return Ok(context.clone());
        }
        let options = self.options()?;
        let connecting = options.connect(self.settings.url.0.as_str());
        let client = match timeout(CALL_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|e| e.to_string())?,
            Err(_) => return Err(format!("no answer within {CALL_TIMEOUT:?}")),
        };
        let mut context = jetstream::new(client.clone());
        context.set_timeout(CALL_TIMEOUT);
        if let Some(name) = self.settings.stream.as_ref().filter(|_| self.settings.create_stream) {
            let wanted = stream::Config {
                name: name.clone(),
                subjects: vec![format!("{}.>", self.settings.subject)],
                max_age: MAX_AGE,
                duplicate_window: DUPLICATE_WINDOW,
                ..stream::Config::default()
            };
            let made = context.get_or_create_stream(wanted).await;
            made.map_err(|e| format!("the stream {name} cannot be made: {e}"))?;
        }
        self.connected = Some((client, context.clone()));
        Ok(context)
    }

    fn options(&self) -> Result<ConnectOptions, String> {
        let settings = &self.settings;
        let mut options = ConnectOptions::new().name("quiver").connection_timeout(CALL_TIMEOUT);
        if let Some(path) = &settings.credentials_file {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            options = options.credentials(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        if let Some(user) = &settings.user {
            let password = settings.password.as_ref().map_or(Ok(String::new()), |p| p.get())?;
            options = options.user_and_password(user.clone(), password);
        }
        if let Some(token) = &settings.token {
            options = options.token(token.get()?);
        }
        if let Some(ca) = &settings.ca_file {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        Ok(options)
    }
}

fn again(reason: String) -> Outcome {
    Outcome::Again { reason, after: None, answered: false }
}

/// Makes a token of a subject: what means something in NATS becomes an underscore.
fn token(source_id: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':') { c } else { '_' };
    let token: String = source_id.chars().map(plain).collect();
    if token.is_empty() { "_".to_owned() } else { token }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_source_makes_one_token() {
        for (source, expected) in [("payments", "payments"), ("a.b c*>", "a_b_c__"), ("", "_"), ("ü", "_")] {
            assert_eq!(token(source), expected);
        }
    }
}
