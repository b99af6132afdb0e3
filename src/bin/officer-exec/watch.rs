//! From the command's start to the release: one loop that puts the lease, the tree and the signals
//! in order. Decides little itself: the lease machine says when to stop, the guardian ends the tree.

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid, getpgrp, getsid};
use officer::backend::{Event as LeaseEvent, Guard, Loss};
use officer::boot_time::BootTime;
use officer::boot_timer::BootTimer;
use officer::lease::{Action, Lease, Why};
use officer::supervisor::{
    Event as TreeEvent, Exit, Guardian, KilledBy, Leftover, Leftovers, Received, Signals,
};

use crate::cli::{OnSuspend, Plan};
use crate::exit_status::ExitStatus;
use crate::hooks::{Hooks, Occasion};
use crate::request::{Answer, Phase, Requests};
use crate::status_file::Report;

/// How a command ends that was killed.
const KILLED: Exit = Exit::Signal(Signal::SIGKILL as i32);

/// What is watched: a lock, how long it is ours, and what runs under it.
pub struct Parts<'a> {
    /// The lock.
    pub guard: &'a mut dyn Guard,
    /// How long it is ours.
    pub lease: &'a mut Lease,
    /// What runs under it.
    pub guardian: &'a mut Guardian,
    /// The command's process.
    pub command: Pid,
}

/// A command under its lock.
pub struct Watch<'a> {
    plan: &'a Plan,
    guard: &'a mut dyn Guard,
    lease: &'a mut Lease,
    guardian: &'a mut Guardian,
    command: Pid,
    signals: &'a mut Signals,
    hooks: &'a mut Hooks,
    timer: BootTimer,
    /// The engine has said its last word.
    engine_done: bool,
    /// When the command is stopped for holding the lock too long.
    max_hold_at: Option<BootTime>,
    /// Until when the lock is kept although the command has ended.
    min_hold_until: Option<BootTime>,
    stopped: Option<Stopped>,
    requests: Requests,
    /// The tree stands still while the lock server can't be reached.
    frozen: bool,
    /// The loss was logged and its hook was started.
    loss_told: bool,
    guardian_died: bool,
    tree: Tree,
}

/// What ends a wait.
enum Heard {
    Tree(TreeEvent),
    Lease(LeaseEvent),
    Signal(Received),
    Time,
}

/// Why we ended the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stopped {
    Asked,
    TooLong,
    /// Told even if the command was being stopped already.
    Lost,
}

/// How far the tree has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    Running,
    /// The command has ended, descendants may live.
    Ended(Exit),
    /// The same, and descendants do live.
    LeftBehind(Exit),
    Dead(Exit),
}

impl<'a> Watch<'a> {
    /// Of a command that was just started, under a lock granted at `granted`.
    pub fn new(
        plan: &'a Plan,
        parts: Parts<'a>,
        signals: &'a mut Signals,
        hooks: &'a mut Hooks,
        timer: BootTimer,
        granted: BootTime,
    ) -> Self {
        let Parts { guard, lease, guardian, command } = parts;
        Self {
            plan,
            guard,
            lease,
            guardian,
            command,
            signals,
            hooks,
            timer,
            engine_done: false,
            max_hold_at: plan.max_hold.map(|hold| granted + hold),
            min_hold_until: plan.min_hold.map(|hold| granted + hold),
            stopped: None,
            requests: Requests::default(),
            frozen: false,
            loss_told: false,
            guardian_died: false,
            tree: Tree::Running,
        }
    }

    /// Until the tree is dead and the lock has been held long enough.
    pub async fn run_to_end(mut self, report: &mut Report) -> ExitStatus {
        loop {
            let now = BootTime::now();
            self.act(now);
            if self.is_over(now) {
                return self.tell(report);
            }
            let heard = self.next().await;
            self.take(heard);
        }
    }

