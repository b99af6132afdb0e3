//! A line as the server reads it: one pass, borrowing from the line, no tree of values in between.
//! Every refusal names the field and what is allowed. Knows nothing of what a connection may ask.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::lock::{Limit, SessionId, Token};

use super::{LockRequest, MAX_LIMIT, MAX_NAME_BYTES, MAX_WHO_BYTES, Request, Who, quick};

/// Waiting longer than this is waiting for ever (31 years); it keeps every sum of times in range.
const MAX_TIMEOUT_SECONDS: f64 = 1e9;

/// Why a line was refused; the line that tells the client is `{"error":…,"message":…,"result":"error"}`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of fault.
    pub code: ErrorCode,
    /// What is wrong and what is allowed.
    pub message: Cow<'static, str>,
}

/// The codes of error lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Not one JSON object in valid UTF-8, or nested too deeply.
    BadJson,
    /// The command is missing, not a string or unknown.
    BadCommand,
    /// A field is missing, of the wrong type or out of range.
    BadField,
    /// The command can't come at this point of the connection.
    BadState,
    /// The line bound was passed.
    LineTooLong,
    /// The bound of locks and places in queues of one client.
    TooManyLocks,
    /// The bound of waiters of one lock.
    TooManyWaiters,
    /// The bound of connections of the server.
    TooManyConnections,
    /// The bound of sessions of the server.
    TooManySessions,
    /// The command needs a session and this connection has none.
    NoSession,
    /// Sessions are granted locks again in a while.
    NotReady,
    /// The connection's user is not the one that is served.
    WrongUser,
    /// A lock was taken from this session and isn't given back yet: so long it isn't renewed.
    Revoked,
}

impl ErrorCode {
    /// The code as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadCommand => "bad_command",
            Self::BadField => "bad_field",
            Self::BadState => "bad_state",
            Self::LineTooLong => "line_too_long",
            Self::TooManyLocks => "too_many_locks",
            Self::TooManyWaiters => "too_many_waiters",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManySessions => "too_many_sessions",
            Self::NoSession => "no_session",
            Self::NotReady => "not_ready",
            Self::WrongUser => "wrong_user",
            Self::Revoked => "revoked",
        }
    }
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    fn field(name: &'static str, allowed: &str) -> Self {
        Self::new(ErrorCode::BadField, format!("{name} must be {allowed}"))
    }
}

impl<'a> Request<'a> {
    /// Reads one line, its end cut off.
    pub fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(line).map_err(|e| {
            Refusal::new(
                ErrorCode::BadJson,
                format!("the line is not valid UTF-8 from byte {} on", e.valid_up_to()),
            )
        })?;
        match quick::parse(text) {
            Some(request) => Ok(request),
            None => Self::parse_any(text),
        }
    }

    /// Reads any line, and says what is wrong with it.
    pub(crate) fn parse_any(text: &'a str) -> Result<Self, Refusal> {
        let fields: Fields<'a> = serde_json::from_str(text).map_err(|e| {
            Refusal::new(ErrorCode::BadJson, format!("the line must be one JSON object: {e}"))
        })?;
        fields.into_request()
    }
}

/// The fields of a line, each as it stood there; of two with one name the later counts.
#[derive(Default)]
struct Fields<'a> {
    command: Value<'a>,
    name: Value<'a>,
    timeout: Value<'a>,
    queue_max: Value<'a>,
    limit: Value<'a>,
    ttl: Value<'a>,
    who: WhoValue,
    session: Value<'a>,
    seq: Value<'a>,
    token: Value<'a>,
    reason: Value<'a>,
}

/// What a field held. Containers are read over: none of the plain fields may be one.
#[derive(Default)]
enum Value<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(u64),
    Number(f64),
    Other,
}

/// The description of a session, or the name of the part that is wrong.
#[derive(Default)]
enum WhoValue {
    #[default]
    Absent,
    Is(Who),
    Wrong(&'static str, &'static str),
}

impl<'a> Fields<'a> {
    fn into_request(self) -> Result<Request<'a>, Refusal> {
        let Value::Text(command) = &self.command else {
            return Err(Refusal::new(ErrorCode::BadCommand, "command must be a string"));
        };
        Ok(match command.as_ref() {
            "lock" => Request::Lock(self.into_lock()?),
            "unlock" => Request::Unlock { name: name(self.name)? },
            "reset" => Request::Reset,
            "locks" => Request::Locks,
            "connections" => Request::Connections,
            "my_locks" => Request::MyLocks,
            "keep_alive" => Request::KeepAlive,
            "open" => Request::Open {
                session: session_if_given(&self.session)?,
                ttl: ttl(&self.ttl)?,
                who: who(self.who)?,
            },
            "resume" => Request::Resume { session: session(&self.session)? },
            "renew" => Request::Renew { seq: seq(&self.seq)? },
            "close" => Request::Close { session: session_if_given(&self.session)? },
            "status" => Request::Status {
                name: match self.name {
                    Value::Absent => None,
                    given => Some(name(given)?),
                },
            },
            "release" => Request::Release {
                token: token(&self.token)?,
                reason: reason(self.reason)?,
                name: name(self.name)?,
            },
            "verify" => Request::Verify { token: token(&self.token)?, name: name(self.name)? },
            "ping" => Request::Ping,
            other => return Err(unknown_command(other)),
        })
    }

    fn into_lock(self) -> Result<LockRequest<'a>, Refusal> {
        Ok(LockRequest {
            timeout: timeout(&self.timeout)?,
            queue_max: queue_max(&self.queue_max)?,
            limit: limit(&self.limit)?,
            name: name(self.name)?,
        })
    }
}

