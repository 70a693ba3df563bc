//! Any text is a configuration or a clear error, as TOML, as an environment variable and as a URL; a URL that is one is
//! read again as the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| keylane_fuzz::config(text));
