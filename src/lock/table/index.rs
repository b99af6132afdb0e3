//! Finding locks by their names and claims by their owners, and keeping them findable.

use std::hash::BuildHasher;
use std::sync::Arc;

use crate::lock::claim::{Claim, Links, List, NIL, OWNED, State};
use crate::lock::slots::Slots;
use crate::lock::{Limit, OwnerId};

use super::{Lock, Table};

/// So many claims of one owner are looked through, more are found by hash: most owners have one or two,
/// for which keeping a hash costs more than looking.
const LOOKED_THROUGH: u32 = 8;

impl Table {
    pub(super) fn find_lock(&self, hash: u64, name: &str) -> Option<u32> {
        self.by_name.find(hash, |&lock| *self.locks[lock as usize].name == *name).copied()
    }

    pub(super) fn find_claim(&self, owner: OwnerId, lock: u32) -> Option<u32> {
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

    pub(super) fn pair_hash(&self, owner: u32, lock: u32) -> u64 {
        self.hasher.hash_one(u64::from(owner) << 32 | u64::from(lock))
    }

    pub(super) fn add_lock(&mut self, name: &str, hash: u64, limit: Limit) -> u32 {
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
    pub(super) fn forget_if_free(&mut self, lock: u32) {
        let known = &self.locks[lock as usize];
        if !known.holders.is_empty() || !known.waiters.is_empty() {
            return;
        }
        let hash = self.hasher.hash_one(&*known.name);
        let entry = self.by_name.find_entry(hash, |&other| other == lock);
        entry.expect("every lock is found by its name").remove();
        self.locks.remove(lock as usize);
    }

    pub(super) fn add_claim(
        &mut self,
        owner: u32,
        lock: u32,
        extended: bool,
        since: u64,
        state: State,
    ) -> u32 {
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

    pub(super) fn index_all(&mut self, owner: u32) {
        self.owners[owner as usize].indexed = true;
        let mut at = self.owners[owner as usize].claims.head;
        while at != NIL {
            self.index(at);
            at = self.claims[at as usize].links[OWNED].next;
        }
    }

    pub(super) fn index(&mut self, at: u32) {
        let Self { by_pair, claims, hasher, .. } = self;
        let hash_of = |&at: &u32| {
            let claim: &Claim = &claims[at as usize];
            hasher.hash_one(u64::from(claim.owner) << 32 | u64::from(claim.lock))
        };
        by_pair.insert_unique(hash_of(&at), at, hash_of);
    }

    pub(super) fn leave_index(&mut self, at: u32, owner: u32, lock: u32) {
        let known = &mut self.owners[owner as usize];
        if known.indexed {
            known.indexed = !known.claims.is_empty();
            let entry = self.by_pair.find_entry(self.pair_hash(owner, lock), |&other| other == at);
            entry.expect("every claim of an indexed owner is found by its pair").remove();
        }
    }
}
