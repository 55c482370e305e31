//! The headers of remote write, judged as Prometheus judges them.

use http::{HeaderMap, StatusCode, header};

use super::params::Params;
use super::write::Refused;
use super::write_events::DEFAULT_SOURCE;

const PROTO_TYPE: &str = "application/x-protobuf";
const V1: &str = "prometheus.WriteRequest";
const V2: &str = "io.prometheus.write.v2.Request";
/// Longest source id: the specification's tables have room for no more.
pub const SOURCE_CHARS_MAX: usize = 100;

/// Which message a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// `prometheus.WriteRequest` of remote write 1.0.
    V1,
    /// `io.prometheus.write.v2.Request` of remote write 2.0.
    V2,
}

/// Checks content type, protobuf message and encoding; what is absent is taken for right, and no message named is 1.0.
///
/// **Errors** are 415.
pub fn check(headers: &HeaderMap) -> Result<Version, Refused> {
    let version = version_of(text(headers, header::CONTENT_TYPE)).map_err(unsupported)?;
    let encoding = text(headers, header::CONTENT_ENCODING);
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") {
        let text =
            format!("{encoding} encoding (compression) is not accepted by this server; only snappy is acceptable");
        return Err(unsupported(text));
    }
    Ok(version)
}

fn unsupported(text: String) -> Refused {
    Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
}

fn version_of(content_type: &str) -> Result<Version, String> {
    if content_type.is_empty() {
        return Ok(Version::V1);
    }
    let mut parts = content_type.split(';').map(str::trim);
    if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(PROTO_TYPE)) {
        return Err(format!("expected {PROTO_TYPE} as the first (media) part, got {content_type} content-type"));
    }
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else {
            return Err(format!(
                "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values, \
                 got {parameter} in {content_type} content-type"
            ));
        };
        match (name, value.trim_matches('"')) {
            ("proto", V1) => return Ok(Version::V1),
            ("proto", V2) => return Ok(Version::V2),
            ("proto", other) => {
                return Err(format!(
                    "got {content_type} content type; unknown remote write protobuf message {other}, supported: {V1}, {V2}"
                ));
            }
            _ => {}
        }
    }
    Ok(Version::V1)
}

/// Gives the source: as [`named_source`], else the default.
pub fn source_id(headers: &HeaderMap, params: &Params) -> Result<String, Refused> {
    Ok(named_source(headers, params)?.unwrap_or_else(|| DEFAULT_SOURCE.to_owned()))
}

/// Gives the source if the request names one: `?source_id=`, else `X-Source-Id`.
///
/// **Errors** with 400 when it is longer than 100 characters or has control characters.
pub fn named_source(headers: &HeaderMap, params: &Params) -> Result<Option<String>, Refused> {
    let named = Some(params.get("source_id")).filter(|id| !id.is_empty());
    let id = match (named, headers.get("x-source-id")) {
        (Some(id), _) => id,
        (None, Some(value)) => value
            .to_str()
            .map_err(|_| Refused::new(StatusCode::BAD_REQUEST, "X-Source-Id holds more than visible ASCII"))?,
        (None, None) => "",
    };
    if id.chars().count() > SOURCE_CHARS_MAX || id.chars().any(char::is_control) {
        let text = format!("the source id is longer than {SOURCE_CHARS_MAX} characters or has control characters");
        return Err(Refused::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(Some(id).filter(|id| !id.is_empty()).map(str::to_owned))
}

/// Gives the declared length of the body.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH).parse().ok()
}

/// Gives a header's text; what is absent or no text is empty.
pub fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_judged_as_prometheus_does() {
        let good = [
            ("", Version::V1),
            ("application/x-protobuf", Version::V1),
            ("Application/X-Protobuf", Version::V1),
            ("application/x-protobuf; charset=utf-8", Version::V1),
            ("application/x-protobuf;proto=prometheus.WriteRequest", Version::V1),
            ("application/x-protobuf;proto=io.prometheus.write.v2.Request", Version::V2),
            ("application/x-protobuf; charset=utf-8; proto=\"io.prometheus.write.v2.Request\"", Version::V2),
        ];
        for (content_type, version) in good {
            assert_eq!(version_of(content_type), Ok(version), "{content_type}");
        }
        let text = "expected application/x-protobuf as the first (media) part, got application/json content-type";
        assert_eq!(version_of("application/json"), Err(text.to_owned()));
        for bad in [
            "application/x-protobuf;proto",
            "application/x-protobuf;proto=nothing",
            "application/x-protobuf;proto=io.prometheus.write.v3.Request",
        ] {
            assert!(version_of(bad).is_err(), "{bad}");
        }
    }
}
