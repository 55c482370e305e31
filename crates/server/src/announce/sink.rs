//! A receiver of events, whatever it is.

use std::time::Duration;

use events::Event;

use super::envelope::Format;
use super::nats::Nats;
use super::webhook::Webhook;
use crate::config::EventSettings;

/// What became of a delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The receiver has all of it.
    Done,
    /// It may work later.
    Again {
        /// Why it did not.
        reason: String,
        /// How long the receiver wants to be left alone.
        after: Option<Duration>,
        /// Whether the receiver answered, so that the events may be what it stumbles over.
        answered: bool,
    },
    /// The receiver says that these events are wrong, now and later.
    Refused(String),
}

/// Which events a sink gets, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wants {
    /// Names the sink in files, figures and the log.
    pub name: String,
    /// Only these sources; all when empty.
    pub sources: Vec<String>,
    /// The shape.
    pub format: Format,
    /// Events in one delivery.
    pub batch_max: usize,
    /// After so many answers that are errors an event counts as refused.
    pub attempts_max: u32,
}

/// A receiver.
pub enum Sink {
    /// Posts to a URL.
    Webhook(Box<Webhook>),
    /// Publishes to a stream.
    Nats(Box<Nats>),
}

impl Sink {
    /// Makes what the configuration names.
    pub fn all(settings: &EventSettings) -> Vec<Sink> {
        let webhooks = settings.webhooks.iter().map(|s| Sink::Webhook(Box::new(Webhook::new(s.clone()))));
        let nats = settings.nats.iter().map(|s| Sink::Nats(Box::new(Nats::new(s.clone()))));
        webhooks.chain(nats).collect()
    }

    /// Gives which events it gets.
    pub fn wants(&self) -> &Wants {
        match self {
            Sink::Webhook(webhook) => webhook.wants(),
            Sink::Nats(nats) => nats.wants(),
        }
    }

    /// Tells whether an event may go with those before it: a stream may take messages of one delivery in any order.
    pub fn may_join(&self, batch: &[Event], next: &Event) -> bool {
        match self {
            Sink::Webhook(_) => true,
            Sink::Nats(_) => {
                let source_id = &next.report.origin.source_id;
                batch.iter().all(|event| event.report.origin.source_id != *source_id)
            }
        }
    }

    /// Delivers events, in order.
    pub async fn deliver(&mut self, events: &[Event], node: &str) -> Outcome {
        match self {
            Sink::Webhook(webhook) => webhook.deliver(events, node).await,
            Sink::Nats(nats) => nats.deliver(events, node).await,
        }
    }
}
