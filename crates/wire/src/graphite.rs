//! Graphite's plaintext: `path value [time]`, with tags as `path;tag=value`.

use crate::line_error::LineError;
use crate::number::float_prefix;

/// One line.
#[derive(Clone, PartialEq, Debug)]
pub struct Point<'a> {
    /// The path, dots and all.
    pub path: &'a str,
    /// The tags, still as text: see [`Point::tags`].
    tags: &'a str,
    /// The value.
    pub value: f64,
    /// Milliseconds since 1970; `None` when the line has no time, `N` or -1.
    pub ts_ms: Option<i64>,
}

impl<'a> Point<'a> {
    /// Walks the tags in the order of the line.
    pub fn tags(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.tags.split(';').filter_map(|tag| tag.split_once('='))
    }
}

/// Reads one line without its end; `None` when it is empty.
///
/// **Errors** name the place; `line` is where the line stands, counted from 1.
pub fn parse(bytes: &[u8], line: u32) -> Option<Result<Point<'_>, LineError>> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return None;
    }
    Some(read(bytes).map_err(|(at, message)| LineError::new(line, at, message, bytes)))
}

fn read(bytes: &[u8]) -> Result<Point<'_>, (usize, &'static str)> {
    let text = std::str::from_utf8(bytes).map_err(|e| (e.valid_up_to(), "it is not UTF-8"))?;
    let path_end = text.find([' ', '\t']).ok_or((text.len(), "there is no value"))?;
    let (path, rest) = text.split_at(path_end);
    let value_text = rest.trim_start_matches([' ', '\t']);
    let value_at = text.len() - value_text.len();
    let (value, len) = float_prefix(value_text.as_bytes()).ok_or((value_at, "the value is not a number"))?;
    let after = &value_text[len..];
    let time_text = after.trim_start_matches([' ', '\t']);
    if !after.is_empty() && time_text.len() == after.len() {
        return Err((value_at + len, "the value is not a number"));
    }
    let ts_ms = time(time_text).ok_or((text.len() - time_text.len(), "the time is not a number of seconds"))?;
    let (name, tags) = match path.split_once(';') {
        None => (path, ""),
        Some((name, tags)) => {
            if let Some(bad) = tags.split(';').find(|tag| tag.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
                let at = path.len() - tags.len() + tags.find(bad).unwrap_or(0);
                return Err((at, "a tag is not name=value"));
            }
            (name, tags)
        }
    };
    if name.is_empty() {
        return Err((0, "the path is empty"));
    }
    Ok(Point { path: name, tags, value, ts_ms })
}

/// Reads seconds; `Some(None)` means now.
fn time(text: &str) -> Option<Option<i64>> {
    if text.is_empty() || text == "N" {
        return Some(None);
    }
    let (seconds, len) = float_prefix(text.as_bytes())?;
    if len != text.len() || !seconds.is_finite() {
        return None;
    }
    if seconds == -1.0 {
        return Some(None);
    }
    let ms = (seconds * 1000.0).round();
    (ms.abs() < 9e15).then_some(Some(ms as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Result<Point<'_>, String> {
        parse(line.as_bytes(), 7).expect("a line").map_err(|e| e.to_string())
    }

    #[test]
    fn lines_are_read() {
        let point = one("disk.used;host=a b;x=1 1 2").unwrap_err();
        assert!(point.contains("the value is not a number"), "{point}");
        let point = one("disk.used;host=a;rack=;dc=x=y 42.5 1700000000").unwrap();
        assert_eq!((point.path, point.value, point.ts_ms), ("disk.used", 42.5, Some(1_700_000_000_000)));
        assert_eq!(point.tags().collect::<Vec<_>>(), [("host", "a"), ("rack", ""), ("dc", "x=y")]);
        for now in ["a.b 1", "a.b\t1 ", "a.b 1 -1", "a.b 1 N\r"] {
            assert_eq!(one(now).unwrap().ts_ms, None, "{now}");
        }
        assert_eq!(one("a 1e3 1700000000.25").unwrap().ts_ms, Some(1_700_000_000_250));
        assert!(parse(b" \t\r", 1).is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (line, wanted) in [
            ("a", "column 2: there is no value"),
            ("a b", "column 3: the value is not a number"),
            ("a 1x", "column 4: the value is not a number"),
            ("a 1 soon", "column 5: the time is not a number of seconds"),
            ("a 1 1e300", "column 5: the time"),
            ("a;b 1", "column 3: a tag is not name=value"),
            ("a;=b 1", "column 3: a tag is not name=value"),
            (";a=b 1", "column 1: the path is empty"),
        ] {
            let error = one(line).unwrap_err();
            assert!(error.starts_with("line 7") && error.contains(wanted), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in r"[a;=. 0-9eN\t-]{0,40}") {
            let _ = parse(&bytes, 1);
            if let Some(Ok(point)) = parse(text.as_bytes(), 1) {
                prop_assert!(point.tags().all(|(name, _)| !name.is_empty()));
            }
        }
    }
}
