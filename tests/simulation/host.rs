//! A client's host without the wrapper: the processes of the command's tree, and the guardian, which
//! decides by the real `supervisor::policy`. It is fed as the guardian's own loop feeds it: the time
//! first, then what has become of its children, then the wrapper's orders.

use std::collections::VecDeque;

use officer::boot_time::BootTime;
use officer::lock::Token;
use officer::supervisor::policy::{Action, Input, Remains, Supervision};
use officer::supervisor::{Exit, KilledBy, Policy};

use crate::clock::{Clock, MILLI, Time};
use crate::mutation::Mutation;
use crate::plan::{ClientPlan, MOST_KILL_TIME};
use crate::scheduler::{ClientId, Event};
use crate::will::{Bequest, Will};
use crate::world::Env;

/// How late a timer, an order or the news of a death may be on a busy host.
const MOST_LATENCY: Time = 5 * MILLI;

pub(crate) struct Host {
    client: ClientId,
    work: Work,
    pub(crate) clock: Clock,
    pub(crate) frozen_until: Time,
    /// For one of the mutations: since when a clock stands still that must not.
    pub(crate) suspended_at: Option<Time>,
    pub(crate) wrapper_lives: bool,
    guardian: Option<Guardian>,
    timer_generation: u64,
    tree: Tree,
    /// Which command, counted from the first round on.
    pub(crate) run: u64,
    /// Of the lock that the tree runs under.
    token: Token,
    /// On their way to the wrapper.
    reports: VecDeque<Report>,
    pub(crate) will: Will,
}

/// What the command does, and how it is ended.
#[derive(Clone, Copy)]
struct Work {
    lock: usize,
    run_for: Time,
    stops_in: Time,
    lingers: Time,
    policy: Policy,
}

/// The processes of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    None,
    Running {
        /// The command itself is one of them.
        command: bool,
        kill: Option<Kill>,
    },
    Dead,
}

/// How far SIGKILL has come: a tree that forks needs more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    EndsAt(Time),
    /// Whoever kills stands still, with so much left to do.
    Interrupted(Time),
}

struct Guardian {
    supervision: Supervision,
    orders: VecDeque<Order>,
    pause: Option<Pause>,
    has_told_end: bool,
    bequest: Option<Bequest>,
}

/// A guardian that stands still.
#[derive(Clone, Copy)]
struct Pause {
    until: Time,
    is_deaf: bool,
}

/// What the wrapper says to its guardian.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Start { deadline: BootTime, token: Token, bequest: Bequest },
    KillDeadline(BootTime),
    Stop,
    Kill,
}

/// What the guardian, or in its place the kernel, tells the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It has begun to kill.
    Killing,
    /// The command itself has ended.
    Ended,
    /// Nothing runs, and nothing will.
    Over,
}

impl Host {
    pub(crate) fn new(client: ClientId, plan: &ClientPlan) -> Self {
        let policy = Policy { grace: plan.grace, leftovers: plan.leftovers, ..Policy::default() };
        let &ClientPlan { lock, run_for, stops_in, lingers, clock, .. } = plan;
        Self {
            client,
            work: Work { lock, run_for, stops_in, lingers, policy },
            clock,
            frozen_until: 0,
            suspended_at: None,
            wrapper_lives: false,
            guardian: None,
            timer_generation: 0,
            tree: Tree::None,
            run: 0,
            token: Token(0),
            reports: VecDeque::new(),
            will: Will::new(client),
        }
    }

    /// A new wrapper has forked its guardian and left it a will.
    pub(crate) fn begin_round(&mut self, bequest: Bequest) {
        self.run += 1;
        self.wrapper_lives = true;
        self.guardian = Some(Guardian {
            supervision: Supervision::new(),
            orders: VecDeque::new(),
            pause: None,
            has_told_end: false,
            bequest: Some(bequest),
        });
        self.tree = Tree::None;
        self.reports.clear();
    }

    /// The wrapper has left, and with it the guardian.
    pub(crate) fn end_round(&mut self) {
        self.wrapper_lives = false;
        self.guardian = None;
    }

