//! What the adapters of the engines share: how one operation fails, how long an engine may be silent,
//! and what a name may look like. Nothing here knows a particular engine.

use std::future::Future;
use std::time::Duration;

use crate::boot_time::BootTime;
#[cfg(any(feature = "etcd", feature = "redis"))]
use crate::protocol::Who;

use super::{AcquireError, Busy, ConnectError, ConnectOptions, Wait, WaitEnd, for_people};

/// Leaving a queue or executing a will takes at most so long; the rest is left to the lease.
pub(super) const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// The first pause between two tries to reach an engine; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Long enough not to burden an engine that is starting, short against any lease.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// No single network call may eat more than a third of the lease.
pub(super) fn call_limit(ttl: Duration) -> Duration {
    (ttl / 3).min(LEAVE_LIMIT)
}

/// Why one operation of an engine failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No answer: it may have been done or not, and is to be repeated.
    #[error("{0}")]
    Unanswered(String),
    /// The engine won't have us.
    #[error("{0}")]
    Refused(String),
    /// What the operation works on (session, lease) is no longer there. Redis has no such thing.
    #[cfg_attr(not(any(feature = "etcd", feature = "zookeeper")), allow(dead_code))]
    #[error("{0}")]
    Gone(String),
    /// Any other answer that isn't success.
    #[error("{0}")]
    Answer(String),
}

impl Failure {
    /// As the end of an attempt to connect.
    pub(super) fn into_connect_error(self, server: &str) -> ConnectError {
        let server = server.to_owned();
        match self {
            Self::Unanswered(cause) | Self::Gone(cause) => ConnectError::Unreachable { server, cause },
            Self::Refused(cause) | Self::Answer(cause) => ConnectError::Refused { server, cause },
        }
    }

    /// As the end of a wait.
    pub(super) fn into_acquire_error(self, server: &str) -> AcquireError {
        match self {
            Self::Gone(answer) | Self::Answer(answer) => {
                AcquireError::Protocol { server: server.to_owned(), answer }
            }
            Self::Unanswered(_) | Self::Refused(_) => self.into_connect_error(server).into(),
        }
    }
}

/// Runs one call of an engine, at most for `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Unanswered(format!("no answer within {}", for_people(limit)))),
    }
}

/// How long, and how often, an engine is asked again before we give up on it.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// How often an operation may fail with an answer.
    tries: u32,
    silent_since: Option<BootTime>,
    /// How often it has.
    failed: u32,
    pause: Duration,
}

impl Patience {
    /// An engine may be silent for `limit`; an answer counts whatever it is.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, tries: 1, silent_since: None, failed: 0, pause: FIRST_PAUSE }
    }

    /// As the user asked for it.
    pub(super) fn of(options: &ConnectOptions) -> Self {
        Self { tries: options.operation_tries.max(1), ..Self::new(options.connect_timeout) }
    }

    /// The engine has done what it was asked for.
    pub(super) fn answered(&mut self) {
        *self = Self { tries: self.tries, ..Self::new(self.limit) };
    }

    /// How much longer the engine may be silent.
    fn left(&self, now: BootTime) -> Duration {
        self.silent_since.map_or(self.limit, |since| self.limit.saturating_sub(now.saturating_since(since)))
    }

    /// A call sent at `asked` wasn't answered: how long to pause before the next, `None`: give up.
    pub(super) fn unanswered(&mut self, asked: BootTime, now: BootTime) -> Option<Duration> {
        self.silent_since.get_or_insert(asked);
        let left = self.left(now);
        (!left.is_zero()).then(|| self.next_pause().min(left))
    }

    /// The engine answered that it failed: how long to pause before the next try, `None`: that's it.
    fn failed(&mut self) -> Option<Duration> {
        self.silent_since = None;
        self.failed += 1;
        (self.failed < self.tries).then(|| self.next_pause())
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Repeats a call until the engine has done it or `patience` ends.
pub(super) async fn insist<T, Call>(
    patience: &mut Patience,
    limit: Duration,
    mut call: impl FnMut() -> Call,
) -> Result<T, Failure>
where
    Call: Future<Output = Result<T, Failure>>,
{
    loop {
        let asked = BootTime::now();
        let limit = limit.min(patience.left(asked)).max(FIRST_PAUSE);
        let (failure, pause) = match within(limit, call()).await {
            Err(failure @ Failure::Unanswered(_)) => (failure, patience.unanswered(asked, BootTime::now())),
            Err(failure @ Failure::Answer(_)) => (failure, patience.failed()),
            done => {
                patience.answered();
                return done;
            }
        };
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                patience.answered();
                return Err(failure);
            }
        }
    }
}

