//! Lock engines behind one pair of traits: a [`Backend`] stands in line for a lock, a [`Guard`] is a
//! lock held. One adapter a file; what an adapter can't do it says in its own module's docs.
//!
//! A backend keeps its session alive by itself while it waits. From the grant on the caller decides:
//! the lease machine ([`crate::lease`]) says when to renew, stop and kill, the guard only carries
//! that to the engine and reports what it hears. So that one rule holds on every engine, a guard
//! reports when an *answered* renewal had been *sent*, and the engine's own idea of "expired" only
//! ever shortens the lease.

#[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
mod engine;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
mod held;
mod local;
mod officer;
#[cfg(feature = "redis")]
mod redis;
mod server_url;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::boot_time::BootTime;
use crate::client::Connect;
use crate::lock::{Limit, Slot, Token};
use crate::protocol::Who;

pub use server_url::{ServerUrl, ServerUrlError};

/// How to reach an engine, whichever it is.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// For reaching the engine at all, each try.
    pub connect_timeout: Duration,
    /// How often to try to connect; at least 1.
    pub connect_tries: u32,
    /// How often to repeat one failed operation of the engine; at least 1.
    pub operation_tries: u32,
    /// The lease to ask for; zero: none, the lock lives and dies with the connection.
    pub ttl: Duration,
    /// Who we are, for others to see.
    pub who: Who,
}

/// What to ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The lock's name, without the namespace.
    pub name: String,
    /// Namespace in front of the name; `None`: the engine's default.
    pub path: Option<String>,
    /// How many may hold it; all who use the lock must agree.
    pub limit: Limit,
    /// How long to wait for it.
    pub wait: Wait,
    /// Give up if so many are in the queue already, holders counted.
    pub queue_max: Option<u64>,
}

/// How long to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For ever.
    Forever,
    /// At most so long.
    AtMost(Duration),
    /// Not at all.
    No,
}

/// A lock that was granted.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// The lock's full name, as the command is told.
    pub name: String,
    /// Fencing token; `None` where the engine has none (plain Officer).
    pub token: Option<Token>,
    /// Which of the places; `None` where the engine doesn't number them.
    pub slot: Option<Slot>,
    /// The ttl that the engine granted (it may differ from the one asked for); zero: none.
    pub ttl: Duration,
    /// When the last renewal answered so far had been sent.
    pub proven_at: BootTime,
    /// Variables that the engine's own lock command gives to what it runs, name and value.
    pub env: Vec<(String, String)>,
}

/// What a guard hears while the lock is held.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A renewal was answered, and the engine still knows our lock.
    Renewed {
        /// When that renewal had been sent.
        sent: BootTime,
    },
    /// The engine can't be reached; the guard goes on trying by itself.
    Suspended {
        /// The cause, for the log.
        cause: String,
    },
    /// The engine is reached again and the lock is still ours; a `Renewed` says since when.
    Resumed,
    /// The lock isn't ours any more; nothing follows.
    Lost(Loss),
}

/// Why a lock isn't ours any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The engine says that the session or lease has ended.
    #[error("the server no longer knows the session")]
    SessionGone,
    /// The session lives, but the lock was deleted or given to another.
    #[error("the lock was taken away at the server")]
    LockGone,
    /// An operator took it.
    #[error("revoked by an operator: {reason}")]
    Revoked {
        /// What the operator gave as reason.
        reason: String,
    },
    /// Another process took over our session.
    #[error("another client took over the session")]
    Superseded,
    /// A lock without a lease, and its connection is gone.
    #[error("the connection that held the lock is gone: {cause}")]
    ConnectionGone {
        /// The cause.
        cause: String,
    },
}

/// How a lock is given back by a process that isn't its owner: what the guardian leaves to be done
/// once wrapper and tree are dead. It carries secrets; keep it out of logs and argument lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Will {
    /// The engine, as [`ServerUrl`] text, credentials included.
    pub server: String,
    /// What the adapter needs to end the session there, in its own form.
    pub handle: String,
}

