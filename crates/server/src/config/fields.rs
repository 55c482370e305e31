//! Reads the keys of one mapping, and collects what is wrong with them.
//!
//! Invariant: every key that nobody asked for is an error, with its place and the nearest known key.

use std::sync::Arc;

use super::yaml::{Entry, Kind, Node, Place};

/// What kind of trouble a problem is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// A known key that is not served yet: refused unless unsupported keys are allowed.
    NotYet,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub at: Place,
    /// What kind.
    pub severity: Severity,
    /// A sentence for people.
    pub text: String,
}

/// All that is wrong, in the order it was found.
#[derive(Default, Debug)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes an error.
    pub fn error(&mut self, at: Place, text: impl Into<String>) {
        self.0.push(Problem { at, severity: Severity::Error, text: text.into() });
    }

    /// Notes a key that is not served yet.
    pub fn not_yet(&mut self, at: Place, key: &str, what: &str) {
        let text = format!("{key:?} in {what} is not supported yet");
        self.0.push(Problem { at, severity: Severity::NotYet, text });
    }
}

/// The keys of one mapping while they are being read.
pub struct Fields<'a> {
    what: String,
    at: Place,
    entries: &'a [Entry],
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Opens a mapping; null counts as an empty one. `what` names it in errors.
    pub fn open(node: &'a Node, what: impl Into<String>, problems: &mut Problems) -> Fields<'a> {
        let what = what.into();
        let entries: &[Entry] = match &node.kind {
            Kind::Map(entries) => entries,
            Kind::Null => &[],
            _ => {
                problems.error(node.at, format!("{what} must be a mapping, not {}", node.kind_name()));
                &[]
            }
        };
        Fields { what, at: node.at, entries, asked: Vec::new() }
    }

    /// Gives what the mapping is called in errors.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Gives where the mapping starts.
    pub fn at(&self) -> Place {
        self.at
    }

    /// Names the mapping better once more is known of it.
    pub fn rename(&mut self, what: String) {
        self.what = what;
    }

    /// Gives the value of a key; `None` when it is absent or null.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Arc<Node>> {
        self.entry(key).map(|e| &e.value).filter(|n| !matches!(n.kind, Kind::Null))
    }

    /// Gives a key's entry, null or not.
    pub fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.asked.push(key);
        self.entries.iter().find(|e| e.key == key)
    }

    /// Gives where a key stands, or else where the mapping starts.
    pub fn place_of(&self, key: &str) -> Place {
        self.entries.iter().find(|e| e.key == key).map_or(self.at, |e| e.at)
    }

    /// Walks the entries whose keys satisfy the predicate.
    pub fn matching(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<&'a Entry> {
        self.entries.iter().filter(|e| wanted(&e.key)).collect()
    }

    /// Reads a plain value with a parser of the caller's.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.get(key)?;
        let Kind::Scalar(text) = &node.kind else {
            problems.error(node.at, format!("{key} must be a plain value, not {}", node.kind_name()));
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                problems.error(node.at, format!("{key}: {reason}"));
                None
            }
        }
    }

    /// Reads a text.
    pub fn string(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        self.parsed(key, problems, |text| Ok(text.to_owned()))
    }

    /// Reads a duration such as `1m30s`, in milliseconds.
    pub fn duration_ms(&mut self, key: &'static str, problems: &mut Problems) -> Option<i64> {
        self.parsed(key, problems, |text| model::parse_duration_ms(text).map_err(|e| e.to_string()))
    }

    /// Reads a truth value, in all spellings that YAML 1.1 knows.
    pub fn bool(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        self.parsed(key, problems, |text| match text {
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Ok(true),
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        })
    }

    /// Reads a whole number that is not negative.
    pub fn uint(&mut self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        self.parsed(key, problems, |text| {
            text.parse().map_err(|_| format!("{text:?} is not a whole number of 0 or more"))
        })
    }

    /// Reads a size such as `10MB`, in bytes.
    pub fn size_bytes(&mut self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        self.parsed(key, problems, parse_size_bytes)
    }

    /// Reads a list of plain values; a single plain value is an error, as in Prometheus.
    pub fn strings(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<String>> {
        let items = self.list(key, problems)?;
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match &item.kind {
                Kind::Scalar(text) => out.push(text.clone()),
                Kind::Null => {}
                _ => problems.error(item.at, format!("{key} must hold plain values, not {}", item.kind_name())),
            }
        }
        Some(out)
    }

    /// Reads a list.
    pub fn list(&mut self, key: &'static str, problems: &mut Problems) -> Option<&'a [Arc<Node>]> {
        let node = self.get(key)?;
        match &node.kind {
            Kind::List(items) => Some(items),
            _ => {
                problems.error(node.at, format!("{key} must be a list, not {}", node.kind_name()));
                None
            }
        }
    }

    /// Reads a mapping from names to plain values.
    pub fn string_map(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<(String, String)>> {
        let node = self.get(key)?;
        let Kind::Map(entries) = &node.kind else {
            problems.error(node.at, format!("{key} must be a mapping, not {}", node.kind_name()));
            return None;
        };
        let mut out = Vec::with_capacity(entries.len());
        for entry in entries {
            match &entry.value.kind {
                Kind::Scalar(text) => out.push((entry.key.clone(), text.clone())),
                Kind::Null => out.push((entry.key.clone(), String::new())),
                _ => problems.error(entry.value.at, format!("{key}: {} must be a plain value", entry.key)),
            }
        }
        Some(out)
    }

    /// Notes known keys that are not served yet, when they hold something.
    pub fn not_yet(&mut self, keys: &[&'static str], problems: &mut Problems) {
        for key in keys {
            if let Some(entry) = self.entry(key)
                && entry.value.holds_something()
            {
                problems.not_yet(entry.at, key, &self.what);
            }
        }
    }

    /// Accepts known keys that change nothing here.
    pub fn ignore(&mut self, keys: &[&'static str]) {
        self.asked.extend_from_slice(keys);
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self, problems: &mut Problems) {
        for entry in self.entries {
            if self.asked.iter().any(|k| *k == entry.key) {
                continue;
            }
            let nearest = self.asked.iter().map(|k| (distance(k, &entry.key), *k)).min();
            let hint = match nearest {
                Some((d, known)) if d <= 2.max(entry.key.len() / 4) => format!("; did you mean {known:?}?"),
                _ => String::new(),
            };
            problems.error(entry.at, format!("unknown key {:?} in {}{hint}", entry.key, self.what));
        }
    }
}

/// Reads a size the way Prometheus does: `512`, `10KB`, `1MiB`, `2GB`; units are powers of 1024.
pub fn parse_size_bytes(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is not a size such as 10MB");
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" | "KB" | "KiB" | "k" | "kB" => 10,
        "M" | "MB" | "MiB" => 20,
        "G" | "GB" | "GiB" => 30,
        "T" | "TB" | "TiB" => 40,
        "P" | "PB" | "PiB" => 50,
        "E" | "EB" | "EiB" => 60,
        _ => return Err(error()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(error);
    }
    let bytes = number.parse::<f64>().map_err(|_| error())? * (1u64 << shift) as f64;
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(error()) }
}

/// Counts the edits between two keys; both are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_powers_of_1024() {
        for (text, bytes) in [("0", 0), ("512", 512), ("10MB", 10 << 20), ("1.5KiB", 1536), ("2GB", 2 << 30)] {
            assert_eq!(parse_size_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MB", "-1", "1XB", "99999999999E", "1..2MB"] {
            assert!(parse_size_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_key_names_its_place_and_its_neighbour() {
        let root = super::super::yaml::parse("scrape_intervall: 5s\nzzz: 1\n").unwrap();
        let mut problems = Problems::default();
        let mut fields = Fields::open(&root, "global", &mut problems);
        fields.duration_ms("scrape_interval", &mut problems);
        fields.finish(&mut problems);
        assert_eq!(problems.0[0].text, "unknown key \"scrape_intervall\" in global; did you mean \"scrape_interval\"?");
        assert_eq!((problems.0[0].at.line, problems.0[0].at.column), (1, 1));
        assert_eq!(problems.0[1].text, "unknown key \"zzz\" in global");
    }
}
