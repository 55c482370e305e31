#![no_main]

use libfuzzer_sys::fuzz_target;
use model::{Batch, SeriesIndex};
use wire::otlp::{Deltas, Options, decode, json_to_protobuf};
use wire::remote_write::Limits;

fn read(body: &[u8], options: &Options) {
    let limits =
        Limits { samples_max: 1000, native_histograms: true, text_bytes_max: 1 << 20, ..Limits::default() };
    let mut batch = Batch::default();
    let Ok(stats) = decode(body, &mut batch, options, &limits) else { return };
    assert_eq!(stats.points, stats.point_ends.len());
    assert_eq!(batch.samples.len(), batch.verdicts.len());
    assert!(batch.histograms.iter().all(|h| h.histogram.check().is_ok()));
    assert!((0..batch.series.len()).all(|i| batch.labels(SeriesIndex(i as u32)).is_some()));
    assert_eq!(stats.partial_success(&batch).map_or(0, |p| p.rejected_data_points), stats.rejected as u64);
}

fuzz_target!(|body: &[u8]| {
    let much = Options {
        promote_all_resource_attributes: true,
        promote_scope_metadata: true,
        convert_histograms_to_nhcb: true,
        deltas: Deltas::Mark,
        ..Options::default()
    };
    for options in [&Options::default(), &much] {
        read(body, options);
        if let Ok(binary) = json_to_protobuf(body) {
            read(&binary, options);
        }
    }
});
