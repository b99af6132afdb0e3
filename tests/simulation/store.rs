//! What the server's host keeps on disk, and how much of it is left after a crash: everything that
//! was committed after a crash of the server, everything that was synced and maybe some of the rest
//! after a crash of the host (SQLite's WAL with synchronous=NORMAL).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use officer::lock::{ClaimState, Limit, SessionId, Token};

use crate::rng::Rng;

/// Tokens are reserved in blocks, so that a grant needs no sync. Small, so that blocks are used up.
const TOKEN_BLOCK: u64 = 8;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Opened {
        number: u64,
        id: SessionId,
        ttl: Duration,
    },
    Closed {
        number: u64,
    },
    Claimed {
        number: u64,
        lock: usize,
        limit: Limit,
        state: ClaimState,
    },
    Left {
        number: u64,
        lock: usize,
    },
    /// An operator has taken what is held.
    Revoked {
        number: u64,
        lock: usize,
    },
    /// Sessions are granted locks in this boot of the host.
    Booted {
        boot: u64,
    },
}

/// What the disk says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) sessions: BTreeMap<u64, (SessionId, Duration)>,
    pub(crate) claims: BTreeMap<(u64, usize), (Limit, ClaimState)>,
    /// Of the claims, those that operators have taken.
    pub(crate) revoked: BTreeSet<(u64, usize)>,
    /// The last boot of the host in which sessions were granted locks.
    pub(crate) boot: u64,
}

#[derive(Default)]
pub(crate) struct Store {
    /// Survives a crash of the host.
    synced: Image,
    /// Commits that survive a crash of the server only, oldest first.
    unsynced: Vec<Vec<Change>>,
    pending: Vec<Change>,
    /// Tokens below may be given out; always synced.
    token_mark: u64,
}

impl Image {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Opened { number, id, ttl } => {
                    self.sessions.insert(number, (id, ttl));
                }
                Change::Closed { number } => {
                    self.sessions.remove(&number);
                    self.claims.retain(|&(session, _), _| session != number);
                    self.revoked.retain(|&(session, _)| session != number);
                }
                Change::Claimed { number, lock, limit, state } => {
                    self.claims.insert((number, lock), (limit, state));
                }
                Change::Left { number, lock } => {
                    self.claims.remove(&(number, lock));
                    self.revoked.remove(&(number, lock));
                }
                Change::Revoked { number, lock } => {
                    self.revoked.insert((number, lock));
                }
                Change::Booted { boot } => self.boot = boot,
            }
        }
    }
}

impl Store {
    pub(crate) fn add(&mut self, change: Change) {
        self.pending.push(change);
    }

    pub(crate) fn commit(&mut self, next_token: Token, rng: &mut Rng) {
        let must_sync = self.pending.iter().any(|change| matches!(change, Change::Revoked { .. }));
        if !self.pending.is_empty() {
            self.unsynced.push(std::mem::take(&mut self.pending));
        }
        let needs_tokens = next_token.0 + TOKEN_BLOCK / 2 > self.token_mark;
        if needs_tokens {
            self.token_mark = next_token.0 + TOKEN_BLOCK;
        }
        // A checkpoint comes now and then; writing the mark syncs the log, and so does an operator's word.
        if needs_tokens || must_sync || rng.chance(1, 16) {
            self.sync_all();
        }
    }

    fn sync_all(&mut self) {
        for changes in std::mem::take(&mut self.unsynced) {
            self.synced.apply(&changes);
        }
    }

    /// The server crashed: what wasn't committed is gone.
    pub(crate) fn crash(&mut self) {
        self.pending.clear();
    }

    /// The host crashed: of the commits that weren't synced, some of the first are there.
    pub(crate) fn crash_host(&mut self, rng: &mut Rng) {
        self.pending.clear();
        let kept = rng.between(0, self.unsynced.len() as u64) as usize;
        self.unsynced.truncate(kept);
        self.sync_all();
    }

    /// Reads the store at a start and reserves tokens: what it holds, and the first one.
    pub(crate) fn open(&mut self) -> (Image, Token) {
        self.sync_all();
        let first = self.token_mark.max(1);
        self.token_mark = first + TOKEN_BLOCK;
        (self.synced.clone(), Token(first))
    }
}
