//! What operators ask: who holds and waits, and to take a lock away. A session's lock passes on only
//! when its holder has given it back or can't have it any more (P1): so the session is told, and not
//! renewed until it has; its own deadline ends it if it doesn't listen.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::warn;

use crate::boot_time::BootTime;
use crate::lock::{ClaimState, ClaimView, Party, SessionKey, Token};
use crate::protocol::{Answer, ErrorCode, Refusal};

use super::connection::{Key, Needs};
use super::listing;
use super::service::Service;

/// Locks that were taken from sessions which haven't given them back. Forgotten at a restart: the
/// operator who still sees the holder then says it again.
#[derive(Debug, Default)]
pub(super) struct Revocations(HashMap<SessionKey, Vec<Arc<str>>>);

impl Revocations {
    fn add(&mut self, session: SessionKey, name: &Arc<str>) {
        let names = self.0.entry(session).or_default();
        if !names.contains(name) {
            names.push(Arc::clone(name));
        }
    }

    /// The session has given a lock back, taken from it or not.
    pub(super) fn given_back(&mut self, session: SessionKey, name: &str) {
        if let Some(names) = self.0.get_mut(&session) {
            names.retain(|revoked| **revoked != *name);
            if names.is_empty() {
                self.0.remove(&session);
            }
        }
    }

    /// The session has given everything back, or is no more.
    pub(super) fn all_given_back(&mut self, session: SessionKey) {
        self.0.remove(&session);
    }

    /// The session has something that was taken from it.
    pub(super) fn concern(&self, session: SessionKey) -> bool {
        self.0.contains_key(&session)
    }

    /// This lock was taken from this session.
    pub(super) fn has(&self, session: SessionKey, name: &str) -> bool {
        self.0.get(&session).is_some_and(|names| names.iter().any(|revoked| **revoked == *name))
    }
}

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
        let (party, name) = (hold.party(), Arc::clone(hold.name()));
        let holder = listing::label(self, party);
        warn!(lock = &*name, token = token.0, holder, reason, "revoked by an operator");
        match party {
            Party::Connection(_) => {
                self.answer(key, Needs::Nothing, &Answer::Taken { name: &name, token });
                self.with_effects(|table, effects| table.revoke(&name, token, now, effects));
            }
            Party::Session(session) => self.revoke(key, SessionKey(session), &name, token, reason, now),
        }
    }

    fn revoke(
        &mut self,
        key: Key,
        session: SessionKey,
        name: &Arc<str>,
        token: Token,
        reason: &str,
        now: BootTime,
    ) {
        self.revocations.add(session, name);
        let session = self.sessions.get(session);
        let ends_in = session.ends_at().saturating_since(now);
        let connection = session.connection;
        self.answer(key, Needs::Nothing, &Answer::Revoking { name, token, ends_in });
        if let Some(connection) = connection {
            self.answer(connection as Key, Needs::Nothing, &Answer::Revoked { name, token, reason });
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