fn unknown_command(command: &str) -> Refusal {
    const SHOWN_CHARS: usize = 40;
    let shown: String = command.chars().take(SHOWN_CHARS).collect();
    Refusal::new(ErrorCode::BadCommand, format!("unknown command {shown:?}"))
}

fn name(value: Value<'_>) -> Result<Cow<'_, str>, Refusal> {
    match value {
        Value::Text(name) if name.len() > MAX_NAME_BYTES => {
            Err(Refusal::field("name", &format!("at most {MAX_NAME_BYTES} bytes long")))
        }
        Value::Text(name) if !name.is_empty() => Ok(name),
        Value::Text(_) | Value::Absent | Value::Integer(_) | Value::Number(_) | Value::Other => {
            Err(Refusal::field("name", "a string that is not empty"))
        }
    }
}

fn timeout(value: &Value<'_>) -> Result<Option<Duration>, Refusal> {
    let seconds = match value {
        Value::Absent => return Ok(None),
        Value::Integer(seconds) => *seconds as f64,
        Value::Number(seconds) => *seconds,
        Value::Text(_) | Value::Other => {
            return Err(Refusal::field("timeout", "a number of seconds or null"));
        }
    };
    if seconds > MAX_TIMEOUT_SECONDS {
        return Ok(None);
    }
    Ok(Some(Duration::from_secs_f64(seconds.max(0.0))))
}

fn queue_max(value: &Value<'_>) -> Result<Option<u64>, Refusal> {
    match value {
        Value::Absent => Ok(None),
        Value::Integer(places) if *places >= 1 => Ok(Some(*places)),
        Value::Integer(_) | Value::Number(_) | Value::Text(_) | Value::Other => {
            Err(Refusal::field("queue_max", "an integer of at least 1, or null"))
        }
    }
}

fn limit(value: &Value<'_>) -> Result<Option<Limit>, Refusal> {
    let holders = match value {
        Value::Absent => return Ok(None),
        Value::Integer(holders) if *holders <= u64::from(MAX_LIMIT) => *holders as u32,
        Value::Integer(_) | Value::Number(_) | Value::Text(_) | Value::Other => 0,
    };
    match Limit::new(holders) {
        Some(limit) => Ok(Some(limit)),
        None => Err(Refusal::field("limit", &format!("an integer of 1 to {MAX_LIMIT}, or null"))),
    }
}

fn ttl(value: &Value<'_>) -> Result<Duration, Refusal> {
    let seconds = match value {
        Value::Integer(seconds) => *seconds as f64,
        Value::Number(seconds) => *seconds,
        Value::Absent | Value::Text(_) | Value::Other => -1.0,
    };
    if !(0.0..=MAX_TIMEOUT_SECONDS).contains(&seconds) {
        return Err(Refusal::field("ttl", "a number of seconds"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn who(value: WhoValue) -> Result<Who, Refusal> {
    match value {
        WhoValue::Absent => Ok(Who::default()),
        WhoValue::Is(who) => Ok(who),
        WhoValue::Wrong(field, allowed) => Err(Refusal::field(field, allowed)),
    }
}

fn session(value: &Value<'_>) -> Result<SessionId, Refusal> {
    let id = match value {
        Value::Text(text) => SessionId::from_hex(text),
        Value::Absent | Value::Integer(_) | Value::Number(_) | Value::Other => None,
    };
    id.ok_or_else(|| Refusal::field("session", "32 hexadecimal digits"))
}

fn session_if_given(value: &Value<'_>) -> Result<Option<SessionId>, Refusal> {
    match value {
        Value::Absent => Ok(None),
        given => session(given).map(Some),
    }
}

fn seq(value: &Value<'_>) -> Result<u64, Refusal> {
    match value {
        Value::Integer(seq) => Ok(*seq),
        Value::Absent | Value::Number(_) | Value::Text(_) | Value::Other => {
            Err(Refusal::field("seq", "an integer of at least 0"))
        }
    }
}

fn token(value: &Value<'_>) -> Result<Token, Refusal> {
    match value {
        Value::Integer(token) => Ok(Token(*token)),
        Value::Absent | Value::Number(_) | Value::Text(_) | Value::Other => {
            Err(Refusal::field("token", "the integer that the grant came with"))
        }
    }
}

fn reason(value: Value<'_>) -> Result<Cow<'_, str>, Refusal> {
    match value {
        Value::Text(reason) if !reason.trim().is_empty() => Ok(cut(&reason).into()),
        Value::Text(_) | Value::Absent | Value::Integer(_) | Value::Number(_) | Value::Other => {
            Err(Refusal::field("reason", "a string that is not empty"))
        }
    }
}

/// The names of the fields that count.
enum Key {
    Command,
    Name,
    Timeout,
    QueueMax,
    Limit,
    Ttl,
    Who,
    Session,
    Seq,
    Token,
    Reason,
    Unknown,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "command" => Key::Command,
                    "name" => Key::Name,
                    "timeout" => Key::Timeout,
                    "queue_max" => Key::QueueMax,
                    "limit" => Key::Limit,
                    "ttl" => Key::Ttl,
                    "who" => Key::Who,
                    "session" => Key::Session,
                    "seq" => Key::Seq,
                    "token" => Key::Token,
                    "reason" => Key::Reason,
                    _ => Key::Unknown,
                })
            }
        }
        from.deserialize_str(KeyVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Command => fields.command = map.next_value()?,
                        Key::Name => fields.name = map.next_value()?,
                        Key::Timeout => fields.timeout = map.next_value()?,
                        Key::QueueMax => fields.queue_max = map.next_value()?,
                        Key::Limit => fields.limit = map.next_value()?,
                        Key::Ttl => fields.ttl = map.next_value()?,
                        Key::Who => fields.who = map.next_value()?,
                        Key::Session => fields.session = map.next_value()?,
                        Key::Seq => fields.seq = map.next_value()?,
                        Key::Token => fields.token = map.next_value()?,
                        Key::Reason => fields.reason = map.next_value()?,
                        Key::Unknown => drop(map.next_value::<Value<'_>>()?),
                    }
                }
                Ok(fields)
            }
        }
        from.deserialize_map(FieldsVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Value::Integer(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Value::Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Value::Number(number))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Value::Other)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Value::Absent)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<Value<'_>>()?.is_some() {}
                Ok(Value::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<Value<'_>, Value<'_>>()?.is_some() {}
                Ok(Value::Other)
            }
        }
        from.deserialize_any(ValueVisitor)
    }
}

