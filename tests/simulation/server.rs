//! The server's glue between protocol, table, sessions and store, as `docs/protocol.md` describes
//! it: a small model over the real `Table` and the real `Sessions`. A turn serves everything that
//! has arrived, then the timers, then commits, and only then replies leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use officer::boot_time::BootTime;
use officer::lock::{
    Ask, ClaimState, Effect, Grant, Limit, Outcome, Party, Restored, SessionId, SessionKey, Sessions, Table,
    TableBounds, Token, Who,
};
use officer::protocol::{Granted, Held, LockRequest, Reply, Request, TurnedAway};

use crate::checkers::GrantSeen;
use crate::clock::{Clock, MILLI, Time};
use crate::mutation::Mutation;
use crate::network::ConnId;
use crate::plan::lock_number;
use crate::scheduler::{Downlink, Event, Uplink};
use crate::store::{Change, Image, Store};
use crate::world::Env;

const BOUNDS: TableBounds = TableBounds { claims_per_owner: 100, waiters_per_lock: 100 };

/// How a server ends, as seen by the turn that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    BetweenTurns,
    BeforeCommit,
    BeforeSending,
}

/// Whether there is a server, and a host for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Up,
    /// The process is gone; its host refuses connections.
    Crashed,
    /// The host is gone, up to this instant.
    HostDown {
        until: Time,
    },
}

pub(crate) struct Server {
    pub(crate) life: Life,
    pub(crate) clock: Clock,
    /// Which boot of the host this is.
    boot: u64,
    pub(crate) paused_until: Time,
    /// Ends in the middle of its next turn.
    pub(crate) crash_in_turn: Option<(CrashPoint, Time)>,
    pub(crate) table: Table,
    pub(crate) sessions: Sessions,
    store: Store,
    max_ttl: Duration,
    /// When sessions are granted locks again; `None`: now.
    ready_at: Option<BootTime>,
    /// Holds put back after a reboot: the lock may have passed on since, in commits that are lost. A
    /// command that runs under one keeps it; who asks for one has none and is granted it anew.
    holds_in_doubt: BTreeSet<Token>,
    conns: BTreeMap<ConnId, Option<SessionKey>>,
    inbox: Vec<(ConnId, Uplink)>,
    turn_at: Time,
    turn_generation: u64,
    outbox: Vec<(ConnId, Downlink)>,
    grants: Vec<GrantSeen>,
    /// Locks that an operator wants to be free.
    to_revoke: Vec<usize>,
    /// What was taken from sessions that haven't given it back.
    revoked: BTreeMap<SessionKey, (usize, Token)>,
    /// What the operator is to be told, and the ttls of the sessions.
    told_operator: Vec<(Token, Duration)>,
    /// For one of the mutations: which lock a session asked for last.
    asked_once: BTreeMap<u64, usize>,
}

impl Server {
    pub(crate) fn new(clock: Clock, max_ttl: Duration) -> Self {
        let mut store = Store::default();
        let (_, first_token) = store.open();
        Self {
            life: Life::Up,
            clock,
            boot: 0,
            paused_until: 0,
            crash_in_turn: None,
            table: Table::new(first_token, BOUNDS),
            sessions: Sessions::new(),
            store,
            max_ttl,
            ready_at: None,
            holds_in_doubt: BTreeSet::new(),
            conns: BTreeMap::new(),
            inbox: Vec::new(),
            turn_at: Time::MAX,
            turn_generation: 0,
            outbox: Vec::new(),
            grants: Vec::new(),
            to_revoke: Vec::new(),
            revoked: BTreeMap::new(),
            told_operator: Vec::new(),
            asked_once: BTreeMap::new(),
        }
    }

