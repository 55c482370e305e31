#![no_main]

use libfuzzer_sys::fuzz_target;

// The first byte says which file of a store the rest is taken for.
fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    store::testing::read_file(*kind, bytes);
});
