//! What each command does, and to whom it is answered. Refusals come back as values.

use std::sync::Arc;
use std::time::Duration;

use crate::boot_time::BootTime;
use crate::lock::{
    Ask, ClaimState, Grant, Limit, Outcome, OwnerId, Party, SessionId, SessionKey, Unlocked, Who,
};
use crate::protocol::{Answer, ErrorCode, LockRequest, Refusal, Request, TurnedAwayBy};
use crate::secret;

use super::connection::{Key, Needs, Role};
use super::listing::{self, Lists};
use super::operators;
use super::service::Service;
use super::store::{ClaimRow, SavedSession};

/// Shorter leases end by the noise of networks alone.
const MIN_TTL: Duration = Duration::from_millis(100);

impl Service {
    pub(super) fn serve(&mut self, key: Key, request: Request<'_>, now: BootTime) -> Result<(), Refusal> {
        match request {
            Request::Lock(lock) => return self.lock(key, &lock, now),
            Request::Unlock { name } => self.unlock(key, &name, now),
            Request::Reset => self.reset(key, now),
            Request::Locks => {
                let value = listing::locks(self);
                self.answer(key, Needs::Nothing, &Answer::Locks { value: &value });
            }
            Request::Connections => {
                let value = listing::connections(self);
                self.answer(key, Needs::Nothing, &Answer::Connections { value: &value });
            }
            Request::MyLocks => {
                let value = listing::names(self, self.owner(key), |_| true);
                self.answer(key, self.needs(key), &Answer::MyLocks { value: &value });
            }
            Request::KeepAlive => {}
            Request::Open { session, ttl, who } => return self.open_session(key, session, ttl, who, now),
            Request::Resume { session } => return self.resume_session(key, session, now),
            Request::Renew { seq } => return self.renew(key, seq, now),
            Request::Close { session } => return self.close_session(key, session, now),
            Request::Status { name } => self.status(key, name.as_deref(), now),
            Request::Release { name, token, reason } => self.release(key, &name, token, &reason, now),
            Request::Verify { name, token } => self.verify(key, &name, token),
            Request::Ping => {
                self.answer(key, Needs::Nothing, &Answer::Pong { version: env!("CARGO_PKG_VERSION") })
            }
        }
        Ok(())
    }

    fn role(&self, key: Key) -> Role {
        self.connections.get(key).map_or(Role::Plain(None), |connection| connection.role)
    }

    fn session(&self, key: Key) -> Option<SessionKey> {
        match self.role(key) {
            Role::Session(session) => Some(session),
            Role::Plain(_) => None,
        }
    }

    /// Who owns what this connection asks for; nobody yet if it never did.
    fn owner(&self, key: Key) -> Option<OwnerId> {
        match self.role(key) {
            Role::Plain(owner) => owner,
            Role::Session(session) => Some(self.sessions.get(session).owner),
        }
    }

    fn owner_for_asking(&mut self, key: Key) -> OwnerId {
        if let Some(owner) = self.owner(key) {
            return owner;
        }
        let owner = self.table.add_owner(Party::Connection(key as u32));
        self.connections.get_mut(key).expect("it is being served").role = Role::Plain(Some(owner));
        owner
    }

    /// A session's state is stored, so what is told of it must be.
    fn needs(&self, key: Key) -> Needs {
        match self.role(key) {
            Role::Plain(_) => Needs::Nothing,
            Role::Session(_) => Needs::Commit,
        }
    }

