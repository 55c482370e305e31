#![no_main]

use libfuzzer_sys::fuzz_target;
use server::push::{GroupKey, read_body};
use wire::Format;

// The first line is the path of the URL, the rest the body.
fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let Ok(path) = std::str::from_utf8(&input[..end]) else { return };
    let Ok(key) = GroupKey::from_path(path) else { return };
    assert!(!key.job().is_empty());
    assert_eq!(key.file_name().len(), 32);
    let pairs = key.pairs().map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(GroupKey::from_pairs(pairs), key);
    let body = input.get(end + 1..).unwrap_or_default();
    for format in [Format::Text, Format::OpenMetrics, Format::Protobuf] {
        if let Ok(read) = read_body(format, body, &key) {
            assert!(read.exemplars.iter().all(|e| e.series.get("job") == Some(key.job())));
        }
    }
});
