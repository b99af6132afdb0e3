//! Lines as clients write them, good ones and bad ones.

use std::borrow::Cow;
use std::time::Duration;

use crate::lock::{Limit, SessionId, Token};

use super::{ErrorCode, LockRequest, MAX_NAME_BYTES, MAX_WHO_BYTES, Refusal, Request, Who};

fn parse(line: &str) -> Result<Request<'_>, Refusal> {
    Request::parse(line.as_bytes())
}

fn refusal(line: &str) -> (ErrorCode, String) {
    let refusal = parse(line).expect_err(line);
    (refusal.code, refusal.message.into_owned())
}

#[test]
fn what_a_client_writes_is_what_the_server_reads() {
    let lock = LockRequest {
        name: "a \"b\"\u{1}\u{1F512}".into(),
        timeout: Some(Duration::from_millis(250)),
        queue_max: Some(2),
        limit: Limit::new(3),
    };
    let who = Who { host: Some("h".into()), pid: Some(1), user: None, run: Some("x y".into()) };
    let id = SessionId::from_bytes([9; 16]);
    for request in [
        Request::Lock(lock),
        Request::Unlock { name: "b".into() },
        Request::Reset,
        Request::Locks,
        Request::Connections,
        Request::MyLocks,
        Request::KeepAlive,
        Request::Open { session: None, ttl: Duration::from_millis(1500), who: who.clone() },
        Request::Open { session: Some(id), ttl: Duration::from_millis(1500), who },
        Request::Resume { session: id },
        Request::Renew { seq: u64::MAX },
        Request::Close { session: None },
        Request::Close { session: Some(id) },
        Request::Status { name: None },
        Request::Status { name: Some("a".into()) },
        Request::Release { name: "a".into(), token: Token(7), reason: "stuck".into() },
        Request::Verify { name: "a".into(), token: Token(7) },
        Request::Ping,
    ] {
        let line = request.to_line();
        assert_eq!(parse(line.trim_end()), Ok(request), "{line}");
    }
}

#[test]
fn spaces_order_and_unknown_fields_do_not_matter() {
    let line = r#" { "x" : [ { "y" : null } ] , "name" : "\u0061" , "command" : "unlock" } "#;
    assert_eq!(parse(line), Ok(Request::Unlock { name: "a".into() }));
}

#[test]
fn a_name_without_escapes_is_borrowed() {
    let line = r#"{"command":"unlock","name":"abc"}"#;
    let Ok(Request::Unlock { name: Cow::Borrowed(_) }) = parse(line) else { panic!("copied") };
}

#[test]
fn null_is_absent() {
    let line = r#"{"command":"lock","name":"a","timeout":null,"queue_max":null,"limit":null}"#;
    let Ok(Request::Lock(lock)) = parse(line) else { panic!() };
    assert_eq!((lock.timeout, lock.queue_max, lock.limit), (None, None, None));
}

#[test]
fn a_timeout_below_zero_is_zero_and_an_endless_one_is_none() {
    for (given, read) in
        [("-1", Some(0.0)), ("-0.5", Some(0.0)), ("0", Some(0.0)), ("2.5", Some(2.5)), ("1e300", None)]
    {
        let line = format!(r#"{{"command":"lock","name":"a","timeout":{given}}}"#);
        let Ok(Request::Lock(lock)) = parse(&line) else { panic!("{line}") };
        assert_eq!(lock.timeout, read.map(Duration::from_secs_f64), "{line}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    let deep = format!(r#"{{"command":"reset","x":{}}}"#, "[".repeat(10_000));
    for line in ["", "x", "[]", "1", "null", "{", r#"{"command":"reset"} 1"#, r#"{1:2}"#, &deep] {
        assert_eq!(refusal(line).0, ErrorCode::BadJson, "{line}");
    }
    let lone = r#"{"command":"unlock","name":"\ud800"}"#;
    assert_eq!(refusal(lone).0, ErrorCode::BadJson);
    let error = Request::parse(b"{\"command\":\"unlock\",\"name\":\"\xff\"}").unwrap_err();
    assert_eq!(error.code, ErrorCode::BadJson);
}

#[test]
fn unknown_commands_are_named() {
    assert_eq!(refusal("{}").0, ErrorCode::BadCommand);
    assert_eq!(refusal(r#"{"command":7}"#).0, ErrorCode::BadCommand);
    let (code, message) = refusal(r#"{"command":"frobnicate"}"#);
    assert_eq!((code, message.as_str()), (ErrorCode::BadCommand, r#"unknown command "frobnicate""#));
}

#[test]
fn wrong_fields_are_named_with_what_is_allowed() {
    for (fields, message) in [
        (r#""command":"lock""#, "name must be a string that is not empty"),
        (r#""command":"lock","name":7"#, "name must be a string that is not empty"),
        (r#""command":"unlock","name":"""#, "name must be a string that is not empty"),
        (r#""command":"lock","name":"a","timeout":"1""#, "timeout must be a number of seconds or null"),
        (
            r#""command":"lock","name":"a","queue_max":0"#,
            "queue_max must be an integer of at least 1, or null",
        ),
        (
            r#""command":"lock","name":"a","queue_max":1.5"#,
            "queue_max must be an integer of at least 1, or null",
        ),
        (
            r#""command":"lock","name":"a","queue_max":-1"#,
            "queue_max must be an integer of at least 1, or null",
        ),
        (r#""command":"lock","name":"a","limit":0"#, "limit must be an integer of 1 to 1000000, or null"),
        (
            r#""command":"lock","name":"a","limit":1000001"#,
            "limit must be an integer of 1 to 1000000, or null",
        ),
        (r#""command":"open","ttl":"x""#, "ttl must be a number of seconds"),
        (r#""command":"open","ttl":1,"who":3"#, "who must be an object or null"),
        (r#""command":"open","ttl":1,"who":{"host":3}"#, "who.host must be a string or null"),
        (
            r#""command":"open","ttl":1,"who":{"pid":-3}"#,
            "who.pid must be an integer of 0 to 4294967295, or null",
        ),
        (r#""command":"resume""#, "session must be 32 hexadecimal digits"),
        (r#""command":"close","session":"12""#, "session must be 32 hexadecimal digits"),
        (
            r#""command":"release","name":"a","reason":"x""#,
            "token must be the integer that the grant came with",
        ),
        (r#""command":"release","name":"a","token":1"#, "reason must be a string that is not empty"),
        (
            r#""command":"verify","name":"a","token":"1""#,
            "token must be the integer that the grant came with",
        ),
        (r#""command":"status","name":1"#, "name must be a string that is not empty"),
        (r#""command":"renew""#, "seq must be an integer of at least 0"),
    ] {
        let line = format!("{{{fields}}}");
        assert_eq!(refusal(&line), (ErrorCode::BadField, message.to_owned()), "{line}");
    }
}

#[test]
fn names_have_a_bound() {
    let line = |bytes| format!(r#"{{"command":"unlock","name":"{}"}}"#, "n".repeat(bytes));
    assert!(parse(&line(MAX_NAME_BYTES)).is_ok());
    assert_eq!(refusal(&line(MAX_NAME_BYTES + 1)).0, ErrorCode::BadField);
}

#[test]
fn descriptions_are_cut_at_a_whole_character() {
    let line = format!(r#"{{"command":"open","ttl":1,"who":{{"run":"x{}"}}}}"#, "\u{e4}".repeat(300));
    let Ok(Request::Open { who, .. }) = parse(&line) else { panic!() };
    assert_eq!(who.run.unwrap().len(), MAX_WHO_BYTES - 1);
}
