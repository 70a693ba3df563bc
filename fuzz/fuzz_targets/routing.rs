//! Headers, keys and values of any bytes are routed to what is in one of them or to nothing.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (Vec<(String, Vec<u8>)>, Option<Vec<u8>>, Vec<u8>)| {
    keylane_fuzz::routing(input);
});
