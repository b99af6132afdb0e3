//! Standing in line, being granted, leaving: each move of a claim keeps the lists and the order.

use std::sync::Arc;

use crate::boot_time::BootTime;
use crate::lock::claim::{Claim, NEVER, NIL, OWNED, QUEUE, State};
use crate::lock::{Effect, Grant, OwnerId, Slot, Token};

use super::{Table, nanos};

impl Table {
    pub(super) fn enqueue(
        &mut self,
        owner: u32,
        lock: u32,
        extended: bool,
        deadline: u64,
        since: u64,
    ) -> u64 {
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

    pub(super) fn grant_new(
        &mut self,
        owner: u32,
        lock: u32,
        slot: Slot,
        extended: bool,
        now: BootTime,
    ) -> Grant {
        let token = self.issue_token();
        let state = State::Holding { token, slot: slot.0 };
        let at = self.add_claim(owner, lock, extended, nanos(now), state);
        self.now_holds(lock, at);
        Grant { token, slot, limit: self.locks[lock as usize].limit }
    }

    pub(super) fn issue_token(&mut self) -> Token {
        let token = self.next_token;
        self.next_token = Token(token.0 + 1);
        token
    }

    pub(super) fn now_holds(&mut self, lock: u32, at: u32) {
        let known = &mut self.locks[lock as usize];
        known.holders.push_back(&mut self.claims, at);
        assert!(known.holders.len() <= known.limit.get(), "more holders than the limit");
    }

    /// Gives free places to the first waiters that aren't suspended.
    pub(super) fn grant_next(&mut self, lock: u32, now: BootTime, effects: &mut Vec<Effect>) {
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

    pub(super) fn next_ready(&mut self, lock: u32) -> Option<u32> {
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

    pub(super) fn mark_resumed(&mut self, owner: OwnerId, waited_for: &mut Vec<u32>) {
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

    pub(super) fn mark_ready(&mut self, lock: u32, at: u32, ticket: u64) {
        let known = &mut self.locks[lock as usize];
        let earlier = match self.claims.get(known.first_ready as usize).map(|first| first.state) {
            None | Some(State::Holding { .. }) => true,
            Some(State::Waiting { ticket: first, .. }) => ticket < first,
        };
        if earlier {
            known.first_ready = at;
        }
    }

    pub(super) fn leave_queue(&mut self, lock: u32, at: u32) {
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
    pub(super) fn take_claim(&mut self, at: u32) -> (u32, Claim) {
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

    pub(super) fn drop_claim(&mut self, at: u32, now: BootTime, effects: &mut Vec<Effect>) {
        let (lock, claim) = self.take_claim(at);
        match claim.state {
            State::Holding { .. } => self.grant_next(lock, now, effects),
            State::Waiting { .. } => {}
        }
        self.forget_if_free(lock);
    }
}
