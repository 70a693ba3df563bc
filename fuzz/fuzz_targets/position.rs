//! Any text beside a committed offset is read without a panic, and what it says is written and read again as the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u64, &str)| {
    keylane_fuzz::position(input);
});
