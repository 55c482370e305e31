#![no_main]

use libfuzzer_sys::fuzz_target;
use model::Labels;
use model::aggregate::{Aggregator, Coming, How};

// What filters added up, as it lies on disk; what is read works, and is written so that it is read again alike.
fuzz_target!(|bytes: &[u8]| {
    let Some(mut sums) = Aggregator::decode(bytes) else { return };
    let mut written = Vec::new();
    sums.encode(&mut written);
    let again = Aggregator::decode(&written).unwrap_or_else(|| panic!("it reads back"));
    assert_eq!((again.children(), again.groups()), (sums.children(), sums.groups()));
    let labels = Labels::from_pairs([("__name__", "m")]);
    for how in [How::Cumulative, How::Histogram] {
        sums.begin(Coming { lookback_ms: 300_000, newest_ms: 1 << 40 });
        sums.next_step(1 << 39);
        if let Some(child) = sums.child(1, &labels, how, 1 << 39, &|_| None) {
            sums.add(child, 1.0);
        }
        sums.totals();
        sums.commit();
    }
    sums.sweep(1 << 40);
});
