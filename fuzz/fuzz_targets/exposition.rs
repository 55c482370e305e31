#![no_main]

use libfuzzer_sys::fuzz_target;
use model::LabelsBuf;
use wire::{Entry, Format, Parser, series_labels};

type Sample = (String, Option<i64>, u64, u32);

fn long_way(format: Format, body: &[u8]) -> Vec<Sample> {
    let good = Parser::new(format, body).map_while(Result::ok);
    let samples = good.filter_map(|entry| match entry {
        Entry::Sample { series, ts_ms, value, line, .. } => Some((series.to_owned(), ts_ms, value.to_bits(), line)),
        _ => None,
    });
    samples.collect()
}

fn short_way(format: Format, body: &[u8], known: &[Sample]) -> Vec<Sample> {
    let mut parser = Parser::new(format, body);
    let mut found = Vec::new();
    let mut next = known.iter().filter(|s| series_labels(format, &s.0, &mut LabelsBuf::default()).is_ok()).peekable();
    loop {
        if let Some((ts_ms, value)) = next.peek().and_then(|s| parser.next_known(&s.0)) {
            let series = next.next().map_or(String::new(), |s| s.0.clone());
            found.push((series, ts_ms, value.to_bits(), parser.line()));
            continue;
        }
        match parser.next() {
            Some(Ok(Entry::Sample { series, ts_ms, value, line, .. })) => {
                next.next_if(|s| s.0 == series);
                found.push((series.to_owned(), ts_ms, value.to_bits(), line));
            }
            Some(Ok(_)) => {}
            _ => return found,
        }
    }
}

fuzz_target!(|body: &[u8]| {
    for format in [Format::Text, Format::OpenMetrics] {
        if let Err(e) = wire::check(format, body) {
            assert!(e.offset <= body.len() && e.text.chars().count() <= 100, "{e}");
        }
        let all = long_way(format, body);
        assert_eq!(short_way(format, body, &all), all);
    }
});