    async fn next(&mut self) -> Heard {
        let wake = self.wake();
        // The tree comes first: a command that ended by itself while we were stopped was not ended
        // by us, however late it is now. Time may come last, for it is looked at in every round.
        tokio::select! {
            biased;
            event = self.guardian.event(), if !self.tree.is_dead() => Heard::Tree(event),
            received = self.signals.next() => Heard::Signal(received.expect("our own pipe can be read")),
            event = self.guard.event(), if !self.engine_done => Heard::Lease(event),
            woken = self.timer.sleep_until(wake) => {
                woken.expect("a timer that was made can be set");
                Heard::Time
            }
        }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Tree(event) => self.heard_of_tree(event),
            Heard::Lease(event) => {
                // Time first: after a pause, what was heard in it may hide that the deadline has passed.
                self.act(BootTime::now());
                self.heard_of_lease(event);
            }
            Heard::Signal(received) => self.received(received),
            Heard::Time => {}
        }
    }

    /// Does what the time asks for. The lease's deadlines come first, after any pause.
    fn act(&mut self, now: BootTime) {
        self.keep_lease(now);
        if self.max_hold_at.is_some_and(|at| at <= now) {
            self.max_hold_at = None;
            // Also what the command left behind: it holds the lock as well.
            if !self.tree.is_dead() {
                let what = told(self.tree == Tree::Running);
                tracing::warn!(lock = self.name(), "held for --max-hold, stopping {what}");
                self.note_stop(Stopped::TooLong);
                self.guardian.stop();
            }
        }
    }

    fn keep_lease(&mut self, now: BootTime) {
        while let Some(action) = self.lease.poll(now) {
            match action {
                Action::Renew => self.guard.renew(),
                Action::Stop(_) => self.stop_for_loss(),
                Action::Kill => {
                    self.note_stop(Stopped::Lost);
                    self.guardian.kill();
                    match self.tree {
                        Tree::Running | Tree::LeftBehind(_) => self.tell_loss(),
                        // After a pause of ours the rest may have ended long ago, which is told next.
                        Tree::Ended(_) | Tree::Dead(_) => {}
                    }
                }
            }
        }
    }

    fn wake(&self) -> Option<BootTime> {
        let min_hold = self.min_hold_until.filter(|_| self.tree.is_dead());
        [self.lease.next_wake(), self.max_hold_at, min_hold].into_iter().flatten().min()
    }

    fn is_over(&self, now: BootTime) -> bool {
        let held_long_enough = self.lease.is_lost() || self.min_hold_until.is_none_or(|until| until <= now);
        self.tree.is_dead() && held_long_enough
    }

    fn name(&self) -> &str {
        &self.guard.grant().name
    }

    fn stop_for_loss(&mut self) {
        if self.tree.is_dead() {
            return;
        }
        self.note_stop(Stopped::Lost);
        self.guardian.stop();
        self.tell_loss();
    }

    /// Once, however the loss is met; after what ends the tree, which doesn't wait for it.
    fn tell_loss(&mut self) {
        if std::mem::replace(&mut self.loss_told, true) {
            return;
        }
        let what = told(self.stopped == Some(Stopped::Lost));
        match self.lease.why_lost() {
            Some(why) => {
                if let Some(cause) = cause(why) {
                    tracing::error!(lock = self.name(), "{cause}, stopping {what}");
                }
            }
            // Without a lease the guardian may be the first to see it.
            None => tracing::error!(
                lock = self.name(),
                "the connection that held the lock is gone, the guardian has killed {what}"
            ),
        }
        self.start_loss_hook();
    }

    fn start_loss_hook(&mut self) {
        if let Some(hook) = self.hooks.start(Occasion::Lost) {
            self.guardian.spare(hook);
        }
    }

    /// What stopped a command that has ended by itself changes nothing any more.
    fn note_stop(&mut self, stopped: Stopped) {
        if self.tree == Tree::Running {
            self.stopped = self.stopped.max(Some(stopped));
        }
    }

    fn heard_of_lease(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Renewed { sent } => {
                self.lease.renewed(sent);
                self.guardian.set_kill_deadline(self.lease.kill_deadline());
            }
            LeaseEvent::Suspended { cause } => {
                tracing::warn!(
                    lock = self.name(),
                    "connection to the lock server lost: {cause}; going on for now"
                );
                match self.plan.on_suspend {
                    OnSuspend::Run => {}
                    OnSuspend::Freeze => {
                        self.frozen = true;
                        self.guardian.freeze();
                    }
                }
            }
            LeaseEvent::Resumed => {
                tracing::info!(lock = self.name(), "connection to the lock server resumed");
                self.lease.resumed(BootTime::now());
                match self.plan.on_suspend {
                    OnSuspend::Run => {}
                    OnSuspend::Freeze => {
                        self.frozen = false;
                        self.guardian.thaw();
                    }
                }
            }
            LeaseEvent::Lost(loss) => {
                self.engine_done = true;
                match loss {
                    // Ours until we give it back, which is what the operator waits for.
                    Loss::Revoked { .. } => self.lease.told_revoked(),
                    Loss::SessionGone | Loss::Superseded | Loss::LockGone | Loss::ConnectionGone { .. } => {
                        self.lease.told_lost()
                    }
                }
                tracing::error!(lock = self.name(), "lock lost: {loss}");
            }
        }
    }

    fn heard_of_tree(&mut self, event: TreeEvent) {
        match event {
            TreeEvent::Ended(exit) => self.tree = Tree::Ended(exit),
            TreeEvent::Leftovers(left) => {
                if let Tree::Ended(exit) = self.tree {
                    self.tree = Tree::LeftBehind(exit);
                }
                let what = match self.plan.policy.leftovers {
                    Leftovers::Kill => "ending them",
                    Leftovers::Wait => "holding the lock until they are gone",
                };
                tracing::warn!(
                    lock = self.name(),
                    "the command left processes behind, {what}: {}",
                    names(&left)
                );
            }
            TreeEvent::Unkillable(left) => {
                let kept = match self.lease.end() {
                    Some(_) => "its lease is renewed",
                    None => "its connection lasts",
                };
                tracing::error!(
                    lock = self.name(),
                    "not allowed to end {}; keeping the lock for as long as {kept}",
                    names(&left)
                );
            }
            TreeEvent::TreeDead { exit, killed_by } => {
                let is_loss = match killed_by {
                    None => false,
                    Some(KilledBy::Deadline) => self.is_loss_at_a_deadline(exit),
                    Some(
                        KilledBy::Grace | KilledBy::Request | KilledBy::WrapperGone | KilledBy::GuardianGone,
                    ) => self.lease.is_lost(),
                };
                if is_loss {
                    self.tell_loss();
                }
                self.tree = Tree::Dead(exit);
            }
            TreeEvent::GuardianDied => {
                tracing::error!(lock = self.name(), "the guardian was killed, ending the command");
                self.guardian_died = true;
            }
            TreeEvent::GuardianGivenUp => {
                // What it had to end the command for is the cause of its end.
                tracing::error!(
                    lock = self.name(),
                    "the guardian stands still and can't be woken, ending the command in its place"
                );
            }
        }
    }

    /// The guardian has killed by itself. Whether the lock is lost as well; else it is told here.
    fn is_loss_at_a_deadline(&mut self, exit: Exit) -> bool {
        // What was left behind before had a command that had ended by itself.
        let ended_the_command = exit == KILLED && self.tree == Tree::Ended(exit);
        if ended_the_command {
            self.stopped = Some(Stopped::Lost);
        }
        // We may have stood still ourselves, and not have looked since.
        self.keep_lease(BootTime::now());
        if self.lease.is_lost() || self.lease.end().is_none() {
            return true;
        }
        // The lock is ours: it had an older deadline than we. Leftovers that were to be ended are no loss.
        if ended_the_command || self.plan.policy.leftovers == Leftovers::Wait {
            tracing::error!(
                lock = self.name(),
                "the guardian was held up past the last deadline that it knew, and then killed {}",
                told(ended_the_command)
            );
        }
        if ended_the_command {
            self.start_loss_hook();
        }
        false
    }

    fn received(&mut self, received: Received) {
        if self.frozen && received.signal == Signal::SIGCONT {
            // What let us go on may have reached the tree as well: `fg` signals the whole group.
            self.guardian.freeze();
        }
        match self.requests.take(BootTime::now(), received, self.phase()) {
            Answer::Nothing => {}
            Answer::Forward => self.guardian.signal(received.signal),
            Answer::Stop => {
                // Whoever asks us to end doesn't know whether the command has ended by itself.
                self.min_hold_until = None;
                self.note_stop(Stopped::Asked);
                self.guardian.stop();
            }
            Answer::Kill => {
                self.min_hold_until = None;
                self.guardian.kill();
            }
            Answer::LetGo => self.min_hold_until = None,
        }
    }

    fn phase(&self) -> Phase {
        match self.tree {
            Tree::Running => Phase::Running {
                in_our_group: self.is_command_in_our_group(),
                leading: getsid(None).is_ok_and(|session| session == Pid::this()),
                frozen: self.frozen,
                ending: match self.stopped {
                    None | Some(Stopped::Asked) => false,
                    Some(Stopped::TooLong | Stopped::Lost) => true,
                },
            },
            Tree::Ended(_) => Phase::Ended,
            Tree::LeftBehind(_) => Phase::LeftBehind,
            Tree::Dead(_) => Phase::Over,
        }
    }

    /// A command that has just ended is in nobody's: it needs no signal either.
    fn is_command_in_our_group(&self) -> bool {
        getpgid(Some(self.command)).is_ok_and(|group| group == getpgrp())
    }

    /// A loss ended `--min-hold`, and nothing else: nobody would be told.
    fn tell_short_hold(&self) {
        let is_short = self.min_hold_until.is_some_and(|until| BootTime::now() < until);
        if let (Some(why), true) = (self.lease.why_lost(), is_short && self.stopped != Some(Stopped::Lost)) {
            let why = cause(why).map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::warn!(lock = self.name(), "the lock was lost before --min-hold was over{why}");
        }
    }

    /// How it went, in one line where it did not go by itself.
    fn tell(self, report: &mut Report) -> ExitStatus {
        let (Tree::Ended(exit) | Tree::LeftBehind(exit) | Tree::Dead(exit)) = self.tree else {
            unreachable!("the loop ends with the tree");
        };
        report.ended(exit);
        self.tell_short_hold();
        match self.stopped {
            _ if self.guardian_died => ExitStatus::Internal,
            None | Some(Stopped::Asked) => ExitStatus::Command(exit),
            Some(Stopped::TooLong) => ExitStatus::MaxHold,
            Some(Stopped::Lost) => {
                // Else its guardian alone took it for lost, and that was told.
                if self.lease.is_lost() || self.lease.end().is_none() {
                    tracing::error!(
                        lock = self.name(),
                        "the lock was lost while the command ran, the command was ended"
                    );
                }
                ExitStatus::Lost
            }
        }
    }
}

impl Tree {
    fn is_dead(self) -> bool {
        match self {
            Self::Running | Self::Ended(_) | Self::LeftBehind(_) => false,
            Self::Dead(_) => true,
        }
    }
}

/// What is ended, as people are told of it: the command with all that belongs to it, or the rest of it.
fn told(is_the_command: bool) -> &'static str {
    if is_the_command { "the command" } else { "what the command left behind" }
}

/// Why a lock is lost, unless the engine has said so.
fn cause(why: Why) -> Option<&'static str> {
    match why {
        Why::ToldSo => None,
        Why::NotAsked => {
            Some("officer-exec was stopped, or the host suspended, for too long to renew the lease")
        }
        Why::NotRenewed => Some("the lock server has not answered in time"),
    }
}

fn names(left: &[Leftover]) -> String {
    left.iter().map(Leftover::to_string).collect::<Vec<_>>().join(", ")
}
