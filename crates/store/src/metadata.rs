//! What is known of families.
//!
//! Limits: 8 variants of one name, 200,000 names, 4 KiB of help and of unit (what is longer is cut), 64 MiB of text in all.

use std::collections::BTreeMap;

use model::Family;

use crate::coding::{Cursor, Malformed, put_varint};
use crate::wal::record::{get_family, put_family};

const VARIANTS_MAX: usize = 8;
const NAMES_MAX: usize = 200_000;
/// As long as the longest metric name that a series may have.
const NAME_BYTES_MAX: usize = 500;
/// Of a help text or unit: everybody who asks for metadata is sent all of them.
const WORDS_BYTES_MAX: usize = 4 << 10;
const BYTES_MAX: usize = 64 << 20;

/// Families by name; several where sources disagree.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Metadata {
    by_name: BTreeMap<String, Vec<Family>>,
    bytes: usize,
}

impl Metadata {
    /// Tells whether exactly this is known, or there is no room for it.
    pub fn knows(&self, family: &Family) -> bool {
        let same = |known: &Family| {
            known.metric_type == family.metric_type
                && known.help == shortened(&family.help)
                && known.unit == shortened(&family.unit)
        };
        match self.by_name.get(&family.name) {
            Some(variants) => variants.len() >= VARIANTS_MAX || variants.iter().any(same) || !self.has_room(family),
            None => self.by_name.len() >= NAMES_MAX || !self.has_room(family),
        }
    }

    fn has_room(&self, family: &Family) -> bool {
        family.name.len() <= NAME_BYTES_MAX && self.bytes + bytes_of(family) <= BYTES_MAX
    }

    /// Adds what is new.
    pub fn add(&mut self, family: &Family) {
        if !self.knows(family) {
            self.bytes += bytes_of(family);
            let (help, unit) = (shortened(&family.help).to_owned(), shortened(&family.unit).to_owned());
            let kept = Family { name: family.name.clone(), metric_type: family.metric_type, help, unit };
            self.by_name.entry(family.name.clone()).or_default().push(kept);
        }
    }

    /// Gives the families of one name or of all, sorted by name.
    pub fn get(&self, name: Option<&str>) -> Vec<Family> {
        match name {
            Some(name) => self.by_name.get(name).cloned().unwrap_or_default(),
            None => self.by_name.values().flatten().cloned().collect(),
        }
    }

    /// Gives the bytes of the `metadata` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.by_name.values().map(|v| v.len() as u64).sum());
        self.by_name.values().flatten().for_each(|family| put_family(&mut out, family));
        out
    }

    /// Reads the bytes of the `metadata` file.
    pub fn decode(bytes: &[u8]) -> Result<Metadata, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let mut metadata = Metadata::default();
        for _ in 0..cursor.count()? {
            metadata.add(&get_family(&mut cursor)?);
        }
        Ok(metadata)
    }
}

fn bytes_of(family: &Family) -> usize {
    2 * family.name.len() + shortened(&family.help).len() + shortened(&family.unit).len() + size_of::<Family>()
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORDS_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use model::MetricType;

    use super::*;

    fn family(name: &str, help: String) -> Family {
        Family { name: name.to_owned(), metric_type: MetricType::Gauge, help, unit: String::new() }
    }

    #[test]
    fn long_texts_are_cut_and_known_again() {
        let mut metadata = Metadata::default();
        let long = family("m", "é".repeat(WORDS_BYTES_MAX));
        metadata.add(&long);
        assert!(metadata.knows(&long));
        metadata.add(&long);
        let kept = metadata.get(Some("m"));
        assert_eq!((kept.len(), kept[0].help.len()), (1, WORDS_BYTES_MAX));
        assert_eq!(Metadata::decode(&metadata.encode()), Ok(metadata.clone()));
        metadata.add(&family(&"n".repeat(NAME_BYTES_MAX + 1), String::new()));
        assert_eq!(metadata.get(None).len(), 1);
    }

    #[test]
    fn all_texts_together_have_a_limit() {
        let mut metadata = Metadata::default();
        for i in 0..2 * BYTES_MAX / WORDS_BYTES_MAX {
            metadata.add(&family(&i.to_string(), "h".repeat(WORDS_BYTES_MAX)));
        }
        assert!(metadata.bytes <= BYTES_MAX && metadata.bytes > BYTES_MAX - 2 * WORDS_BYTES_MAX);
        assert!(metadata.knows(&family("one more", "h".repeat(WORDS_BYTES_MAX))), "there is no room for it");
    }
}
