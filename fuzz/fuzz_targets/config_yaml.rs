#![no_main]

use libfuzzer_sys::fuzz_target;
use server::config::{print, yaml};

// What is read is printed, without secrets, so that it is read again alike.
fuzz_target!(|text: &str| {
    let Ok(root) = yaml::parse(text) else { return };
    let printed = print::without_secrets(&root);
    let again = yaml::parse(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"));
    assert_eq!(print::without_secrets(&again), printed);
});
