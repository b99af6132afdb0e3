//! The lines that make up nearly all traffic, read in one pass over their bytes: flat objects of plain
//! strings and small whole numbers. Whatever else a line may be, wrong ones included, is left to
//! `parse.rs`, which alone decides what is refused; a test holds the two against each other.

use std::borrow::Cow;
use std::time::Duration;

use crate::lock::Limit;

use super::{LockRequest, MAX_LIMIT, MAX_NAME_BYTES, Request};

/// Whole numbers of more digits are left to the other reader, so that none overflows here.
const MAX_DIGITS: usize = 9;

/// The fields that this reader knows.
#[derive(Default)]
struct Fields<'a> {
    command: &'a str,
    name: Option<&'a str>,
    timeout: Option<u64>,
    queue_max: Option<u64>,
    limit: Option<u64>,
    seq: Option<u64>,
}

enum Value<'a> {
    Text(&'a str),
    Whole(u64),
    Null,
}

/// The request, if the line is one of the simple ones.
pub(super) fn parse(line: &str) -> Option<Request<'_>> {
    let fields = fields(line)?;
    match fields.command {
        "lock" => fields.into_lock(),
        "unlock" => Some(Request::Unlock { name: fields.name()? }),
        "renew" => Some(Request::Renew { seq: fields.seq? }),
        _ => None,
    }
}

impl<'a> Fields<'a> {
    fn name(&self) -> Option<Cow<'a, str>> {
        let name = self.name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES)?;
        Some(Cow::Borrowed(name))
    }

    fn into_lock(self) -> Option<Request<'a>> {
        let limit = match self.limit {
            None => None,
            Some(limit) if limit <= u64::from(MAX_LIMIT) => Some(Limit::new(limit as u32)?),
            Some(_) => return None,
        };
        if self.queue_max == Some(0) {
            return None;
        }
        let timeout = self.timeout.map(Duration::from_secs);
        Some(Request::Lock(LockRequest { name: self.name()?, timeout, queue_max: self.queue_max, limit }))
    }
}

fn fields(line: &str) -> Option<Fields<'_>> {
    let mut cursor = Cursor { line, at: 0 };
    let mut fields = Fields::default();
    cursor.expect(b'{')?;
    loop {
        let key = cursor.text()?;
        cursor.expect(b':')?;
        match (key, cursor.value()?) {
            ("command", Value::Text(command)) => fields.command = command,
            ("name", Value::Text(name)) => fields.name = Some(name),
            ("timeout", value) => fields.timeout = value.whole()?,
            ("queue_max", value) => fields.queue_max = value.whole()?,
            ("limit", value) => fields.limit = value.whole()?,
            ("seq", value) => fields.seq = value.whole()?,
            _ => return None,
        }
        if cursor.expect(b',').is_none() {
            cursor.expect(b'}')?;
            cursor.skip_spaces();
            return (cursor.at == line.len()).then_some(fields);
        }
    }
}

impl Value<'_> {
    /// `Some(None)` for null.
    fn whole(self) -> Option<Option<u64>> {
        match self {
            Self::Whole(number) => Some(Some(number)),
            Self::Null => Some(None),
            Self::Text(_) => None,
        }
    }
}

struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_spaces();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// A string without escapes.
    fn text(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = &self.line.as_bytes()[self.at..];
        let length = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
        if rest[length] != b'"' {
            return None;
        }
        let text = &self.line[self.at..self.at + length];
        self.at += length + 1;
        Some(text)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        self.skip_spaces();
        match self.peek()? {
            b'"' => self.text().map(Value::Text),
            b'0'..=b'9' => self.whole().map(Value::Whole),
            _ => {
                let is_null = self.line[self.at..].starts_with("null");
                self.at += "null".len();
                is_null.then_some(Value::Null)
            }
        }
    }

    /// A number of few digits; JSON allows no zero in front, and what follows it isn't our matter if
    /// it is more than the field's end.
    fn whole(&mut self) -> Option<u64> {
        let rest = &self.line.as_bytes()[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > MAX_DIGITS || (digits > 1 && rest[0] == b'0') {
            return None;
        }
        self.at += digits;
        Some(rest[..digits].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_lines_are_read_here() {
        for line in [
            r#"{"command":"lock","name":"a"}"#,
            r#"{"command":"lock","name":"a","timeout":5,"queue_max":3,"limit":1}"#,
            r#"{ "name" : "ä b" , "command" : "unlock" }"#,
            r#"{"command":"lock","name":"a","timeout":null}"#,
            r#"{"command":"renew","seq":7}"#,
        ] {
            let quick = parse(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(Request::parse_any(line), Ok(quick), "{line}");
        }
    }

    /// Pieces of which lines are made that are nearly right.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[{}:, \t\r\\[\\]]",
            prop::sample::select(vec![
                "\"command\":",
                "\"lock\"",
                "\"unlock\"",
                "\"renew\"",
                "\"name\":",
                "\"a\"",
                "\"\"",
                "\"\\u0061\"",
                "\"ä\"",
                "\"timeout\":",
                "\"queue_max\":",
                "\"limit\":",
                "\"seq\":",
                "0",
                "1",
                "00",
                "5.5",
                "-1",
                "1e2",
                "1000001",
                "4294967297",
                "99999999999999999999",
                "null",
                "nul",
                "true",
                ",",
                "{",
                "}",
                "\"x\":",
                "\"",
                "{\"command\":\"lock\",\"name\":\"a\"",
                "{\"command\":\"renew\",",
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_here_is_what_the_other_reader_reads(pieces in prop::collection::vec(piece(), 1..12)) {
            let line = pieces.concat();
            if let Some(quick) = parse(&line) {
                prop_assert_eq!(Request::parse_any(&line), Ok(quick));
            }
        }

        #[test]
        fn simple_requests_are_read_here(
            name in "[^\"\\\\\u{0}-\u{1f}]{1,20}",
            timeout in prop::option::of(0..1000_u64),
            queue_max in prop::option::of(1..1000_u64),
            limit in prop::option::of(1..1000_u32),
        ) {
            let request = Request::Lock(LockRequest {
                name: name.into(),
                timeout: timeout.map(Duration::from_secs),
                queue_max,
                limit: limit.and_then(Limit::new),
            });
            let line = request.to_line();
            prop_assert_eq!(parse(line.trim_end_matches('\n')), Some(request));
        }
    }
}
