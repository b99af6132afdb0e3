//! Who holds what and who stands in line. Promises: never more holders than the limit (P1), first
//! come, first served (P3), and one counter of tokens for all grants, so that every lock's tokens
//! grow and nothing has to be remembered of a lock that is free (P4). Each operation costs the same
//! however many locks, waiters and timeouts there are.
//!
//! PURE: `now` is an argument, what happens to others is appended to a list of [`Effect`]s, and the
//! order of nothing depends on a hash. Sessions' lives, sockets and the store are others' matter.

mod index;
mod queues;
mod restore;

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::boot_time::BootTime;

use crate::lock::claim::{Claim, List, NEVER, NIL, OWNED, QUEUE, State};
use crate::lock::slots::Slots;
use crate::lock::{
    Ask, ClaimView, Effect, Grant, Limit, LockView, Outcome, OwnerId, Party, Slot, TableBounds, Token,
    Unlocked,
};

/// All locks of a server.
#[derive(Debug)]
pub struct Table {
    pub(super) locks: Slab<Lock>,
    pub(super) claims: Slab<Claim>,
    pub(super) owners: Slab<Owner>,
    by_name: HashTable<u32>,
    /// The claims of owners that have many, by owner and lock.
    by_pair: HashTable<u32>,
    hasher: DefaultHashBuilder,
    deadlines: BTreeSet<(u64, u32)>,
    next_token: Token,
    next_ticket: u64,
    next_generation: u32,
    bounds: TableBounds,
}

#[derive(Debug)]
pub(super) struct Lock {
    pub(super) name: Arc<str>,
    pub(super) limit: Limit,
    pub(super) holders: List<QUEUE>,
    pub(super) waiters: List<QUEUE>,
    /// Every waiter before this one is suspended; NIL: every waiter is.
    first_ready: u32,
    slots: Slots,
}

#[derive(Debug)]
pub(super) struct Owner {
    generation: u32,
    pub(super) party: Party,
    pub(super) claims: List<OWNED>,
    /// Keeps its places in queues, is passed over at grants.
    pub(super) suspended: bool,
    /// It has, or lately had, so many claims that they are found by hash.
    indexed: bool,
}

impl Table {
    /// An empty table whose first grant gets `first_token`.
    pub fn new(first_token: Token, bounds: TableBounds) -> Self {
        Self {
            locks: Slab::new(),
            claims: Slab::new(),
            owners: Slab::new(),
            by_name: HashTable::new(),
            by_pair: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            deadlines: BTreeSet::new(),
            next_token: first_token,
            next_ticket: 0,
            next_generation: 0,
            bounds,
        }
    }

    /// The token that the next grant gets.
    pub fn next_token(&self) -> Token {
        self.next_token
    }

    /// When the next wait ends; `None`: no wait has an end.
    pub fn next_deadline(&self) -> Option<BootTime> {
        self.deadlines.first().map(|&(at, _)| from_nanos(at))
    }

    /// Lets in someone who can hold and wait.
    pub fn add_owner(&mut self, party: Party) -> OwnerId {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let owner = Owner { generation, party, claims: List::EMPTY, suspended: false, indexed: false };
        OwnerId { index: self.owners.insert(owner) as u32, generation }
    }

    /// Takes everything away from an owner and forgets it.
    pub fn remove_owner(&mut self, owner: OwnerId, now: BootTime, effects: &mut Vec<Effect>) {
        self.release_all(owner, now, effects);
        self.owners.remove(owner.index as usize);
    }

    /// Releases everything an owner holds and leaves every queue it stands in.
    pub fn release_all(&mut self, owner: OwnerId, now: BootTime, effects: &mut Vec<Effect>) {
        loop {
            match self.owner(owner).claims.head {
                NIL => return,
                at => self.drop_claim(at, now, effects),
            }
        }
    }

