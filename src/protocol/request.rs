//! What a client can ask, and how the client writes it. Reading is in `parse.rs`.

use std::borrow::Cow;
use std::time::Duration;

use crate::lock::{Limit, SessionId, Token, Who};

use super::json::{push_field, push_integer, push_seconds, push_string};

/// One request, borrowing from the line it was read from where it can.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// Ask for a lock.
    Lock(LockRequest<'a>),
    /// Give a lock back, or leave its queue.
    Unlock {
        /// The lock's name.
        name: Cow<'a, str>,
    },
    /// Give everything back.
    Reset,
    /// List all locks and their queues.
    Locks,
    /// List all connections and their locks.
    Connections,
    /// List what this client holds and waits for.
    MyLocks,
    /// Keep an idle connection open; not answered.
    KeepAlive,
    /// Open a session on this connection.
    Open {
        /// The session's secret, if the client draws it: 128 random bits. Then the request may be
        /// repeated when its answer was lost. `None`: the server draws it.
        session: Option<SessionId>,
        /// How long the session lives without a renewal.
        ttl: Duration,
        /// What others are told of it.
        who: Who,
    },
    /// Go on with a session on this connection.
    Resume {
        /// The session's secret.
        session: SessionId,
    },
    /// Extend the session's lease.
    Renew {
        /// Comes back in the answer.
        seq: u64,
    },
    /// End a session: this connection's, or the one named.
    Close {
        /// The session's secret; `None`: this connection's.
        session: Option<SessionId>,
    },
    /// Who holds and waits, with all that is known of them.
    Status {
        /// Only this lock; `None`: all.
        name: Option<Cow<'a, str>>,
    },
    /// An operator takes a lock away from its holder.
    Release {
        /// The lock's name.
        name: Cow<'a, str>,
        /// The token of the grant to end, so that nobody else's is.
        token: Token,
        /// What the holder and the log are told.
        reason: Cow<'a, str>,
    },
    /// Whether this token's grant is still held.
    Verify {
        /// The lock's name.
        name: Cow<'a, str>,
        /// The token of the grant.
        token: Token,
    },
    /// Whether the server serves.
    Ping,
}

/// The fields of `lock`.
#[derive(Clone, Debug, PartialEq)]
pub struct LockRequest<'a> {
    /// The lock's name.
    pub name: Cow<'a, str>,
    /// How long to wait; `None`: for ever.
    pub timeout: Option<Duration>,
    /// Leave if so many are in the queue already, holders counted.
    pub queue_max: Option<u64>,
    /// How many may hold it; asking so opts in to tokens and slots in the reply.
    pub limit: Option<Limit>,
}

impl Request<'_> {
    /// Appends the request as one line, its end included.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"command\":");
        push_string(out, self.command());
        match self {
            Self::Lock(lock) => lock.write_fields(out),
            Self::Unlock { name } => write_name(out, name),
            Self::Reset | Self::Locks | Self::Connections | Self::MyLocks | Self::KeepAlive | Self::Ping => {}
            Self::Open { session, ttl, who } => {
                if let Some(session) = session {
                    write_session(out, *session);
                }
                push_field(out, "ttl");
                push_seconds(out, *ttl);
                push_field(out, "who");
                serde_json::to_writer(&mut *out, who).expect("a Vec takes every write");
            }
            Self::Resume { session } => write_session(out, *session),
            Self::Renew { seq } => {
                push_field(out, "seq");
                push_integer(out, *seq);
            }
            Self::Close { session } => {
                if let Some(session) = session {
                    write_session(out, *session);
                }
            }
            Self::Status { name } => {
                if let Some(name) = name {
                    write_name(out, name);
                }
            }
            Self::Release { name, token, reason } => {
                write_name(out, name);
                push_field(out, "token");
                push_integer(out, token.0);
                push_field(out, "reason");
                push_string(out, reason);
            }
            Self::Verify { name, token } => {
                write_name(out, name);
                push_field(out, "token");
                push_integer(out, token.0);
            }
        }
        out.extend_from_slice(b"}\n");
    }

    /// The request's line as text, its end included.
    pub fn to_line(&self) -> String {
        let mut line = Vec::new();
        self.write_line(&mut line);
        String::from_utf8(line).expect("JSON of texts is text")
    }

    fn command(&self) -> &'static str {
        match self {
            Self::Lock(_) => "lock",
            Self::Unlock { .. } => "unlock",
            Self::Reset => "reset",
            Self::Locks => "locks",
            Self::Connections => "connections",
            Self::MyLocks => "my_locks",
            Self::KeepAlive => "keep_alive",
            Self::Open { .. } => "open",
            Self::Resume { .. } => "resume",
            Self::Renew { .. } => "renew",
            Self::Close { .. } => "close",
            Self::Status { .. } => "status",
            Self::Release { .. } => "release",
            Self::Verify { .. } => "verify",
            Self::Ping => "ping",
        }
    }
}

impl LockRequest<'_> {
    fn write_fields(&self, out: &mut Vec<u8>) {
        write_name(out, &self.name);
        if let Some(timeout) = self.timeout {
            push_field(out, "timeout");
            push_seconds(out, timeout);
        }
        if let Some(queue_max) = self.queue_max {
            push_field(out, "queue_max");
            push_integer(out, queue_max);
        }
        if let Some(limit) = self.limit {
            push_field(out, "limit");
            push_integer(out, u64::from(limit.get()));
        }
    }
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    push_field(out, "name");
    push_string(out, name);
}

fn write_session(out: &mut Vec<u8>, session: SessionId) {
    push_field(out, "session");
    push_string(out, &session.to_hex());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_written_with_the_fields_it_has() {
        let mut lock =
            LockRequest { name: "a\"b\u{e4}\n".into(), timeout: None, queue_max: None, limit: None };
        assert_eq!(
            Request::Lock(lock.clone()).to_line(),
            "{\"command\":\"lock\",\"name\":\"a\\\"b\u{e4}\\n\"}\n"
        );
        lock.name = "a".into();
        lock.timeout = Some(Duration::from_millis(1500));
        lock.queue_max = Some(3);
        lock.limit = Limit::new(2);
        assert_eq!(
            Request::Lock(lock).to_line(),
            "{\"command\":\"lock\",\"name\":\"a\",\"timeout\":1.5,\"queue_max\":3,\"limit\":2}\n"
        );
    }

    #[test]
    fn sessions_are_written_as_documented() {
        let id = SessionId::from_bytes([0xab; 16]);
        assert_eq!(
            Request::Open {
                session: None,
                ttl: Duration::from_secs(10),
                who: Who { pid: Some(7), ..Who::default() }
            }
            .to_line(),
            "{\"command\":\"open\",\"ttl\":10,\"who\":{\"pid\":7}}\n"
        );
        assert_eq!(
            Request::Open { session: Some(id), ttl: Duration::from_secs(10), who: Who::default() }.to_line(),
            format!("{{\"command\":\"open\",\"session\":\"{}\",\"ttl\":10,\"who\":{{}}}}\n", "ab".repeat(16))
        );
        assert_eq!(
            Request::Resume { session: id }.to_line(),
            format!("{{\"command\":\"resume\",\"session\":\"{}\"}}\n", "ab".repeat(16))
        );
        assert_eq!(Request::Renew { seq: 9 }.to_line(), "{\"command\":\"renew\",\"seq\":9}\n");
        assert_eq!(Request::Close { session: None }.to_line(), "{\"command\":\"close\"}\n");
    }
}
