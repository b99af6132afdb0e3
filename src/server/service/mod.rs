//! The server without its sockets: owner of the lock table, the sessions, the store and every
//! connection's state. Bytes and `now` go in, lines come out; the loop around it moves them.
//!
//! A turn is: bytes of all connections, then [`Service::run_timers`], then [`Service::commit`], and
//! only then is output written. Nothing here blocks but the store.

mod lines;
mod telling;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::boot_time::BootTime;
use crate::lock::{Effect, Party, SessionKey, Sessions, Table, TableBounds, Token};
use crate::protocol::{Answer, ErrorCode, Refusal};

use crate::server::Config;
use crate::server::bounds::{Bounds, MAX_REPLY_BYTES, MAX_UNSENT_BYTES, PAUSE_READING_BYTES};
use crate::server::connection::{Connections, Key, Needs, Peer, Role, Stage};
use crate::server::readiness::Readiness;
use crate::server::restore;
use crate::server::revocations::Revocations;
use crate::server::store::{Store, StoreError};

use telling::TimedOut;

/// How often a store that can't be written is tried again.
const RETRY_STORE: Duration = Duration::from_secs(1);
/// How often idle connections are looked for at least, as Officer did.
const MAX_SWEEP: Duration = Duration::from_secs(5);
/// The same at most: a sweep looks at every connection.
const MIN_SWEEP: Duration = Duration::from_millis(50);
/// How long a client may take to hang up after our last line.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct Service {
    pub(super) table: Table,
    pub(super) sessions: Sessions,
    pub(super) store: Store,
    pub(super) connections: Connections,
    pub(super) readiness: Readiness,
    /// Holds put back after a reboot of the host: their locks may have passed on since, in commits
    /// that are lost. A command that runs under one keeps it; who asks for one is granted it anew.
    pub(super) holds_in_doubt: HashSet<Token>,
    pub(super) bounds: Bounds,
    pub(super) max_ttl: Duration,
    pub(super) revocations: Revocations,
    pub(super) started_at: BootTime,
    /// Grants before this one are in the statistics already.
    pub(super) counted_until: Token,
    pub(super) max_idle: Duration,
    /// Connections with lines that are left for the next turn.
    backlog: Vec<Key>,
    /// Reused, so that an effect costs no allocation.
    effects: Vec<Effect>,
    store_state: StoreState,
    next_sweep: BootTime,
    /// Waits that have ended and aren't told yet.
    untold: VecDeque<TimedOut>,
    /// Broken or done: the loop closes their sockets.
    ended: Vec<Key>,
    /// Somebody who waited was granted a lock since the loop last asked.
    handed_over: bool,
}

enum StoreState {
    Working,
    /// The last try to write failed.
    Failing {
        retry_at: BootTime,
    },
}

/// What the loop does with a socket after a write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterWrite {
    Nothing,
    /// End our side, so that the client sees our last line and then the end.
    EndOutput,
}

impl Service {
    /// Opens the store and puts back what it has.
    pub(super) fn open(config: &Config, now: BootTime) -> Result<Self, StoreError> {
        let (store, saved, first_token) = Store::open(&config.store, config.max_ttl)?;
        let bounds = TableBounds {
            claims_per_owner: config.bounds.locks_per_client,
            waiters_per_lock: config.bounds.waiters_per_lock,
        };
        let mut table = Table::new(first_token, bounds);
        let mut sessions = Sessions::new();
        let readiness = Readiness::at_start(&saved, config.max_ttl);
        let holds_in_doubt = match readiness.ready_at() {
            Some(_) => saved.held_tokens().collect(),
            None => HashSet::new(),
        };
        let mut revocations = Revocations::default();
        restore::put_back(saved, &mut table, &mut sessions, &mut revocations, now)
            .map_err(|cause| store.damaged(cause))?;
        let mut service = Self {
            table,
            sessions,
            store,
            connections: Connections::default(),
            readiness,
            holds_in_doubt,
            bounds: config.bounds.clone(),
            max_ttl: config.max_ttl,
            revocations,
            started_at: now,
            counted_until: first_token,
            max_idle: config.max_idle,
            backlog: Vec::new(),
            effects: Vec::new(),
            store_state: StoreState::Working,
            next_sweep: now,
            untold: VecDeque::new(),
            ended: Vec::new(),
            handed_over: false,
        };
        service.get_ready(now);
        if let Some(ready_at) = service.readiness.ready_at() {
            let wait = ready_at.saturating_since(now);
            info!(
                ?wait,
                "the host was restarted: sessions are granted locks once no lease of before can be left"
            );
        }
        Ok(service)
    }

    /// A new connection.
    pub(super) fn connect(&mut self, peer: Peer, now: BootTime) -> Key {
        self.connections.add(peer, now)
    }

