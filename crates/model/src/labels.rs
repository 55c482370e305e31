//! Label sets: sorted, immutable, one allocation each.
//!
//! Invariants: 1. names are unique and sorted by bytes; 2. no value is empty (an empty value means the label is absent);
//! 3. two label sets are equal exactly when their encodings are.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

/// The label that holds the metric name.
pub const LABEL_NAME: &str = "__name__";

/// Dense number of a series on this node; never reused while the process runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct SeriesId(pub u64);

impl SeriesId {
    /// Means "not resolved yet". Real ids start at 1.
    pub const NONE: SeriesId = SeriesId(0);

    /// Tells whether the id names a series.
    pub fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// XXH3-64 (seed 0) of a label set's encoding; equal on all nodes and over all versions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Fingerprint(pub u64);

/// A sorted label set in one shared allocation.
///
/// The encoding is, per label in order: name length (LEB128), name, value length (LEB128), value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[u8]>);

impl Labels {
    /// Gives the empty label set.
    pub fn empty() -> Labels {
        Labels(Arc::from([]))
    }

    /// Builds a label set from pairs in any order; empty values are left out, the last of equal names wins.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Labels {
        let mut buf = LabelsBuf::default();
        for (name, value) in pairs {
            buf.set(name.as_ref(), value.as_ref());
        }
        buf.to_labels()
    }

    /// Takes an encoding made by [`LabelsBuf::encode_into`] or [`Labels::as_bytes`].
    ///
    /// **Gives** `None` when the bytes are not a valid encoding (lengths, UTF-8, order).
    pub fn from_bytes(bytes: &[u8]) -> Option<Labels> {
        let mut rest = bytes;
        let mut last: Option<&str> = None;
        while !rest.is_empty() {
            let name = take_str(&mut rest)?;
            let value = take_str(&mut rest)?;
            if value.is_empty() || last.is_some_and(|l| l >= name) {
                return None;
            }
            last = Some(name);
        }
        Some(Labels(Arc::from(bytes)))
    }

    /// Gives the canonical encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Walks the pairs in order of their names.
    pub fn iter(&self) -> LabelsIter<'_> {
        LabelsIter { rest: &self.0 }
    }

    /// Gives the value of a label, `None` when it is absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Gives the metric name, empty when there is none.
    pub fn metric_name(&self) -> &str {
        self.get(LABEL_NAME).unwrap_or("")
    }

    /// Counts the labels.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Tells whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the hash that all nodes agree on.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(xxhash_rust::xxh3::xxh3_64(&self.0))
    }

    /// Gives a copy without the metric name.
    pub fn without_name(&self) -> Labels {
        let mut out = Vec::with_capacity(self.0.len());
        for (n, v) in self.iter().filter(|(n, _)| *n != LABEL_NAME) {
            put_str(&mut out, n);
            put_str(&mut out, v);
        }
        Labels(Arc::from(out))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Labels::empty()
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Orders by the pairs, name first, then value; a prefix comes first.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

/// Prints the way PromQL writes it: `name{a="b"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.metric_name();
        let bare_name = is_legacy_metric_name(name);
        if bare_name {
            f.write_str(name)?;
        }
        let mut pairs = self.iter().filter(|(n, _)| !(bare_name && *n == LABEL_NAME)).peekable();
        if pairs.peek().is_none() && bare_name {
            return Ok(());
        }
        f.write_str("{")?;
        let mut first = true;
        for (n, v) in pairs {
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            if is_legacy_label_name(n) { write!(f, "{n}={v:?}")? } else { write!(f, "{n:?}={v:?}")? }
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The walk over a label set.
#[derive(Clone)]
pub struct LabelsIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for LabelsIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        // Encodings are checked or made by us, so a short read can only mean the end.
        Some((take_str(&mut self.rest)?, take_str(&mut self.rest)?))
    }
}

fn take_str<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let mut len = 0usize;
    let mut shift = 0u32;
    loop {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    std::str::from_utf8(head).ok()
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    let mut len = s.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(s.as_bytes());
}

/// A label set under construction; reused from one series to the next without allocating.
#[derive(Clone, Default, Debug)]
pub struct LabelsBuf {
    text: String,
    pairs: SmallVec<[Pair; 16]>,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    name_start: u32,
    name_len: u32,
    value_start: u32,
    value_len: u32,
}

/// A label name stands twice in one label set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("label name \"{0}\" is not unique")]
pub struct DuplicateLabel(pub String);

impl LabelsBuf {
    /// Starts from an existing label set.
    pub fn from_labels(labels: &Labels) -> LabelsBuf {
        let mut buf = LabelsBuf::default();
        for (n, v) in labels.iter() {
            buf.push(n, v);
        }
        buf
    }

