//! The wrapper, as `backend::officer` and the exec verb drive it: reach the server, stand in line,
//! hold the lock with the real `Lease`, end the tree, give the lock back. A wrapper lives for one
//! round; the next one is a new process with a new session.

use std::time::Duration;

use officer::boot_time::BootTime;
use officer::lease::{Action, Lease, Terms};
use officer::lock::{Limit, SessionId, Token, Who};
use officer::protocol::{Granted, LockRequest, Reply, Request};
use officer::supervisor::vigil::{Verdict, Vigil};

use crate::checkers::Outcome;
use crate::clock::{MILLI, Time};
use crate::host::{Host, Order, Report};
use crate::mutation::Mutation;
use crate::network::ConnId;
use crate::plan::{ClientPlan, Waiting, lock_name};
use crate::scheduler::{ClientId, Downlink, Event};
use crate::session::{Heard, Session};
use crate::will::Bequest;
use crate::world::Env;

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// A server that is gone is given up after so many ttls.
const CONNECT_TTLS: u32 = 3;
/// How long giving back may take before it is left to the lease, in ttls.
const CLOSE_TTLS: u32 = 2;

pub(crate) struct Client {
    id: ClientId,
    pub(crate) plan: ClientPlan,
    limit: Limit,
    pub(crate) host: Host,
    pub(crate) paused_until: Time,
    pub(crate) phase: Phase,
    rounds_left: u32,
    session: Option<Session>,
    /// When the wait limit passes.
    until: Option<BootTime>,
    waits_since: Time,
    suspended_since: Option<BootTime>,
    next_renewal: BootTime,
    token: Token,
    /// Over the guardian, while it has a tree.
    vigil: Option<Vigil>,
    wake_generation: u64,
}

pub(crate) enum Phase {
    Idle,
    Reaching(Reaching),
    Waiting,
    Holding(Lease),
    Closing { until: BootTime, outcome: Outcome },
    Done,
}

/// Tries to open a session.
pub(crate) struct Reaching {
    /// The session's, for every attempt.
    id: SessionId,
    attempt: Option<(ConnId, BootTime)>,
    next_try: BootTime,
    backoff: Duration,
    give_up_at: BootTime,
    /// It had a place before: the wait limit may pass meanwhile.
    until: Option<BootTime>,
}

impl Client {
    pub(crate) fn new(id: ClientId, plan: ClientPlan, limit: u32) -> Self {
        Self {
            id,
            host: Host::new(id, &plan),
            limit: Limit::new(limit).expect("limits start at 1"),
            paused_until: 0,
            phase: Phase::Idle,
            rounds_left: plan.rounds,
            session: None,
            until: None,
            waits_since: 0,
            suspended_since: None,
            next_renewal: BootTime::from_since_boot(Duration::ZERO),
            token: Token(0),
            vigil: None,
            wake_generation: 0,
            plan,
        }
    }

    /// Nothing more is to come from it.
    pub(crate) fn is_done(&self) -> bool {
        self.rounds_left == 0 && matches!(self.phase, Phase::Done)
    }

    /// It has no session yet.
    pub(crate) fn is_reaching(&self) -> bool {
        matches!(self.phase, Phase::Reaching(_))
    }

    fn now(&self, env: &Env) -> BootTime {
        self.host.clock.read(env.now())
    }

    pub(crate) fn start(&mut self, env: &mut Env) {
        env.note(|| format!("client {}: starts, {:?} for lock {}", self.id, self.plan.terms, self.plan.lock));
        let session = draw_id(env);
        self.host.begin_round(Bequest { session, ttl: self.plan.ttl });
        self.until = None;
        self.vigil = None;
        self.waits_since = env.now();
        let now = self.now(env);
        self.reach(session, now, env);
        self.schedule_wake(env);
    }

    /// Our session is gone, and our place with it; the last will doesn't know of the next one.
    fn start_over(&mut self, now: BootTime, env: &mut Env) {
        let session = draw_id(env);
        self.reach(session, now, env);
    }

    fn reach(&mut self, id: SessionId, now: BootTime, env: &mut Env) {
        let give_up_at = now + self.plan.ttl * CONNECT_TTLS;
        let backoff = FIRST_BACKOFF;
        let until = self.until;
        self.phase =
            Phase::Reaching(Reaching { id, attempt: None, next_try: now, backoff, give_up_at, until });
        self.keep_reaching(now, env);
    }