    /// Asks for a lock.
    pub fn lock(&mut self, owner: OwnerId, name: &str, ask: &Ask, now: BootTime) -> Outcome {
        let hash = self.hasher.hash_one(name);
        let Some(lock) = self.find_lock(hash, name) else {
            return self.lock_unknown(owner, name, hash, ask, now);
        };
        let limit = self.locks[lock as usize].limit;
        if limit != ask.limit {
            return Outcome::LimitMismatch(limit);
        }
        match self.find_claim(owner, lock) {
            Some(at) => self.lock_again(at, limit, ask, now),
            None => self.lock_known(owner, lock, ask, now),
        }
    }

    /// Gives a lock back or leaves its queue.
    pub fn unlock(
        &mut self,
        owner: OwnerId,
        name: &str,
        now: BootTime,
        effects: &mut Vec<Effect>,
    ) -> Unlocked {
        let lock = self.find_lock(self.hasher.hash_one(name), name);
        let Some(at) = lock.and_then(|lock| self.find_claim(owner, lock)) else {
            return Unlocked::Nothing;
        };
        let unlocked = match self.claims[at as usize].state {
            State::Holding { token, .. } => Unlocked::Held(token),
            State::Waiting { .. } => Unlocked::Waited,
        };
        self.drop_claim(at, now, effects);
        unlocked
    }

    /// Ends the hold that has this token, whoever's it is; false if there is none.
    pub fn revoke(&mut self, name: &str, token: Token, now: BootTime, effects: &mut Vec<Effect>) -> bool {
        let Some(lock) = self.find_lock(self.hasher.hash_one(name), name) else { return false };
        let mut at = self.locks[lock as usize].holders.head;
        while at != NIL {
            let claim = &self.claims[at as usize];
            match claim.state {
                State::Holding { token: held, .. } if held == token => {
                    self.drop_claim(at, now, effects);
                    return true;
                }
                State::Holding { .. } | State::Waiting { .. } => at = claim.links[QUEUE].next,
            }
        }
        false
    }

    /// From here on the owner keeps its places in queues but is passed over.
    pub fn suspend(&mut self, owner: OwnerId) {
        self.owner(owner);
        self.owners[owner.index as usize].suspended = true;
    }

    /// Ends a suspension: each of the owner's places is considered at once.
    pub fn resume(&mut self, owner: OwnerId, now: BootTime, effects: &mut Vec<Effect>) {
        self.resume_all(&[owner], now, effects);
    }

    /// Ends many suspensions: only when all of them have ended are places given, so that each lock
    /// goes to whoever asked for it first, and not to the first of the owners.
    pub fn resume_all(&mut self, owners: &[OwnerId], now: BootTime, effects: &mut Vec<Effect>) {
        let mut waited_for = Vec::new();
        for &owner in owners {
            self.mark_resumed(owner, &mut waited_for);
        }
        for lock in waited_for {
            self.grant_next(lock, now, effects);
        }
    }

    /// Ends every wait whose deadline has come, in the order of the deadlines.
    pub fn expire_waits(&mut self, now: BootTime, effects: &mut Vec<Effect>) {
        let now = nanos(now);
        while let Some(&(deadline, at)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            let (lock, claim) = self.take_claim(at);
            effects.push(Effect::TimedOut {
                party: self.owners[claim.owner as usize].party,
                name: Arc::clone(&self.locks[lock as usize].name),
                extended: claim.extended,
            });
            self.forget_if_free(lock);
        }
    }

