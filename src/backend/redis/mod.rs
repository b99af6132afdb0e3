//! Redis (6 or later): a lease lock, with a queue among those who use this adapter.
//!
//! With a limit of 1 the lock is the key `NAME` with its owner as value and a time to live, as redis-py's
//! `Lock` has it, so that both exclude each other; redis-py doesn't stand in line, so it may be served
//! before our first waiter. With a higher limit the holders are in a sorted set that redis-py doesn't see.
//! All other keys of a lock are `{NAME}:…`, in the same hash slot. Every step is one Lua script that may
//! be repeated, by the server's clock. A waiter sleeps until a message tells that someone left, or a
//! lease ends; the first in line also looks once a second, for owners who don't tell.
//!
//! Not promised, because Redis can't: asynchronous replication may forget a lock at a fail-over, a
//! server without persistence forgets all at a restart, and a step of the server's wall clock shortens or
//! lengthens every lease. The fencing token is never behind the server's clock in milliseconds, so that
//! it grows even when its counter was forgotten.

mod server;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::boot_time::BootTime;
use crate::lock::{Limit, Slot, Token};

use super::engine::{
    Failure, LEAVE_LIMIT, Patience, Turn, busy, call_limit, check_name, describe, insist, lease_asked, reach,
    wait_at_most, within,
};
use super::held::{Held, Lease, Standing};
use super::{
    AcquireError, Backend, ConnectError, ConnectOptions, Grant, Guard, Loss, ReleaseError, Wait, WaitEnd,
    Wanted, Will,
};
use server::{Answer, Ear, Owner, Server, Try};

/// How often the first in line looks for a lock that was given back without a message.
const UNTOLD: Duration = Duration::from_secs(1);

/// Connects to the server that `url` names.
pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Box<dyn Backend>, ConnectError> {
    lease_asked(options.ttl)?;
    let server = Server::new(url).map_err(ConnectError::Unsupported)?;
    reach(server.shown(), options, || server.ping()).await?;
    Ok(Box::new(Redis {
        server: Arc::new(server),
        options: options.clone(),
        owner: Owner::random(),
        asked_for: None,
        patience: Patience::of(options),
    }))
}

/// What a dead process held.
#[derive(Serialize, Deserialize)]
struct Handle {
    lock: String,
    owner: Owner,
}

/// How another process gives back what `owner` has, held or in line.
fn will(server: &Server, keys: &Keys, owner: &Owner) -> Will {
    let handle = Handle { lock: keys.lock.clone(), owner: owner.clone() };
    Will {
        server: server.url_with_secrets().into(),
        handle: serde_json::to_string(&handle).expect("plain data"),
    }
}

/// Gives back what a dead process held.
pub(crate) async fn execute_will(url: &str, handle: &str) -> Result<(), ReleaseError> {
    let unmade = |server: &str, cause: String| ReleaseError { server: server.into(), cause };
    let server = Server::new(url).map_err(|cause| unmade("redis", cause))?;
    let Handle { lock, owner } =
        serde_json::from_str(handle).map_err(|_| unmade(server.shown(), "the will names no owner".into()))?;
    let keys = Keys::of(lock);
    let mut patience = Patience::new(LEAVE_LIMIT);
    within(LEAVE_LIMIT, insist(&mut patience, LEAVE_LIMIT, || server.leave(&keys, &owner)))
        .await
        .map_err(|cause| unmade(server.shown(), cause.to_string()))
}

/// The keys of one lock.
#[derive(Clone, Debug)]
struct Keys {
    /// The lock's full name, and the key of limit 1.
    lock: String,
}

impl Keys {
    fn of(lock: String) -> Self {
        Self { lock }
    }

    fn wanted(wanted: &Wanted) -> Result<Self, AcquireError> {
        // Braces choose the hash slot.
        let lock = match wanted.path.as_deref() {
            Some(path) if !path.is_empty() => format!("{path}:{}", wanted.name),
            Some(_) | None => wanted.name.clone(),
        };
        check_name(&wanted.name, &['{', '}'])?;
        check_name(&lock, &['{', '}'])?;
        Ok(Self { lock })
    }