    /// Whether the loop may read from this connection's socket now.
    pub(super) fn wants_input(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(|connection| match connection.stage {
            Stage::Open => !connection.has_backlog && connection.unsent_len() <= PAUSE_READING_BYTES,
            Stage::Lingering => true,
            Stage::InputEnded | Stage::Closing { .. } => false,
        })
    }

    /// The client has ended its sending side: what it sent before is served, then it is closed.
    pub(super) fn end_input(&mut self, key: Key, now: BootTime) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match connection.stage {
            Stage::Open if connection.has_backlog => connection.stage = Stage::InputEnded,
            Stage::Open | Stage::InputEnded => self.hang_up(key, now),
            Stage::Closing { .. } | Stage::Lingering => self.ended.push(key),
        }
    }

    /// A connection's socket is broken.
    pub(super) fn fail(&mut self, key: Key) {
        self.ended.push(key);
    }

    /// Does what is due: waits, sessions, idle connections. Sessions are ended by `heard_until`:
    /// everything that had arrived by then has been served.
    pub(super) fn run_timers(&mut self, now: BootTime, heard_until: BootTime) {
        let mut effects = std::mem::take(&mut self.effects);
        self.table.expire_waits(now, &mut effects);
        self.deliver(effects);
        self.tell_timed_out(now);
        self.expire_sessions(heard_until, now);
        self.take_overdue(heard_until, now);
        self.get_ready(now);
        if now >= self.next_sweep {
            self.sweep(now);
        }
    }

    /// When [`Service::run_timers`] or [`Service::commit`] has something to do.
    pub(super) fn next_timer(&self) -> BootTime {
        let retry = match self.store_state {
            StoreState::Working => None,
            StoreState::Failing { retry_at } => Some(retry_at),
        };
        [
            self.table.next_deadline(),
            self.sessions.next_end(),
            self.revocations.next_deadline(),
            self.readiness.ready_at(),
            retry,
        ]
        .into_iter()
        .flatten()
        .fold(self.next_sweep, BootTime::min)
    }

    /// Writes this turn's changes to the store. While that fails, answers that depend on it are held
    /// back and everything else goes on.
    pub(super) fn commit(&mut self, now: BootTime) {
        let was_failing = match self.store_state {
            StoreState::Working => false,
            StoreState::Failing { retry_at } if now >= retry_at => true,
            StoreState::Failing { .. } => return self.connections.withhold_unstored(),
        };
        match self.store.commit(self.table.next_token()) {
            Ok(()) => {
                self.connections.release_withheld(was_failing);
                if was_failing {
                    info!("the store can be written again");
                }
                self.store_state = StoreState::Working;
            }
            Err(cause) => {
                if !was_failing {
                    error!(%cause, "sessions' answers are held back until the store can be written");
                }
                self.connections.withhold_unstored();
                self.store_state = StoreState::Failing { retry_at: now + RETRY_STORE };
            }
        }
    }

    /// After a write to a connection: whether it is done with, may be served again, or is too slow.
    pub(super) fn after_write(&mut self, key: Key, now: BootTime) -> AfterWrite {
        self.connections.recycle(key);
        let Some(connection) = self.connections.get_mut(key) else { return AfterWrite::Nothing };
        if connection.unsent_len() > MAX_UNSENT_BYTES {
            warn!(peer = %connection.peer, "closed a client that doesn't read its replies");
            self.ended.push(key);
            return AfterWrite::Nothing;
        }
        match connection.stage {
            Stage::Closing { linger: true } if connection.is_drained() => {
                connection.stage = Stage::Lingering;
                connection.heard_at = now;
                self.next_sweep = self.next_sweep.min(now + LINGER);
                return AfterWrite::EndOutput;
            }
            Stage::Closing { linger: false } if connection.is_drained() => self.ended.push(key),
            Stage::Open | Stage::InputEnded if connection.has_backlog => self.queue_backlog(key),
            Stage::Open | Stage::InputEnded | Stage::Closing { .. } | Stage::Lingering => {}
        }
        AfterWrite::Nothing
    }

    /// The connections whose sockets are to be closed; each is then given to [`Service::disconnect`].
    pub(super) fn take_ended(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.ended)
    }

    /// Forgets a connection, and releases what it has if it has no session.
    pub(super) fn disconnect(&mut self, key: Key, now: BootTime) {
        if self.connections.get(key).is_some() {
            self.leave_role(key, now);
            self.connections.remove(key);
        }
    }

    /// Nobody is connected and no session lives.
    pub(super) fn is_empty(&self) -> bool {
        self.connections.len() == 0 && self.sessions.is_empty()
    }

    /// Writes everything to the store for the next start.
    pub(super) fn close(self) -> Result<(), StoreError> {
        self.store.close(self.table.next_token())
    }

    /// Tells a connection why it is closed, and closes it.
    pub(super) fn turn_away(&mut self, key: Key, refusal: &Refusal, now: BootTime) {
        self.refuse(key, refusal);
        self.leave_role(key, now);
        self.connections.close(key, true);
    }

    fn refuse(&mut self, key: Key, refusal: &Refusal) {
        let error = Answer::Error { code: refusal.code, message: &refusal.message };
        self.answer(key, Needs::Nothing, &error);
    }

    /// The client is gone or has said all: nothing of it stays but what is still to be sent to it.
    fn hang_up(&mut self, key: Key, now: BootTime) {
        self.leave_role(key, now);
        self.connections.close(key, false);
    }

    /// A plain connection loses what it has; a session stays, suspended.
    fn leave_role(&mut self, key: Key, now: BootTime) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match std::mem::replace(&mut connection.role, Role::Plain(None)) {
            Role::Plain(None) => {}
            Role::Plain(Some(owner)) => {
                self.forget_untold(Party::Connection(key as u32));
                self.revocations.all_given_back(Party::Connection(key as u32));
                self.with_effects(|table, effects| table.remove_owner(owner, now, effects));
            }
            Role::Session(session) => {
                self.sessions.detach(session);
                self.table.suspend(self.sessions.get(session).owner);
            }
        }
    }

    /// Writes one line to a connection.
    pub(super) fn answer(&mut self, key: Key, needs: Needs, answer: &Answer<'_>) {
        self.connections.write(key, needs, |out| write_bounded(answer, out));
    }

    /// What telling of this token needs.
    pub(super) fn needs_for_token(&self, token: Token) -> Needs {
        if token >= self.store.token_mark() { Needs::Commit } else { Needs::Nothing }
    }

    fn expire_sessions(&mut self, heard_until: BootTime, now: BootTime) {
        let overdue: Vec<SessionKey> = self.sessions.overdue(heard_until).collect();
        for key in overdue {
            if self.may_have_renewed(key, now) {
                continue;
            }
            let connection = self.end_session(key, now);
            if let Some(connection) = connection {
                self.answer(connection, Needs::Nothing, &Answer::Expired);
                self.connections.close(connection, true);
            }
        }
    }

    /// A renewal may lie in what the session's connection has sent and isn't served yet; that can't
    /// go on for another ttl.
    fn may_have_renewed(&self, key: SessionKey, now: BootTime) -> bool {
        let session = self.sessions.get(key);
        let connection = session.connection.and_then(|key| self.connections.get(key as Key));
        connection.is_some_and(|connection| connection.has_backlog) && now < session.ends_at() + session.ttl
    }

    /// Ends a session and releases what it has; its connection comes back, without a role.
    pub(super) fn end_session(&mut self, key: SessionKey, now: BootTime) -> Option<Key> {
        self.forget_untold(Party::Session(key.0));
        let session = self.sessions.remove(key);
        self.store.session_closed(session.number);
        self.revocations.all_given_back(Party::Session(key.0));
        self.with_effects(|table, effects| table.remove_owner(session.owner, now, effects));
        let connection = session.connection.map(|key| key as Key)?;
        self.connections.get_mut(connection)?.role = Role::Plain(None);
        Some(connection)
    }

    /// Once the host is up for long enough, sessions are granted locks again.
    fn get_ready(&mut self, now: BootTime) {
        let Some(boot_id) = self.readiness.get_ready(now) else { return };
        self.store.booted(boot_id);
        let connected: Vec<_> =
            self.sessions.iter().filter(|(_, s)| s.connection.is_some()).map(|(_, s)| s.owner).collect();
        self.with_effects(|table, effects| table.resume_all(&connected, now, effects));
    }

    fn sweep(&mut self, now: BootTime) {
        self.next_sweep = now + (self.max_idle / 4).clamp(MIN_SWEEP, MAX_SWEEP);
        for (key, connection) in self.connections.iter() {
            let silent = now.saturating_since(connection.heard_at);
            let is_over = match (connection.stage, connection.role) {
                (Stage::Lingering, _) if silent < LINGER => {
                    self.next_sweep = self.next_sweep.min(connection.heard_at + LINGER);
                    false
                }
                (Stage::Lingering, _) => true,
                // A session's bound is its ttl.
                (Stage::Open, Role::Session(_)) => false,
                // It is silent while its command ends, and has a deadline for that.
                (Stage::Open, Role::Plain(_)) if self.revocations.concern(Party::Connection(key as u32)) => {
                    false
                }
                (Stage::Open | Stage::InputEnded | Stage::Closing { .. }, _) => silent >= self.max_idle,
            };
            if is_over {
                self.ended.push(key);
            }
        }
    }
}

fn write_bounded(answer: &Answer<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    answer.write_line(out);
    let len = out.len() - start;
    if len > MAX_REPLY_BYTES {
        out.truncate(start);
        let message = format!("the reply would have {len} bytes, at most {MAX_REPLY_BYTES} are sent");
        Answer::Error { code: ErrorCode::ReplyTooLong, message: &message }.write_line(out);
    }
}
