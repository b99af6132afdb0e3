//! What has changed since the last commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{ClaimRow, SavedSession};

/// The changes since the last commit.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) opened: Vec<SavedSession>,
    /// The last state of each place that changed; `None`: gone.
    pub(super) claims: HashMap<(u64, Arc<str>), PendingClaim>,
    /// Holds that operators have taken, with the reasons.
    pub(super) revoked: HashMap<(u64, Arc<str>), Arc<str>>,
    pub(super) closed: Vec<u64>,
    pub(super) boot_id: Option<String>,
}

pub(super) struct PendingClaim {
    /// A row may be there from an earlier commit.
    pub(super) stored: bool,
    pub(super) row: Option<ClaimRow>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.opened.is_empty()
            && self.claims.is_empty()
            && self.revoked.is_empty()
            && self.closed.is_empty()
            && self.boot_id.is_none()
    }

    /// What came and went without ever being written needn't be: however long the store fails, no more
    /// is kept than lives or was written before.
    pub(super) fn forget_the_dead(&mut self) {
        let closed: HashSet<u64> = self.closed.iter().copied().collect();
        let unwritten: HashSet<u64> = self.opened.iter().map(|session| session.number).collect();
        self.opened.retain(|session| !closed.contains(&session.number));
        self.claims
            .retain(|(session, _), claim| !closed.contains(session) && (claim.stored || claim.row.is_some()));
        self.revoked.retain(|(session, _), _| !closed.contains(session));
        self.closed.retain(|number| !unwritten.contains(number));
    }

    pub(super) fn clear(&mut self) {
        self.opened.clear();
        self.claims.clear();
        self.revoked.clear();
        self.closed.clear();
        self.boot_id = None;
    }
}