    /// Where releases are told.
    fn channel(&self) -> String {
        format!("{{{}}}:released", self.lock)
    }

    fn holders(&self) -> String {
        format!("{{{}}}:holders", self.lock)
    }

    /// In the order of `keys.lua`.
    fn all(&self) -> [String; 9] {
        let of_lock = |what: &str| format!("{{{}}}:{what}", self.lock);
        [
            self.lock.clone(),
            self.holders(),
            of_lock("queue"),
            of_lock("waiters"),
            of_lock("about"),
            of_lock("limit"),
            of_lock("tickets"),
            of_lock("fence"),
            self.channel(),
        ]
    }
}

/// Stands in line as one owner.
struct Redis {
    server: Arc<Server>,
    options: ConnectOptions,
    owner: Owner,
    /// The lock that we may have a place in line for.
    asked_for: Option<Keys>,
    patience: Patience,
}

/// What the server granted.
struct Won {
    token: Token,
    slot: Slot,
    proven_at: BootTime,
}

#[async_trait]
impl Backend for Redis {
    async fn acquire(&mut self, wanted: &Wanted) -> Result<Box<dyn Guard>, AcquireError> {
        let keys = Keys::wanted(wanted)?;
        let turn = wait_at_most(wanted.wait, self.stand_in_line(&keys, wanted)).await;
        match turn.map_err(|failure| failure.into_acquire_error(self.server.shown()))? {
            Turn::Ours(won) => Ok(self.guard(keys, wanted.limit, won)),
            Turn::Busy(ended_by) => Err(busy(&keys.lock, ended_by, self.holders(&keys).await)),
            Turn::LimitMismatch { in_use } => {
                Err(AcquireError::LimitMismatch { name: keys.lock, in_use, asked: wanted.limit })
            }
        }
    }

    fn will(&self, wanted: &Wanted) -> Option<Will> {
        Keys::wanted(wanted).ok().map(|keys| will(&self.server, &keys, &self.owner))
    }

    async fn leave(&mut self) {
        let Some(keys) = self.asked_for.take() else { return };
        let bound = LEAVE_LIMIT.min(self.options.ttl);
        let mut patience = Patience::new(bound);
        let leave = insist(&mut patience, bound, || self.server.leave(&keys, &self.owner));
        if let Err(cause) = within(bound, leave).await {
            tracing::warn!(server = self.server.shown(), %cause, "cannot leave the queue; the place will expire");
        }
    }
}

impl Redis {
    async fn stand_in_line(&mut self, keys: &Keys, wanted: &Wanted) -> Result<Turn<Won>, Failure> {
        let attempt = Try {
            owner: self.owner.clone(),
            ttl: self.options.ttl,
            limit: wanted.limit,
            description: describe(&self.options.who),
            queue_max: wanted.queue_max,
            waits: wanted.wait != Wait::No,
        };
        let mut ear = None;
        loop {
            if attempt.waits && ear.is_none() {
                ear = Some(self.listen(keys).await?);
            }
            let pause = match self.attempt(keys, &attempt).await? {
                (Answer::Granted { token, slot }, proven_at) => {
                    return Ok(Turn::Ours(Won { token, slot, proven_at }));
                }
                (Answer::Busy, _) => return Ok(Turn::Busy(WaitEnd::NotWaiting)),
                (Answer::Full, _) => return Ok(Turn::Busy(WaitEnd::QueueMax(wanted.queue_max.unwrap_or(0)))),
                (Answer::Mismatch { in_use }, _) => return Ok(Turn::LimitMismatch { in_use }),
                (Answer::Wait { first_end, place }, _) => pause(self.options.ttl, first_end, place),
            };
            if let Some(Err(cause)) = hear(ear.as_mut(), pause).await {
                tracing::debug!(%cause, "the subscription broke");
                ear = None;
            }
        }
    }

    async fn listen(&mut self, keys: &Keys) -> Result<Ear, Failure> {
        let (server, limit) = (&self.server, call_limit(self.options.ttl));
        insist(&mut self.patience, limit, || server.subscribe(keys.channel())).await
    }