impl<'de> Deserialize<'de> for WhoValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct WhoVisitor;
        impl<'de> Visitor<'de> for WhoVisitor {
            type Value = WhoValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or null")
            }

            fn visit_unit<E>(self) -> Result<WhoValue, E> {
                Ok(WhoValue::Absent)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WhoValue, A::Error> {
                let mut who = Who::default();
                let mut wrong = None;
                while let Some((key, value)) = map.next_entry::<Cow<'_, str>, Value<'_>>()? {
                    wrong = wrong.or(fill_who(&mut who, &key, value).err());
                }
                Ok(match wrong {
                    None => WhoValue::Is(who),
                    Some((field, allowed)) => WhoValue::Wrong(field, allowed),
                })
            }

            fn visit_bool<E>(self, _: bool) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_u64<E>(self, _: u64) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_i64<E>(self, _: i64) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_f64<E>(self, _: f64) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_str<E>(self, _: &str) -> Result<WhoValue, E> {
                Ok(NO_OBJECT)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WhoValue, A::Error> {
                while seq.next_element::<Value<'_>>()?.is_some() {}
                Ok(NO_OBJECT)
            }
        }
        const NO_OBJECT: WhoValue = WhoValue::Wrong("who", "an object or null");
        from.deserialize_any(WhoVisitor)
    }
}

/// Sets one field of a description, or says which one is wrong and what is allowed there.
fn fill_who(who: &mut Who, key: &str, value: Value<'_>) -> Result<(), (&'static str, &'static str)> {
    let text = |name, value| match value {
        Value::Absent => Ok(None),
        Value::Text(text) => Ok(Some(cut(&text))),
        Value::Integer(_) | Value::Number(_) | Value::Other => Err((name, "a string or null")),
    };
    match key {
        "host" => who.host = text("who.host", value)?,
        "user" => who.user = text("who.user", value)?,
        "run" => who.run = text("who.run", value)?,
        "pid" => who.pid = pid(&value)?,
        _ => {}
    }
    Ok(())
}

fn pid(value: &Value<'_>) -> Result<Option<u32>, (&'static str, &'static str)> {
    const WRONG: (&str, &str) = ("who.pid", "an integer of 0 to 4294967295, or null");
    match value {
        Value::Absent => Ok(None),
        Value::Integer(pid) => u32::try_from(*pid).map(Some).map_err(|_| WRONG),
        Value::Number(_) | Value::Text(_) | Value::Other => Err(WRONG),
    }
}

/// The longest start of `text` that is within the bound and ends with a whole character.
fn cut(text: &str) -> String {
    let end = (0..=text.len().min(MAX_WHO_BYTES)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
