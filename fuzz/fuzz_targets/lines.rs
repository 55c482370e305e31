#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{graphite, influx, statsd};

fuzz_target!(|body: &[u8]| {
    let lines = body.iter().filter(|b| **b == b'\n').count() + 1;
    assert!(influx::Lines::new(body).count() <= lines);
    for point in influx::Lines::new(body).flatten() {
        assert!(!point.measurement.is_empty() && !point.fields.is_empty());
    }
    for line in body.split(|b| *b == b'\n') {
        if let Some(Ok(point)) = graphite::parse(line, 1) {
            assert!(!point.path.is_empty());
        }
        if let Some(Ok(statsd::Line::Metric(metric))) = statsd::parse(line, 1) {
            assert!(!metric.values.is_empty() && metric.rate > 0.0);
        }
    }
});
