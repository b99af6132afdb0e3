//! Why a request isn't served: the codes and texts of error lines.

use std::borrow::Cow;

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
    /// The bound of one reply.
    ReplyTooLong,
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
            Self::ReplyTooLong => "reply_too_long",
        }
    }
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// A field that holds something else than `allowed`.
    pub(super) fn field(name: &'static str, allowed: &str) -> Self {
        Self::new(ErrorCode::BadField, format!("{name} must be {allowed}"))
    }
}
