#![no_main]

use libfuzzer_sys::fuzz_target;
use model::Batch;
use wire::remote_write::{Limits, decode_v1, decode_v2, encode_v1};

fuzz_target!(|body: &[u8]| {
    let limits =
        Limits { samples_max: 1000, native_histograms: true, text_bytes_max: 1 << 20, ..Limits::default() };
    let mut batch = Batch::default();
    if decode_v2(body, &mut batch, &limits).is_err() {
        return;
    }
    assert_eq!(batch.samples.len(), batch.verdicts.len());
    assert!(batch.histograms.iter().all(|h| h.histogram.check().is_ok()));
    // Nothing is lost on the way through the other version.
    let mut again = Batch::default();
    decode_v1(&encode_v1(&batch), &mut again, &limits).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again.samples.len() + again.histograms.len(), batch.samples.len() + batch.histograms.len());
});
