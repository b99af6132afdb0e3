//! A client's host without the wrapper: the guardian, the command's process tree and the last will.
//! The guardian enforces the last kill deadline that it was sent, on the host's own clock, and ends
//! the tree when the wrapper dies; then it closes the session in its place.

use std::time::Duration;

use officer::boot_time::BootTime;
use officer::lock::{SessionId, Token};
use officer::protocol::{Reply, Request};

use crate::clock::{Clock, MILLI, Time};
use crate::mutation::Mutation;
use crate::network::ConnId;
use crate::plan::MOST_KILL_TIME;
use crate::scheduler::{ClientId, Downlink, Event};
use crate::world::Env;

/// How late a timer, or the news of a death, may be on a busy host.
const MOST_LATENCY: Time = 5 * MILLI;
const WILL_TRIES: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    None,
    Starting,
    Running,
    /// Being killed.
    Dying,
    Dead,
}

pub(crate) struct Host {
    client: ClientId,
    pub(crate) clock: Clock,
    pub(crate) frozen_until: Time,
    /// For one of the mutations: since when a clock stands still that must not.
    pub(crate) suspended_at: Option<Time>,
    pub(crate) guardian_lives: bool,
    pub(crate) wrapper_lives: bool,
    pub(crate) tree: Tree,
    /// Which command, counted from the first round on.
    pub(crate) run: u64,
    /// Of the lock that the tree runs under.
    token: Token,
    deadline: Option<BootTime>,
    deadline_generation: u64,
    will: Option<Will>,
    will_generation: u64,
    /// What the guardian would close if the wrapper died now.
    session: Option<(SessionId, Duration)>,
}

/// Closes the session of a wrapper that is dead.
struct Will {
    run: u64,
    session: SessionId,
    ttl: Duration,
    /// Of the last try.
    conn: Option<ConnId>,
    tries: u32,
}

impl Host {
    pub(crate) fn new(client: ClientId, clock: Clock) -> Self {
        Self {
            client,
            clock,
            frozen_until: 0,
            suspended_at: None,
            guardian_lives: false,
            wrapper_lives: false,
            tree: Tree::None,
            run: 0,
            token: Token(0),
            deadline: None,
            deadline_generation: 0,
            will: None,
            will_generation: 0,
            session: None,
        }
    }

    /// A new wrapper has forked its guardian.
    pub(crate) fn begin_round(&mut self) {
        self.run += 1;
        self.guardian_lives = true;
        self.wrapper_lives = true;
        self.tree = Tree::None;
        self.deadline = None;
        self.session = None;
    }

    /// The wrapper has the lock: the command starts unless the deadline passes before.
    pub(crate) fn start_tree(
        &mut self,
        session: SessionId,
        ttl: Duration,
        token: Token,
        deadline: BootTime,
        env: &mut Env,
    ) {
        self.token = token;
        self.session = Some((session, ttl));
        self.tree = Tree::Starting;
        self.set_deadline(deadline, env);
        let spawn_time = env.rng.log_up_to(MOST_LATENCY);
        env.scheduler.after(spawn_time, Event::TreeStart { client: self.client, run: self.run });
    }

    pub(crate) fn set_deadline(&mut self, deadline: BootTime, env: &mut Env) {
        let keeps_first = env.mutation == Some(Mutation::GuardianKeepsItsFirstDeadline);
        if self.deadline == Some(deadline) || (keeps_first && self.deadline.is_some()) {
            return;
        }
        self.deadline = Some(deadline);
        self.schedule_deadline(deadline, env);
    }

    fn schedule_deadline(&mut self, deadline: BootTime, env: &mut Env) {
        self.deadline_generation += 1;
        let at = self.clock.when(deadline).max(env.now()) + env.rng.log_up_to(MOST_LATENCY);
        let (client, generation) = (self.client, self.deadline_generation);
        env.scheduler.at(at, Event::GuardianWake { client, generation });
    }

    pub(crate) fn tree_start(&mut self, run: u64, lock: usize, token: Token, run_for: Time, env: &mut Env) {
        if run != self.run || self.tree != Tree::Starting {
            return;
        }
        let is_late = self.deadline.is_some_and(|deadline| deadline <= self.clock.read(env.now()));
        if is_late || !self.guardian_lives || !self.wrapper_lives {
            env.note(|| format!("host {}: the command isn't started any more", self.client));
            return self.tree_dead(run, env);
        }
        self.tree = Tree::Running;
        env.note(|| format!("host {}: the command starts with token {token} of lock {lock}", self.client));
        env.checkers.tree_started((self.client, run), lock, token);
        env.scheduler.after(run_for, Event::CommandEnds { client: self.client, run });
    }

    /// The command has ended; what it left running is ended now.
    pub(crate) fn command_ended(&mut self, run: u64, env: &mut Env) -> bool {
        let ends = run == self.run && self.tree == Tree::Running;
        if ends {
            env.note(|| format!("host {}: the command has ended", self.client));
            self.begin_kill(env);
        }
        ends
    }

