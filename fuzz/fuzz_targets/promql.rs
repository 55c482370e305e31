#![no_main]

use libfuzzer_sys::fuzz_target;

// What is read is printed so that it is read again alike.
fuzz_target!(|query: &str| {
    let _ = promql::parse_selector(query);
    let Ok(parsed) = promql::parse(query) else { return };
    let printed = promql::format(&parsed);
    let again = promql::parse(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"));
    // Prometheus writes an infinity as `+Inf`, which it reads as one with a sign before it; so do we.
    if !printed.contains("+Inf") {
        assert_eq!(promql::format(&again), printed);
    }
    let _ = promql::value_type(&parsed);
    let _ = promql::reach_ms(&parsed, 300_000, 60_000);
});
