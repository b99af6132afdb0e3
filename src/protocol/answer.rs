//! What the server writes: compact JSON, fields in the documented order, `result` last; existing
//! clients compare replies byte for byte. Lists come as JSON that was written before, so that a
//! thousand replies with one queue build it once.

use std::time::Duration;

use crate::lock::{Grant, Limit, SessionId, Token};

use super::ErrorCode;
use super::json::{push_field, push_integer, push_seconds, push_string};

/// One line from the server to a client.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Answer<'a> {
    /// The lock is held; `grant` if the request had `limit`. `again`: it was held before.
    Acquired {
        name: &'a str,
        grant: Option<Grant>,
        again: bool,
    },
    /// Not granted. `queue` and `holders` are JSON lists; `holders` if the request had `limit`.
    TurnedAway {
        name: &'a str,
        queue: &'a [u8],
        holders: Option<&'a [u8]>,
        why: TurnedAwayBy,
    },
    LimitMismatch {
        name: &'a str,
        limit: Limit,
        asked: Limit,
    },
    Released {
        name: &'a str,
    },
    ReleaseFailed {
        name: &'a str,
    },
    ResetSucceeded,
    /// `value` is JSON.
    Locks {
        value: &'a [u8],
    },
    /// `value` is JSON.
    Connections {
        value: &'a [u8],
    },
    /// `value` is JSON.
    MyLocks {
        value: &'a [u8],
    },
    Opened {
        session: SessionId,
        ttl: Duration,
    },
    /// `holds` and `waits` are JSON lists.
    Resumed {
        ttl: Duration,
        holds: &'a [u8],
        waits: &'a [u8],
    },
    SessionUnknown,
    Renewed {
        seq: u64,
        ttl: Duration,
    },
    Closed,
    Superseded,
    Expired,
    Revoked {
        name: &'a str,
        token: Token,
        reason: &'a str,
    },
    /// `server` and `value` are JSON.
    Status {
        server: &'a [u8],
        value: &'a [u8],
    },
    /// To the operator: the lock is free of this holder.
    Taken {
        name: &'a str,
        token: Token,
    },
    /// To the operator: the holder is told; the lock passes on when it has given it back, at the
    /// latest after `ends_in`.
    Revoking {
        name: &'a str,
        token: Token,
        ends_in: Duration,
    },
    /// To the operator: there is no such grant.
    NotHeld {
        name: &'a str,
        token: Token,
    },
    Verified {
        name: &'a str,
        token: Token,
        held: bool,
    },
    Pong {
        version: &'a str,
    },
    Error {
        code: ErrorCode,
        message: &'a str,
    },
}

/// Why a lock was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAwayBy {
    /// The timeout passed.
    Timeout,
    /// The queue was as long as the request allowed.
    QueueMax,
}

