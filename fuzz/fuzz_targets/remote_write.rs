#![no_main]

use libfuzzer_sys::fuzz_target;
use model::Batch;
use wire::remote_write::{Limits, decode_v1, encode_v1};

fuzz_target!(|body: &[u8]| {
    let limits = Limits { samples_max: 1000, native_histograms: true, ..Limits::default() };
    let mut batch = Batch::default();
    if decode_v1(body, &mut batch, &limits).is_err() {
        return;
    }
    assert_eq!(batch.samples.len(), batch.verdicts.len());
    let written = encode_v1(&batch);
    let mut again = Batch::default();
    decode_v1(&written, &mut again, &limits).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(encode_v1(&again), written);
});
