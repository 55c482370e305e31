#![no_main]

use collect::AddressPolicy;
use libfuzzer_sys::fuzz_target;
use server::rest::body;
use server::rest::registration::Registration;

// A registration that is taken has a normal form, which is taken as the same.
fuzz_target!(|bytes: &[u8]| {
    let policy = AddressPolicy::strict(true);
    let Ok(value) = body::parse(bytes) else { return };
    let _ = Registration::read(&value, true, &policy);
    let Ok(read) = Registration::read(&value, false, &policy) else { return };
    let normal = read.normal();
    let again = Registration::read(&normal, true, &policy).unwrap_or_else(|e| panic!("{}: {normal}", e.detail));
    assert_eq!(again.normal(), normal);
});