    pub(crate) fn begin_kill(&mut self, env: &mut Env) {
        match self.tree {
            Tree::Running => {
                self.tree = Tree::Dying;
                let kill_time = env.rng.log_up_to(MOST_KILL_TIME);
                env.note(|| format!("host {}: the tree is being killed", self.client));
                env.scheduler.after(kill_time, Event::TreeDead { client: self.client, run: self.run });
            }
            Tree::Starting => self.tree_dead(self.run, env),
            Tree::None | Tree::Dying | Tree::Dead => {}
        }
    }

    pub(crate) fn tree_dead(&mut self, run: u64, env: &mut Env) {
        if run != self.run || self.tree == Tree::Dead {
            return;
        }
        self.tree = Tree::Dead;
        env.note(|| format!("host {}: the tree is dead", self.client));
        env.checkers.tree_died((self.client, run));
        if self.wrapper_lives {
            let latency = env.rng.log_up_to(MOST_LATENCY);
            env.scheduler.after(latency, Event::TreeReported { client: self.client, run });
        } else if self.guardian_lives {
            self.execute_will(env);
        }
    }

    pub(crate) fn guardian_wake(&mut self, generation: u64, env: &mut Env) {
        let Some(deadline) = self.deadline else { return };
        if generation != self.deadline_generation || !self.guardian_lives {
            return;
        }
        if self.clock.read(env.now()) < deadline {
            return self.schedule_deadline(deadline, env);
        }
        if matches!(self.tree, Tree::Running | Tree::Starting) {
            env.note(|| format!("guardian {}: the kill deadline has passed", self.client));
            env.checkers.stopped(self.client, self.token, "the guardian's deadline passed");
            self.begin_kill(env);
        }
    }

    /// The wrapper was killed.
    pub(crate) fn wrapper_killed(&mut self, env: &mut Env) {
        self.wrapper_lives = false;
        env.checkers.wrapper_killed((self.client, self.run));
        let latency = env.rng.log_up_to(MOST_LATENCY);
        env.scheduler.after(latency, Event::WrapperGone { client: self.client, run: self.run });
        if env.mutation == Some(Mutation::GuardianDiesWithTheWrapper) {
            self.guardian_lives = false;
        }
    }

    /// The guardian sees it.
    pub(crate) fn wrapper_gone(&mut self, run: u64, env: &mut Env) {
        if run != self.run || !self.guardian_lives {
            return;
        }
        if env.mutation == Some(Mutation::WillBeforeTheTreeIsDead) {
            self.execute_will(env);
        }
        match self.tree {
            Tree::Starting | Tree::Running => self.begin_kill(env),
            Tree::Dying => {}
            Tree::None | Tree::Dead => self.execute_will(env),
        }
    }

    /// The guardian was killed.
    pub(crate) fn guardian_killed(&mut self, env: &mut Env) {
        self.guardian_lives = false;
        let latency = env.rng.log_up_to(MOST_LATENCY);
        env.scheduler.after(latency, Event::GuardianGone { client: self.client, run: self.run });
    }

    fn execute_will(&mut self, env: &mut Env) {
        if let Some((session, ttl)) = self.session.take() {
            self.try_will(Will { run: self.run, session, ttl, conn: None, tries: WILL_TRIES }, env);
        }
    }

    fn try_will(&mut self, will: Will, env: &mut Env) {
        env.checkers.will_begins((self.client, will.run), will.session);
        let conn = env.connect(self.client);
        env.send_up(conn, Request::Close { session: Some(will.session) });
        self.will_generation += 1;
        let (client, generation) = (self.client, self.will_generation);
        env.scheduler.after((will.ttl / 3).as_nanos() as Time, Event::WillWake { client, generation });
        self.will = Some(Will { conn: Some(conn), tries: will.tries - 1, ..will });
    }

    /// A try of the will wasn't answered in time.
    pub(crate) fn will_wake(&mut self, generation: u64, env: &mut Env) {
        if generation != self.will_generation {
            return;
        }
        if let Some(will) = self.will.take() {
            if let Some(conn) = will.conn {
                env.close_up(conn);
            }
            if will.tries > 0 {
                self.try_will(will, env);
            }
        }
    }

    /// Whether this connection is the will's; if so its answer is heard.
    pub(crate) fn will_heard(&mut self, conn: ConnId, what: &Downlink, env: &mut Env) -> bool {
        let Some(will) = self.will.as_ref().filter(|will| will.conn == Some(conn)) else { return false };
        match what {
            Downlink::Reply(Reply::Closed | Reply::SessionUnknown) => {
                env.checkers.will_answered(will.session);
                env.close_up(conn);
                self.will = None;
            }
            Downlink::Reply(other) => panic!("a will was answered {other:?}"),
            // The next try comes with the timer.
            Downlink::Closed | Downlink::Broken => {}
        }
        true
    }
}
