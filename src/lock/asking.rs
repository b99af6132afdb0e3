//! What owners ask of the lock table, and what they hear from it.

use std::sync::Arc;
use std::time::Duration;

use crate::boot_time::BootTime;

use super::{ClaimState, Limit, Slot, Token};

/// Who an owner is to the caller; comes back in effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// A connection without a session, by the caller's number for it.
    Connection(u32),
    /// A session, by its key.
    Session(u32),
}

/// One who can hold locks and wait for them. Not valid any more once the owner was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// How much one owner and one lock may use.
#[derive(Clone, Copy, Debug)]
pub struct TableBounds {
    /// Locks held and waited for by one owner.
    pub claims_per_owner: u32,
    /// Waiters of one lock.
    pub waiters_per_lock: u32,
}

/// What an owner asks of one lock.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// How many may hold it.
    pub limit: Limit,
    /// How long to wait; `None`: for ever.
    pub wait: Option<Duration>,
    /// Leave if so many hold it or wait already.
    pub queue_max: Option<u64>,
    /// The replies tell token and slot.
    pub extended: bool,
}

/// A place at a lock, given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Greater than that of every earlier grant.
    pub token: Token,
    /// Which of the places.
    pub slot: Slot,
    /// How many places there are.
    pub limit: Limit,
}

/// What became of a request for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Held from now on.
    Acquired(Grant),
    /// Held before.
    AlreadyAcquired(Grant),
    /// Stands in line; an effect will tell.
    Queued {
        /// Grows with each place in a queue: the order over a restart.
        ticket: u64,
    },
    /// Stood in line before and still does.
    StillQueued,
    /// It was to wait no longer and isn't in the queue.
    TimedOut,
    /// The queue is too long for it.
    QueueMaxed,
    /// The lock is in use with this other limit.
    LimitMismatch(Limit),
    /// The owner has as many locks and places in queues as it may have.
    TooManyLocks,
    /// The lock has as many waiters as it may have.
    TooManyWaiters,
}

/// What became of an unlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// It was held and is given back.
    Held(Token),
    /// The place in the queue is left.
    Waited,
    /// It was neither.
    Nothing,
}

/// What happened to an owner without its asking now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Its turn came.
    Granted {
        /// To whom.
        party: Party,
        /// The lock.
        name: Arc<str>,
        /// The place.
        grant: Grant,
        /// Tell token and slot.
        extended: bool,
    },
    /// It has waited as long as it wanted and left the queue.
    TimedOut {
        /// Whose wait.
        party: Party,
        /// The lock.
        name: Arc<str>,
        /// The request had `limit`.
        extended: bool,
    },
}

/// Why something stored can't be put back: the store is damaged.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} is stored with two holders of one place, two claims of one session or two limits")]
pub struct RestoreError {
    /// The lock.
    pub name: String,
}

/// A claim as it was stored.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// The lock's limit.
    pub limit: Limit,
    /// The replies tell token and slot.
    pub extended: bool,
    /// Since when it is held or waited for.
    pub since: BootTime,
    /// Held or waited for.
    pub state: ClaimState,
}
