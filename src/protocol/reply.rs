//! What a server answers, as a client reads it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::lock::{Limit, Slot, Token};

use super::Who;

/// One line from the server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Reply {
    Acquired(Granted),
    AlreadyAcquired(Granted),
    TimedOut(TurnedAway),
    QueueMaxed(TurnedAway),
    LimitMismatch { name: String, limit: Limit, asked: Limit },
    Released { name: String },
    ReleaseFailed { name: String },
    ResetSucceeded,
    Locks { value: BTreeMap<String, Vec<String>> },
    Connections { value: BTreeMap<String, Vec<String>> },
    MyLocks { value: Vec<String> },
    Opened { session: String, ttl: f64 },
    Resumed { ttl: f64, holds: Vec<Held>, waits: Vec<String> },
    SessionUnknown,
    Renewed { seq: u64, ttl: f64 },
    Closed,
    Superseded,
    Expired,
    Revoked { name: String, token: Token, reason: String },
    Status { server: ServerStatus, value: Vec<LockStatus> },
    Taken { name: String, token: Token },
    Revoking { name: String, token: Token, ends_in: f64 },
    NotHeld { name: String, token: Token },
    Verified { name: String, token: Token, held: bool },
    Pong { version: String },
    Error { error: String, message: String },
}

/// The server as a whole.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServerStatus {
    /// Of the program.
    pub version: String,
    /// For how many seconds it has run.
    pub up: f64,
    /// How many clients are connected.
    pub connections: u64,
    /// How many sessions live.
    pub sessions: u64,
    /// How many locks are held or waited for; more than are listed if there are very many.
    pub locks: u64,
}

/// One lock with everybody at it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LockStatus {
    /// Its name.
    pub name: String,
    /// How many may hold it.
    pub limit: Limit,
    /// Who does, in the order of the grants.
    pub holders: Vec<HolderStatus>,
    /// Who waits, the next one first.
    pub queue: Vec<WaiterStatus>,
}

/// One holder with what an operator wants to know of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HolderStatus {
    /// As others are told.
    #[serde(flatten)]
    pub holder: Holder,
    /// Seconds since its last sign of life.
    pub seen: f64,
    /// It has no connection now.
    pub suspended: bool,
    /// An operator has taken the lock from it and it hasn't given it back yet.
    pub revoked: bool,
}

/// One waiter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct WaiterStatus {
    /// Its own description; empty for a plain connection.
    #[serde(flatten)]
    pub who: Who,
    /// As others are told of who doesn't say its host: its connection's address.
    pub peer: Option<String>,
    /// For how many seconds it has waited.
    pub waited: f64,
    /// Seconds since its last sign of life.
    pub seen: f64,
    /// It has no connection now and is passed over.
    pub suspended: bool,
}

/// A grant; the optional fields come if the request had `limit`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Granted {
    /// The lock's name.
    pub name: String,
    /// The fencing token.
    pub token: Option<Token>,
    /// Which of the places.
    pub slot: Option<Slot>,
    /// How many places there are.
    pub limit: Option<Limit>,
}

/// Not granted, and who is in the way.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TurnedAway {
    /// The lock's name.
    pub name: String,
    /// Everyone else who holds or waits, as `ip:port`.
    pub queue: Vec<String>,
    /// Who holds it; comes if the request had `limit`.
    #[serde(default)]
    pub holders: Vec<Holder>,
}

/// One holder, as others are told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Holder {
    /// Its own description; empty for a plain connection.
    #[serde(flatten)]
    pub who: Who,
    /// As others are told of who doesn't say its host: its connection's address.
    pub peer: Option<String>,
    /// The token of its grant.
    pub token: Token,
    /// Its place.
    pub slot: Slot,
    /// For how many seconds it has held the lock.
    pub held: f64,
}

/// One lock of a resumed session.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Held {
    /// The lock's name.
    pub name: String,
    /// The token of the grant.
    pub token: Token,
    /// Its place.
    pub slot: Slot,
    /// How many places there are.
    pub limit: Limit,
}

/// A line that is no reply.
#[derive(Debug, thiserror::Error)]
#[error("not a reply of an Officer server: {line:?}: {source}")]
pub struct ReplyError {
    line: String,
    source: serde_json::Error,
}

impl Reply {
    /// Reads one line, its end cut off.
    pub fn parse(line: &str) -> Result<Self, ReplyError> {
        const SHOWN_CHARS: usize = 200;
        serde_json::from_str(line)
            .map_err(|source| ReplyError { line: line.chars().take(SHOWN_CHARS).collect(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_officer_reply_has_no_token() {
        let reply = Reply::parse(r#"{"name":"a","result":"acquired"}"#).unwrap();
        assert_eq!(
            reply,
            Reply::Acquired(Granted { name: "a".into(), token: None, slot: None, limit: None })
        );
    }

    #[test]
    fn unit_replies_ignore_fields_they_do_not_know() {
        assert_eq!(Reply::parse(r#"{"more":1,"result":"closed"}"#).unwrap(), Reply::Closed);
    }

    #[test]
    fn holders_describe_themselves() {
        let line = r#"{"name":"a","queue":["1.2.3.4:5"],"holders":[{"host":"h","pid":7,"token":3,"slot":0,"held":1.5}],"result":"timed_out"}"#;
        let Reply::TimedOut(away) = Reply::parse(line).unwrap() else { panic!("{line}") };
        assert_eq!(away.holders[0].who.pid, Some(7));
        assert_eq!(away.holders[0].peer, None);
    }

    #[test]
    fn noise_is_named() {
        let error = Reply::parse("HTTP/1.1 400 Bad Request").unwrap_err();
        assert!(error.to_string().contains("HTTP/1.1 400"), "{error}");
    }
}
