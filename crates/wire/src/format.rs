//! The exposition formats.

/// How an exposition body is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Format {
    /// The Prometheus text format, 0.0.4 and 1.0.0: the latter only adds quoted UTF-8 names, which are read in both.
    #[default]
    Text,
    /// OpenMetrics 1.0 (and 0.0.1) text.
    OpenMetrics,
    /// Delimited `io.prometheus.client.MetricFamily` messages.
    Protobuf,
}

impl Format {
    /// Reads a `Content-Type`; `None` for media types that are neither, for which Prometheus 3 uses a configured fallback.
    pub fn from_content_type(content_type: &str) -> Option<Format> {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/openmetrics-text") {
            return Some(Format::OpenMetrics);
        }
        if media.eq_ignore_ascii_case("text/plain") {
            return Some(Format::Text);
        }
        let is_protobuf = media.eq_ignore_ascii_case("application/vnd.google.protobuf");
        (is_protobuf && is_delimited_families(content_type)).then_some(Format::Protobuf)
    }
}

/// Looks at the parameters of the protobuf media type: which message, and how one is divided from the next.
fn is_delimited_families(content_type: &str) -> bool {
    let is = |name: &str, value: &str| {
        let mut parts = content_type.split(';').skip(1).filter_map(|part| part.split_once('='));
        parts.any(|(n, v)| n.trim().eq_ignore_ascii_case(name) && v.trim().trim_matches('"') == value)
    };
    is("proto", "io.prometheus.client.MetricFamily") && is("encoding", "delimited")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_name_formats() {
        let read = Format::from_content_type;
        assert_eq!(read("text/plain; version=0.0.4; charset=utf-8"), Some(Format::Text));
        assert_eq!(read("Text/Plain"), Some(Format::Text));
        assert_eq!(read("application/openmetrics-text; version=1.0.0"), Some(Format::OpenMetrics));
        let protobuf = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=";
        assert_eq!(read(&format!("{protobuf}delimited")), Some(Format::Protobuf));
        assert_eq!(read(&format!("{protobuf}text")), None);
        assert_eq!(read("text/html"), None);
        assert_eq!(read(""), None);
    }
}
