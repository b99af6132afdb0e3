//! Who holds what and who stands in line. Promises: never more holders than the limit (P1), first
//! come, first served (P3), and one counter of tokens for all grants, so that every lock's tokens
//! grow and nothing has to be remembered of a lock that is free (P4). Each operation costs the same
//! however many locks, waiters and timeouts there are.
//!
//! PURE: `now` is an argument, what happens to others is appended to a list of [`Effect`]s, and the
//! order of nothing depends on a hash. Sessions' lives, sockets and the store are others' matter.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::boot_time::BootTime;

use super::claim::{Claim, Links, List, NEVER, NIL, OWNED, QUEUE, State};
use super::slots::Slots;
use super::view::{ClaimState, ClaimView, LockView};
use super::{Limit, Slot, Token};

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
    index: u32,
    generation: u32,
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

/// So many claims of one owner are looked through, more are found by hash: most owners have one or two,
/// for which keeping a hash costs more than looking.
const LOOKED_THROUGH: u32 = 8;

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

    /// Puts back what an owner had before a restart. Waits must come in the order of their tickets;
    /// they wait for ever until they are asked for again.
    pub fn restore(&mut self, owner: OwnerId, name: &str, stored: &Restored) -> Result<(), RestoreError> {
        let hash = self.hasher.hash_one(name);
        let lock = self.find_lock(hash, name).unwrap_or_else(|| self.add_lock(name, hash, stored.limit));
        let is_new =
            self.locks[lock as usize].limit == stored.limit && self.find_claim(owner, lock).is_none();
        let fits = is_new
            && match stored.state {
                ClaimState::Waiting { ticket } => self.restore_wait(owner, lock, stored, ticket),
                ClaimState::Holding { token, slot } => self.restore_hold(owner, lock, stored, token, slot),
            };
        fits.then_some(()).ok_or_else(|| RestoreError { name: name.to_owned() })
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

    fn restore_wait(&mut self, owner: OwnerId, lock: u32, stored: &Restored, ticket: u64) -> bool {
        if ticket < self.next_ticket {
            return false;
        }
        self.next_ticket = ticket;
        self.enqueue(owner.index, lock, stored.extended, NEVER, nanos(stored.since));
        true
    }

    fn restore_hold(
        &mut self,
        owner: OwnerId,
        lock: u32,
        stored: &Restored,
        token: Token,
        slot: Slot,
    ) -> bool {
        if token >= self.next_token || !self.locks[lock as usize].slots.take_this(slot) {
            return false;
        }
        let state = State::Holding { token, slot: slot.0 };
        let at = self.add_claim(owner.index, lock, stored.extended, nanos(stored.since), state);
        self.now_holds(lock, at);
        true
    }

    /// A request for what the owner holds or waits for already: only its timeout can count.
    fn lock_again(&mut self, at: u32, limit: Limit, ask: &Ask, now: BootTime) -> Outcome {
        let claim = &mut self.claims[at as usize];
        let (ticket, deadline) = match claim.state {
            State::Holding { token, slot } => {
                return Outcome::AlreadyAcquired(Grant { token, slot: Slot(slot), limit });
            }
            State::Waiting { ticket, deadline } => (ticket, deadline),
        };
        claim.extended |= ask.extended;
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

    fn find_lock(&self, hash: u64, name: &str) -> Option<u32> {
        self.by_name.find(hash, |&lock| *self.locks[lock as usize].name == *name).copied()
    }

    fn find_claim(&self, owner: OwnerId, lock: u32) -> Option<u32> {
        let known = self.owner(owner);
        if !known.indexed {
            return known.claims.find(&self.claims, |claim| claim.lock == lock);
        }
        let same = |&at: &u32| {
            let claim = &self.claims[at as usize];
            claim.lock == lock && claim.owner == owner.index
        };
        self.by_pair.find(self.pair_hash(owner.index, lock), same).copied()
    }

    fn pair_hash(&self, owner: u32, lock: u32) -> u64 {
        self.hasher.hash_one(u64::from(owner) << 32 | u64::from(lock))
    }

    fn add_lock(&mut self, name: &str, hash: u64, limit: Limit) -> u32 {
        let lock = self.locks.insert(Lock {
            name: Arc::from(name),
            limit,
            holders: List::EMPTY,
            waiters: List::EMPTY,
            first_ready: NIL,
            slots: Slots::new(limit),
        }) as u32;
        let Self { by_name, locks, hasher, .. } = self;
        by_name.insert_unique(hash, lock, |&lock| hasher.hash_one(&*locks[lock as usize].name));
        lock
    }

    /// A lock that nobody holds or waits for leaves nothing behind.
    fn forget_if_free(&mut self, lock: u32) {
        let known = &self.locks[lock as usize];
        if !known.holders.is_empty() || !known.waiters.is_empty() {
            return;
        }
        let hash = self.hasher.hash_one(&*known.name);
        let entry = self.by_name.find_entry(hash, |&other| other == lock);
        entry.expect("every lock is found by its name").remove();
        self.locks.remove(lock as usize);
    }

    fn add_claim(&mut self, owner: u32, lock: u32, extended: bool, since: u64, state: State) -> u32 {
        let claim = Claim { owner, lock, links: [Links::LOOSE; 2], since, state, extended };
        let at = self.claims.insert(claim) as u32;
        assert!(at != NIL, "the number of claims is bounded by memory long before");
        let known = &mut self.owners[owner as usize];
        known.claims.push_back(&mut self.claims, at);
        if known.indexed {
            self.index(at);
        } else if known.claims.len() > LOOKED_THROUGH {
            self.index_all(owner);
        }
        at
    }

    fn index_all(&mut self, owner: u32) {
        self.owners[owner as usize].indexed = true;
        let mut at = self.owners[owner as usize].claims.head;
        while at != NIL {
            self.index(at);
            at = self.claims[at as usize].links[OWNED].next;
        }
    }

    fn index(&mut self, at: u32) {
        let Self { by_pair, claims, hasher, .. } = self;
        let hash_of = |&at: &u32| {
            let claim: &Claim = &claims[at as usize];
            hasher.hash_one(u64::from(claim.owner) << 32 | u64::from(claim.lock))
        };
        by_pair.insert_unique(hash_of(&at), at, hash_of);
    }

    fn leave_index(&mut self, at: u32, owner: u32, lock: u32) {
        let known = &mut self.owners[owner as usize];
        if known.indexed {
            known.indexed = !known.claims.is_empty();
            let entry = self.by_pair.find_entry(self.pair_hash(owner, lock), |&other| other == at);
            entry.expect("every claim of an indexed owner is found by its pair").remove();
        }
    }

    fn enqueue(&mut self, owner: u32, lock: u32, extended: bool, deadline: u64, since: u64) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let at = self.add_claim(owner, lock, extended, since, State::Waiting { ticket, deadline });
        if deadline != NEVER {
            self.deadlines.insert((deadline, at));
        }
        let known = &mut self.locks[lock as usize];
        known.waiters.push_back(&mut self.claims, at);
        if known.first_ready == NIL && !self.owners[owner as usize].suspended {
            known.first_ready = at;
        }
        ticket
    }

    fn grant_new(&mut self, owner: u32, lock: u32, slot: Slot, extended: bool, now: BootTime) -> Grant {
        let token = self.issue_token();
        let state = State::Holding { token, slot: slot.0 };
        let at = self.add_claim(owner, lock, extended, nanos(now), state);
        self.now_holds(lock, at);
        Grant { token, slot, limit: self.locks[lock as usize].limit }
    }

    fn issue_token(&mut self) -> Token {
        let token = self.next_token;
        self.next_token = Token(token.0 + 1);
        token
    }

    fn now_holds(&mut self, lock: u32, at: u32) {
        let known = &mut self.locks[lock as usize];
        known.holders.push_back(&mut self.claims, at);
        assert!(known.holders.len() <= known.limit.get(), "more holders than the limit");
    }

    /// Gives free places to the first waiters that aren't suspended.
    fn grant_next(&mut self, lock: u32, now: BootTime, effects: &mut Vec<Effect>) {
        while let Some(at) = self.next_ready(lock) {
            let Some(slot) = self.locks[lock as usize].slots.take() else { return };
            self.leave_queue(lock, at);
            let token = self.issue_token();
            let claim = &mut self.claims[at as usize];
            claim.state = State::Holding { token, slot: slot.0 };
            claim.since = nanos(now);
            let (owner, extended) = (claim.owner, claim.extended);
            self.now_holds(lock, at);
            let known = &self.locks[lock as usize];
            effects.push(Effect::Granted {
                party: self.owners[owner as usize].party,
                name: Arc::clone(&known.name),
                grant: Grant { token, slot, limit: known.limit },
                extended,
            });
        }
    }

    fn next_ready(&mut self, lock: u32) -> Option<u32> {
        let known = &mut self.locks[lock as usize];
        while known.first_ready != NIL {
            let claim = &self.claims[known.first_ready as usize];
            if !self.owners[claim.owner as usize].suspended {
                return Some(known.first_ready);
            }
            known.first_ready = claim.links[QUEUE].next;
        }
        None
    }

    fn mark_resumed(&mut self, owner: OwnerId, waited_for: &mut Vec<u32>) {
        let mut at = self.owner(owner).claims.head;
        if !std::mem::take(&mut self.owners[owner.index as usize].suspended) {
            return;
        }
        while at != NIL {
            let claim = &self.claims[at as usize];
            let (lock, next) = (claim.lock, claim.links[OWNED].next);
            if let State::Waiting { ticket, .. } = claim.state {
                self.mark_ready(lock, at, ticket);
                waited_for.push(lock);
            }
            at = next;
        }
    }

    fn mark_ready(&mut self, lock: u32, at: u32, ticket: u64) {
        let known = &mut self.locks[lock as usize];
        let earlier = match self.claims.get(known.first_ready as usize).map(|first| first.state) {
            None | Some(State::Holding { .. }) => true,
            Some(State::Waiting { ticket: first, .. }) => ticket < first,
        };
        if earlier {
            known.first_ready = at;
        }
    }

    fn leave_queue(&mut self, lock: u32, at: u32) {
        let known = &mut self.locks[lock as usize];
        if known.first_ready == at {
            known.first_ready = self.claims[at as usize].links[QUEUE].next;
        }
        known.waiters.remove(&mut self.claims, at);
        if let State::Waiting { deadline, .. } = self.claims[at as usize].state
            && deadline != NEVER
        {
            self.deadlines.remove(&(deadline, at));
        }
    }

    /// Takes a claim out of everything that knows it; its lock stays, also if it is free now.
    fn take_claim(&mut self, at: u32) -> (u32, Claim) {
        let Claim { lock, owner, state, .. } = self.claims[at as usize];
        match state {
            State::Waiting { .. } => self.leave_queue(lock, at),
            State::Holding { slot, .. } => {
                let known = &mut self.locks[lock as usize];
                known.holders.remove(&mut self.claims, at);
                known.slots.free(slot);
            }
        }
        self.owners[owner as usize].claims.remove(&mut self.claims, at);
        self.leave_index(at, owner, lock);
        (lock, self.claims.remove(at as usize))
    }

    fn drop_claim(&mut self, at: u32, now: BootTime, effects: &mut Vec<Effect>) {
        let (lock, claim) = self.take_claim(at);
        match claim.state {
            State::Holding { .. } => self.grant_next(lock, now, effects),
            State::Waiting { .. } => {}
        }
        self.forget_if_free(lock);
    }
}

/// Nanoseconds fit for five centuries of uptime.
pub(super) fn nanos(at: BootTime) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(NEVER)
}

pub(super) fn from_nanos(at: u64) -> BootTime {
    BootTime::from_since_boot(Duration::from_nanos(at))
}
