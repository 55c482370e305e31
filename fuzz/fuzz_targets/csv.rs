#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::csv::{Plan, TimeKind, fields, unix_ms};

fuzz_target!(|input: (&str, &str)| {
    let (plan, line) = input;
    let mut row = Vec::new();
    if fields(line, ',', &mut row).is_ok() {
        assert!(!row.is_empty());
        let _ = Plan::new(plan, &row);
        for field in &row {
            let _ = unix_ms(field, TimeKind::Any);
        }
    }
});