    /// One try, and when it had been sent.
    async fn attempt(&mut self, keys: &Keys, attempt: &Try) -> Result<(Answer, BootTime), Failure> {
        self.asked_for = Some(keys.clone());
        let (server, limit) = (&self.server, call_limit(self.options.ttl));
        insist(&mut self.patience, limit, || async {
            let sent = BootTime::now();
            server.acquire(keys, attempt).await.map(|answer| (answer, sent))
        })
        .await
    }

    /// Who holds the lock, for people: as far as it can be read in one call.
    async fn holders(&self, keys: &Keys) -> Vec<String> {
        within(call_limit(self.options.ttl), self.server.describe_holders(keys)).await.unwrap_or_default()
    }

    fn guard(&mut self, keys: Keys, limit: Limit, won: Won) -> Box<dyn Guard> {
        // From here on the guard owns what this owner has.
        self.asked_for = None;
        let grant = Grant {
            name: keys.lock.clone(),
            token: Some(won.token),
            slot: Some(won.slot),
            ttl: self.options.ttl,
            proven_at: won.proven_at,
            env: Vec::new(),
        };
        let owner = std::mem::replace(&mut self.owner, Owner::random());
        let server = self.server.clone();
        Box::new(Held::new(HeldKey { server, keys, owner, ttl: self.options.ttl, limit }, grant))
    }
}

/// How long to sleep if nobody says anything: our own place must stay alive, and who is first looks
/// for what wasn't told.
fn pause(ttl: Duration, first_end: Duration, place: u64) -> Duration {
    /// Not at once again when a lease ends by a fraction later than announced.
    const SHORTEST: Duration = Duration::from_millis(5);
    let untold = if place == 0 { UNTOLD } else { ttl };
    first_end.max(SHORTEST).min(ttl / 3).min(untold)
}

/// Waits for a message or the end of the pause; an error: the subscription is broken.
async fn hear(ear: Option<&mut Ear>, pause: Duration) -> Option<Result<(), Failure>> {
    let heard = async {
        match ear {
            Some(ear) => ear.heard().await,
            None => std::future::pending().await,
        }
    };
    tokio::time::timeout(pause, heard).await.ok()
}

/// What we have at the server while we hold the lock.
struct HeldKey {
    server: Arc<Server>,
    keys: Keys,
    owner: Owner,
    ttl: Duration,
    limit: Limit,
}

#[async_trait]
impl Lease for HeldKey {
    async fn renew(&self) -> Result<Standing, Failure> {
        let ours = self.server.extend(&self.keys, &self.owner, self.ttl, self.limit).await?;
        Ok(if ours { Standing::Ours } else { Standing::Lost(Loss::LockGone) })
    }

    async fn taken(&self) -> Result<Loss, Failure> {
        self.server.watch(&self.keys, &self.owner, self.limit).await?;
        Ok(Loss::LockGone)
    }

    async fn give_back(&self) -> Result<(), Failure> {
        self.server.leave(&self.keys, &self.owner).await
    }

    fn will(&self) -> Will {
        will(&self.server, &self.keys, &self.owner)
    }

    fn server(&self) -> &str {
        self.server.shown()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_lock_share_a_hash_tag() {
        let keys = Keys::of("jobs:backup".into()).all();
        assert_eq!(keys[0], "jobs:backup");
        assert!(keys[1..].iter().all(|key| key.starts_with("{jobs:backup}:")), "{keys:?}");
    }

    #[test]
    fn the_first_in_line_looks_for_what_was_not_told() {
        let (ttl, far) = (Duration::from_secs(60), Duration::from_secs(60));
        assert_eq!(pause(ttl, far, 0), UNTOLD);
        assert_eq!(pause(ttl, far, 1), ttl / 3);
        assert_eq!(pause(ttl, Duration::from_millis(30), 1), Duration::from_millis(30));
        assert!(pause(ttl, Duration::ZERO, 0) > Duration::ZERO);
    }
}
