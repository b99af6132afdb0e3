//! Putting back what owners had before a restart.

use std::hash::BuildHasher;

use crate::lock::claim::{NEVER, State};
use crate::lock::{ClaimState, OwnerId, RestoreError, Restored, Slot, Token};

use super::{Table, nanos};

impl Table {
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
}