impl Answer<'_> {
    /// Appends the answer as one line, its end included.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Acquired { name, grant, again } => {
                push_name(out, name);
                if let Some(grant) = grant {
                    push_grant(out, &grant);
                }
                match again {
                    true => push_result(out, "already_acquired"),
                    false => push_result(out, "acquired"),
                }
            }
            Self::TurnedAway { name, queue, holders, why } => {
                push_name(out, name);
                push_json(out, "queue", queue);
                if let Some(holders) = holders {
                    push_json(out, "holders", holders);
                }
                push_result(
                    out,
                    match why {
                        TurnedAwayBy::Timeout => "timed_out",
                        TurnedAwayBy::QueueMax => "queue_maxed",
                    },
                );
            }
            Self::LimitMismatch { name, limit, asked } => {
                push_name(out, name);
                push_number(out, "limit", limit.get().into());
                push_number(out, "asked", asked.get().into());
                push_result(out, "limit_mismatch");
            }
            Self::Released { name } => {
                push_name(out, name);
                push_result(out, "released");
            }
            Self::ReleaseFailed { name } => {
                push_name(out, name);
                push_result(out, "release_failed");
            }
            Self::ResetSucceeded => push_only_result(out, "reset_succeeded"),
            Self::Locks { value } => push_value(out, value, "locks"),
            Self::Connections { value } => push_value(out, value, "connections"),
            Self::MyLocks { value } => push_value(out, value, "my_locks"),
            Self::Opened { session, ttl } => {
                out.extend_from_slice(b"{\"session\":");
                push_string(out, &session.to_hex());
                push_field(out, "ttl");
                push_seconds(out, ttl);
                push_result(out, "opened");
            }
            Self::Resumed { ttl, holds, waits } => {
                out.extend_from_slice(b"{\"ttl\":");
                push_seconds(out, ttl);
                push_json(out, "holds", holds);
                push_json(out, "waits", waits);
                push_result(out, "resumed");
            }
            Self::SessionUnknown => push_only_result(out, "session_unknown"),
            Self::Renewed { seq, ttl } => {
                out.extend_from_slice(b"{\"seq\":");
                push_integer(out, seq);
                push_field(out, "ttl");
                push_seconds(out, ttl);
                push_result(out, "renewed");
            }
            Self::Closed => push_only_result(out, "closed"),
            Self::Superseded => push_only_result(out, "superseded"),
            Self::Expired => push_only_result(out, "expired"),
            Self::Revoked { name, token, reason } => {
                push_name_and_token(out, name, token);
                push_field(out, "reason");
                push_string(out, reason);
                push_result(out, "revoked");
            }
            Self::Status { server, value } => {
                out.extend_from_slice(b"{\"server\":");
                out.extend_from_slice(server);
                push_json(out, "value", value);
                push_result(out, "status");
            }
            Self::Taken { name, token } => {
                push_name_and_token(out, name, token);
                push_result(out, "taken");
            }
            Self::Revoking { name, token, ends_in } => {
                push_name_and_token(out, name, token);
                push_field(out, "ends_in");
                push_seconds(out, ends_in);
                push_result(out, "revoking");
            }
            Self::NotHeld { name, token } => {
                push_name_and_token(out, name, token);
                push_result(out, "not_held");
            }
            Self::Verified { name, token, held } => {
                push_name_and_token(out, name, token);
                push_json(out, "held", if held { b"true" } else { b"false" });
                push_result(out, "verified");
            }
            Self::Pong { version } => {
                out.extend_from_slice(b"{\"version\":");
                push_string(out, version);
                push_result(out, "pong");
            }
            Self::Error { code, message } => {
                out.extend_from_slice(b"{\"error\":");
                push_string(out, code.as_str());
                push_field(out, "message");
                push_string(out, message);
                push_result(out, "error");
            }
        }
    }
}

/// Appends one element of `holds`: a lock that a resumed session has.
pub(crate) fn push_hold(out: &mut Vec<u8>, name: &str, grant: &Grant) {
    push_name(out, name);
    push_grant(out, grant);
    out.push(b'}');
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b"{\"name\":");
    push_string(out, name);
}

fn push_name_and_token(out: &mut Vec<u8>, name: &str, token: Token) {
    push_name(out, name);
    push_number(out, "token", token.0);
}

fn push_grant(out: &mut Vec<u8>, grant: &Grant) {
    push_number(out, "token", grant.token.0);
    push_number(out, "slot", grant.slot.0.into());
    push_number(out, "limit", grant.limit.get().into());
}

fn push_number(out: &mut Vec<u8>, field: &str, number: u64) {
    push_field(out, field);
    push_integer(out, number);
}

fn push_json(out: &mut Vec<u8>, field: &str, json: &[u8]) {
    push_field(out, field);
    out.extend_from_slice(json);
}

fn push_value(out: &mut Vec<u8>, value: &[u8], result: &'static str) {
    out.extend_from_slice(b"{\"value\":");
    out.extend_from_slice(value);
    push_result(out, result);
}

