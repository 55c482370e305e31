//! Protobuf bodies that break off or lie about lengths.

use collect::{BodyReader, Protocol, ScrapeErrorKind};
use model::Batch;
use wire::Format;

use crate::messages::*;
use crate::support::*;

fn families() -> Vec<Family> {
    let quantile = vec![Quantile { quantile: 0.5, value: 1.0 }];
    vec![
        family("g", GAUGE, vec![gauge(&[("a", "1")], 1.0), gauge(&[("a", "2")], 2.0)]),
        family("s", SUMMARY, vec![summary(&[], Summary { count: 2, sum: 3.0, quantile, created: None })]),
        family("h", HISTOGRAM, vec![histogram(&[("x", "y")], native()), histogram(&[], classic())]),
    ]
}

fn native_reader() -> BodyReader {
    let mut spec = Exporter::text("").spec();
    spec.native_histograms = true;
    BodyReader::new(spec)
}

/// Gives every series an id, as a store would.
fn give_ids(batch: &mut Batch) {
    for (at, series) in (1..).zip(&mut batch.series) {
        series.id = if series.id.is_some() { series.id } else { model::SeriesId(at) };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_fails_the_scrape_with_its_place() {
    let whole = body(&families());
    let exporter = Exporter::new(Page::protobuf(&whole));
    let mut spec = exporter.spec();
    (spec.native_histograms, spec.protocols) = (true, vec![Protocol::Proto]);
    let world = World::with(spec);
    let (outcome, stored) = world.scrape().await;
    assert_eq!((outcome.ok, stored.histograms.len(), stored.body().len()), (true, 1, 10));
    exporter.show(Page::protobuf(&whole[..whole.len() - 1]));
    let (outcome, stored) = world.scrape().await;
    assert_eq!(outcome.error.as_ref().map(|e| e.kind), Some(ScrapeErrorKind::Parse));
    let place = outcome.parse_error.unwrap();
    assert_eq!((place.line, place.column), (0, 0));
    assert!(place.offset > 0 && place.offset < whole.len(), "{place}");
    assert!(outcome.error.unwrap().message.contains(&format!("byte {}: malformed protobuf", place.offset)));
    assert_eq!((stored.facts().0, stored.body(), stored.histograms.len()), (0.0, vec![], 0));
    assert_eq!(stored.stale().len(), 11);
    exporter.show(Page::protobuf(&whole));
    let (outcome, stored) = world.scrape().await;
    assert_eq!((outcome.ok, stored.by_labels, stored.histograms.len()), (true, 0, 1));
}

/// At the end of a family a shorter body is whole; anywhere else it is a fault, whether the series are known or not.
#[test]
fn every_place_to_break_off_is_seen() {
    let list = families();
    let whole = body(&list);
    let ends: Vec<usize> = (0..=list.len()).map(|n| body(&list[..n]).len()).collect();
    let mut known = native_reader();
    let (mut batch, result) = known.read(Format::Protobuf, &whole, 0, 0);
    assert_eq!(result, Ok(11));
    give_ids(&mut batch);
    known.stored(&mut batch);
    for end in 0..whole.len() {
        for (what, reader) in [("known", &mut known), ("fresh", &mut native_reader())] {
            let (batch, result) = reader.read(Format::Protobuf, &whole[..end], 1, 0);
            assert_eq!(result.is_ok(), ends.contains(&end), "{what}, {end} bytes: {result:?}");
            if let Err(error) = result {
                assert_eq!(error.kind, ScrapeErrorKind::Parse);
                assert!(error.message.starts_with("byte "), "{error}");
                assert!(batch.histograms.is_empty() && batch.samples.iter().all(|s| model::is_stale(s.value)));
            }
        }
    }
}

#[test]
fn lengths_that_lie_reserve_nothing() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let name = [0x0a, 1, b'g', 0x18, 1];
    let delimited = |message: Vec<u8>| [vec![message.len() as u8], message].concat();
    let bodies = [
        // A family, a metric, a label and a string of 2^63 bytes.
        huge.to_vec(),
        delimited([&name[..], &[0x22], &huge].concat()),
        delimited([&name[..], &[0x22, 11, 0x0a], &huge].concat()),
        delimited([&[0x0a][..], &huge].concat()),
        // A length of more than 64 bits, and a number that never ends.
        vec![0xff; 11],
        delimited([&name[..], &[0x22, 12, 0x30], &[0x80; 11]].concat()),
        // Families without names, of no type, with a group.
        delimited(vec![0x22, 2, 0x12, 0]),
        delimited(vec![0x0a, 1, b'g', 0x18, 9, 0x22, 2, 0x12, 0]),
        delimited([&name[..], &[0x22, 1, 0x0b]].concat()),
    ];
    for bytes in bodies {
        let (_, result) = native_reader().read(Format::Protobuf, &bytes, 0, 0);
        let error = result.expect_err(&format!("{bytes:x?}"));
        assert_eq!(error.kind, ScrapeErrorKind::Parse, "{bytes:x?}");
    }
}

#[test]
fn a_span_that_claims_four_billion_buckets_is_refused_alone() {
    let mut broken = native();
    broken.positive_span = vec![Span { offset: 0, length: u32::MAX }; 3];
    let list = [
        family("bad", HISTOGRAM, vec![histogram(&[], broken)]),
        family("h", HISTOGRAM, vec![histogram(&[], native())]),
    ];
    let (batch, result) = native_reader().read(Format::Protobuf, &body(&list), 0, 0);
    assert_eq!((result, batch.histograms.len()), (Ok(2), 1));
}

/// Three bytes make an exemplar, a few more a histogram: both have a maximum.
#[test]
fn small_messages_in_great_numbers_stay_bounded() {
    let mut counted = counter(&[], 1.0);
    counted.counter.as_mut().unwrap().exemplar = Some(Exemplar::default());
    let exemplars = vec![Exemplar::default(); 1 << 18];
    let list = [
        family("c", COUNTER, vec![counted]),
        family("h", HISTOGRAM, vec![histogram(&[], Histogram { exemplars, ..native() })]),
    ];
    let (batch, result) = native_reader().read(Format::Protobuf, &body(&list), 0, 0);
    assert_eq!((result, batch.exemplars.len()), (Ok(2), 1 << 17));
    drop(batch);
    let counts = vec![0i64; 16_384];
    let wide = Histogram {
        count: 1,
        zero_count: 1,
        positive_span: vec![Span { offset: 0, length: 16_384 }],
        negative_span: vec![Span { offset: 0, length: 16_384 }],
        positive_delta: counts.clone(),
        negative_delta: counts,
        ..Histogram::default()
    };
    let list = [family("h", HISTOGRAM, vec![histogram(&[], wide); 1_100])];
    let (batch, result) = native_reader().read(Format::Protobuf, &body(&list), 0, 0);
    assert_eq!(result.map_err(|e| e.kind), Err(ScrapeErrorKind::BodyTooLarge));
    assert!(batch.histograms.is_empty());
}