    fn lock(&mut self, key: Key, request: &LockRequest<'_>, now: BootTime) -> Result<(), Refusal> {
        let owner = self.owner_for_asking(key);
        let name = request.name.as_ref();
        self.end_hold_in_doubt(key, owner, name, now);
        self.check_ready(key, owner, request, now)?;
        let ask = Ask {
            limit: request.limit.unwrap_or(Limit::ONE),
            wait: request.timeout,
            queue_max: request.queue_max,
            extended: request.limit.is_some(),
        };
        // Only a session's place in a queue is stored, and only this ends it at once.
        let waited = ask.wait == Some(Duration::ZERO)
            && self.session(key).is_some()
            && self.table.claim_of(owner, name).is_some();
        match self.table.lock(owner, name, &ask, now) {
            Outcome::Acquired(grant) => self.acquired(key, name, &ask, grant),
            Outcome::AlreadyAcquired(grant) => self.tell_held(key, name, &ask, grant, true),
            Outcome::Queued { ticket } => self.queued(key, name, &ask, ticket),
            Outcome::StillQueued => {}
            Outcome::TimedOut => {
                if waited {
                    self.note_left(key, name);
                }
                self.turned_away(key, name, &ask, TurnedAwayBy::Timeout, now);
            }
            Outcome::QueueMaxed => self.turned_away(key, name, &ask, TurnedAwayBy::QueueMax, now),
            Outcome::LimitMismatch(limit) => {
                self.answer(key, self.needs(key), &Answer::LimitMismatch { name, limit, asked: ask.limit });
            }
            Outcome::TooManyLocks => return Err(self.too_many_locks()),
            Outcome::TooManyWaiters => return Err(self.too_many_waiters()),
        }
        Ok(())
    }

    /// Who asks for a lock that it held before a reboot of the host hasn't used the grant. The lock may
    /// have been another's since, with a greater token: it must be granted anew.
    fn end_hold_in_doubt(&mut self, key: Key, owner: OwnerId, name: &str, now: BootTime) {
        if self.holds_in_doubt.is_empty() {
            return;
        }
        let state = self.table.claim_of(owner, name).map(|claim| claim.state());
        if let Some(ClaimState::Holding { token, .. }) = state
            && self.holds_in_doubt.remove(&token)
        {
            self.note_left(key, name);
            self.with_effects(|table, effects| table.unlock(owner, name, now, effects));
        }
    }

    /// Shortly after a restart of the host a session can wait for a lock, but not be told at once.
    fn check_ready(
        &self,
        key: Key,
        owner: OwnerId,
        request: &LockRequest<'_>,
        now: BootTime,
    ) -> Result<(), Refusal> {
        let Some(ready_at) = self.readiness.ready_at() else { return Ok(()) };
        let is_now_or_never = self.session(key).is_some() && request.timeout == Some(Duration::ZERO);
        if !is_now_or_never || self.table.claim_of(owner, &request.name).is_some() {
            return Ok(());
        }
        let seconds = ready_at.saturating_since(now).as_secs() + 1;
        let message = format!("the host was restarted; sessions are granted locks again in {seconds} s");
        Err(Refusal::new(ErrorCode::NotReady, message))
    }

    fn acquired(&mut self, key: Key, name: &str, ask: &Ask, grant: Grant) {
        self.note_claim(key, name, ClaimRow::held(&grant, ask.extended));
        self.tell_held(key, name, ask, grant, false);
    }

    fn tell_held(&mut self, key: Key, name: &str, ask: &Ask, grant: Grant, again: bool) {
        let needs = match self.session(key) {
            Some(_) => Needs::Commit,
            None => self.needs_for_token(grant.token),
        };
        self.answer(key, needs, &Answer::Acquired { name, grant: ask.extended.then_some(grant), again });
    }

    fn queued(&mut self, key: Key, name: &str, ask: &Ask, ticket: u64) {
        let state = ClaimState::Waiting { ticket };
        self.note_claim(key, name, ClaimRow::new(ask.limit, ask.extended, state));
    }

    fn turned_away(&mut self, key: Key, name: &str, ask: &Ask, why: TurnedAwayBy, now: BootTime) {
        let lists = Lists::of_lock(self, name, now);
        self.answer(key, self.needs(key), &lists.turned_away(name, ask.extended, why));
    }

    fn too_many_locks(&self) -> Refusal {
        let most = self.bounds.locks_per_client;
        Refusal::new(ErrorCode::TooManyLocks, format!("a client may hold and wait for at most {most} locks"))
    }