/// Tries to reach an engine at the start: `connect_tries` times, `connect_timeout` each.
pub(super) async fn reach<T, Call>(
    server: &str,
    options: &ConnectOptions,
    mut call: impl FnMut() -> Call,
) -> Result<T, ConnectError>
where
    Call: Future<Output = Result<T, Failure>>,
{
    let mut tries_left = options.connect_tries.max(1);
    loop {
        let mut patience = Patience::of(options);
        let failure = match insist(&mut patience, options.connect_timeout, &mut call).await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        tries_left -= 1;
        if tries_left == 0 || !matches!(failure, Failure::Unanswered(_)) {
            return Err(failure.into_connect_error(server));
        }
        tracing::warn!(server, cause = %failure, tries_left, "cannot reach the server");
    }
}

/// How a stand in line ended.
pub(super) enum Turn<T> {
    /// Our turn came.
    Ours(T),
    /// Someone else has the lock, and we were not to wait (longer).
    Busy(WaitEnd),
    /// The lock is in use with another limit.
    LimitMismatch {
        /// The limit in force, for people.
        in_use: String,
    },
}

/// Stands in line as long as `wait` allows.
pub(super) async fn wait_at_most<T>(
    wait: Wait,
    standing: impl Future<Output = Result<Turn<T>, Failure>>,
) -> Result<Turn<T>, Failure> {
    match wait {
        Wait::Forever | Wait::No => standing.await,
        Wait::AtMost(limit) => match tokio::time::timeout(limit, standing).await {
            Ok(turn) => turn,
            Err(_) => Ok(Turn::Busy(WaitEnd::WaitLimit(limit))),
        },
    }
}

/// The error for a lock that someone else has.
pub(super) fn busy(name: &str, ended_by: WaitEnd, holders: Vec<String>) -> AcquireError {
    AcquireError::Busy(Busy { name: name.to_owned(), ended_by, holders })
}

/// A lock without a lease needs a connection that carries it, which no engine has.
pub(super) fn lease_asked(ttl: Duration) -> Result<Duration, ConnectError> {
    if ttl.is_zero() {
        return Err(ConnectError::Unsupported(
            "only an officer server has locks without a lease (--ttl 0)".into(),
        ));
    }
    Ok(ttl)
}

/// Refuses a name that is empty, too long or has characters that the engine gives a meaning.
pub(super) fn check_name(name: &str, forbidden: &[char]) -> Result<(), AcquireError> {
    /// Far below what any engine allows for a key, far above what people read.
    const LONGEST_NAME_BYTES: usize = 4096;
    let wrong = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > LONGEST_NAME_BYTES {
        format!("it has more than {LONGEST_NAME_BYTES} bytes")
    } else if let Some(found) = name.chars().find(|c| c.is_control() || forbidden.contains(c)) {
        format!("it has {found:?} in it")
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(60).collect();
    Err(ConnectError::Unsupported(format!("this engine can't have a lock named {shown:?}: {wrong}")).into())
}

/// Our own description, for people: what others see as the holder. ZooKeeper's is kazoo's.
#[cfg(any(feature = "etcd", feature = "redis"))]
pub(super) fn describe(who: &Who) -> String {
    let host = who.host.as_deref().unwrap_or("unknown host");
    let pid = who.pid.map(|pid| format!(" pid {pid}")).unwrap_or_default();
    let run = who.run.as_deref().map(|run| format!(" ({run})")).unwrap_or_default();
    format!("{host}{pid}{run}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn patience_ends_with_the_silence() {
        let mut patience = Patience::new(Duration::from_secs(10));
        assert_eq!(patience.unanswered(at(1), at(1)), Some(FIRST_PAUSE));
        assert_eq!(patience.unanswered(at(2), at(3)), Some(FIRST_PAUSE * 2));
        assert_eq!(patience.unanswered(at(10), at(11)), None);
        patience.answered();
        assert_eq!(patience.unanswered(at(11), at(12)), Some(FIRST_PAUSE));
        assert_eq!(patience.left(at(12)), Duration::from_secs(9));
    }

    #[test]
    fn an_operation_is_tried_as_often_as_asked() {
        let mut patience = Patience { tries: 3, ..Patience::new(Duration::from_secs(10)) };
        assert!(patience.failed().is_some() && patience.failed().is_some());
        assert_eq!(patience.failed(), None);
        patience.answered();
        assert!(patience.failed().is_some());
    }

    #[test]
    fn a_name_that_means_something_to_the_engine_is_refused() {
        assert!(check_name("backup", &['/']).is_ok());
        for name in ["", "a/b", "a\0b", &"x".repeat(5000)] {
            assert!(check_name(name, &['/']).is_err(), "{name:?}");
        }
    }
}
