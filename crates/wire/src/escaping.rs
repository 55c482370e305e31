//! Names with characters that old readers do not know: the schemes of `escaping=` in `Accept` and `Content-Type`.
//!
//! **Source** <https://prometheus.io/docs/instrumenting/escaping_schemes/>.

use std::fmt::Write as _;

use model::is_legacy_metric_name;

/// How names are written for a reader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Escaping {
    /// As they are, quoted.
    AllowUtf8,
    /// Every odd character becomes an underscore.
    #[default]
    Underscores,
    /// A dot becomes `_dot_`, an underscore two, every other odd character two underscores.
    Dots,
    /// `U__` in front, and every odd character as its number: this alone can be undone without loss.
    Values,
}

impl Escaping {
    /// All schemes.
    pub const ALL: [Escaping; 4] = [Escaping::AllowUtf8, Escaping::Underscores, Escaping::Dots, Escaping::Values];

    /// Gives the word of the headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Escaping::AllowUtf8 => "allow-utf-8",
            Escaping::Underscores => "underscores",
            Escaping::Dots => "dots",
            Escaping::Values => "values",
        }
    }

    /// Reads the word of the headers.
    pub fn parse(word: &str) -> Option<Escaping> {
        Escaping::ALL.into_iter().find(|scheme| scheme.as_str() == word)
    }

    /// Writes a name; one that old readers know stays as it is.
    pub fn name(self, name: &str) -> String {
        if self == Escaping::AllowUtf8 || name.is_empty() || is_legacy_metric_name(name) {
            return name.to_owned();
        }
        let mut out = String::with_capacity(name.len() + 8);
        if self == Escaping::Values {
            out.push_str("U__");
        }
        for (at, c) in name.char_indices() {
            let known = c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit());
            match (self, c) {
                (Escaping::Dots | Escaping::Values, '_') => out.push_str("__"),
                (Escaping::Dots, '.') => out.push_str("_dot_"),
                _ if known => out.push(c),
                (Escaping::Dots, _) => out.push_str("__"),
                // Writing into a String cannot fail.
                (Escaping::Values, _) => drop(write!(out, "_{:x}_", u32::from(c))),
                _ => out.push('_'),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_the_schemes_say() {
        // The cases of Prometheus' own table.
        for (name, underscores, dots, values) in [
            ("no:escaping_required", "no:escaping_required", "no:escaping_required", "no:escaping_required"),
            (
                "mysystem.prod.west.cpu.load",
                "mysystem_prod_west_cpu_load",
                "mysystem_dot_prod_dot_west_dot_cpu_dot_load",
                "U__mysystem_2e_prod_2e_west_2e_cpu_2e_load",
            ),
            (
                "mysystem.prod.west.cpu.load_total",
                "mysystem_prod_west_cpu_load_total",
                "mysystem_dot_prod_dot_west_dot_cpu_dot_load__total",
                "U__mysystem_2e_prod_2e_west_2e_cpu_2e_load__total",
            ),
            ("http.status:sum", "http_status:sum", "http_dot_status:sum", "U__http_2e_status:sum"),
            ("label with 😱", "label_with__", "label__with____", "U__label_20_with_20__1f631_"),
            ("花火", "__", "____", "U___82b1__706b_"),
        ] {
            let escaped = [Escaping::Underscores, Escaping::Dots, Escaping::Values].map(|scheme| scheme.name(name));
            assert_eq!(escaped, [underscores, dots, values]);
            assert_eq!(Escaping::AllowUtf8.name(name), name);
        }
        assert!(Escaping::ALL.iter().all(|scheme| Escaping::parse(scheme.as_str()) == Some(*scheme)));
        assert_eq!(Escaping::parse("none"), None);
    }
}