/// An engine can't be reached or won't have us.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there (exit 69).
    #[error("cannot reach {server}: {cause}")]
    Unreachable {
        /// The engine, without secrets.
        server: String,
        /// The last cause.
        cause: String,
    },
    /// It answers and refuses us: credentials, another user's socket, a request beyond its bounds
    /// (exit 77).
    #[error("refused by {server}: {cause}")]
    Refused {
        /// The engine, without secrets.
        server: String,
        /// What it said.
        cause: String,
    },
    /// The options ask for what this engine or build doesn't have (exit 2).
    #[error("{0}")]
    Unsupported(String),
}

/// A lock was not granted.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// Someone else has it, and we were not to wait longer (exit 75).
    #[error("{0}")]
    Busy(Busy),
    /// The server was started a short while ago and grants nothing yet; we were not to wait (exit 75).
    #[error("{server} grants no locks yet: {message}")]
    NotReady {
        /// The engine, without secrets.
        server: String,
        /// What it said.
        message: String,
    },
    /// The lock is in use with another limit (exit 2).
    #[error(
        "the lock {name} is in use with limit {in_use}, this command asks for {asked}: all must use the same --concurrent"
    )]
    LimitMismatch {
        /// The lock's full name.
        name: String,
        /// The limit in force.
        in_use: String,
        /// Ours.
        asked: Limit,
    },
    /// The engine went away or refused while we waited.
    #[error(transparent)]
    Connection(#[from] ConnectError),
    /// The engine answered what its protocol doesn't allow (exit 70).
    #[error("{server} answered: {answer}")]
    Protocol {
        /// The engine, without secrets.
        server: String,
        /// What it said.
        answer: String,
    },
}

/// Someone else has the lock.
#[derive(Clone, Debug, PartialEq)]
pub struct Busy {
    /// The lock's full name.
    pub name: String,
    /// Which bound ended the wait.
    pub ended_by: WaitEnd,
    /// Who holds it, as far as the engine tells, one text each, for people.
    pub holders: Vec<String>,
}

/// Which bound ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// We were not to wait at all.
    NotWaiting,
    /// The wait limit passed.
    WaitLimit(Duration),
    /// So many were in the queue already.
    QueueMax(u64),
}

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.holders {
            // Held by who isn't told; or by nobody, when the server grants nothing yet.
            [] => write!(f, "the lock {} was not granted", self.name)?,
            holders => write!(f, "the lock {} is held by {}", self.name, holders.join(", "))?,
        }
        match self.ended_by {
            WaitEnd::NotWaiting => Ok(()),
            WaitEnd::WaitLimit(limit) => write!(f, "; waited {}", humantime::format_duration(limit)),
            WaitEnd::QueueMax(max) => write!(f, "; the queue has {max} or more already"),
        }
    }
}

