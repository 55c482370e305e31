#![no_main]

use libfuzzer_sys::fuzz_target;
use server::prom::read_message;

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = read_message::request(body) {
        assert!(request.queries.len() <= 100);
        assert!(request.queries.iter().map(|query| query.matchers.len()).sum::<usize>() <= read_message::MATCHERS_MAX);
    }
});
