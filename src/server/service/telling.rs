//! What happens to somebody without their asking now, and how they are told: grants at once, the ends
//! of waits in portions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::boot_time::BootTime;
use crate::lock::{Effect, Grant, Party, SessionKey, Table};
use crate::protocol::{Answer, TurnedAwayBy};
use crate::server::connection::{Key, Needs, Role};
use crate::server::listing::Lists;
use crate::server::store::ClaimRow;

use super::Service;

/// Answers to ended waits are written up to this size before they are sent.
const TOLD_BYTES_A_TURN: usize = 4 * 1024 * 1024;
/// Whose wait has ended.
pub(super) struct TimedOut {
    party: Party,
    name: Arc<str>,
    extended: bool,
}

impl Service {
    /// Does something to the table and tells everybody what became of it.
    pub(in crate::server) fn with_effects<T>(
        &mut self,
        change: impl FnOnce(&mut Table, &mut Vec<Effect>) -> T,
    ) -> T {
        let mut effects = std::mem::take(&mut self.effects);
        let result = change(&mut self.table, &mut effects);
        self.deliver(effects);
        result
    }

    /// Whether somebody who waited was granted a lock since this was last asked.
    pub(in crate::server) fn take_handed_over(&mut self) -> bool {
        std::mem::take(&mut self.handed_over)
    }

    /// An empty list for effects, to be given back by [`Service::deliver`].
    pub(in crate::server) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Tells everybody what happened to them.
    pub(in crate::server) fn deliver(&mut self, mut effects: Vec<Effect>) {
        if effects.is_empty() {
            self.effects = effects;
            return;
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Granted { party, name, grant, extended } => {
                    self.handed_over = true;
                    self.tell_granted(party, &name, grant, extended);
                }
                Effect::TimedOut { party, name, extended } => {
                    self.untold.push_back(TimedOut { party, name, extended });
                }
            }
        }
        self.effects = effects;
    }

    /// Tells those whose waits have ended, in portions, because each reply carries the queue: a portion
    /// is sent before the next one is written. A lock's queue is written once a portion.
    pub(super) fn tell_timed_out(&mut self, now: BootTime) {
        let mut lists = HashMap::new();
        let mut written = 0;
        while written < TOLD_BYTES_A_TURN {
            let Some(ended) = self.untold.pop_front() else { return };
            written += self.tell_one(&ended, &mut lists, now);
        }
    }

    /// A client that says something new is first told of its waits that had ended before.
    pub(super) fn tell_before_serving(&mut self, key: Key, now: BootTime) {
        let party = match self.connections.get(key).map(|connection| connection.role) {
            None | Some(Role::Plain(None)) => return,
            Some(Role::Plain(Some(_))) => Party::Connection(key as u32),
            Some(Role::Session(session)) => Party::Session(session.0),
        };
        let (ours, others) =
            std::mem::take(&mut self.untold).into_iter().partition(|ended| ended.party == party);
        self.untold = others;
        let ours: VecDeque<TimedOut> = ours;
        for ended in &ours {
            self.tell_one(ended, &mut HashMap::new(), now);
        }
    }

    /// Tells one of the end of its wait; the size of the lists in the reply.
    pub(super) fn tell_one(
        &mut self,
        ended: &TimedOut,
        lists: &mut HashMap<Arc<str>, Lists>,
        now: BootTime,
    ) -> usize {
        let TimedOut { party, name, extended } = ended;
        let lists = lists.entry(Arc::clone(name)).or_insert_with(|| Lists::of_lock(self, name, now));
        let (connection, needs) = match *party {
            Party::Connection(key) => (Some(key as Key), Needs::Nothing),
            Party::Session(key) => {
                let session = self.sessions.get(SessionKey(key));
                self.store.left(session.number, Arc::clone(name));
                (session.connection.map(|key| key as Key), Needs::Commit)
            }
        };
        let Some(key) = connection else { return 0 };
        self.answer(key, needs, &lists.turned_away(name, *extended, TurnedAwayBy::Timeout));
        lists.len()
    }

    /// Nothing more is told to this one, whose number somebody else may get.
    pub(super) fn forget_untold(&mut self, party: Party) {
        if !self.untold.is_empty() {
            self.untold.retain(|ended| ended.party != party);
        }
    }

    pub(super) fn tell_granted(&mut self, party: Party, name: &Arc<str>, grant: Grant, extended: bool) {
        let (connection, mut needs) = match party {
            Party::Connection(key) => (Some(key as Key), Needs::Nothing),
            Party::Session(key) => {
                let session = self.sessions.get(SessionKey(key));
                let row = ClaimRow::held(&grant, extended);
                self.store.claimed(session.number, Arc::clone(name), false, row);
                (session.connection.map(|key| key as Key), Needs::Commit)
            }
        };
        if grant.token >= self.store.token_mark() {
            needs = Needs::Commit;
        }
        if let Some(key) = connection {
            let answer = Answer::Acquired { name, grant: extended.then_some(grant), again: false };
            self.answer(key, needs, &answer);
        }
    }
}
