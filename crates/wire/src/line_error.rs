//! A line that is not understood, and where.

/// Characters of a line that an error repeats.
const TEXT_CHARS_MAX: usize = 100;

/// A line of a line-based protocol that does not follow it. The lines around it are not touched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}, column {column}: {message} in \"{text}\"")]
pub struct LineError {
    /// The line, counted from 1.
    pub line: u32,
    /// The column in bytes, counted from 1.
    pub column: u32,
    /// What is wrong.
    pub message: &'static str,
    /// The line, or its beginning: at most 100 characters, what cannot be printed escaped.
    pub text: String,
}

impl LineError {
    pub(crate) fn new(line: u32, at: usize, message: &'static str, text: &[u8]) -> LineError {
        let mut shown = String::new();
        let mut chars = 0;
        for c in String::from_utf8_lossy(&text[..text.len().min(4 * TEXT_CHARS_MAX)]).chars() {
            let escaped = if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
            chars += escaped.chars().count();
            if chars > TEXT_CHARS_MAX {
                break;
            }
            shown.push_str(&escaped);
        }
        let column = u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1);
        LineError { line, column, message, text: shown }
    }
}

/// Writes a name as Prometheus' text format can: what is not a letter, a digit, `_` or (in metric names) `:` becomes `_`.
/// A first digit gets a `_` before it.
pub fn legacy_name(name: &str, colons: bool, out: &mut String) {
    out.clear();
    for c in name.chars() {
        let good = c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
        if out.is_empty() && c.is_ascii_digit() {
            out.push('_');
        }
        out.push(if good { c } else { '_' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_those_of_the_text_format() {
        let mut out = String::new();
        for (name, colons, wanted) in [
            ("a.b-c d", true, "a_b_c_d"),
            ("9x", true, "_9x"),
            ("a:b", true, "a:b"),
            ("a:b", false, "a_b"),
            ("ü", true, "_"),
        ] {
            legacy_name(name, colons, &mut out);
            assert_eq!(out, wanted);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let error = LineError::new(3, 4, "no", &vec![b'\n'; 1000]);
        assert!(error.text.chars().count() <= 100 && error.text.starts_with("\\n"));
        assert!(error.to_string().starts_with("line 3, column 5: no in"));
    }
}