    fn too_many_waiters(&self) -> Refusal {
        let most = self.bounds.waiters_per_lock;
        Refusal::new(ErrorCode::TooManyWaiters, format!("a lock may have at most {most} waiters"))
    }

    /// A session has a new place at a lock: the store hears of it.
    fn note_claim(&mut self, key: Key, name: &str, row: ClaimRow) {
        if let Some(session) = self.session(key) {
            self.store.claimed(self.sessions.get(session).number, Arc::from(name), true, row);
        }
    }

    fn note_left(&mut self, key: Key, name: &str) {
        let party = match self.session(key) {
            Some(session) => {
                self.store.left(self.sessions.get(session).number, Arc::from(name));
                Party::Session(session.0)
            }
            None => Party::Connection(key as u32),
        };
        self.revocations.given_back(party, name);
    }

    fn unlock(&mut self, key: Key, name: &str, now: BootTime) {
        let Some(owner) = self.owner(key) else {
            return self.answer(key, Needs::Nothing, &Answer::ReleaseFailed { name });
        };
        let mut effects = self.take_effects();
        match self.table.unlock(owner, name, now, &mut effects) {
            Unlocked::Held(_) | Unlocked::Waited => {
                self.note_left(key, name);
                // Before the next holder's line: who unlocks is answered first.
                self.answer(key, self.needs(key), &Answer::Released { name });
            }
            Unlocked::Nothing => self.answer(key, self.needs(key), &Answer::ReleaseFailed { name }),
        }
        self.deliver(effects);
    }

    fn reset(&mut self, key: Key, now: BootTime) {
        let mut effects = self.take_effects();
        if let Some(owner) = self.owner(key) {
            let names: Vec<_> = match self.session(key) {
                Some(_) => self.table.claims_of(owner).map(|claim| Arc::clone(claim.name())).collect(),
                None => {
                    self.revocations.all_given_back(Party::Connection(key as u32));
                    Vec::new()
                }
            };
            for name in names {
                self.note_left(key, &name);
            }
            self.table.release_all(owner, now, &mut effects);
        }
        self.answer(key, self.needs(key), &Answer::ResetSucceeded);
        self.deliver(effects);
    }

    fn open_session(
        &mut self,
        key: Key,
        drawn: Option<SessionId>,
        ttl: Duration,
        who: Who,
        now: BootTime,
    ) -> Result<(), Refusal> {
        self.check_fresh(key)?;
        if let Some(opened) = drawn.and_then(|id| self.sessions.find(id)) {
            self.open_again(key, opened, now);
            return Ok(());
        }
        let ttl = whole_millis(ttl);
        if ttl < MIN_TTL || ttl > self.max_ttl {
            let (least, most) = (MIN_TTL.as_secs_f64(), self.max_ttl.as_secs_f64());
            return Err(Refusal::new(ErrorCode::BadField, format!("ttl must be {least} to {most} seconds")));
        }
        if self.sessions.len() >= self.bounds.sessions {
            let message = format!("the server may have at most {} sessions", self.bounds.sessions);
            return Err(Refusal::new(ErrorCode::TooManySessions, message));
        }
        let id = drawn.unwrap_or_else(|| SessionId::from_bytes(secret::draw()));
        let session = self
            .sessions
            .open(&mut self.table, id, ttl, who.clone(), now)
            .expect("it is known by nobody yet, and 128 random bits are never drawn twice");
        let number = self.sessions.get(session).number;
        self.store.session_opened(SavedSession { number, id, ttl, who });
        self.attach(key, session);
        self.answer(key, Needs::Commit, &Answer::Opened { session: id, ttl });
        self.resume_if_ready(session, now);
        Ok(())
    }

    /// A client that never saw the answer to its `open` asks again. It may be an old packet, so this is no
    /// more than resuming.
    fn open_again(&mut self, key: Key, session: SessionKey, now: BootTime) {
        let ttl = self.take_over(key, session, now);
        self.answer(key, Needs::Commit, &Answer::Opened { session: self.sessions.get(session).id, ttl });
        self.tell_revoked(key, session);
        self.resume_if_ready(session, now);
    }

