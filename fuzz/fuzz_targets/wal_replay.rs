#![no_main]

use libfuzzer_sys::fuzz_target;

// Records, each behind its length (two bytes, little-endian): behind a frame that checks, whatever they hold.
fuzz_target!(|input: &[u8]| {
    let (mut rest, mut records) = (input, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (record, behind) = behind.split_at(length);
        records.push(record);
        rest = behind;
    }
    let (taken, _) = store::testing::replay(&records);
    assert!(taken <= records.len() as u64);
});
