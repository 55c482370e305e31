#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{gzip, snappy, zstd};

const MAX: usize = 1 << 16;

fn by_chunks(body: &[u8]) -> Option<Vec<u8>> {
    let mut stream = gzip::GzipStream::new(MAX);
    for chunk in body.chunks(7) {
        stream.push(chunk).ok()?;
    }
    stream.finish().ok()
}

fuzz_target!(|body: &[u8]| {
    let zstd = zstd::inflate_capped(body, MAX).ok();
    for out in [snappy::decode_block(body, MAX).ok(), gzip::deflate_capped(body, MAX).ok(), zstd].into_iter().flatten() {
        assert!(out.len() <= MAX);
    }
    if let Ok(whole) = gzip::inflate_capped(body, MAX) {
        assert_eq!(by_chunks(body), Some(whole));
    }
    let block = snappy::encode_block(body).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(snappy::decode_block(&block, body.len()).as_deref(), Ok(body));
});
