//! Looking at the table without touching it.

use std::sync::Arc;

use crate::boot_time::BootTime;

use super::claim::{Claim, State};
use super::table::{Lock, from_nanos};
use super::{Limit, OwnerId, Party, Slot, Table, Token};

/// A lock that is held or waited for.
#[derive(Clone, Copy, Debug)]
pub struct LockView<'a> {
    pub(super) table: &'a Table,
    pub(super) lock: &'a Lock,
}

/// One owner's place at one lock.
#[derive(Clone, Copy, Debug)]
pub struct ClaimView<'a> {
    pub(super) table: &'a Table,
    pub(super) claim: &'a Claim,
}

/// Whether a claim holds its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// It does.
    Holding {
        /// The token of the grant.
        token: Token,
        /// The place.
        slot: Slot,
    },
    /// It stands in line.
    Waiting {
        /// Its rank: lower came earlier.
        ticket: u64,
    },
}

impl<'a> LockView<'a> {
    /// Its name.
    pub fn name(&self) -> &'a Arc<str> {
        &self.lock.name
    }

    /// How many may hold it.
    pub fn limit(&self) -> Limit {
        self.lock.limit
    }

    /// Who holds it, in the order of the grants.
    pub fn holders(&self) -> impl Iterator<Item = ClaimView<'a>> + use<'a> {
        let table = self.table;
        self.lock.holders.iter(&table.claims).map(move |claim| ClaimView { table, claim })
    }

    /// Who waits, in the order of asking.
    pub fn waiters(&self) -> impl Iterator<Item = ClaimView<'a>> + use<'a> {
        let table = self.table;
        self.lock.waiters.iter(&table.claims).map(move |claim| ClaimView { table, claim })
    }

    /// Holders, then waiters.
    pub fn queue(&self) -> impl Iterator<Item = ClaimView<'a>> + use<'a> {
        self.holders().chain(self.waiters())
    }
}

impl<'a> ClaimView<'a> {
    /// Whose it is.
    pub fn party(&self) -> Party {
        self.table.owners[self.claim.owner as usize].party
    }

    /// The owner's handle.
    pub fn owner(&self) -> OwnerId {
        self.table.owner_id(self.claim.owner)
    }

    /// The lock's name.
    pub fn name(&self) -> &'a Arc<str> {
        &self.table.locks[self.claim.lock as usize].name
    }

    /// The lock's limit.
    pub fn limit(&self) -> Limit {
        self.table.locks[self.claim.lock as usize].limit
    }

    /// Held or waited for.
    pub fn state(&self) -> ClaimState {
        match self.claim.state {
            State::Holding { token, slot } => ClaimState::Holding { token, slot: Slot(slot) },
            State::Waiting { ticket, .. } => ClaimState::Waiting { ticket },
        }
    }

    /// Since when it holds, or waits.
    pub fn since(&self) -> BootTime {
        from_nanos(self.claim.since)
    }

    /// The request had `limit`.
    pub fn is_extended(&self) -> bool {
        self.claim.extended
    }

    /// Its owner is passed over at grants.
    pub fn is_suspended(&self) -> bool {
        self.table.owners[self.claim.owner as usize].suspended
    }
}