    /// Wrapper and guardian are there, and the guardian goes about its work.
    pub(crate) fn is_guarded(&self, now: Time) -> bool {
        self.wrapper_lives && self.guardian.is_some() && self.guardian_paused_until() <= now
    }

    /// Neither wrapper nor guardian nor anything of a tree is left.
    pub(crate) fn is_empty(&self) -> bool {
        !self.wrapper_lives && self.guardian.is_none() && !matches!(self.tree, Tree::Running { .. })
    }

    // The wrapper's orders.

    pub(crate) fn order(&mut self, order: Order, env: &mut Env) {
        let Some(guardian) = &mut self.guardian else { return };
        let is_mutated = env.mutation == Some(Mutation::GuardianKeepsItsFirstDeadline);
        if !(is_mutated && matches!(order, Order::KillDeadline(_))) {
            guardian.orders.push_back(order);
        }
        self.wake_guardian(env);
    }

    /// SIGCONT: who was only stopped goes on.
    pub(crate) fn wake_guardian(&mut self, env: &mut Env) {
        if let Some(guardian) = &mut self.guardian {
            let is_watched = env.mutation != Some(Mutation::NobodyWatchesTheGuardian);
            if is_watched && guardian.pause.is_some_and(|pause| !pause.is_deaf) {
                self.guardian_goes_on(env);
            }
            self.tell_guardian(env);
        }
    }

    /// The wrapper hears what there is to hear.
    pub(crate) fn take_reports(&mut self) -> VecDeque<Report> {
        std::mem::take(&mut self.reports)
    }

    fn report(&mut self, report: Report, env: &mut Env) {
        self.reports.push_back(report);
        let latency = env.rng.log_up_to(MOST_LATENCY);
        env.scheduler.after(latency, Event::WrapperHears { client: self.client, run: self.run });
    }

    // The guardian.

    /// Until when it stands still.
    pub(crate) fn guardian_paused_until(&self) -> Time {
        self.guardian.as_ref().and_then(|guardian| guardian.pause).map_or(0, |pause| pause.until)
    }

    /// It is stopped for so long, or until somebody wakes it up; a deaf one can't be woken.
    pub(crate) fn pause_guardian(&mut self, length: Time, is_deaf: bool, env: &mut Env) {
        let until = env.now() + length;
        let Some(guardian) = &mut self.guardian else { return };
        guardian.pause = Some(Pause { until, is_deaf });
        if let Tree::Running { kill: Some(kill), .. } = &mut self.tree
            && let Kill::EndsAt(at) = *kill
        {
            *kill = Kill::Interrupted(at.saturating_sub(env.now()));
        }
        env.scheduler.at(until, Event::GuardianRuns { client: self.client, run: self.run });
    }

    /// The wrapper kills on where the guardian was interrupted.
    pub(crate) fn help_to_kill(&mut self, env: &mut Env) {
        if let Tree::Running { kill: Some(Kill::Interrupted(left)), .. } = self.tree {
            self.kill_takes(left, env);
        }
    }

    fn guardian_goes_on(&mut self, env: &mut Env) {
        if let Some(guardian) = &mut self.guardian {
            guardian.pause = None;
        }
        self.help_to_kill(env);
    }

    fn tell_guardian(&mut self, env: &mut Env) {
        let latency = env.rng.log_up_to(MOST_LATENCY);
        env.scheduler.after(latency, Event::GuardianRuns { client: self.client, run: self.run });
    }

    pub(crate) fn guardian_timer(&mut self, generation: u64, env: &mut Env) {
        if generation == self.timer_generation {
            self.guardian_runs(self.run, env);
        }
    }

    /// One turn of its loop.
    pub(crate) fn guardian_runs(&mut self, run: u64, env: &mut Env) {
        if run != self.run || self.guardian.is_none() {
            return;
        }
        self.guardian_goes_on(env);
        self.take(Input::Woken, env);
        self.take_children(env);
        while let Some(order) = self.guardian.as_mut().and_then(|guardian| guardian.orders.pop_front()) {
            self.take_order(order, env);
        }
        if !self.wrapper_lives && self.guardian.is_some() {
            self.take(Input::WrapperGone, env);
        }
        self.set_timer(env);
    }

