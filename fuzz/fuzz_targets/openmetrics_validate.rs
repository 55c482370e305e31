#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if wire::openmetrics::validate(body).is_ok() {
        assert_eq!(wire::check(wire::Format::OpenMetrics, body).err(), None);
    }
});
