//! Which format we ask for, and which one we got.

use wire::Format;

use crate::target::Protocol;

/// What the answer's body is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    /// How to read it.
    pub(crate) format: Format,
    /// Its name in the configuration's words.
    pub(crate) name: &'static str,
}

/// Builds the `Accept` header as Prometheus does: falling weights, underscores for escaping, anything at the end.
pub(super) fn accept_header(protocols: &[Protocol]) -> String {
    let mut weight = 6;
    let mut out = String::new();
    for protocol in protocols.iter().take(4) {
        let media = match protocol {
            Protocol::OpenMetrics100 => "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
            Protocol::OpenMetrics001 => "application/openmetrics-text;version=0.0.1",
            Protocol::Text100 => "text/plain;version=1.0.0;escaping=allow-utf-8",
            Protocol::Text004 => "text/plain;version=0.0.4",
        };
        out.push_str(&format!("{media};q=0.{weight},"));
        weight -= 1;
    }
    out.push_str(&format!("*/*;q=0.{weight}"));
    out
}

/// Decides by the content type, as Prometheus 3 does: an unknown or missing one is an error unless there is a fallback.
///
/// **Errors** with Prometheus' text.
pub(crate) fn format_of(content_type: Option<&str>, fallback: Option<Protocol>) -> Result<Negotiated, String> {
    let text = content_type.unwrap_or("").trim();
    let otherwise = |error: String| match fallback {
        Some(protocol) => Ok(negotiated(protocol)),
        None => Err(error),
    };
    if text.is_empty() {
        return otherwise(
            "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol specified for target"
                .to_owned(),
        );
    }
    let mut parts = text.split(';');
    let media = parts.next().unwrap_or("").trim().to_ascii_lowercase();
    let version = parts
        .filter_map(|p| p.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("version"))
        .map(|(_, value)| value.trim().trim_matches('"'));
    match (media.as_str(), version) {
        ("application/openmetrics-text", Some("0.0.1")) => Ok(negotiated(Protocol::OpenMetrics001)),
        ("application/openmetrics-text", _) => Ok(negotiated(Protocol::OpenMetrics100)),
        ("text/plain", Some("1.0.0")) => Ok(negotiated(Protocol::Text100)),
        ("text/plain", _) => Ok(negotiated(Protocol::Text004)),
        _ => otherwise(format!(
            "received unsupported Content-Type {text:?} and no fallback_scrape_protocol specified for target"
        )),
    }
}

fn negotiated(protocol: Protocol) -> Negotiated {
    let format = match protocol {
        Protocol::OpenMetrics100 | Protocol::OpenMetrics001 => Format::OpenMetrics,
        Protocol::Text100 | Protocol::Text004 => Format::Text,
    };
    Negotiated { format, name: protocol.as_str() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_is_prometheus_own() {
        assert_eq!(
            accept_header(&Protocol::DEFAULT),
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        );
        assert_eq!(accept_header(&[Protocol::Text004]), "text/plain;version=0.0.4;q=0.6,*/*;q=0.5");
    }

    #[test]
    fn content_types_decide_the_format() {
        let name = |content_type, fallback| format_of(content_type, fallback).map(|n| n.name);
        assert_eq!(name(Some("text/plain; version=0.0.4; charset=utf-8"), None), Ok("PrometheusText0.0.4"));
        assert_eq!(name(Some("text/plain;version=1.0.0;escaping=allow-utf-8"), None), Ok("PrometheusText1.0.0"));
        assert_eq!(name(Some("text/plain"), None), Ok("PrometheusText0.0.4"));
        assert_eq!(
            name(Some("Application/OpenMetrics-text; version=1.0.0; charset=utf-8"), None),
            Ok("OpenMetricsText1.0.0")
        );
        assert!(name(None, None).is_err_and(|e| e.contains("blank Content-Type")));
        assert_eq!(name(None, Some(Protocol::Text004)), Ok("PrometheusText0.0.4"));
        assert!(name(Some("text/html"), None).is_err_and(|e| e.contains("\"text/html\"")));
        assert_eq!(name(Some("application/json"), Some(Protocol::OpenMetrics100)), Ok("OpenMetricsText1.0.0"));
    }
}
