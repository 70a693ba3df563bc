//! No bytes make the parser panic or hang.
#![no_main]

libfuzzer_sys::fuzz_target!(|record: &[u8]| {
    let _ = keylane::Envelope::parse(record);
});
