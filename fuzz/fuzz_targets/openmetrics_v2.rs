#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{BodyParser, Format, openmetrics};

fuzz_target!(|body: &[u8]| {
    let Ok(families) = openmetrics::v2::to_families(body) else { return };
    // What is written is at most some times as long as what was read.
    assert!(families.len() <= 16 * body.len() + 64);
    let mut parser = BodyParser::new(Format::Protobuf, &families, true);
    while let Some(item) = parser.next() {
        item.unwrap_or_else(|e| panic!("{e}"));
    }
});
