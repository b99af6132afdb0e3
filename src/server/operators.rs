//! What operators ask: who holds and waits, and to take a lock away. A lock passes on only when its
//! holder has given it back or can't have it any more (P1): so the holder is told, and waited for.
//! Officer's own clients expect no unasked lines: theirs is taken at once.

use std::sync::Arc;

use tracing::warn;

use crate::boot_time::BootTime;
use crate::lock::{ClaimState, ClaimView, Party, SessionKey, Token};
use crate::protocol::{Answer, ErrorCode, Refusal};

use super::connection::{Key, Needs};
use super::listing;
use super::revocations::Revocation;
use super::service::Service;

impl Service {
    pub(super) fn status(&mut self, key: Key, name: Option<&str>, now: BootTime) {
        let (server, value) = (listing::server_status(self, now), listing::status(self, name, now));
        self.answer(key, Needs::Nothing, &Answer::Status { server: &server, value: &value });
    }

    pub(super) fn verify(&mut self, key: Key, name: &str, token: Token) {
        let held = self.find_hold(name, token).is_some();
        self.answer(key, Needs::Commit, &Answer::Verified { name, token, held });
    }

    pub(super) fn release(&mut self, key: Key, name: &str, token: Token, reason: &str, now: BootTime) {
        let Some(hold) = self.find_hold(name, token) else {
            return self.answer(key, Needs::Nothing, &Answer::NotHeld { name, token });
        };
        let (party, is_told, name) = (hold.party(), hold.is_extended(), Arc::clone(hold.name()));
        let holder = listing::label(self, party);
        warn!(lock = &*name, token = token.0, holder, reason, "revoked by an operator");
        let taken = Revocation { name: Arc::clone(&name), token, reason: reason.into() };
        match party {
            Party::Connection(_) if !is_told => {
                self.answer(key, Needs::Nothing, &Answer::Taken { name: &name, token });
                self.with_effects(|table, effects| table.revoke(&name, token, now, effects));
            }
            Party::Connection(holder) => {
                self.tell_holder(Some(holder as Key), &taken);
                let until = self.revocations.add(party, taken, Some(now + self.max_idle));
                let ends_in = until.unwrap_or(now).saturating_since(now);
                self.answer(key, Needs::Nothing, &Answer::Revoking { name: &name, token, ends_in });
            }
            Party::Session(session) => {
                let session = self.sessions.get(SessionKey(session));
                let ends_in = session.ends_at().saturating_since(now);
                let connection = session.connection;
                self.store.revoked(session.number, Arc::clone(&name), Arc::clone(&taken.reason));
                self.tell_holder(connection.map(|key| key as Key), &taken);
                self.revocations.add(party, taken, None);
                // What the operator is told must be true also after a restart.
                self.answer(key, Needs::Commit, &Answer::Revoking { name: &name, token, ends_in });
            }
        }
    }

    fn tell_holder(&mut self, holder: Option<Key>, taken: &Revocation) {
        let Revocation { name, token, reason } = taken;
        if let Some(holder) = holder {
            self.answer(holder, Needs::Nothing, &Answer::Revoked { name, token: *token, reason });
        }
    }

    /// Repeats to a session that has resumed what was taken from it: it may not have heard.
    pub(super) fn tell_revoked(&mut self, key: Key, session: SessionKey) {
        for Revocation { name, token, reason } in self.revocations.of(Party::Session(session.0)) {
            let answer = Answer::Revoked { name: &name, token, reason: &reason };
            self.answer(key, Needs::Commit, &answer);
        }
    }

    /// Takes from holders without a lease what they hadn't given back in time by `heard_until`:
    /// everything that had arrived by then has been served.
    pub(super) fn take_overdue(&mut self, heard_until: BootTime, now: BootTime) {
        while let Some((party, name, token)) = self.revocations.overdue(heard_until) {
            warn!(lock = &*name, token = token.0, "a revoked lock was not given back in time, it passes on");
            self.revocations.given_back(party, &name);
            self.with_effects(|table, effects| table.revoke(&name, token, now, effects));
        }
    }

    fn find_hold(&self, name: &str, token: Token) -> Option<ClaimView<'_>> {
        let is_it = |claim: &ClaimView<'_>| match claim.state() {
            ClaimState::Holding { token: held, .. } => held == token,
            ClaimState::Waiting { .. } => false,
        };
        self.table.lock_view(name)?.holders().find(is_it)
    }
}

/// Why a session isn't renewed.
pub(super) fn revoked() -> Refusal {
    Refusal::new(
        ErrorCode::Revoked,
        "an operator has taken a lock from this session; it is renewed again once that is unlocked",
    )
}
