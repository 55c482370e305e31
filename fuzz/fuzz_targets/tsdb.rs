#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::tsdb::{Index, crc32c, decode_chunk};

// Seals what the fuzzer made, so that it comes behind the checksums.
fuzz_target!(|input: (u8, &[u8])| {
    let (encoding, data) = input;
    let sealed = [&[encoding % 4], data].concat();
    let mut file = vec![0; 8];
    let mut len = data.len();
    while len >= 0x80 {
        file.push(len as u8 | 0x80);
        len >>= 7;
    }
    file.push(len as u8);
    file.extend_from_slice(&sealed);
    file.extend_from_slice(&crc32c(&sealed).to_be_bytes());
    let _ = decode_chunk(&file, 8);
    if let Ok(index) = Index::open(data) {
        for series in index.flatten() {
            assert!(series.chunks.len() <= data.len());
        }
    }
});