    /// A lock that is held or waited for.
    pub fn lock_view(&self, name: &str) -> Option<LockView<'_>> {
        let lock = self.find_lock(self.hasher.hash_one(name), name)?;
        Some(LockView { table: self, lock: &self.locks[lock as usize] })
    }

    /// Every lock that is held or waited for.
    pub fn lock_views(&self) -> impl Iterator<Item = LockView<'_>> {
        self.locks.iter().map(|(_, lock)| LockView { table: self, lock })
    }

    /// What an owner holds and waits for, in the order of asking.
    pub fn claims_of(&self, owner: OwnerId) -> impl Iterator<Item = ClaimView<'_>> {
        self.owner(owner).claims.iter(&self.claims).map(|claim| ClaimView { table: self, claim })
    }

    /// What an owner has at one lock.
    pub fn claim_of(&self, owner: OwnerId, name: &str) -> Option<ClaimView<'_>> {
        let lock = self.find_lock(self.hasher.hash_one(name), name)?;
        let at = self.find_claim(owner, lock)?;
        Some(ClaimView { table: self, claim: &self.claims[at as usize] })
    }

    /// How many locks are held or waited for.
    pub fn lock_count(&self) -> usize {
        self.locks.len()
    }

    pub(super) fn owner_id(&self, index: u32) -> OwnerId {
        OwnerId { index, generation: self.owners[index as usize].generation }
    }

    fn owner(&self, id: OwnerId) -> &Owner {
        let owner = &self.owners[id.index as usize];
        assert!(owner.generation == id.generation, "an owner was used after its removal");
        owner
    }

    fn lock_unknown(&mut self, owner: OwnerId, name: &str, hash: u64, ask: &Ask, now: BootTime) -> Outcome {
        if self.has_too_many(owner) {
            return Outcome::TooManyLocks;
        }
        if self.owner(owner).suspended && ask.wait == Some(Duration::ZERO) {
            return Outcome::TimedOut;
        }
        let lock = self.add_lock(name, hash, ask.limit);
        let outcome = self.take_or_wait(owner, lock, ask, now);
        self.forget_if_free(lock);
        outcome
    }

    fn lock_known(&mut self, owner: OwnerId, lock: u32, ask: &Ask, now: BootTime) -> Outcome {
        let known = &self.locks[lock as usize];
        let in_queue = u64::from(known.holders.len()) + u64::from(known.waiters.len());
        if ask.queue_max.is_some_and(|most| in_queue >= most) {
            return Outcome::QueueMaxed;
        }
        if self.has_too_many(owner) {
            return Outcome::TooManyLocks;
        }
        self.take_or_wait(owner, lock, ask, now)
    }

    fn take_or_wait(&mut self, owner: OwnerId, lock: u32, ask: &Ask, now: BootTime) -> Outcome {
        let known = &mut self.locks[lock as usize];
        if !self.owners[owner.index as usize].suspended
            && let Some(slot) = known.slots.take()
        {
            return Outcome::Acquired(self.grant_new(owner.index, lock, slot, ask.extended, now));
        }
        if ask.wait == Some(Duration::ZERO) {
            return Outcome::TimedOut;
        }
        if known.waiters.len() >= self.bounds.waiters_per_lock {
            return Outcome::TooManyWaiters;
        }
        let deadline = ask.wait.map_or(NEVER, |wait| nanos(now + wait));
        Outcome::Queued { ticket: self.enqueue(owner.index, lock, ask.extended, deadline, nanos(now)) }
    }

    /// A request for what the owner holds or waits for already: only its timeout can count.
    fn lock_again(&mut self, at: u32, limit: Limit, ask: &Ask, now: BootTime) -> Outcome {
        let claim = &mut self.claims[at as usize];
        claim.extended |= ask.extended;
        let (ticket, deadline) = match claim.state {
            State::Holding { token, slot } => {
                return Outcome::AlreadyAcquired(Grant { token, slot: Slot(slot), limit });
            }
            State::Waiting { ticket, deadline } => (ticket, deadline),
        };
        if ask.wait == Some(Duration::ZERO) {
            let (lock, _) = self.take_claim(at);
            self.forget_if_free(lock);
            return Outcome::TimedOut;
        }
        let asked = ask.wait.map_or(NEVER, |wait| nanos(now + wait));
        if asked < deadline {
            claim.state = State::Waiting { ticket, deadline: asked };
            self.deadlines.remove(&(deadline, at));
            self.deadlines.insert((asked, at));
        }
        Outcome::StillQueued
    }

    fn has_too_many(&self, owner: OwnerId) -> bool {
        self.owner(owner).claims.len() >= self.bounds.claims_per_owner
    }
}

/// Nanoseconds fit for five centuries of uptime.
pub(super) fn nanos(at: BootTime) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(NEVER)
}

pub(super) fn from_nanos(at: u64) -> BootTime {
    BootTime::from_since_boot(Duration::from_nanos(at))
}
