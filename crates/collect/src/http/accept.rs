//! Which format we ask for, and which one we got.

use wire::Format;

use wire::Escaping;

use crate::target::Protocol;

/// What the answer's body is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiated {
    /// How to read it.
    pub(crate) format: Format,
    /// It is OpenMetrics 2.0, to be written as protobuf first.
    pub(crate) is_openmetrics_2: bool,
    /// Its name in the configuration's words.
    pub(crate) name: &'static str,
}

/// Builds the `Accept` header as Prometheus does: falling weights, how names are escaped, anything at the end.
pub(super) fn accept_header(protocols: &[Protocol], escaping: Escaping) -> String {
    let escaping = escaping.as_str();
    let mut weight = 6;
    let mut out = String::new();
    for protocol in protocols.iter().take(5) {
        let media = match protocol {
            Protocol::OpenMetrics200 => format!("application/openmetrics-text;version=2.0.0;escaping={escaping}"),
            Protocol::OpenMetrics100 => format!("application/openmetrics-text;version=1.0.0;escaping={escaping}"),
            Protocol::OpenMetrics001 => "application/openmetrics-text;version=0.0.1".to_owned(),
            Protocol::Text100 => format!("text/plain;version=1.0.0;escaping={escaping}"),
            Protocol::Text004 => "text/plain;version=0.0.4".to_owned(),
            Protocol::Proto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited".to_owned()
            }
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
    let media = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match (media.as_str(), parameter(text, "version")) {
        ("application/openmetrics-text", Some("0.0.1")) => Ok(negotiated(Protocol::OpenMetrics001)),
        ("application/openmetrics-text", Some(version)) if version.split('-').next() == Some("2.0.0") => {
            Ok(negotiated(Protocol::OpenMetrics200))
        }
        ("application/openmetrics-text", _) => Ok(negotiated(Protocol::OpenMetrics100)),
        ("text/plain", Some("1.0.0")) => Ok(negotiated(Protocol::Text100)),
        ("text/plain", _) => Ok(negotiated(Protocol::Text004)),
        ("application/vnd.google.protobuf", _) if is_delimited_families(text) => Ok(negotiated(Protocol::Proto)),
        _ => otherwise(format!(
            "received unsupported Content-Type {text:?} and no fallback_scrape_protocol specified for target"
        )),
    }
}

/// Gives a parameter of a content type.
fn parameter<'t>(content_type: &'t str, name: &str) -> Option<&'t str> {
    let mut parts = content_type.split(';').skip(1).filter_map(|p| p.split_once('='));
    parts.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().trim_matches('"'))
}

/// Tells whether nothing speaks against the one shape of protobuf that we read. As in Prometheus it need not be named.
fn is_delimited_families(content_type: &str) -> bool {
    let is_or_absent = |name, value| parameter(content_type, name).is_none_or(|given| given == value);
    is_or_absent("proto", "io.prometheus.client.MetricFamily") && is_or_absent("encoding", "delimited")
}

fn negotiated(protocol: Protocol) -> Negotiated {
    let format = match protocol {
        Protocol::OpenMetrics100 | Protocol::OpenMetrics001 => Format::OpenMetrics,
        Protocol::Text100 | Protocol::Text004 => Format::Text,
        Protocol::OpenMetrics200 | Protocol::Proto => Format::Protobuf,
    };
    Negotiated { format, is_openmetrics_2: protocol == Protocol::OpenMetrics200, name: protocol.as_str() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_is_prometheus_own() {
        assert_eq!(
            accept_header(&Protocol::DEFAULT, Escaping::AllowUtf8),
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        );
        assert_eq!(
            accept_header(&Protocol::PROTO_FIRST, Escaping::AllowUtf8),
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
             application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
             text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
        );
        assert_eq!(
            accept_header(&[Protocol::OpenMetrics200], Escaping::AllowUtf8),
            "application/openmetrics-text;version=2.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.5"
        );
        assert_eq!(
            accept_header(&[Protocol::Text004], Escaping::AllowUtf8),
            "text/plain;version=0.0.4;q=0.6,*/*;q=0.5"
        );
        assert_eq!(
            accept_header(&[Protocol::Text100], Escaping::Dots),
            "text/plain;version=1.0.0;escaping=dots;q=0.6,*/*;q=0.5"
        );
    }

    #[test]
    fn content_types_decide_the_format() {
        let name = |content_type: Option<&str>, fallback| format_of(content_type, fallback).map(|n| n.name);
        assert_eq!(name(Some("text/plain; version=0.0.4; charset=utf-8"), None), Ok("PrometheusText0.0.4"));
        assert_eq!(name(Some("text/plain;version=1.0.0;escaping=allow-utf-8"), None), Ok("PrometheusText1.0.0"));
        assert_eq!(name(Some("text/plain"), None), Ok("PrometheusText0.0.4"));
        assert_eq!(
            name(Some("Application/OpenMetrics-text; version=1.0.0; charset=utf-8"), None),
            Ok("OpenMetricsText1.0.0")
        );
        assert_eq!(
            name(Some("application/openmetrics-text; version=2.0.0; charset=utf-8"), None),
            Ok("OpenMetricsText2.0.0")
        );
        let protobuf = |parameters: &str| name(Some(&format!("application/vnd.google.protobuf{parameters}")), None);
        let family = "; proto=io.prometheus.client.MetricFamily; encoding=";
        assert_eq!(protobuf(&format!("{family}delimited")), Ok("PrometheusProto"));
        assert_eq!(protobuf(&format!("{family}delimited; escaping=underscores")), Ok("PrometheusProto"));
        assert_eq!(protobuf(""), Ok("PrometheusProto"));
        assert!(protobuf(&format!("{family}text")).is_err_and(|e| e.contains("encoding=text")));
        assert!(protobuf("; proto=a.Other; encoding=delimited").is_err());
        assert_eq!(name(Some("x/y"), Some(Protocol::Proto)), Ok("PrometheusProto"));
        assert!(name(None, None).is_err_and(|e| e.contains("blank Content-Type")));
        assert_eq!(name(None, Some(Protocol::Text004)), Ok("PrometheusText0.0.4"));
        assert!(name(Some("text/html"), None).is_err_and(|e| e.contains("\"text/html\"")));
        assert_eq!(name(Some("application/json"), Some(Protocol::OpenMetrics100)), Ok("OpenMetricsText1.0.0"));
    }
}