    /// Nothing is held, waited for or remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.lock_count() == 0 && self.sessions.is_empty()
    }

    /// Something reached the host.
    pub(crate) fn arrived(&mut self, conn: ConnId, what: Uplink, env: &mut Env) {
        // What is said on one connection comes in order or not at all.
        let again = env.network.conn(conn).sent_again_at;
        if again > env.now() {
            return env.scheduler.at(again, Event::ToServer { conn, what });
        }
        let is_known = self.conns.contains_key(&conn);
        match self.life {
            Life::Up if is_known || !env.network.conn(conn).server_closed => {
                self.conns.entry(conn).or_insert(None);
                self.inbox.push((conn, what));
                let at = env.now() + env.rng.between(0, MILLI / 2);
                self.turn_by(at, env);
            }
            Life::Up | Life::Crashed => {
                env.network.conn_mut(conn).server_closed = true;
                env.send_down(conn, Downlink::Closed);
            }
            Life::HostDown { until } => {
                if env.rng.chance(1, 2) {
                    let again = until + env.rng.below(100 * MILLI);
                    env.network.conn_mut(conn).sent_again_at = again;
                    env.scheduler.at(again, Event::ToServer { conn, what });
                } else {
                    env.network.conn_mut(conn).is_dead = true;
                }
            }
        }
    }

    /// An operator's request arrives.
    pub(crate) fn asked_to_revoke(&mut self, lock: usize, env: &mut Env) {
        if self.life == Life::Up {
            self.to_revoke.push(lock);
            self.turn_by(env.now(), env);
        }
    }

    fn revoke(&mut self, lock: usize, now: BootTime, env: &mut Env) {
        let name = crate::plan::lock_name(lock);
        let Some(view) = self.table.lock_view(name) else { return };
        let holders: Vec<_> = view.holders().map(|claim| (claim.party(), claim.state())).collect();
        if holders.is_empty() {
            return;
        }
        let (party, state) = holders[env.rng.below(holders.len() as u64) as usize];
        let ClaimState::Holding { token, .. } = state else { return };
        let key = key_of(party);
        let session = self.sessions.get(key);
        let (number, id, ttl, conn) = (session.number, session.id, session.ttl, session.connection);
        env.note(|| format!("server: an operator takes lock {lock} with token {token} from {id:?}"));
        env.checkers.revoked(token);
        if env.mutation == Some(Mutation::RevokedPassesOnAtOnce) {
            env.checkers.released(id, lock);
            self.store.add(Change::Left { number, lock });
            let mut effects = Vec::new();
            self.table.revoke(name, token, now, &mut effects);
            self.deliver(effects, env);
        } else {
            self.revoked.insert(key, (lock, token));
            self.store.add(Change::Revoked { number, lock });
        }
        self.told_operator.push((token, ttl));
        if let Some(conn) = conn {
            self.tell_revoked(conn, lock, token);
        }
    }

    fn tell_revoked(&mut self, conn: ConnId, lock: usize, token: Token) {
        let name = crate::plan::lock_name(lock).to_owned();
        self.reply(conn, Reply::Revoked { name, token, reason: "an operator's".into() });
    }

    /// Has a turn at `at` unless there is an earlier one.
    fn turn_by(&mut self, at: Time, env: &mut Env) {
        let at = at.max(self.paused_until);
        if at < self.turn_at {
            self.turn_at = at;
            self.turn_generation += 1;
            env.scheduler.at(at, Event::ServerTurn { generation: self.turn_generation });
        }
    }

    pub(crate) fn turn(&mut self, generation: u64, env: &mut Env) {
        if self.life != Life::Up || generation != self.turn_generation {
            return;
        }
        self.turn_at = Time::MAX;
        if env.now() < self.paused_until {
            return self.turn_by(self.paused_until, env);
        }
        let now = self.clock.read(env.now());
        for (conn, what) in std::mem::take(&mut self.inbox) {
            self.serve(conn, what, now, env);
        }
        for lock in std::mem::take(&mut self.to_revoke) {
            self.revoke(lock, now, env);
        }
        self.run_timers(now, env);
        if self.finish_turn(env) {
            let is_ready = self.ready_at.is_none();
            env.checkers.turn_ended(is_ready);
            self.schedule_timers(env);
        }
    }

    /// Commits and sends; false if the server didn't live to do so.
    fn finish_turn(&mut self, env: &mut Env) -> bool {
        let crash = self.crash_in_turn.take();
        let crashes_at = |point| crash.filter(|&(at, _)| at == point).map(|(_, down_for)| down_for);
        if let Some(down_for) = crashes_at(CrashPoint::BeforeCommit) {
            self.crash(down_for, env);
            return false;
        }
        if env.mutation == Some(Mutation::ReplyBeforeCommit) {
            env.checkers.tokens_given(&std::mem::take(&mut self.grants));
            self.send_all(env);
            // Committed by the next turn, if there is one.
            if env.rng.chance(1, 2) {
                self.store.commit(self.table.next_token(), &mut env.rng);
            }
            return true;
        }
        self.store.commit(self.table.next_token(), &mut env.rng);
        env.checkers.tokens_given(&std::mem::take(&mut self.grants));
        if let Some(down_for) = crashes_at(CrashPoint::BeforeSending) {
            self.crash(down_for, env);
            return false;
        }
        self.send_all(env);
        true
    }

    fn send_all(&mut self, env: &mut Env) {
        for (token, ttl) in std::mem::take(&mut self.told_operator) {
            env.checkers.operator_told(token, ttl);
        }
        for (conn, what) in std::mem::take(&mut self.outbox) {
            env.send_down(conn, what);
        }
    }

    fn schedule_timers(&mut self, env: &mut Env) {
        let mut ends = self.sessions.next_end();
        if env.mutation == Some(Mutation::ExpiresEarly) {
            ends = self.sessions.iter().map(|(_, session)| early_end(session.ends_at(), session.ttl)).min();
        }
        let next = [self.table.next_deadline(), ends, self.ready_at].into_iter().flatten().min();
        if let Some(next) = next {
            let at = self.clock.when(next);
            self.turn_by(at, env);
        }
    }

    fn run_timers(&mut self, now: BootTime, env: &mut Env) {
        let mut effects = Vec::new();
        self.table.expire_waits(now, &mut effects);
        self.deliver(effects, env);
        let overdue: Vec<_> = if env.mutation == Some(Mutation::ExpiresEarly) {
            let ended = |session: &officer::lock::Session| early_end(session.ends_at(), session.ttl) <= now;
            self.sessions.iter().filter(|(_, session)| ended(session)).map(|(key, _)| key).collect()
        } else {
            self.sessions.overdue(now).collect()
        };
        for key in overdue {
            self.expire(key, now, env);
        }
        if self.ready_at.is_some_and(|at| at <= now) {
            self.get_ready(now, env);
        }
    }

    fn expire(&mut self, key: SessionKey, now: BootTime, env: &mut Env) {
        env.note(|| format!("server: {:?} has expired", self.sessions.get(key).id));
        if let Some(conn) = self.sessions.get(key).connection {
            self.outbox.push((conn, Downlink::Reply(Reply::Expired)));
            self.hang_up(conn, env);
        }
        if env.mutation == Some(Mutation::ExpiryKeepsTheLocks) {
            let session = self.sessions.remove(key);
            self.table.suspend(session.owner);
            return;
        }
        self.end_session(key, now, env);
    }

    /// The host has been up for so long that every earlier lease is over: whoever is here may get
    /// locks again, in the order of asking.
    fn get_ready(&mut self, now: BootTime, env: &mut Env) {
        env.note(|| "server: ready to grant locks to sessions".into());
        self.ready_at = None;
        self.store.add(Change::Booted { boot: self.boot });
        let mut effects = Vec::new();
        let attached: Vec<_> =
            self.sessions.iter().filter(|(_, s)| s.connection.is_some()).map(|(_, s)| s.owner).collect();
        if env.mutation == Some(Mutation::ReadyInOrderOfSessions) {
            attached.iter().for_each(|&owner| self.table.resume(owner, now, &mut effects));
        } else {
            self.table.resume_all(&attached, now, &mut effects);
        }
        self.deliver(effects, env);
    }

    fn serve(&mut self, conn: ConnId, what: Uplink, now: BootTime, env: &mut Env) {
        let Some(&session) = self.conns.get(&conn) else { return };
        match what {
            Uplink::Closed | Uplink::Broken => {
                self.conns.remove(&conn);
                env.network.conn_mut(conn).server_closed = true;
                if let Some(key) = session {
                    self.detach(key, env);
                }
            }
            Uplink::Request(request) => self.answer(conn, session, request, now, env),
        }
    }

    fn detach(&mut self, key: SessionKey, env: &mut Env) {
        self.sessions.detach(key);
        let session = self.sessions.get(key);
        env.checkers.detached(session.id);
        if env.mutation != Some(Mutation::SuspendedWaiterIsGranted) {
            self.table.suspend(session.owner);
        }
    }

    fn answer(
        &mut self,
        conn: ConnId,
        session: Option<SessionKey>,
        request: Request<'static>,
        now: BootTime,
        env: &mut Env,
    ) {
        match (request, session) {
            (Request::Open { session: Some(id), ttl, .. }, None) => self.open(conn, id, ttl, now, env),
            (Request::Resume { session }, None) => self.resume(conn, session, now, env),
            (Request::Renew { .. }, Some(key)) if self.revoked.contains_key(&key) => {
                self.reply(conn, Reply::Error { error: "revoked".into(), message: String::new() });
            }
            (Request::Renew { seq }, Some(key)) => {
                self.sessions.renew(key, now);
                let ttl = self.sessions.get(key).ttl.as_secs_f64();
                self.reply(conn, Reply::Renewed { seq, ttl });
            }
            (Request::Lock(lock), Some(key)) => self.lock(conn, key, &lock, now, env),
            (Request::Close { session: None }, Some(key)) => {
                self.conns.insert(conn, None);
                self.end_session(key, now, env);
                self.reply(conn, Reply::Closed);
            }
            (Request::Close { session: Some(id) }, None) => self.close_elsewhere(conn, id, now, env),
            (request, session) => panic!("no client of this world asks {request:?} with {session:?}"),
        }
    }

    fn open(&mut self, conn: ConnId, id: SessionId, ttl: Duration, now: BootTime, env: &mut Env) {
        if let Some(key) = self.sessions.find(id) {
            self.attach(conn, key, now, env);
            let effects = self.wake(key, now, env);
            let ttl = self.sessions.get(key).ends_at().saturating_since(now).as_secs_f64();
            self.reply(conn, Reply::Opened { session: id.to_hex(), ttl });
            self.repeat_revoked(conn, key);
            return self.deliver(effects, env);
        }
        let key = self.sessions.open(&mut self.table, id, ttl, Who::default(), now).expect("it is new");
        self.sessions.attach(key, conn);
        self.conns.insert(conn, Some(key));
        let session = self.sessions.get(key);
        if self.ready_at.is_some() {
            self.table.suspend(session.owner);
        }
        env.checkers.attached(id);
        self.store.add(Change::Opened { number: session.number, id, ttl });
        self.reply(conn, Reply::Opened { session: id.to_hex(), ttl: ttl.as_secs_f64() });
    }

    fn resume(&mut self, conn: ConnId, id: SessionId, now: BootTime, env: &mut Env) {
        let Some(key) = self.sessions.find(id) else { return self.reply(conn, Reply::SessionUnknown) };
        self.attach(conn, key, now, env);
        let effects = self.wake(key, now, env);
        let owner = self.sessions.get(key).owner;
        let (mut holds, mut waits) = (Vec::new(), Vec::new());
        for claim in self.table.claims_of(owner) {
            let name = claim.name().to_string();
            match claim.state() {
                ClaimState::Holding { token, slot } => {
                    holds.push(Held { name, token, slot, limit: claim.limit() });
                }
                ClaimState::Waiting { .. } => waits.push(name),
            }
        }
        if env.mutation == Some(Mutation::ResumeTellsNoGrants) {
            holds.clear();
        }
        let ttl = self.sessions.get(key).ends_at().saturating_since(now).as_secs_f64();
        self.reply(conn, Reply::Resumed { ttl, holds, waits });
        self.repeat_revoked(conn, key);
        self.deliver(effects, env);
    }

    fn repeat_revoked(&mut self, conn: ConnId, key: SessionKey) {
        if let Some(&(lock, token)) = self.revoked.get(&key) {
            self.tell_revoked(conn, lock, token);
        }
    }

    /// A session goes on, on another connection.
    fn attach(&mut self, conn: ConnId, key: SessionKey, now: BootTime, env: &mut Env) {
        if let Some(older) = self.sessions.attach(key, conn) {
            self.outbox.push((older, Downlink::Reply(Reply::Superseded)));
            self.hang_up(older, env);
        }
        self.conns.insert(conn, Some(key));
        if !self.revoked.contains_key(&key) {
            self.sessions.renew(key, now);
        }
        env.checkers.attached(self.sessions.get(key).id);
    }

    /// Its places count again.
    fn wake(&mut self, key: SessionKey, now: BootTime, env: &Env) -> Vec<Effect> {
        let mut effects = Vec::new();
        let stays_passed_over = env.mutation == Some(Mutation::ResumedWaiterIsPassedOver);
        if self.ready_at.is_none() && !stays_passed_over {
            self.table.resume(self.sessions.get(key).owner, now, &mut effects);
        }
        effects
    }

    fn lock(&mut self, conn: ConnId, key: SessionKey, lock: &LockRequest<'_>, now: BootTime, env: &mut Env) {
        let session = self.sessions.get(key);
        let (id, number, owner) = (session.id, session.number, session.owner);
        let limit = lock.limit.unwrap_or(Limit::ONE);
        let ask = Ask { limit, wait: lock.timeout, queue_max: lock.queue_max, extended: true };
        let (name, at) = (lock.name.to_string(), lock_number(&lock.name));
        self.asked_once.insert(number, at);
        self.end_hold_in_doubt(key, at, now, env);
        let away = |name| TurnedAway { name, queue: Vec::new(), holders: Vec::new() };
        match self.table.lock(owner, &name, &ask, now) {
            Outcome::Acquired(grant) => {
                self.note_grant(key, at, grant, env);
                self.reply(conn, Reply::Acquired(granted(name, grant)));
            }
            Outcome::AlreadyAcquired(grant) => self.reply(conn, Reply::AlreadyAcquired(granted(name, grant))),
            Outcome::Queued { ticket } => {
                env.checkers.queued(id, at);
                let state = ClaimState::Waiting { ticket };
                self.store.add(Change::Claimed { number, lock: at, limit, state });
            }
            Outcome::StillQueued => {}
            Outcome::TimedOut => {
                env.checkers.left(id, at);
                self.store.add(Change::Left { number, lock: at });
                self.reply(conn, Reply::TimedOut(away(name)));
            }
            Outcome::QueueMaxed => self.reply(conn, Reply::QueueMaxed(away(name))),
            Outcome::LimitMismatch(_) | Outcome::TooManyLocks | Outcome::TooManyWaiters => {
                panic!("no client of this world asks for so much")
            }
        }
    }

    fn end_hold_in_doubt(&mut self, key: SessionKey, lock: usize, now: BootTime, env: &mut Env) {
        let session = self.sessions.get(key);
        let (id, number, owner) = (session.id, session.number, session.owner);
        let name = crate::plan::lock_name(lock);
        let state = self.table.claim_of(owner, name).map(|claim| claim.state());
        if let Some(ClaimState::Holding { token, .. }) = state
            && self.holds_in_doubt.remove(&token)
        {
            env.note(|| format!("server: lock {lock} must be granted anew to {id:?}"));
            env.checkers.released(id, lock);
            self.revoked.remove(&key);
            self.store.add(Change::Left { number, lock });
            let mut effects = Vec::new();
            self.table.unlock(owner, name, now, &mut effects);
            self.deliver(effects, env);
        }
    }

    fn close_elsewhere(&mut self, conn: ConnId, id: SessionId, now: BootTime, env: &mut Env) {
        let Some(key) = self.sessions.find(id) else { return self.reply(conn, Reply::SessionUnknown) };
        if let Some(attached) = self.sessions.get(key).connection {
            self.hang_up(attached, env);
        }
        self.end_session(key, now, env);
        self.reply(conn, Reply::Closed);
    }

    fn end_session(&mut self, key: SessionKey, now: BootTime, env: &mut Env) {
        let session = self.sessions.remove(key);
        self.revoked.remove(&key);
        env.checkers.ended(session.id);
        let mut effects = Vec::new();
        self.table.remove_owner(session.owner, now, &mut effects);
        if env.mutation == Some(Mutation::StaleCloseFreesTheNewHolder)
            && let Some(&lock) = self.asked_once.get(&session.number)
        {
            let name = crate::plan::lock_name(lock);
            let holder =
                self.table.lock_view(name).and_then(|view| view.holders().next().map(|claim| claim.state()));
            if let Some(ClaimState::Holding { token, .. }) = holder {
                self.table.revoke(name, token, now, &mut effects);
            }
        }
        self.store.add(Change::Closed { number: session.number });
        self.deliver(effects, env);
    }

    fn deliver(&mut self, effects: Vec<Effect>, env: &mut Env) {
        for effect in effects {
            match effect {
                Effect::Granted { party, name, grant, .. } => {
                    let key = key_of(party);
                    self.note_grant(key, lock_number(&name), grant, env);
                    if let Some(conn) = self.sessions.get(key).connection {
                        self.reply(conn, Reply::Acquired(granted(name.to_string(), grant)));
                    }
                }
                Effect::TimedOut { party, name, .. } => {
                    let session = self.sessions.get(key_of(party));
                    let lock = lock_number(&name);
                    env.checkers.left(session.id, lock);
                    self.store.add(Change::Left { number: session.number, lock });
                    if let Some(conn) = session.connection {
                        let away =
                            TurnedAway { name: name.to_string(), queue: Vec::new(), holders: Vec::new() };
                        self.reply(conn, Reply::TimedOut(away));
                    }
                }
            }
        }
    }

    fn note_grant(&mut self, key: SessionKey, lock: usize, grant: Grant, env: &mut Env) {
        let session = self.sessions.get(key);
        env.checkers.granted(session.id, lock);
        let state = ClaimState::Holding { token: grant.token, slot: grant.slot };
        self.store.add(Change::Claimed { number: session.number, lock, limit: grant.limit, state });
        self.grants.push(GrantSeen { lock, token: grant.token });
    }

    fn reply(&mut self, conn: ConnId, reply: Reply) {
        self.outbox.push((conn, Downlink::Reply(reply)));
    }

    fn hang_up(&mut self, conn: ConnId, env: &mut Env) {
        self.conns.remove(&conn);
        env.network.conn_mut(conn).server_closed = true;
        self.outbox.push((conn, Downlink::Closed));
    }

    /// The process dies: its host tells the clients, as far as the network carries that.
    pub(crate) fn crash(&mut self, down_for: Time, env: &mut Env) {
        env.note(|| "server: crashes".into());
        for (conn, _) in std::mem::take(&mut self.conns) {
            env.network.conn_mut(conn).server_closed = true;
            env.send_down(conn, Downlink::Closed);
        }
        self.store.crash();
        self.die(Life::Crashed, down_for, env);
    }

    /// The host dies: nobody is told, and the last commits may be lost.
    pub(crate) fn crash_host(&mut self, down_for: Time, env: &mut Env) {
        env.note(|| "server: its host crashes".into());
        for (conn, _) in std::mem::take(&mut self.conns) {
            env.network.conn_mut(conn).server_closed = true;
        }
        self.store.crash_host(&mut env.rng);
        self.die(Life::HostDown { until: env.now() + down_for }, down_for, env);
    }

    fn die(&mut self, life: Life, down_for: Time, env: &mut Env) {
        self.life = life;
        self.paused_until = 0;
        self.crash_in_turn = None;
        self.inbox.clear();
        self.outbox.clear();
        self.grants.clear();
        self.to_revoke.clear();
        self.revoked.clear();
        self.told_operator.clear();
        env.checkers.server_died();
        env.scheduler.after(down_for, Event::ServerStart);
    }

    /// A new server on the store that is left.
    pub(crate) fn start(&mut self, env: &mut Env) {
        match self.life {
            Life::Up => return,
            Life::Crashed => {}
            Life::HostDown { .. } => {
                self.boot += 1;
                self.clock = Clock { offset: 0, zero: env.now(), ..self.clock };
            }
        }
        let is_reboot = match env.mutation {
            Some(Mutation::RestartEndsTheWait) => matches!(self.life, Life::HostDown { .. }),
            _ => true,
        };
        let now = self.clock.read(env.now());
        let (image, mut first_token) = self.store.open();
        // Also if the server was started before in this boot, but never got ready.
        let is_reboot = is_reboot && image.boot != self.boot;
        if env.mutation == Some(Mutation::TokensAreReused) {
            first_token = held_tokens(&image).max().map_or(Token(1), |token| Token(token.0 + 1));
        }
        self.table = Table::new(first_token, BOUNDS);
        self.sessions = Sessions::new();
        self.turn_at = Time::MAX;
        self.ready_at = (is_reboot && env.mutation != Some(Mutation::NoWaitAfterReboot))
            .then(|| BootTime::from_since_boot(self.max_ttl));
        self.life = Life::Up;
        self.put_back(&image, now, env);
        self.holds_in_doubt.clear();
        if is_reboot && env.mutation != Some(Mutation::HoldsOutliveAReboot) {
            self.holds_in_doubt = held_tokens(&image).collect();
        }
        env.note(|| {
            format!("server: starts with {} sessions, next token {first_token}", self.sessions.len())
        });
        self.schedule_timers(env);
    }

    fn put_back(&mut self, image: &Image, now: BootTime, env: &mut Env) {
        let mut owners = BTreeMap::new();
        for (&number, &(id, ttl)) in &image.sessions {
            let key = self.sessions.restore(&mut self.table, id, number, ttl, Who::default(), now);
            let key = key.expect("ids differ");
            let owner = self.sessions.get(key).owner;
            self.table.suspend(owner);
            owners.insert(number, (id, owner, key));
        }
        let mut claims: Vec<_> = image.claims.iter().collect();
        claims.sort_by_key(|&(_, &(_, state))| match state {
            ClaimState::Holding { token, .. } => (0, token.0),
            ClaimState::Waiting { ticket } => (1, ticket),
        });
        for (&(number, lock), &(limit, state)) in claims {
            let is_held = matches!(state, ClaimState::Holding { .. });
            if is_held && env.mutation == Some(Mutation::RestartForgetsHolds) {
                continue;
            }
            let (id, owner, key) = owners[&number];
            let stored = Restored { limit, extended: true, since: now, state };
            let restored = self.table.restore(owner, crate::plan::lock_name(lock), &stored);
            if let Err(cause) = restored {
                return env.checkers.fail(format!("the store can't be put back: {cause}"));
            }
            env.checkers.put_back(id, lock, is_held);
            if let ClaimState::Holding { token, .. } = state
                && image.revoked.contains(&(number, lock))
                && env.mutation != Some(Mutation::RestartForgetsRevocations)
            {
                self.revoked.insert(key, (lock, token));
            }
        }
    }
}

fn early_end(end: BootTime, ttl: Duration) -> BootTime {
    end - ttl / 10 - Duration::from_millis(200)
}

fn held_tokens(image: &Image) -> impl Iterator<Item = Token> {
    image.claims.values().filter_map(|&(_, state)| match state {
        ClaimState::Holding { token, .. } => Some(token),
        ClaimState::Waiting { .. } => None,
    })
}

fn granted(name: String, grant: Grant) -> Granted {
    Granted { name, token: Some(grant.token), slot: Some(grant.slot), limit: Some(grant.limit) }
}

fn key_of(party: Party) -> SessionKey {
    match party {
        Party::Session(key) => SessionKey(key),
        Party::Connection(_) => panic!("every client of this world has a session"),
    }
}
