//! Whole connections, their bytes, ends and the time: see `fuzz/README.md`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| officer::server::fuzzing::connections(data));