    fn keep_reaching(&mut self, now: BootTime, env: &mut Env) {
        let Phase::Reaching(reaching) = &mut self.phase else { return };
        let (id, attempt) = (reaching.id, reaching.attempt);
        if reaching.give_up_at <= now || reaching.until.is_some_and(|until| until <= now) {
            let is_unreachable = reaching.give_up_at <= now;
            if let Some((conn, _)) = attempt {
                env.close_up(conn);
            }
            return self.finish(if is_unreachable { Outcome::Unreachable } else { Outcome::Busy }, env);
        }
        if attempt.is_none() && reaching.next_try <= now {
            let conn = env.connect(self.id);
            reaching.attempt = Some((conn, now));
            if self.until.is_none() {
                // Each later try asks for what is left: the server may have heard this one.
                self.until = self.wait_limit().map(|limit| now + limit);
                self.waits_since = env.now();
            }
            env.send_up(conn, Request::Open { session: Some(id), ttl: self.plan.ttl, who: Who::default() });
            env.send_up(conn, self.lock_request(now));
        }
    }

    fn reaching_heard(&mut self, from: ConnId, what: Downlink, now: BootTime) {
        let Phase::Reaching(reaching) = &mut self.phase else { return };
        let Some((conn, sent)) = reaching.attempt.filter(|&(conn, _)| conn == from) else { return };
        match what {
            Downlink::Reply(Reply::Opened { session, ttl }) => {
                let id = SessionId::from_hex(&session).expect("the server makes good ids");
                let ttl = Duration::from_secs_f64(ttl);
                self.session = Some(Session::opened(self.id, id, ttl, conn, sent));
                self.stand_in_line(now);
            }
            Downlink::Reply(other) => panic!("an open was answered {other:?}"),
            Downlink::Closed | Downlink::Broken => {
                reaching.attempt = None;
                reaching.next_try = now + reaching.backoff;
                reaching.backoff = (reaching.backoff * 2).min(LAST_BACKOFF);
            }
        }
    }

    fn stand_in_line(&mut self, now: BootTime) {
        self.phase = Phase::Waiting;
        self.suspended_since = None;
        self.next_renewal = now + self.plan.ttl / 3;
    }

    fn wait_limit(&self) -> Option<Duration> {
        match self.plan.waiting {
            Waiting::ForEver => None,
            Waiting::AtMost(limit) => Some(Duration::from_nanos(limit)),
            Waiting::NotAtAll => Some(Duration::ZERO),
        }
    }