    /// Forgets all labels, keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.pairs.clear();
    }

    /// Appends a pair without looking whether the name is there already; see [`LabelsBuf::sort`].
    pub fn push(&mut self, name: &str, value: &str) {
        let name_start = self.text.len() as u32;
        self.text.push_str(name);
        let value_start = self.text.len() as u32;
        self.text.push_str(value);
        self.pairs.push(Pair { name_start, name_len: name.len() as u32, value_start, value_len: value.len() as u32 });
    }

    /// Sets a label, replacing an earlier value; an empty value removes it.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        if !value.is_empty() {
            self.push(name, value);
        }
    }

    /// Removes a label if it is there.
    pub fn remove(&mut self, name: &str) {
        let text = std::mem::take(&mut self.text);
        self.pairs.retain(|p| name_of(&text, p) != name);
        self.text = text;
    }

    /// Keeps the pairs that the predicate wants.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        let text = std::mem::take(&mut self.text);
        self.pairs.retain(|p| keep(name_of(&text, p), value_of(&text, p)));
        self.text = text;
    }

    /// Gives a label's value; `None` when it is absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Walks the pairs in their present order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|p| (name_of(&self.text, p), value_of(&self.text, p)))
    }

    /// Counts the pairs, empty values included.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Tells whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Drops empty values and sorts by name.
    ///
    /// **Errors** when a name stands twice (also if one of the two was empty).
    pub fn sort(&mut self) -> Result<(), DuplicateLabel> {
        let text = &self.text;
        self.pairs.sort_by(|a, b| name_of(text, a).cmp(name_of(text, b)));
        let twice = self.pairs.windows(2).find(|w| name_of(text, &w[0]) == name_of(text, &w[1]));
        if let Some(w) = twice {
            return Err(DuplicateLabel(name_of(text, &w[0]).to_owned()));
        }
        self.pairs.retain(|p| p.value_len > 0);
        Ok(())
    }

    /// Appends the canonical encoding to `out`. Call [`LabelsBuf::sort`] first.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        for (n, v) in self.iter() {
            put_str(out, n);
            put_str(out, v);
        }
    }

    /// Gives the finished label set; of equal names the last wins, empty values are left out.
    pub fn to_labels(&self) -> Labels {
        let mut pairs: SmallVec<[(&str, &str); 16]> = self.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(b.0));
        let mut out = Vec::with_capacity(self.text.len() + 2 * pairs.len());
        for (i, (n, v)) in pairs.iter().enumerate() {
            let superseded = pairs.get(i + 1).is_some_and(|next| next.0 == *n);
            if !superseded && !v.is_empty() {
                put_str(&mut out, n);
                put_str(&mut out, v);
            }
        }
        Labels(Arc::from(out))
    }
}

fn name_of<'t>(text: &'t str, p: &Pair) -> &'t str {
    &text[p.name_start as usize..(p.name_start + p.name_len) as usize]
}

fn value_of<'t>(text: &'t str, p: &Pair) -> &'t str {
    &text[p.value_start as usize..(p.value_start + p.value_len) as usize]
}

/// Tells whether a name needs no quotes as a metric name: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_legacy_metric_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && !bytes[0].is_ascii_digit()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b':')
}

/// Tells whether a name needs no quotes as a label name: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_legacy_label_name(name: &str) -> bool {
    is_legacy_metric_name(name) && !name.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_input_does_not_matter_and_empty_values_vanish() {
        let a = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", "")]);
        let b = Labels::from_pairs([("a", "1"), ("b", "2")]);
        assert_eq!(a, b);
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_eq!(a.len(), 2);
        assert_eq!(a.to_string(), r#"{a="1", b="2"}"#);
    }

    #[test]
    fn decode_is_the_inverse_of_encode() {
        let long = "x".repeat(300);
        let a = Labels::from_pairs([("__name__", "up"), ("long", long.as_str()), ("ü", "ö")]);
        assert_eq!(Labels::from_bytes(a.as_bytes()), Some(a.clone()));
        assert_eq!(a.get("long"), Some(long.as_str()));
        for cut in 1..a.as_bytes().len() {
            // A cut encoding is refused or is a shorter set; it never panics.
            let _ = Labels::from_bytes(&a.as_bytes()[..cut]);
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_found() {
        let mut buf = LabelsBuf::default();
        buf.push("a", "1");
        buf.push("b", "2");
        buf.push("a", "3");
        assert_eq!(buf.sort(), Err(DuplicateLabel("a".into())));
    }
}
