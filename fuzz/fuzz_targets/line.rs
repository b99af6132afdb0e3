//! One line as a client may send it: see `fuzz/README.md`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| officer::server::fuzzing::line(data));
