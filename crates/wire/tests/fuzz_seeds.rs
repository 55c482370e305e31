//! The seeds of the fuzz targets are what they are meant to be.

use std::path::PathBuf;

use model::Batch;
use wire::remote_write::{Limits, decode_v1, encode_v1};
use wire::{Format, gzip, snappy};

fn seed(path: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(path);
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn bodies_are_read() {
    assert_eq!(wire::check(Format::Text, &seed("exposition/text")), Ok(6));
    assert_eq!(wire::check(Format::OpenMetrics, &seed("exposition/openmetrics")), Ok(12));
    assert_eq!(wire::check(Format::Text, &seed("exposition/known_twice")), Ok(4));
    for path in ["exposition/openmetrics", "openmetrics_validate/all_types", "openmetrics_validate/eof_only"] {
        assert_eq!(wire::openmetrics::validate(&seed(path)), Ok(()), "{path}");
    }
}

#[test]
fn requests_are_read() {
    for (path, samples) in [("series", 2), ("samples_first", 1), ("histogram", 1)] {
        let mut batch = Batch::default();
        let body = seed(&format!("remote_write/{path}"));
        decode_v1(&body, &mut batch, &Limits::default()).unwrap();
        assert_eq!(batch.samples.len(), samples, "{path}");
        assert!(!encode_v1(&batch).is_empty(), "{path}");
    }
}

#[test]
fn compressed_bodies_are_inflated() {
    assert_eq!(gzip::inflate_capped(&seed("inflate/gzip"), 100).unwrap(), b"a 1\nb 2\n");
    assert_eq!(gzip::inflate_capped(&seed("inflate/two_members"), 100).unwrap(), b"ab");
    assert_eq!(gzip::deflate_capped(&seed("inflate/zlib"), 100).unwrap(), b"a 1\n".repeat(20));
    assert_eq!(snappy::decode_block(&seed("inflate/snappy"), 100).unwrap(), b"a 1\nb 2\n");
    assert!(snappy::decode_block(&seed("inflate/snappy_bomb"), 1 << 30).is_err());
}