    fn lock_request(&self, now: BootTime) -> Request<'static> {
        Request::Lock(LockRequest {
            name: lock_name(self.plan.lock).into(),
            timeout: self.until.map(|until| until.saturating_since(now)).or(self.wait_limit()),
            queue_max: None,
            limit: Some(self.limit),
        })
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("there is a session in this phase")
    }

    /// Something came on a connection.
    pub(crate) fn heard(&mut self, from: ConnId, what: Downlink, env: &mut Env) {
        let now = self.now(env);
        if env.rng.chance(1, 2) {
            // Which of two things that are due comes first is nobody's promise.
            self.do_what_is_due(now, env);
        }
        if matches!(self.phase, Phase::Reaching(_)) {
            self.reaching_heard(from, what, now);
        } else if let Some(session) = &mut self.session
            && let Some(heard) = session.heard(from, what, now, env)
        {
            self.session_heard(heard, now, env);
        }
        self.do_what_is_due(now, env);
        self.schedule_wake(env);
    }

    pub(crate) fn wake(&mut self, generation: u64, env: &mut Env) {
        if generation != self.wake_generation {
            return;
        }
        let now = self.now(env);
        self.do_what_is_due(now, env);
        self.schedule_wake(env);
    }

    fn do_what_is_due(&mut self, now: BootTime, env: &mut Env) {
        match &self.phase {
            Phase::Idle | Phase::Done => return,
            Phase::Reaching(_) => self.keep_reaching(now, env),
            Phase::Waiting => self.keep_waiting(now, env),
            Phase::Holding(_) => self.keep_holding(now, env),
            Phase::Closing { until, outcome } => {
                if *until <= now {
                    let outcome = *outcome;
                    self.finish(outcome, env);
                }
            }
        }
        if let Some(session) = &mut self.session {
            session.wake(now, env);
        }
    }

    fn keep_waiting(&mut self, now: BootTime, env: &mut Env) {
        let Some(since) = self.suspended_since else {
            if self.next_renewal <= now {
                self.next_renewal = now + self.plan.ttl / 3;
                if let Some(heard) = self.session().renew(now, env) {
                    self.session_heard(heard, now, env);
                }
            }
            return;
        };
        if self.until.is_some_and(|until| until <= now) {
            self.close(Outcome::Busy, now, env);
        } else if since + self.plan.ttl * CONNECT_TTLS <= now {
            self.close(Outcome::Unreachable, now, env);
        }
    }

    fn keep_holding(&mut self, now: BootTime, env: &mut Env) {
        loop {
            let Phase::Holding(lease) = &mut self.phase else { return };
            let lease_now = match env.mutation {
                Some(Mutation::NoMargin) => now - margin(lease),
                _ => now,
            };
            let Some(action) = lease.poll(lease_now) else { break };
            env.note(|| format!("client {}: {action:?}", self.id));
            match action {
                Action::Renew => {
                    if let Some(heard) = self.session().renew(now, env) {
                        self.session_heard(heard, now, env);
                    }
                }
                Action::Stop(why) => {
                    env.checkers.stopped(self.id, self.token, &format!("{why:?}"));
                    if let Some(vigil) = &mut self.vigil {
                        vigil.told_to_stop(now + self.plan.grace);
                    }
                    self.host.order(Order::Stop, env);
                }
                Action::Kill => {
                    env.checkers.stopped(self.id, self.token, "the kill deadline passed");
                    if let Some(vigil) = &mut self.vigil {
                        vigil.told_to_kill(now);
                    }
                    self.host.order(Order::Kill, env);
                }
            }
        }
        self.keep_vigil(now, env);
    }

    fn keep_vigil(&mut self, now: BootTime, env: &mut Env) {
        let Some(vigil) =
            self.vigil.as_mut().filter(|_| env.mutation != Some(Mutation::NobodyWatchesTheGuardian))
        else {
            return;
        };
        let verdict = vigil.check(now);
        if verdict != Verdict::Nothing {
            env.note(|| format!("client {}: {verdict:?} the guardian", self.id));
        }
        match verdict {
            Verdict::Nothing => {}
            Verdict::Wake => self.host.wake_guardian(env),
            Verdict::Help => {
                self.host.wake_guardian(env);
                self.host.help_to_kill(env);
            }
            Verdict::Replace => {
                env.checkers.stopped(self.id, self.token, "the guardian didn't kill");
                self.vigil = None;
                self.host.guardian_killed(env);
            }
        }
    }

    fn session_heard(&mut self, heard: Heard, now: BootTime, env: &mut Env) {
        env.note(|| format!("client {}: hears {heard:?}", self.id));
        match &self.phase {
            Phase::Waiting => self.waiting_heard(heard, now, env),
            Phase::Holding(_) => self.holding_heard(heard, now, env),
            Phase::Closing { .. } => self.closing_heard(heard, env),
            Phase::Idle | Phase::Reaching(_) | Phase::Done => {}
        }
    }

    fn waiting_heard(&mut self, heard: Heard, now: BootTime, env: &mut Env) {
        match heard {
            Heard::Reply(Reply::Acquired(granted) | Reply::AlreadyAcquired(granted)) => {
                self.hold(&granted, now, env);
            }
            Heard::Reply(Reply::TimedOut(_)) => self.close(Outcome::Busy, now, env),
            // Granted, but that was lost, and then taken: given back unused.
            Heard::Reply(Reply::Revoked { .. }) => {
                self.send_close(env);
                self.session().hang_up(env);
                self.start_over(now, env);
            }
            Heard::Reply(other) => panic!("a waiter was told {other:?}"),
            Heard::Renewed { .. } => {}
            Heard::Suspended => self.suspended_since = Some(now),
            Heard::Resumed { holds } => {
                self.suspended_since = None;
                self.next_renewal = now + self.plan.ttl / 3;
                // What it holds it is told when it asks: what is listed may be older than a reboot.
                if env.mutation == Some(Mutation::HoldsOutliveAReboot) && !holds.is_empty() {
                    self.hold_token(holds[0].token, now, env);
                } else if env.mutation != Some(Mutation::NothingIsAskedAgain) {
                    let again = self.lock_request(now);
                    self.session().ask(again, env);
                }
            }
            Heard::Over => {
                self.session().hang_up(env);
                self.start_over(now, env);
            }
        }
    }

    fn hold(&mut self, granted: &Granted, now: BootTime, env: &mut Env) {
        self.hold_token(granted.token.expect("it was asked for with a limit"), now, env);
    }

    fn hold_token(&mut self, token: Token, now: BootTime, env: &mut Env) {
        let (ttl, proven_at, id) = (self.session().ttl, self.session().proven_at, self.session().id);
        let counted_from = match env.mutation {
            Some(Mutation::GrantCountsFromItsArrival) => now,
            _ => proven_at,
        };
        let lease = self.granted_terms(ttl).map(|terms| Lease::start(terms, counted_from, now));
        let Some(Ok(lease)) = lease else { return self.close(Outcome::GivenBack, now, env) };
        self.token = token;
        let deadline = guardian_deadline(&lease, env);
        self.vigil = Some(Vigil::new(Some(deadline), now));
        self.host.order(Order::Start { deadline, token, bequest: Bequest { session: id, ttl } }, env);
        self.phase = Phase::Holding(lease);
    }

    fn granted_terms(&self, ttl: Duration) -> Option<Terms> {
        self.plan.terms.with_ttl(ttl).ok()
    }

    fn holding_heard(&mut self, heard: Heard, now: BootTime, env: &mut Env) {
        let Phase::Holding(lease) = &mut self.phase else { return };
        match heard {
            Heard::Renewed { sent } => {
                let counted_from = match env.mutation {
                    Some(Mutation::RenewalCountsFromItsAnswer) => now,
                    _ => sent,
                };
                lease.renewed(counted_from);
                let deadline = guardian_deadline(lease, env);
                if let Some(vigil) = &mut self.vigil {
                    vigil.set_kill_deadline(Some(deadline));
                }
                self.host.order(Order::KillDeadline(deadline), env);
            }
            Heard::Resumed { holds } => {
                if holds.iter().any(|held| held.token == self.token) {
                    lease.resumed(now);
                } else {
                    lease.told_lost();
                }
            }
            Heard::Over => lease.told_lost(),
            Heard::Reply(Reply::Revoked { .. }) => lease.told_revoked(),
            // A reply that nobody waits for any more: a request was asked twice.
            Heard::Suspended | Heard::Reply(_) => {}
        }
    }

    fn closing_heard(&mut self, heard: Heard, env: &mut Env) {
        let Phase::Closing { outcome, .. } = self.phase else { return };
        match heard {
            Heard::Reply(Reply::Closed) | Heard::Over => self.finish(outcome, env),
            Heard::Resumed { .. } => self.send_close(env),
            Heard::Reply(_) | Heard::Renewed { .. } | Heard::Suspended => {}
        }
    }

    fn close(&mut self, outcome: Outcome, now: BootTime, env: &mut Env) {
        if outcome == Outcome::Busy {
            let limit = match self.plan.waiting {
                Waiting::ForEver => None,
                Waiting::AtMost(limit) => Some(limit),
                Waiting::NotAtAll => Some(0),
            };
            // The server's word may be lost; the silence is noticed two renewals later.
            let late_by = self.plan.ttl.as_nanos() as Time;
            env.checkers.sent_away(self.id, env.scheduler.now() - self.waits_since, limit, late_by);
        }
        self.phase = Phase::Closing { until: now + self.plan.ttl * CLOSE_TTLS, outcome };
        self.send_close(env);
        if self.session().is_over() {
            self.finish(outcome, env);
        }
    }

    fn send_close(&mut self, env: &mut Env) {
        env.checkers.releasing((self.id, self.host.run));
        self.session().ask(Request::Close { session: None }, env);
    }

    fn finish(&mut self, outcome: Outcome, env: &mut Env) {
        env.note(|| format!("client {}: ends with {outcome:?}", self.id));
        env.checkers.finished(self.id, outcome);
        if let Some(mut session) = self.session.take() {
            session.hang_up(env);
        }
        self.host.end_round();
        self.phase = Phase::Done;
        self.rounds_left -= 1;
        if self.rounds_left > 0 && env.now() < env.faults_end {
            let rest = MILLI + env.rng.log_up_to(self.plan.ttl.as_nanos() as Time);
            env.scheduler.after(rest, Event::Start(self.id));
        } else {
            self.rounds_left = 0;
        }
    }

    fn schedule_wake(&mut self, env: &mut Env) {
        let own = match &self.phase {
            Phase::Idle | Phase::Done => None,
            Phase::Reaching(reaching) => {
                let next_try = reaching.attempt.is_none().then_some(reaching.next_try);
                [Some(reaching.give_up_at), reaching.until, next_try].into_iter().flatten().min()
            }
            Phase::Waiting => Some(self.waiting_wake()),
            Phase::Holding(lease) => {
                let vigils = self.vigil.as_ref().and_then(Vigil::wake_at);
                [lease.next_wake(), vigils].into_iter().flatten().min()
            }
            Phase::Closing { until, .. } => Some(*until),
        };
        let sessions = self.session.as_ref().and_then(Session::next_wake);
        if let Some(wake) = [own, sessions].into_iter().flatten().min() {
            self.wake_generation += 1;
            let (client, generation) = (self.id, self.wake_generation);
            let at = self.host.clock.when(wake).max(env.now()) + env.rng.below(MILLI);
            env.scheduler.at(at, Event::WrapperWake { client, generation });
        }
    }

    fn waiting_wake(&self) -> BootTime {
        let Some(since) = self.suspended_since else { return self.next_renewal };
        let unreachable_at = since + self.plan.ttl * CONNECT_TTLS;
        self.until.map_or(unreachable_at, |until| until.min(unreachable_at))
    }

    /// The guardian tells how it goes.
    pub(crate) fn hears_reports(&mut self, run: u64, env: &mut Env) {
        if run != self.host.run || !self.host.wrapper_lives {
            return;
        }
        let now = self.now(env);
        for report in self.host.take_reports() {
            match report {
                Report::Killing => {
                    if let Some(vigil) = &mut self.vigil {
                        vigil.has_begun(now);
                    }
                }
                Report::Ended if env.mutation == Some(Mutation::ReleaseBeforeTheTreeIsDead) => {
                    self.give_back(now, env);
                }
                Report::Ended => {}
                Report::Over => self.give_back(now, env),
            }
        }
        self.schedule_wake(env);
    }

    /// The tree is dead: the lock goes back.
    fn give_back(&mut self, now: BootTime, env: &mut Env) {
        if matches!(self.phase, Phase::Holding(_)) {
            self.vigil = None;
            self.close(Outcome::Ran, now, env);
        }
    }

    /// SIGKILL of the wrapper: its connections are closed by its kernel.
    pub(crate) fn kill_wrapper(&mut self, env: &mut Env) {
        if matches!(self.phase, Phase::Idle | Phase::Done) {
            return;
        }
        env.note(|| format!("client {}: the wrapper is killed", self.id));
        if let Phase::Reaching(Reaching { attempt: Some((conn, _)), .. }) = self.phase {
            env.close_up(conn);
        }
        if let Some(mut session) = self.session.take() {
            session.hang_up(env);
        }
        self.phase = Phase::Idle;
        self.paused_until = 0;
        self.wake_generation += 1;
        self.host.wrapper_killed(env);
        self.end_killed_round(env);
    }

    /// A round whose wrapper was killed is over when nothing is left of it, the last will apart.
    pub(crate) fn end_killed_round(&mut self, env: &mut Env) {
        if matches!(self.phase, Phase::Idle) && self.host.run > 0 && self.host.is_empty() {
            self.finish(Outcome::Killed, env);
        }
    }

    /// The guardian is dead: the wrapper ends the tree, or without one itself.
    pub(crate) fn guardian_gone(&mut self, run: u64, env: &mut Env) {
        if run != self.host.run || !self.host.wrapper_lives {
            return;
        }
        self.hears_reports(run, env);
        match &self.phase {
            Phase::Holding(_) => {
                self.vigil = None;
                self.host.end_orphans(env);
            }
            Phase::Reaching(_) | Phase::Waiting => self.give_up(env),
            Phase::Idle | Phase::Closing { .. } | Phase::Done => {}
        }
    }

    /// Told to end while waiting.
    pub(crate) fn give_up(&mut self, env: &mut Env) {
        let now = self.now(env);
        match &self.phase {
            Phase::Waiting => self.close(Outcome::GaveUp, now, env),
            &Phase::Reaching(Reaching { attempt, .. }) => {
                if let Some((conn, _)) = attempt {
                    env.close_up(conn);
                }
                self.finish(Outcome::GaveUp, env);
            }
            Phase::Idle | Phase::Holding(_) | Phase::Closing { .. } | Phase::Done => {}
        }
        self.schedule_wake(env);
    }
}

fn draw_id(env: &mut Env) -> SessionId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&env.rng.next().to_be_bytes());
    id[8..].copy_from_slice(&env.rng.next().to_be_bytes());
    SessionId::from_bytes(id)
}

fn margin(lease: &Lease) -> Duration {
    let end = lease.end().expect("every lease of this world has an end");
    end.saturating_since(lease.kill_deadline().expect("it has an end"))
}

fn guardian_deadline(lease: &Lease, env: &Env) -> BootTime {
    let deadline = lease.kill_deadline().expect("every lease of this world has an end");
    match env.mutation {
        Some(Mutation::NoMargin) => deadline + margin(lease),
        _ => deadline,
    }
}
