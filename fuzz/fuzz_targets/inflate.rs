#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::inflating::{Coding, Inflating};
use wire::{gzip, snappy, zstd};

const MAX: usize = 1 << 16;

fn by_chunks(body: &[u8]) -> Option<Vec<u8>> {
    let mut stream = gzip::GzipStream::new(MAX);
    for chunk in body.chunks(7) {
        stream.push(chunk).ok()?;
    }
    stream.finish().ok()
}

/// Inflates a body as it flows; `None` when it does not end well or has more than is looked at.
fn flowing(coding: Coding, body: &[u8], chunk: usize) -> Option<Vec<u8>> {
    let (mut inflating, mut out) = (Inflating::new(coding).ok()?, Vec::new());
    for mut rest in body.chunks(chunk) {
        loop {
            let step = inflating.step(rest, &mut out).ok()?;
            rest = &rest[step.taken..];
            if out.len() > MAX {
                return None;
            }
            if rest.is_empty() && !step.has_more {
                break;
            }
        }
    }
    inflating.finish().ok().map(|()| out)
}

fuzz_target!(|body: &[u8]| {
    let zstd = zstd::inflate_capped(body, MAX).ok();
    for out in [snappy::decode_block(body, MAX).ok(), gzip::deflate_capped(body, MAX).ok(), zstd].into_iter().flatten() {
        assert!(out.len() <= MAX);
    }
    if let Ok(whole) = gzip::inflate_capped(body, MAX) {
        assert_eq!(by_chunks(body), Some(whole));
    }
    for coding in [Coding::Gzip, Coding::Zstd] {
        let at_once = flowing(coding, body, body.len().max(1));
        assert_eq!(flowing(coding, body, 7), at_once);
        let whole = match coding {
            Coding::Gzip => gzip::inflate_capped(body, MAX).ok(),
            Coding::Zstd => zstd::inflate_capped(body, MAX).ok(),
        };
        if let (Some(whole), false) = (whole, body.is_empty()) {
            assert_eq!(at_once, Some(whole));
        }
    }
    let block = snappy::encode_block(body).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(snappy::decode_block(&block, body.len()).as_deref(), Ok(body));
});