/// A duration in whole milliseconds.
fn for_people(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// A connection to an engine that can stand in line for one lock.
#[async_trait]
pub trait Backend: Send {
    /// Asks for the lock and waits as `wanted` says.
    ///
    /// May be dropped at any await; after that, or after an error, only [`Backend::leave`] may be
    /// called. A grant counts from its `proven_at`: the caller gives it back if too little of the
    /// lease is left.
    async fn acquire(&mut self, wanted: &Wanted) -> Result<Box<dyn Guard>, AcquireError>;

    /// How another process gives back the place that [`Backend::acquire`] is about to take, if we die
    /// in line. `None`: it ends with us. A place that is lost and taken anew meanwhile is another one:
    /// that is left to its lease.
    fn will(&self, wanted: &Wanted) -> Option<Will>;

    /// Leaves the queue and ends the session, so that nobody waits for us. Bounded in time; a
    /// failure is logged and leaves the rest to the lease.
    async fn leave(&mut self);
}

/// A lock held.
#[async_trait]
pub trait Guard: Send {
    /// What was granted.
    fn grant(&self) -> &Grant;

    /// How the guardian gives the lock back after our death; `None`: nothing to do but let it go.
    fn will(&self) -> Option<Will>;

    /// The connection with which the lock lives and dies, if there is no lease: the guardian keeps
    /// a duplicate, so that the lock can't pass on before the tree is dead.
    fn connection(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }

    /// Sends a renewal, without waiting for its answer; never blocks.
    fn renew(&mut self);

    /// The next thing heard. May be dropped at any await without losing an event.
    async fn event(&mut self) -> Event;

    /// Gives the lock back and ends the session; returns when the engine has confirmed it, or after
    /// the bound with the reason why it is left to the lease.
    async fn release(self: Box<Self>, bound: Duration) -> Result<(), ReleaseError>;
}

/// A release that wasn't confirmed; the lease ends what is left.
#[derive(Debug, thiserror::Error)]
#[error("cannot give the lock back at {server}: {cause}")]
pub struct ReleaseError {
    /// The engine, without secrets.
    pub server: String,
    /// Why.
    pub cause: String,
}

/// Connects to whichever engine `server` names.
pub async fn connect(server: &ServerUrl, options: &ConnectOptions) -> Result<Box<dyn Backend>, ConnectError> {
    match server {
        ServerUrl::Officer(endpoint) => officer::connect(Arc::new(endpoint.clone()), options).await,
        ServerUrl::Local => officer::connect(Arc::new(local::Local), options).await,
        #[cfg(feature = "zookeeper")]
        ServerUrl::ZooKeeper { hosts } => zookeeper::connect(hosts, options).await,
        #[cfg(feature = "etcd")]
        ServerUrl::Etcd { hosts } => etcd::connect(hosts, options).await,
        #[cfg(feature = "redis")]
        ServerUrl::Redis { url } => redis::connect(url, options).await,
        #[cfg(not(all(feature = "zookeeper", feature = "etcd", feature = "redis")))]
        other => Err(ConnectError::Unsupported(format!("{other}: this build has no such engine"))),
    }
}

/// Does what a process that is gone left to be done: ends its session, so that its lock passes on.
pub async fn execute_will(will: &Will) -> Result<(), ReleaseError> {
    let failed = |cause: String| ReleaseError { server: "the will's server".into(), cause };
    let server: ServerUrl = will.server.parse().map_err(|error: ServerUrlError| failed(error.to_string()))?;
    let connector: Arc<dyn Connect> = match &server {
        ServerUrl::Officer(endpoint) => Arc::new(endpoint.clone()),
        ServerUrl::Local => Arc::new(local::Local),
        #[cfg(feature = "zookeeper")]
        ServerUrl::ZooKeeper { hosts } => return zookeeper::execute_will(hosts, &will.handle).await,
        #[cfg(feature = "etcd")]
        ServerUrl::Etcd { hosts } => return etcd::execute_will(hosts, &will.handle).await,
        #[cfg(feature = "redis")]
        ServerUrl::Redis { url } => return redis::execute_will(url, &will.handle).await,
        #[cfg(not(all(feature = "zookeeper", feature = "etcd", feature = "redis")))]
        other => return Err(failed(format!("{other}: this build has no such engine"))),
    };
    officer::execute_will(connector, &will.handle).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_the_way_is_told_only_where_it_is_known() {
        let busy = |holders: &[&str], ended_by| {
            let holders = holders.iter().copied().map(String::from).collect();
            Busy { name: "a".into(), ended_by, holders }.to_string()
        };
        assert_eq!(busy(&["x", "y"], WaitEnd::NotWaiting), "the lock a is held by x, y");
        let waited = WaitEnd::WaitLimit(Duration::from_millis(500));
        assert_eq!(busy(&[], waited), "the lock a was not granted; waited 500ms");
    }
}
