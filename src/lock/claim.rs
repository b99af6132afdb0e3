//! One owner's place at one lock, held or waited for, and the two lists it is a link of: the lock's
//! queue and its owner's list. Lists are threaded through a slab, so that leaving one costs the
//! same wherever the place is, and a place costs 64 bytes.

use slab::Slab;

use super::Token;

/// No claim: the end of a list.
pub(super) const NIL: u32 = u32::MAX;
/// The list of a lock's holders or waiters.
pub(super) const QUEUE: usize = 0;
/// The list of everything an owner has, in the order of asking.
pub(super) const OWNED: usize = 1;
/// A deadline that is never reached.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Claim {
    pub(super) owner: u32,
    pub(super) lock: u32,
    pub(super) links: [Links; 2],
    /// Nanoseconds since boot: of the grant, or of the request while waiting.
    pub(super) since: u64,
    pub(super) state: State,
    /// The request had `limit`, so its replies tell token and slot.
    pub(super) extended: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Holding { token: Token, slot: u32 },
    Waiting { ticket: u64, deadline: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) prev: u32,
    pub(super) next: u32,
}

impl Links {
    pub(super) const LOOSE: Self = Self { prev: NIL, next: NIL };
}

/// A list of claims, threaded through `links[BY]`.
#[derive(Debug)]
pub(super) struct List<const BY: usize> {
    pub(super) head: u32,
    tail: u32,
    len: u32,
}

impl<const BY: usize> List<BY> {
    pub(super) const EMPTY: Self = Self { head: NIL, tail: NIL, len: 0 };

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push_back(&mut self, claims: &mut Slab<Claim>, at: u32) {
        claims[at as usize].links[BY] = Links { prev: self.tail, next: NIL };
        match self.tail {
            NIL => self.head = at,
            tail => claims[tail as usize].links[BY].next = at,
        }
        self.tail = at;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, claims: &mut Slab<Claim>, at: u32) {
        let Links { prev, next } = std::mem::replace(&mut claims[at as usize].links[BY], Links::LOOSE);
        match prev {
            NIL => self.head = next,
            prev => claims[prev as usize].links[BY].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => claims[next as usize].links[BY].prev = prev,
        }
        self.len -= 1;
    }

    pub(super) fn find(&self, claims: &Slab<Claim>, is_it: impl Fn(&Claim) -> bool) -> Option<u32> {
        let mut at = self.head;
        while at != NIL {
            let claim = &claims[at as usize];
            if is_it(claim) {
                return Some(at);
            }
            at = claim.links[BY].next;
        }
        None
    }

    pub(super) fn iter<'a>(&self, claims: &'a Slab<Claim>) -> impl Iterator<Item = &'a Claim> + use<'a, BY> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let claim = claims.get(at as usize)?;
            at = claim.links[BY].next;
            Some(claim)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_small() {
        assert!(size_of::<Option<Claim>>() <= 64, "{}", size_of::<Option<Claim>>());
    }
}