// Inlined, so that what is appended is known and costs a few moves.
#[inline(always)]
fn push_result(out: &mut Vec<u8>, result: &'static str) {
    out.extend_from_slice(b",\"result\":\"");
    out.extend_from_slice(result.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn push_only_result(out: &mut Vec<u8>, result: &str) {
    out.extend_from_slice(b"{\"result\":\"");
    out.extend_from_slice(result.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Slot;
    use crate::protocol::{Granted, Held, Reply, TurnedAway};

    fn line(answer: &Answer<'_>) -> String {
        let mut out = Vec::new();
        answer.write_line(&mut out);
        String::from_utf8(out).unwrap()
    }

    const GRANT: Grant = Grant { token: Token(7), slot: Slot(1), limit: Limit::ONE };

    #[test]
    fn officers_replies_are_exact() {
        let name = "a\u{e4}";
        for (answer, expected) in [
            (Answer::Acquired { name, grant: None, again: false }, r#"{"name":"aä","result":"acquired"}"#),
            (
                Answer::Acquired { name, grant: None, again: true },
                r#"{"name":"aä","result":"already_acquired"}"#,
            ),
            (Answer::Released { name }, r#"{"name":"aä","result":"released"}"#),
            (Answer::ReleaseFailed { name }, r#"{"name":"aä","result":"release_failed"}"#),
            (
                Answer::TurnedAway { name, queue: br#"["1:2"]"#, holders: None, why: TurnedAwayBy::Timeout },
                r#"{"name":"aä","queue":["1:2"],"result":"timed_out"}"#,
            ),
            (
                Answer::TurnedAway { name, queue: b"[]", holders: None, why: TurnedAwayBy::QueueMax },
                r#"{"name":"aä","queue":[],"result":"queue_maxed"}"#,
            ),
            (Answer::ResetSucceeded, r#"{"result":"reset_succeeded"}"#),
            (Answer::Locks { value: b"{}" }, r#"{"value":{},"result":"locks"}"#),
            (Answer::MyLocks { value: b"[]" }, r#"{"value":[],"result":"my_locks"}"#),
        ] {
            assert_eq!(line(&answer), format!("{expected}\n"));
        }
    }

    #[test]
    fn the_extension_is_exact() {
        let granted = Answer::Acquired { name: "a", grant: Some(GRANT), again: false };
        assert_eq!(
            line(&granted),
            "{\"name\":\"a\",\"token\":7,\"slot\":1,\"limit\":1,\"result\":\"acquired\"}\n"
        );
        let renewed = Answer::Renewed { seq: 3, ttl: Duration::from_millis(2500) };
        assert_eq!(line(&renewed), "{\"seq\":3,\"ttl\":2.5,\"result\":\"renewed\"}\n");
        let error = Answer::Error { code: ErrorCode::NoSession, message: "x" };
        assert_eq!(line(&error), "{\"error\":\"no_session\",\"message\":\"x\",\"result\":\"error\"}\n");
    }

    #[test]
    fn a_client_reads_what_the_server_writes() {
        let mut holds = vec![b'['];
        push_hold(&mut holds, "a", &GRANT);
        holds.push(b']');
        let held = Held { name: "a".into(), token: Token(7), slot: Slot(1), limit: Limit::ONE };
        let id = SessionId::from_bytes([1; 16]);
        for (answer, reply) in [
            (
                Answer::Acquired { name: "a", grant: Some(GRANT), again: true },
                Reply::AlreadyAcquired(Granted {
                    name: "a".into(),
                    token: Some(Token(7)),
                    slot: Some(Slot(1)),
                    limit: Some(Limit::ONE),
                }),
            ),
            (
                Answer::Resumed { ttl: Duration::from_secs(1), holds: &holds, waits: br#"["b"]"# },
                Reply::Resumed { ttl: 1.0, holds: vec![held], waits: vec!["b".into()] },
            ),
            (
                Answer::Opened { session: id, ttl: Duration::from_secs(2) },
                Reply::Opened { session: id.to_hex(), ttl: 2.0 },
            ),
            (
                Answer::TurnedAway {
                    name: "a",
                    queue: b"[]",
                    holders: Some(b"[]"),
                    why: TurnedAwayBy::Timeout,
                },
                Reply::TimedOut(TurnedAway { name: "a".into(), queue: vec![], holders: vec![] }),
            ),
            (
                Answer::Revoked { name: "a", token: Token(1), reason: "r" },
                Reply::Revoked { name: "a".into(), token: Token(1), reason: "r".into() },
            ),
            (
                Answer::LimitMismatch { name: "a", limit: Limit::ONE, asked: Limit::ONE },
                Reply::LimitMismatch { name: "a".into(), limit: Limit::ONE, asked: Limit::ONE },
            ),
            (Answer::Superseded, Reply::Superseded),
            (Answer::Expired, Reply::Expired),
            (Answer::Closed, Reply::Closed),
            (Answer::SessionUnknown, Reply::SessionUnknown),
        ] {
            assert_eq!(Reply::parse(line(&answer).trim_end()).unwrap(), reply);
        }
    }
}
