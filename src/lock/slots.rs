//! Which of a lock's places are taken: the lowest free one is given out first.

use std::collections::BTreeSet;

use super::{Limit, Slot};

/// The free places of one lock. A mutex has one place and needs no memory for it.
#[derive(Debug)]
pub(super) enum Slots {
    One { free: bool },
    Many(Box<Places>),
}

#[derive(Debug)]
pub(super) struct Places {
    /// Places below `untouched` that are free again.
    freed: BTreeSet<u32>,
    /// From here on no place was ever taken.
    untouched: u32,
    limit: u32,
}

impl Slots {
    pub(super) fn new(limit: Limit) -> Self {
        match limit.get() {
            1 => Self::One { free: true },
            limit => Self::Many(Box::new(Places { freed: BTreeSet::new(), untouched: 0, limit })),
        }
    }

    /// Takes the lowest free place.
    pub(super) fn take(&mut self) -> Option<Slot> {
        match self {
            Self::One { free } => std::mem::take(free).then_some(Slot(0)),
            Self::Many(places) => places.take().map(Slot),
        }
    }

    /// Takes this place; false if it isn't free or there is no such place.
    pub(super) fn take_this(&mut self, slot: Slot) -> bool {
        match self {
            Self::One { free } => slot == Slot(0) && std::mem::take(free),
            Self::Many(places) => places.take_this(slot.0),
        }
    }

    pub(super) fn free(&mut self, slot: u32) {
        match self {
            Self::One { free } => *free = true,
            Self::Many(places) => {
                let was_taken = places.freed.insert(slot);
                assert!(was_taken && slot < places.untouched, "place {slot} was freed twice");
            }
        }
    }
}

impl Places {
    fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.freed.pop_first() {
            return Some(slot);
        }
        let slot = self.untouched;
        (slot < self.limit).then(|| {
            self.untouched += 1;
            slot
        })
    }

    fn take_this(&mut self, slot: u32) -> bool {
        if slot >= self.limit {
            return false;
        }
        if slot >= self.untouched {
            self.freed.extend(self.untouched..slot);
            self.untouched = slot + 1;
            return true;
        }
        self.freed.remove(&slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_place_is_given_first() {
        let mut slots = Slots::new(Limit::new(3).unwrap());
        assert_eq!(
            [slots.take(), slots.take(), slots.take(), slots.take()],
            [Some(Slot(0)), Some(Slot(1)), Some(Slot(2)), None]
        );
        slots.free(1);
        slots.free(0);
        assert_eq!([slots.take(), slots.take(), slots.take()], [Some(Slot(0)), Some(Slot(1)), None]);
    }

    #[test]
    fn a_restored_place_is_not_given_again() {
        let mut slots = Slots::new(Limit::new(3).unwrap());
        assert!(slots.take_this(Slot(1)));
        assert!(!slots.take_this(Slot(1)));
        assert!(!slots.take_this(Slot(3)));
        assert_eq!([slots.take(), slots.take(), slots.take()], [Some(Slot(0)), Some(Slot(2)), None]);
    }
}
