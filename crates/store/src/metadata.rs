//! What is known of families.
//!
//! Limits: 8 variants of one name, 200,000 names.

use std::collections::BTreeMap;

use model::Family;

use crate::coding::{Cursor, Malformed, put_varint};
use crate::wal::record::{get_family, put_family};

const VARIANTS_MAX: usize = 8;
const NAMES_MAX: usize = 200_000;

/// Families by name; several where sources disagree.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Metadata {
    by_name: BTreeMap<String, Vec<Family>>,
}

impl Metadata {
    /// Tells whether exactly this is known, or there is no room for it.
    pub fn knows(&self, family: &Family) -> bool {
        match self.by_name.get(&family.name) {
            Some(variants) => variants.len() >= VARIANTS_MAX || variants.contains(family),
            None => self.by_name.len() >= NAMES_MAX,
        }
    }

    /// Adds what is new.
    pub fn add(&mut self, family: &Family) {
        if !self.knows(family) {
            self.by_name.entry(family.name.clone()).or_default().push(family.clone());
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