    fn set_timer(&mut self, env: &mut Env) {
        let wake_at = self.guardian.as_ref().and_then(|guardian| guardian.supervision.wake_at());
        self.timer_generation += 1;
        if let Some(wake_at) = wake_at {
            let at = self.clock.when(wake_at).max(env.now()) + env.rng.log_up_to(MOST_LATENCY);
            let (client, generation) = (self.client, self.timer_generation);
            env.scheduler.at(at, Event::GuardianTimer { client, generation });
        }
    }

    fn take_children(&mut self, env: &mut Env) {
        let ended = !matches!(self.tree, Tree::Running { command: true, .. });
        let Some(guardian) = self.guardian.as_mut().filter(|it| it.supervision.is_tree_alive()) else {
            return;
        };
        if ended && !std::mem::replace(&mut guardian.has_told_end, true) {
            self.take(Input::CommandEnded(Exit::Code(0)), env);
        }
        let remains = if self.tree == Tree::Dead { Remains::None } else { Remains::Some };
        self.take(Input::Reaped(remains), env);
    }

    fn take_order(&mut self, order: Order, env: &mut Env) {
        match order {
            Order::Start { deadline, token, bequest } => {
                if let Some(guardian) = &mut self.guardian {
                    guardian.bequest = Some(bequest);
                }
                if deadline <= self.clock.read(env.now()) {
                    env.note(|| format!("guardian {}: too late for the command", self.client));
                    self.take(Input::NotExecuted, env);
                    return self.report(Report::Over, env);
                }
                self.start_tree(token, env);
                self.take(Input::Launched(self.work.policy, Some(deadline)), env);
            }
            Order::KillDeadline(at) => self.take(Input::KillDeadline(Some(at)), env),
            Order::Stop => self.take(Input::Stop, env),
            Order::Kill => self.take(Input::Kill, env),
        }
    }

    fn take(&mut self, input: Input, env: &mut Env) {
        let now = self.clock.read(env.now());
        let Some(guardian) = &mut self.guardian else { return };
        for action in guardian.supervision.handle(now, input) {
            env.note(|| format!("guardian {}: {action:?}", self.client));
            self.act(action, env);
        }
    }

    fn act(&mut self, action: Action, env: &mut Env) {
        match action {
            Action::ReportEnded(_) => self.report(Report::Ended, env),
            Action::ReportTreeDead(_, killed_by) => {
                if killed_by == Some(KilledBy::Deadline) {
                    env.checkers.stopped(self.client, self.token, "the guardian's deadline passed");
                }
                self.report(Report::Over, env);
            }
            Action::StopTree(_) => self.stop_tree(env),
            Action::KillTree => {
                self.report(Report::Killing, env);
                self.kill_tree(env);
            }
            Action::ExecuteWill => self.execute_will(env),
            Action::Leave => self.guardian = None,
            Action::ReportLeftovers
            | Action::SignalCommand(_)
            | Action::FreezeTree
            | Action::ThawTree
            | Action::CloseKept => {}
        }
    }

    fn execute_will(&mut self, env: &mut Env) {
        if env.mutation == Some(Mutation::NoLastWill) {
            self.guardian = None;
        }
        if let Some(bequest) = self.guardian.take().and_then(|guardian| guardian.bequest) {
            self.will.execute(self.run, bequest, env);
        }
    }

    /// SIGKILL of the wrapper.
    pub(crate) fn wrapper_killed(&mut self, env: &mut Env) {
        self.wrapper_lives = false;
        if let Some(bequest) = self.guardian.as_ref().and_then(|guardian| guardian.bequest) {
            env.checkers.wrapper_killed((self.client, self.run), bequest.session);
        }
        match env.mutation {
            Some(Mutation::GuardianDiesWithTheWrapper) => self.guardian = None,
            Some(Mutation::WillBeforeTheTreeIsDead) => {
                if let Some(bequest) = self.guardian.as_mut().and_then(|guardian| guardian.bequest.take()) {
                    self.will.execute(self.run, bequest, env);
                }
            }
            _ => {}
        }
        self.tell_guardian(env);
    }

