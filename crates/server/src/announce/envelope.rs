//! The shape of an event on its way out: as the specification has it, or in a CloudEvents 1.0 envelope.

use events::Event;
use serde_json::{Value, json};

use crate::rest::events_api::MetricsCollectedEvent;

/// `type` of the envelope.
const CLOUD_TYPE: &str = "quiver.metrics_collected";

/// The shape of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// The event alone.
    #[default]
    Plain,
    /// In an envelope of CloudEvents 1.0, structured mode.
    CloudEvents,
}

impl Format {
    /// Reads `plain` or `cloudevents`.
    pub fn parse(word: &str) -> Result<Format, String> {
        match word {
            "" | "plain" => Ok(Format::Plain),
            "cloudevents" => Ok(Format::CloudEvents),
            other => Err(format!("{other:?} is neither plain nor cloudevents")),
        }
    }

    /// Shows an event.
    pub fn show(self, event: &Event, node: &str) -> Value {
        let shown = MetricsCollectedEvent::from(event.report.as_ref());
        match self {
            Format::Plain => serde_json::to_value(shown).unwrap_or_default(),
            Format::CloudEvents => json!({
                "specversion": "1.0",
                "id": shown.event_id,
                "source": format!("urn:quiver:node:{node}"),
                "type": CLOUD_TYPE,
                "subject": shown.metrics_collected.source_id,
                "time": shown.timestamp,
                "datacontenttype": "application/json",
                "data": shown.metrics_collected,
            }),
        }
    }

    /// Gives the content type of one event, or of a list.
    pub fn content_type(self, is_list: bool) -> &'static str {
        match (self, is_list) {
            (Format::Plain, _) => "application/json",
            (Format::CloudEvents, false) => "application/cloudevents+json",
            (Format::CloudEvents, true) => "application/cloudevents-batch+json",
        }
    }
}
