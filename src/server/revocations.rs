//! Locks that operators have taken from holders who haven't given them back yet. They stay held until
//! then, so that nobody else starts before the holder's command is dead (P1); but not for ever: a
//! session isn't renewed meanwhile, and a connection without one has until a deadline.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    by_party: HashMap<Party, BTreeMap<Arc<str>, Taken>>,
    /// When holders without a lease are waited for no longer.
    deadlines: BTreeSet<(BootTime, Party, Arc<str>)>,
}

#[derive(Debug)]
struct Taken {
    token: Token,
    reason: Arc<str>,
    /// Of a holder without a lease.
    until: Option<BootTime>,
}

impl Revocations {
    /// A lock is taken; its holder is waited for until then, or as long as its lease lasts. Said again,
    /// only the reason is new: the first deadline counts, and comes back.
    pub(super) fn add(
        &mut self,
        party: Party,
        revocation: Revocation,
        until: Option<BootTime>,
    ) -> Option<BootTime> {
        let Revocation { name, token, reason } = revocation;
        let all = self.by_party.entry(party).or_default();
        if let Some(known) = all.get_mut(&name) {
            known.reason = reason;
            return known.until;
        }
        if let Some(until) = until {
            self.deadlines.insert((until, party, Arc::clone(&name)));
        }
        all.insert(name, Taken { token, reason, until });
        until
    }

    /// The holder has given a lock back, taken from it or not.
    pub(super) fn given_back(&mut self, party: Party, name: &str) {
        let Some(all) = self.by_party.get_mut(&party) else { return };
        if let Some((name, Taken { until: Some(until), .. })) = all.remove_entry(name) {
            self.deadlines.remove(&(until, party, name));
        }
        if all.is_empty() {
            self.by_party.remove(&party);
        }
    }

    /// The holder has given everything back, or is no more.
    pub(super) fn all_given_back(&mut self, party: Party) {
        for (name, taken) in self.by_party.remove(&party).unwrap_or_default() {
            if let Some(until) = taken.until {
                self.deadlines.remove(&(until, party, name));
            }
        }
    }

    /// The holder has something that was taken from it.
    pub(super) fn concern(&self, party: Party) -> bool {
        self.by_party.contains_key(&party)
    }

    /// This lock was taken from this holder.
    pub(super) fn has(&self, party: Party, name: &str) -> bool {
        self.by_party.get(&party).is_some_and(|all| all.contains_key(name))
    }

    /// All that was taken from a holder.
    pub(super) fn of(&self, party: Party) -> Vec<Revocation> {
        let all = self.by_party.get(&party).into_iter().flatten();
        all.map(|(name, taken)| Revocation {
            name: Arc::clone(name),
            token: taken.token,
            reason: Arc::clone(&taken.reason),
        })
        .collect()
    }

    /// The longest overdue of those whose time to give back is over; it is still there.
    pub(super) fn overdue(&self, now: BootTime) -> Option<(Party, Arc<str>, Token)> {
        let (_, party, name) = self.deadlines.first().filter(|(until, ..)| *until <= now)?;
        Some((*party, Arc::clone(name), self.by_party[party][name].token))
    }

    /// When [`Revocations::overdue`] has something next.
    pub(super) fn next_deadline(&self) -> Option<BootTime> {
        self.deadlines.first().map(|(until, ..)| *until)
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
    fn the_first_deadline_and_the_last_reason_count() {
        let mut revocations = Revocations::default();
        assert_eq!(revocations.add(HOLDER, taken("a", 1), Some(at(5))), Some(at(5)));
        let again = Revocation { reason: "again".into(), ..taken("a", 1) };
        assert_eq!(revocations.add(HOLDER, again, Some(at(9))), Some(at(5)));
        assert!(revocations.overdue(at(4)).is_none());
        let (party, name, token) = revocations.overdue(at(5)).unwrap();
        assert_eq!((party, &*name, token), (HOLDER, "a", Token(1)));
        assert_eq!(&*revocations.of(HOLDER)[0].reason, "again");
    }

    #[test]
    fn what_is_given_back_is_waited_for_no_more() {
        let mut revocations = Revocations::default();
        for (party, name, token) in [(HOLDER, "a", 1), (HOLDER, "b", 2), (OTHER, "a", 3)] {
            revocations.add(party, taken(name, token), Some(at(token)));
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