    fn resume_session(&mut self, key: Key, id: SessionId, now: BootTime) -> Result<(), Refusal> {
        self.check_fresh(key)?;
        let Some(session) = self.sessions.find(id) else {
            self.answer(key, Needs::Nothing, &Answer::SessionUnknown);
            return Ok(());
        };
        let ttl = self.take_over(key, session, now);
        let owner = Some(self.sessions.get(session).owner);
        let holds = listing::holds(self, owner);
        let waits = listing::names(self, owner, |state| matches!(state, ClaimState::Waiting { .. }));
        self.answer(key, Needs::Commit, &Answer::Resumed { ttl, holds: &holds, waits: &waits });
        self.tell_revoked(key, session);
        self.resume_if_ready(session, now);
        Ok(())
    }

    /// The session goes on at this connection; how long it lives from now on. That renews it, but what was
    /// taken from a session ends with its time at the latest.
    fn take_over(&mut self, key: Key, session: SessionKey, now: BootTime) -> Duration {
        if !self.revocations.concern(Party::Session(session.0)) {
            self.sessions.renew(session, now);
        }
        self.attach(key, session);
        whole_millis(self.sessions.get(session).ends_at().saturating_since(now))
    }

    /// A session's past must not mix with a connection's own locks or another session.
    fn check_fresh(&self, key: Key) -> Result<(), Refusal> {
        let message = match self.role(key) {
            Role::Plain(None) => return Ok(()),
            Role::Plain(Some(_)) => "a session must be opened or resumed before the connection's first lock",
            Role::Session(_) => "this connection has a session already",
        };
        Err(Refusal::new(ErrorCode::BadState, message))
    }

    /// Gives a session to a connection; the one that had it is told and closed.
    fn attach(&mut self, key: Key, session: SessionKey) {
        self.connections.get_mut(key).expect("it is being served").role = Role::Session(session);
        let Some(older) = self.sessions.attach(session, key as u32) else { return };
        let older = older as Key;
        if let Some(connection) = self.connections.get_mut(older) {
            connection.role = Role::Plain(None);
            self.answer(older, Needs::Nothing, &Answer::Superseded);
            self.connections.close(older, true);
        }
    }

    fn resume_if_ready(&mut self, session: SessionKey, now: BootTime) {
        let owner = self.sessions.get(session).owner;
        match self.readiness.ready_at() {
            None => self.with_effects(|table, effects| table.resume(owner, now, effects)),
            Some(_) => self.table.suspend(owner),
        }
    }

    fn renew(&mut self, key: Key, seq: u64, now: BootTime) -> Result<(), Refusal> {
        let Some(session) = self.session(key) else { return Err(no_session()) };
        if self.revocations.concern(Party::Session(session.0)) {
            return Err(operators::revoked());
        }
        self.sessions.renew(session, now);
        let ttl = self.sessions.get(session).ttl;
        self.answer(key, Needs::Nothing, &Answer::Renewed { seq, ttl });
        Ok(())
    }

    fn close_session(&mut self, key: Key, id: Option<SessionId>, now: BootTime) -> Result<(), Refusal> {
        let session = match id {
            Some(id) => self.sessions.find(id),
            None => Some(self.session(key).ok_or_else(no_session)?),
        };
        let Some(session) = session else {
            self.answer(key, Needs::Nothing, &Answer::SessionUnknown);
            return Ok(());
        };
        let other = self.sessions.get(session).connection.map(|at| at as Key).filter(|&at| at != key);
        self.answer(key, Needs::Commit, &Answer::Closed);
        self.end_session(session, now);
        if let Some(other) = other {
            self.answer(other, Needs::Nothing, &Answer::Closed);
            self.connections.close(other, true);
        }
        Ok(())
    }
}

fn no_session() -> Refusal {
    Refusal::new(ErrorCode::NoSession, "this connection has no session; open or resume one first")
}

/// As times are told and stored; never longer than it was.
fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}
