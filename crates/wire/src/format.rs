//! The two exposition formats.

/// How an exposition body is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Format {
    /// The Prometheus text format, 0.0.4 and 1.0.0: the latter only adds quoted UTF-8 names, which are read in both.
    #[default]
    Text,
    /// OpenMetrics 1.0 (and 0.0.1) text.
    OpenMetrics,
}

impl Format {
    /// Reads a `Content-Type`; `None` for media types that are neither, for which Prometheus 3 uses a configured fallback.
    pub fn from_content_type(content_type: &str) -> Option<Format> {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/openmetrics-text") {
            return Some(Format::OpenMetrics);
        }
        media.eq_ignore_ascii_case("text/plain").then_some(Format::Text)
    }
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
        assert_eq!(read("text/html"), None);
        assert_eq!(read(""), None);
    }
}
