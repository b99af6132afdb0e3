//! What a client can ask.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lock::{Limit, SessionId};

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

/// How a session describes itself to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Process id of the wrapper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// User name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The command line that runs under the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}
