//! One line as a client may send it: `cargo +nightly fuzz run line fuzz/corpus/line fuzz/seeds/line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| officer::server::fuzzing::line(data));
