//! Small pieces of compact JSON, appended to a line that is being written.

use std::time::Duration;

/// Appends a string with its quotes: UTF-8 as it is, only what JSON demands is escaped.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    if !text.as_bytes().iter().all(is_plain) {
        return serde_json::to_writer(out, text).expect("a Vec takes every write");
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Appends the comma, the name and the colon of a further field.
#[inline]
pub(crate) fn push_field(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends a time in seconds; a whole number without a fraction.
pub(crate) fn push_seconds(out: &mut Vec<u8>, time: Duration) {
    if time.subsec_nanos() == 0 {
        return push_integer(out, time.as_secs());
    }
    serde_json::to_writer(out, &time.as_secs_f64()).expect("a Vec takes every write");
}

/// Appends a number.
pub(crate) fn push_integer(out: &mut Vec<u8>, number: u64) {
    serde_json::to_writer(out, &number).expect("a Vec takes every write");
}
