//! Headers, keys and values of any bytes are routed to a valid aggregate id or to none.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (Vec<(String, Vec<u8>)>, Option<Vec<u8>>, Vec<u8>)| {
    keylane_fuzz::routing(input);
});
