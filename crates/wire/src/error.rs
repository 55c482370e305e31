//! A syntax error with its place, in words that help whoever has to fix the exporter.

use std::borrow::Cow;

/// The most characters of an offending line that an error repeats.
const TEXT_CHARS_MAX: usize = 100;
/// How many of them stand before the fault when the line is longer than that.
const CHARS_BEFORE_FAULT: usize = 40;

/// A body that does not follow its format, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{message} in \"{text}\"", self.place())]
pub struct ParseError {
    /// The line, counted from 1; 0 in a body that has no lines.
    pub line: u32,
    /// The column in characters, counted from 1; 0 in a body that has no lines.
    pub column: u32,
    /// The byte in the body, counted from 0.
    pub offset: usize,
    /// The offending line (the family's name in a body that has no lines) or the part of it around the fault: at most 100 characters, what cannot be printed escaped.
    pub text: String,
    /// What is wrong.
    pub message: String,
}

/// A fault within a line: the byte and the reason. The parser knows the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) message: Cow<'static, str>,
}

impl Fault {
    pub(crate) fn new(at: usize, message: impl Into<Cow<'static, str>>) -> Fault {
        Fault { at, message: message.into() }
    }

    /// Moves the fault by the place of the text that it was found in.
    pub(crate) fn after(self, bytes: usize) -> Fault {
        Fault { at: self.at + bytes, ..self }
    }
}

impl ParseError {
    fn place(&self) -> String {
        match self.line {
            0 => format!("byte {}: ", self.offset),
            line => format!("line {line}, column {}: ", self.column),
        }
    }

    /// Places a fault: `line_start` is the offset of its line in `body`.
    pub(crate) fn locate(body: &[u8], line: u32, line_start: usize, fault: Fault) -> ParseError {
        let rest = body.get(line_start..).unwrap_or_default();
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let at = fault.at.min(end);
        let before = String::from_utf8_lossy(&rest[..at]);
        let column = before.chars().count();
        ParseError {
            line,
            column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
            offset: line_start + at,
            text: excerpt(&before, column, &rest[at..end]),
            message: fault.message.into_owned(),
        }
    }
}

fn excerpt(before: &str, column: usize, after: &[u8]) -> String {
    // Four bytes are the longest character; more than the excerpt can show need not be decoded.
    let after = String::from_utf8_lossy(&after[..after.len().min(4 * TEXT_CHARS_MAX)]);
    let after_chars = after.chars().count();
    let skipped = if column + after_chars <= TEXT_CHARS_MAX { 0 } else { column.saturating_sub(CHARS_BEFORE_FAULT) };
    let mut out = String::new();
    let mut chars = 0;
    for c in before.chars().skip(skipped).chain(after.chars()) {
        let escaped = if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        chars += escaped.chars().count();
        if chars > TEXT_CHARS_MAX {
            break;
        }
        out.push_str(&escaped);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_given_in_characters_and_the_text_is_escaped() {
        let body = "ok 1\nüü\tx\n".as_bytes();
        let error = ParseError::locate(body, 2, 5, Fault::new(5, "no"));
        assert_eq!((error.line, error.column, error.offset), (2, 4, 10));
        assert_eq!(error.text, "üü\\tx");
        assert_eq!(error.to_string(), "line 2, column 4: no in \"üü\\tx\"");
    }

    #[test]
    fn the_text_of_a_long_line_is_the_part_around_the_fault() {
        let mut body = vec![b'a'; 1 << 20];
        body[500_000] = 0xff;
        let error = ParseError::locate(&body, 1, 0, Fault::new(500_000, "no"));
        assert_eq!(error.column, 500_001);
        assert_eq!(error.text.chars().count(), TEXT_CHARS_MAX);
        assert_eq!(error.text.find('\u{fffd}'), Some(CHARS_BEFORE_FAULT));
    }
}