    /// SIGKILL of the guardian: the kernel kills the command itself, and what that has left behind
    /// lives on.
    pub(crate) fn guardian_killed(&mut self, env: &mut Env) {
        if self.guardian.take().is_some() {
            if let Tree::Running { command, .. } = &mut self.tree {
                *command = false;
            }
            let latency = env.rng.log_up_to(MOST_LATENCY);
            env.scheduler.after(latency, Event::GuardianGone { client: self.client, run: self.run });
        }
    }

    // The tree.

    fn start_tree(&mut self, token: Token, env: &mut Env) {
        let (client, lock, run) = (self.client, self.work.lock, self.run);
        self.token = token;
        self.tree = Tree::Running { command: true, kill: None };
        env.note(|| format!("host {client}: the command starts with token {token} of lock {lock}"));
        env.checkers.tree_started((client, run), lock, token);
        env.scheduler.after(self.work.run_for, Event::CommandEnds { client, run });
    }

    /// The command has ended, by itself or because it was told to; what it leaves behind lives on for
    /// a while.
    pub(crate) fn command_ends(&mut self, run: u64, env: &mut Env) {
        if let Tree::Running { command, .. } = &mut self.tree
            && run == self.run
            && std::mem::replace(command, false)
        {
            env.note(|| format!("host {}: the command has ended", self.client));
            self.tree_ends_in(self.work.lingers, env);
            self.tell_guardian(env);
        }
    }

    /// The stop signal reaches everything.
    fn stop_tree(&mut self, env: &mut Env) {
        match self.tree {
            Tree::Running { command: true, .. } => {
                let (client, run) = (self.client, self.run);
                env.scheduler.after(self.work.stops_in, Event::CommandEnds { client, run });
            }
            Tree::Running { command: false, .. } => self.tree_ends_in(self.work.stops_in, env),
            Tree::None | Tree::Dead => {}
        }
    }

    fn kill_tree(&mut self, env: &mut Env) {
        if matches!(self.tree, Tree::Running { kill: None | Some(Kill::Interrupted(_)), .. }) {
            env.note(|| format!("host {}: the tree is being killed", self.client));
            let kill_time = env.rng.log_up_to(MOST_KILL_TIME);
            self.kill_takes(kill_time, env);
        }
    }

    fn kill_takes(&mut self, time: Time, env: &mut Env) {
        if let Tree::Running { kill, .. } = &mut self.tree {
            let at = env.now() + time;
            *kill = Some(Kill::EndsAt(at));
            env.scheduler.at(at, Event::TreeKilled { client: self.client, run: self.run });
        }
    }

    pub(crate) fn tree_killed(&mut self, run: u64, env: &mut Env) {
        if let Tree::Running { kill: Some(Kill::EndsAt(at)), .. } = self.tree
            && at <= env.now()
        {
            self.tree_dead(run, env);
        }
    }

    fn tree_ends_in(&self, after: Time, env: &mut Env) {
        env.scheduler.after(after, Event::TreeDead { client: self.client, run: self.run });
    }

    /// The last process is gone.
    pub(crate) fn tree_dead(&mut self, run: u64, env: &mut Env) {
        if run != self.run || !matches!(self.tree, Tree::Running { .. }) {
            return;
        }
        self.tree = Tree::Dead;
        env.note(|| format!("host {}: the tree is dead", self.client));
        env.checkers.tree_died((self.client, run));
        if self.guardian.is_some() {
            self.tell_guardian(env);
        } else if self.wrapper_lives {
            self.report(Report::Over, env);
        }
    }

    /// The guardian is gone: the wrapper ends what is left of the tree.
    pub(crate) fn end_orphans(&mut self, env: &mut Env) {
        match self.tree {
            Tree::Running { .. } if env.mutation != Some(Mutation::OrphansLiveOn) => self.kill_tree(env),
            Tree::Running { .. } | Tree::None | Tree::Dead => self.report(Report::Over, env),
        }
    }
}
