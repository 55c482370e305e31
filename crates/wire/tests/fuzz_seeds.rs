//! The seeds of the fuzz targets are what they are meant to be.

use std::path::PathBuf;

use model::Batch;
use wire::otlp::{Options, decode as decode_otlp, decode_json};
use wire::remote_write::{Limits, decode_v1, decode_v2, encode_v1};
use wire::scrape::Item;
use wire::{BodyParser, Format, gzip, snappy};

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

fn limits() -> Limits {
    Limits { native_histograms: true, ..Limits::default() }
}

#[test]
fn requests_with_histograms_are_read() {
    let mut batch = Batch::default();
    let stats = decode_v1(&seed("remote_write/native_histogram"), &mut batch, &limits()).unwrap();
    assert_eq!((stats.histograms, stats.histograms_refused, batch.histograms.len()), (2, 0, 2));
    for (path, samples, histograms, refused) in
        [("all_parts", 1, 1, false), ("symbols_last", 1, 0, false), ("bad_refs", 2, 0, true)]
    {
        let mut batch = Batch::default();
        let stats = decode_v2(&seed(&format!("remote_write_v2/{path}")), &mut batch, &limits()).unwrap();
        assert_eq!(
            (stats.samples, batch.histograms.len(), stats.first_refused.is_some()),
            (samples, histograms, refused)
        );
        assert_eq!(stats.histograms_refused, 0, "{path}");
    }
}

#[test]
fn families_are_read() {
    for (path, wanted) in [("all_types", 10), ("native", 7)] {
        let body = seed(&format!("protobuf/{path}"));
        let mut parser = BodyParser::new(Format::Protobuf, &body, false);
        let mut samples = 0;
        while let Some(item) = parser.next() {
            samples += usize::from(matches!(item.unwrap(), Item::Sample { .. }));
        }
        assert_eq!(samples, wanted, "{path}");
    }
}

#[test]
fn data_points_are_read() {
    let (mut batch, options) = (Batch::default(), Options::default());
    let stats = decode_otlp(&seed("otlp/all_types"), &mut batch, &options, &limits()).unwrap();
    assert_eq!((stats.points, stats.rejected, batch.histograms.len()), (5, 1, 1));
    let mut batch = Batch::default();
    let stats = decode_json(&seed("otlp/json"), &mut batch, &options, &limits()).unwrap();
    assert_eq!((stats.points, stats.rejected), (1, 0));
    assert_eq!(batch.labels(batch.samples[0].series).unwrap().to_string(), "c_total{job=\"svc\", l=\"[1,true]\"}");
}

#[test]
fn openmetrics_2_is_read() {
    let families = wire::openmetrics::v2::to_families(&seed("openmetrics_v2/all")).unwrap();
    let mut parser = BodyParser::new(Format::Protobuf, &families, true);
    let mut samples = 0;
    while let Some(item) = parser.next() {
        samples += usize::from(matches!(item.unwrap(), Item::Sample { .. }));
    }
    // A native histogram with five classic series, a summary of four, a native one, a counter.
    assert_eq!(samples, 12);
}

#[test]
fn lines_are_read() {
    let read: Vec<_> = wire::influx::Lines::new(&seed("lines/influx")).map(|line| line.is_ok()).collect();
    assert_eq!(read, [true, false]);
    let graphite = seed("lines/graphite");
    assert!(graphite.split(|b| *b == b'\n').filter_map(|line| wire::graphite::parse(line, 1)).all(|line| line.is_ok()));
    let statsd = seed("lines/statsd");
    assert_eq!(
        statsd.split(|b| *b == b'\n').filter_map(|line| wire::statsd::parse(line, 1)).filter(Result::is_ok).count(),
        3
    );
}

#[test]
fn compressed_bodies_are_inflated() {
    assert_eq!(gzip::inflate_capped(&seed("inflate/gzip"), 100).unwrap(), b"a 1\nb 2\n");
    assert_eq!(gzip::inflate_capped(&seed("inflate/two_members"), 100).unwrap(), b"ab");
    assert_eq!(gzip::deflate_capped(&seed("inflate/zlib"), 100).unwrap(), b"a 1\n".repeat(20));
    assert_eq!(snappy::decode_block(&seed("inflate/snappy"), 100).unwrap(), b"a 1\nb 2\n");
    assert!(snappy::decode_block(&seed("inflate/snappy_bomb"), 1 << 30).is_err());
}
