//! What was read and written is read again as the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|record: &[u8]| {
    if let Ok(envelope) = keylane::Envelope::parse(record) {
        assert_eq!(keylane::Envelope::parse(&envelope.encode()), Ok(envelope));
    }
});
