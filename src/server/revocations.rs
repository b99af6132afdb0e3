//! Locks that operators have taken from holders who haven't given them back yet. They stay held until
//! then, so that nobody else starts before the holder's command is dead (P1); but not for ever: a
//! session isn't renewed meanwhile, and a connection without one has until a deadline.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::boot_time::BootTime;
use crate::lock::{Party, Token};

/// One lock that was taken from one holder.
#[derive(Clone, Debug)]
pub(super) struct Revocation {
    pub(super) name: Arc<str>,
    pub(super) token: Token,
    /// What the operator gave as reason.
    pub(super) reason: Arc<str>,
}

/// What was taken and isn't given back.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    by_party: HashMap<Party, Vec<Revocation>>,
    /// When holders without a lease are waited for no longer.
    deadlines: BTreeSet<Deadline>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline {
    at: BootTime,
    token: Token,
    party: Party,
}

impl Revocations {
    /// A lock is taken. Said again, only the reason is new.
    pub(super) fn add(&mut self, party: Party, taken: Revocation) {
        let all = self.by_party.entry(party).or_default();
        match all.iter_mut().find(|known| known.token == taken.token) {
            Some(known) => known.reason = taken.reason,
            None => all.push(taken),
        }
    }

    /// Has the wait for a holder end at `at`; the first deadline counts, and comes back.
    pub(super) fn give_until(&mut self, party: Party, token: Token, at: BootTime) -> BootTime {
        let known = self.deadlines.iter().find(|deadline| deadline.token == token);
        match known {
            Some(known) => known.at,
            None => {
                self.deadlines.insert(Deadline { at, token, party });
                at
            }
        }
    }

    /// The holder has given a lock back, taken from it or not.
    pub(super) fn given_back(&mut self, party: Party, name: &str) {
        let Some(all) = self.by_party.get_mut(&party) else { return };
        let deadlines = &mut self.deadlines;
        all.retain(|taken| {
            let stays = *taken.name != *name;
            if !stays {
                deadlines.retain(|deadline| deadline.token != taken.token);
            }
            stays
        });
        if all.is_empty() {
            self.by_party.remove(&party);
        }
    }

    /// The holder has given everything back, or is no more.
    pub(super) fn all_given_back(&mut self, party: Party) {
        if self.by_party.remove(&party).is_some() {
            self.deadlines.retain(|deadline| deadline.party != party);
        }
    }

    /// The holder has something that was taken from it.
    pub(super) fn concern(&self, party: Party) -> bool {
        self.by_party.contains_key(&party)
    }

    /// This lock was taken from this holder.
    pub(super) fn has(&self, party: Party, name: &str) -> bool {
        self.of(party).iter().any(|taken| *taken.name == *name)
    }

    /// All that was taken from a holder.
    pub(super) fn of(&self, party: Party) -> &[Revocation] {
        self.by_party.get(&party).map_or(&[], Vec::as_slice)
    }

    /// The longest overdue of those whose time to give back is over; it is still there.
    pub(super) fn overdue(&self, now: BootTime) -> Option<(Party, Revocation)> {
        let deadline = self.deadlines.first().filter(|deadline| deadline.at <= now)?;
        let taken = self.of(deadline.party).iter().find(|taken| taken.token == deadline.token);
        Some((deadline.party, taken.expect("a deadline goes with what it is of").clone()))
    }

    /// When [`Revocations::overdue`] has something next.
    pub(super) fn next_deadline(&self) -> Option<BootTime> {
        self.deadlines.first().map(|deadline| deadline.at)
    }

    /// Nothing at all is waited for.
    pub(super) fn is_empty(&self) -> bool {
        self.by_party.is_empty() && self.deadlines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOLDER: Party = Party::Connection(1);
    const OTHER: Party = Party::Connection(2);

    fn at(seconds: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_secs(seconds))
    }

    fn taken(name: &str, token: u64) -> Revocation {
        Revocation { name: name.into(), token: Token(token), reason: "r".into() }
    }

    #[test]
    fn the_first_deadline_counts() {
        let mut revocations = Revocations::default();
        revocations.add(HOLDER, taken("a", 1));
        assert_eq!(revocations.give_until(HOLDER, Token(1), at(5)), at(5));
        revocations.add(HOLDER, Revocation { reason: "again".into(), ..taken("a", 1) });
        assert_eq!(revocations.give_until(HOLDER, Token(1), at(9)), at(5));
        assert!(revocations.overdue(at(4)).is_none());
        let (party, overdue) = revocations.overdue(at(5)).unwrap();
        assert_eq!((party, overdue.token, &*overdue.reason), (HOLDER, Token(1), "again"));
    }

    #[test]
    fn what_is_given_back_is_waited_for_no_more() {
        let mut revocations = Revocations::default();
        for (party, name, token) in [(HOLDER, "a", 1), (HOLDER, "b", 2), (OTHER, "a", 3)] {
            revocations.add(party, taken(name, token));
            revocations.give_until(party, Token(token), at(token));
        }
        revocations.given_back(HOLDER, "a");
        assert!(!revocations.has(HOLDER, "a") && revocations.has(HOLDER, "b") && revocations.has(OTHER, "a"));
        assert_eq!(revocations.next_deadline(), Some(at(2)));
        revocations.all_given_back(HOLDER);
        assert!(!revocations.concern(HOLDER));
        revocations.given_back(OTHER, "a");
        assert!(revocations.is_empty());
    }
}
