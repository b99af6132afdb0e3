//! What to do when: the guardian's decisions. PURE: inputs and `now` in, actions out; no clock, no
//! processes. Time is looked at before anything else, so that after a pause of the whole machine
//! the first thing that happens is the end of a tree whose deadline has passed.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::boot_time::BootTime;

use super::{Exit, KilledBy};

/// How long descendants may take to end by themselves once the command has ended, before anything is
/// said or done: the last filter of a pipe needs a moment to write what it has.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a wrapper may take to stop the tree when the connection that was its lock is gone. It sees
/// that as soon as we do; one that is stopped doesn't, and the lock is another's already.
const PATIENCE: Duration = Duration::from_millis(100);

/// How a tree is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What is sent first.
    #[serde(with = "signal_number")]
    pub stop_signal: Signal,
    /// From the stop signal to SIGKILL.
    pub grace: Duration,
    /// What to do with descendants that outlive the command.
    pub leftovers: Leftovers,
}

impl Default for Policy {
    /// SIGTERM, three seconds, leftovers are ended.
    fn default() -> Self {
        Self { stop_signal: Signal::SIGTERM, grace: Duration::from_secs(3), leftovers: Leftovers::Kill }
    }
}

/// A signal as the number that it has within this host.
mod signal_number {
    use nix::sys::signal::Signal;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(signal: &Signal, serializer: S) -> Result<S::Ok, S::Error> {
        (*signal as i32).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signal, D::Error> {
        Signal::try_from(i32::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// What to do with descendants that outlive the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leftovers {
    /// End them: stop signal, grace, SIGKILL.
    Kill,
    /// Wait until they have ended by themselves.
    Wait,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Woken, for whatever reason.
    Woken,
    /// The command is on its way: how its tree is ended; its kill deadline, if it has one.
    Launched(Policy, Option<BootTime>),
    /// The command could not be executed; nothing runs.
    NotExecuted,
    /// The command itself has ended.
    CommandEnded(Exit),
    /// After reaping: is anything of the tree left?
    Reaped(Remains),
    /// The connection that was kept open is gone: the lock that lived with it is too.
    ConnectionGone,
    /// The wrapper: the kill deadline is now this.
    KillDeadline(Option<BootTime>),
    /// The wrapper: send this to the command.
    Signal(Signal),
    /// The wrapper: stop signal, then SIGKILL after the grace.
    Stop,
    /// The wrapper: SIGKILL.
    Kill,
    /// The wrapper: let the tree stand still.
    Freeze,
    /// The wrapper: let it go on.
    Thaw,
    /// The wrapper needs us no more.
    Goodbye,
    /// The wrapper is gone without a goodbye.
    WrapperGone,
}

/// Whether anything of the tree is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// At least one process, maybe a zombie.
    Some,
    /// `wait` said that there is none.
    None,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the wrapper that the command has ended.
    ReportEnded(Exit),
    /// Tell the wrapper which descendants outlived it.
    ReportLeftovers,
    /// Tell the wrapper that nothing is left.
    ReportTreeDead(Exit, Option<KilledBy>),
    /// Send a signal to the command alone.
    SignalCommand(Signal),
    /// Send a signal to the whole tree, and let what is stopped act on it.
    StopTree(Signal),
    /// SIGKILL to the whole tree, until nothing is left.
    KillTree,
    /// SIGSTOP to the whole tree.
    FreezeTree,
    /// SIGCONT to what `FreezeTree` stopped.
    ThawTree,
    /// Close what was kept open for as long as the tree lived.
    CloseKept,
    /// Become the last will, or exit if there is none.
    ExecuteWill,
    /// Exit.
    Leave,
}

/// How far the tree's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No command yet.
    Idle,
    /// The command runs.
    Running,
    /// The command has ended; what it left is being counted.
    Ended(Exit),
    /// The command has ended; its descendants have a moment to do so too.
    Settling { exit: Exit, until: BootTime },
    /// The command has ended; its descendants may take their time.
    Waiting(Exit),
    /// The stop signal was sent.
    Stopping { exit: Option<Exit>, kill_at: BootTime },
    /// SIGKILL was sent.
    Killing { exit: Option<Exit>, by: KilledBy },
    /// Nothing runs, and nothing will.
    Over,
}

/// Whether the wrapper is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapper {
    Present,
    Gone,
}

/// The decisions over one tree's life.
#[derive(Debug)]
pub struct Supervision {
    /// Counts from the launch on.
    policy: Policy,
    state: State,
    kill_deadline: Option<BootTime>,
    /// The tree is killed then if the wrapper hasn't stopped it.
    stopped_by: Option<BootTime>,
    wrapper: Wrapper,
}

impl Default for Supervision {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervision {
    /// Before there is a command.
    pub fn new() -> Self {
        let (policy, state) = (Policy::default(), State::Idle);
        Self { policy, state, kill_deadline: None, stopped_by: None, wrapper: Wrapper::Present }
    }

    /// Takes what happened and says what is to be done, in this order.
    pub fn handle(&mut self, now: BootTime, input: Input) -> Vec<Action> {
        let mut actions = self.check_time(now);
        actions.extend(self.take(now, input));
        actions
    }

    /// When to be woken if nothing happens before.
    pub fn wake_at(&self) -> Option<BootTime> {
        match self.state {
            State::Idle | State::Killing { .. } | State::Over => None,
            State::Running | State::Ended(_) | State::Waiting(_) => self.deadline(),
            State::Settling { until: at, .. } | State::Stopping { kill_at: at, .. } => {
                Some(self.deadline().map_or(at, |deadline| deadline.min(at)))
            }
        }
    }

    /// Whether a command was started and the end of its tree isn't confirmed.
    pub fn is_tree_alive(&self) -> bool {
        match self.state {
            State::Idle | State::Over => false,
            State::Running
            | State::Ended(_)
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Stopping { .. }
            | State::Killing { .. } => true,
        }
    }

    /// Whether the tree is being killed.
    pub fn is_killing(&self) -> bool {
        matches!(self.state, State::Killing { .. })
    }

    /// What comes first of that after which the tree must not run.
    fn deadline(&self) -> Option<BootTime> {
        [self.kill_deadline, self.stopped_by].into_iter().flatten().min()
    }

    fn check_time(&mut self, now: BootTime) -> Vec<Action> {
        let past_deadline = self.deadline().is_some_and(|deadline| deadline <= now);
        match self.state {
            State::Idle | State::Killing { .. } | State::Over => vec![],
            State::Running
            | State::Ended(_)
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Stopping { .. }
                if past_deadline =>
            {
                self.kill(KilledBy::Deadline)
            }
            State::Settling { exit, until } if until <= now => self.settled(now, exit),
            State::Stopping { kill_at, .. } if kill_at <= now => self.kill(KilledBy::Grace),
            State::Running
            | State::Ended(_)
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Stopping { .. } => vec![],
        }
    }

    fn take(&mut self, now: BootTime, input: Input) -> Vec<Action> {
        match input {
            Input::Woken => vec![],
            Input::Launched(policy, kill_deadline) => self.launched(now, policy, kill_deadline),
            Input::NotExecuted => {
                self.state = State::Over;
                self.leave_if_alone()
            }
            Input::CommandEnded(exit) => self.command_ended(exit),
            Input::Reaped(Remains::Some) => {
                self.tree_lives_on(now);
                vec![]
            }
            Input::Reaped(Remains::None) => self.tree_dead(),
            Input::ConnectionGone => self.connection_gone(now),
            Input::KillDeadline(at) => {
                self.kill_deadline = at;
                self.check_time(now)
            }
            Input::Signal(signal) => self.signal(signal),
            Input::Stop => self.stop(now),
            Input::Kill => self.kill(KilledBy::Request),
            Input::Freeze => self.if_running(Action::FreezeTree),
            Input::Thaw => self.if_running(Action::ThawTree),
            Input::Goodbye => self.goodbye(),
            Input::WrapperGone => self.wrapper_gone(),
        }
    }

    fn launched(&mut self, now: BootTime, policy: Policy, kill_deadline: Option<BootTime>) -> Vec<Action> {
        assert_eq!(self.state, State::Idle, "one command a guardian");
        self.state = State::Running;
        self.policy = policy;
        self.kill_deadline = kill_deadline;
        self.check_time(now)
    }

    fn command_ended(&mut self, ended: Exit) -> Vec<Action> {
        match &mut self.state {
            State::Running => self.state = State::Ended(ended),
            State::Stopping { exit, .. } | State::Killing { exit, .. } => *exit = Some(ended),
            state @ (State::Idle
            | State::Ended(_)
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Over) => {
                panic!("the command ended in the state {state:?}")
            }
        }
        vec![Action::ReportEnded(ended)]
    }

    fn tree_lives_on(&mut self, now: BootTime) {
        match self.state {
            State::Ended(exit) => self.state = State::Settling { exit, until: now + SETTLE },
            State::Idle
            | State::Running
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Over => {}
        }
    }

    fn settled(&mut self, now: BootTime, exit: Exit) -> Vec<Action> {
        let mut actions = vec![Action::ReportLeftovers];
        match self.policy.leftovers {
            Leftovers::Kill => actions.extend(self.stop(now)),
            Leftovers::Wait => self.state = State::Waiting(exit),
        }
        actions
    }

    /// The command is our child: with no child left, its end was seen before.
    fn tree_dead(&mut self) -> Vec<Action> {
        let (exit, killed_by) = match self.state {
            State::Ended(exit) | State::Settling { exit, .. } | State::Waiting(exit) => (exit, None),
            State::Stopping { exit: Some(exit), .. } => (exit, None),
            State::Killing { exit: Some(exit), by } => (exit, Some(by)),
            State::Idle
            | State::Running
            | State::Stopping { exit: None, .. }
            | State::Killing { exit: None, .. }
            | State::Over => panic!("no child is left in the state {:?}", self.state),
        };
        self.state = State::Over;
        let mut actions = vec![Action::CloseKept, Action::ReportTreeDead(exit, killed_by)];
        actions.extend(self.leave_if_alone());
        actions
    }

    fn leave_if_alone(&self) -> Vec<Action> {
        match self.wrapper {
            Wrapper::Present => vec![],
            Wrapper::Gone => vec![Action::ExecuteWill],
        }
    }

    fn signal(&self, signal: Signal) -> Vec<Action> {
        match self.state {
            State::Running | State::Stopping { exit: None, .. } => vec![Action::SignalCommand(signal)],
            State::Idle
            | State::Ended(_)
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Stopping { exit: Some(_), .. }
            | State::Killing { .. }
            | State::Over => vec![],
        }
    }

    fn if_running(&self, action: Action) -> Vec<Action> {
        match self.state {
            State::Running | State::Waiting(_) => vec![action],
            State::Idle
            | State::Ended(_)
            | State::Settling { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Over => {
                vec![]
            }
        }
    }

    fn stop(&mut self, now: BootTime) -> Vec<Action> {
        let exit = match self.state {
            State::Running => None,
            State::Ended(exit) | State::Settling { exit, .. } | State::Waiting(exit) => Some(exit),
            State::Idle | State::Stopping { .. } | State::Killing { .. } | State::Over => return vec![],
        };
        // It has its grace now.
        self.stopped_by = None;
        self.state = State::Stopping { exit, kill_at: now + self.policy.grace };
        vec![Action::StopTree(self.policy.stop_signal)]
    }

    fn connection_gone(&mut self, now: BootTime) -> Vec<Action> {
        match self.state {
            State::Running | State::Ended(_) | State::Settling { .. } | State::Waiting(_) => {
                self.stopped_by = Some(now + PATIENCE);
            }
            State::Idle | State::Stopping { .. } | State::Killing { .. } | State::Over => {}
        }
        vec![]
    }

    fn kill(&mut self, by: KilledBy) -> Vec<Action> {
        let exit = match self.state {
            State::Running => None,
            State::Ended(exit) | State::Settling { exit, .. } | State::Waiting(exit) => Some(exit),
            State::Stopping { exit, .. } => exit,
            State::Idle | State::Killing { .. } | State::Over => return vec![],
        };
        self.state = State::Killing { exit, by };
        vec![Action::KillTree]
    }

    fn goodbye(&mut self) -> Vec<Action> {
        match self.state {
            State::Idle | State::Over => vec![Action::Leave],
            // A wrapper that leaves before its tree is dead has lost its head.
            State::Running
            | State::Ended(_)
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Stopping { .. }
            | State::Killing { .. } => self.wrapper_gone(),
        }
    }

    fn wrapper_gone(&mut self) -> Vec<Action> {
        self.wrapper = Wrapper::Gone;
        match self.state {
            // A place in a queue, if there is a will.
            State::Idle | State::Over => vec![Action::ExecuteWill],
            State::Running
            | State::Ended(_)
            | State::Settling { .. }
            | State::Waiting(_)
            | State::Stopping { .. }
            | State::Killing { .. } => self.kill(KilledBy::WrapperGone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Action::*;
    use super::*;
    use Leftovers::{Kill, Wait};
    use Signal::{SIGTERM, SIGUSR1};

    const OK: Exit = Exit::Code(0);
    const KILLED: Exit = Exit::Signal(9);

    /// Seconds after some boot.
    fn at(seconds: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_secs(1000 + seconds))
    }

    /// A tree that was launched at 0 with grace 3, and a kill deadline if there is one.
    fn running(leftovers: Leftovers, deadline: Option<BootTime>) -> Supervision {
        let policy = Policy { stop_signal: SIGTERM, grace: Duration::from_secs(3), leftovers };
        let mut it = Supervision::new();
        assert_eq!(it.handle(at(0), Input::Launched(policy, deadline)), []);
        it
    }

    /// Each row: when, what happens, what is done about it.
    fn play(it: &mut Supervision, rows: &[(u64, Input, &[Action])]) {
        for (n, (when, input, actions)) in rows.iter().enumerate() {
            assert_eq!(it.handle(at(*when), *input), *actions, "row {n}: {input:?} in {it:?}");
        }
    }

    #[test]
    fn a_clean_end_is_reported_once() {
        play(
            &mut running(Kill, None),
            &[
                (1, Input::CommandEnded(OK), &[ReportEnded(OK)]),
                (1, Input::Reaped(Remains::None), &[CloseKept, ReportTreeDead(OK, None)]),
                (1, Input::Woken, &[]),
                (2, Input::Goodbye, &[Leave]),
            ],
        );
    }

    #[test]
    fn leftovers_are_named_stopped_and_killed() {
        let mut it = running(Kill, None);
        play(
            &mut it,
            &[(1, Input::CommandEnded(OK), &[ReportEnded(OK)]), (1, Input::Reaped(Remains::Some), &[])],
        );
        assert_eq!(it.wake_at(), Some(at(1) + SETTLE));
        play(
            &mut it,
            &[
                (2, Input::Woken, &[ReportLeftovers, StopTree(SIGTERM)]),
                (3, Input::Reaped(Remains::Some), &[]),
            ],
        );
        assert_eq!(it.wake_at(), Some(at(5)));
        play(
            &mut it,
            &[
                (5, Input::Woken, &[KillTree]),
                (5, Input::Reaped(Remains::None), &[CloseKept, ReportTreeDead(OK, Some(KilledBy::Grace))]),
            ],
        );
    }

    #[test]
    fn the_last_filter_of_a_pipe_may_finish() {
        play(
            &mut running(Kill, None),
            &[
                (1, Input::CommandEnded(OK), &[ReportEnded(OK)]),
                (1, Input::Reaped(Remains::Some), &[]),
                (1, Input::Reaped(Remains::None), &[CloseKept, ReportTreeDead(OK, None)]),
                (2, Input::Woken, &[]),
            ],
        );
    }

    #[test]
    fn leftovers_may_be_waited_for_but_not_past_the_deadline() {
        let mut it = running(Wait, Some(at(9)));
        play(
            &mut it,
            &[
                (1, Input::CommandEnded(OK), &[ReportEnded(OK)]),
                (1, Input::Reaped(Remains::Some), &[]),
                (2, Input::Woken, &[ReportLeftovers]),
                (5, Input::Reaped(Remains::Some), &[]),
            ],
        );
        assert_eq!(it.wake_at(), Some(at(9)));
        play(&mut it, &[(9, Input::Woken, &[KillTree])]);
    }

    #[test]
    fn stop_gives_grace_once() {
        let mut it = running(Kill, None);
        play(
            &mut it,
            &[
                (1, Input::Stop, &[StopTree(SIGTERM)]),
                (2, Input::Stop, &[]),
                (2, Input::Signal(SIGUSR1), &[SignalCommand(SIGUSR1)]),
                (3, Input::Woken, &[]),
                (4, Input::Woken, &[KillTree]),
                (4, Input::CommandEnded(KILLED), &[ReportEnded(KILLED)]),
                (4, Input::Reaped(Remains::Some), &[]),
                (
                    5,
                    Input::Reaped(Remains::None),
                    &[CloseKept, ReportTreeDead(KILLED, Some(KilledBy::Grace))],
                ),
            ],
        );
    }

    #[test]
    fn a_tree_that_obeys_was_not_killed() {
        let exit = Exit::Signal(15);
        play(
            &mut running(Kill, None),
            &[
                (1, Input::Stop, &[StopTree(SIGTERM)]),
                (2, Input::CommandEnded(exit), &[ReportEnded(exit)]),
                (2, Input::Reaped(Remains::Some), &[]),
                (2, Input::Reaped(Remains::None), &[CloseKept, ReportTreeDead(exit, None)]),
            ],
        );
    }

    #[test]
    fn the_deadline_comes_before_what_woke_us() {
        // After a pause of the machine a renewal and the deadline are found together.
        let mut it = running(Kill, Some(at(5)));
        play(&mut it, &[(60, Input::KillDeadline(Some(at(100))), &[KillTree]), (60, Input::Thaw, &[])]);
        let mut it = running(Kill, Some(at(5)));
        play(&mut it, &[(60, Input::CommandEnded(OK), &[KillTree, ReportEnded(OK)])]);
    }

    #[test]
    fn the_deadline_moves() {
        let mut it = running(Kill, Some(at(5)));
        play(&mut it, &[(4, Input::KillDeadline(Some(at(8))), &[]), (6, Input::Woken, &[])]);
        assert_eq!(it.wake_at(), Some(at(8)));
        play(&mut it, &[(6, Input::KillDeadline(None), &[]), (90, Input::Woken, &[])]);
        assert_eq!(it.wake_at(), None);
        play(&mut it, &[(90, Input::KillDeadline(Some(at(90))), &[KillTree])]);
    }

    #[test]
    fn a_command_launched_too_late_is_killed_at_once() {
        let mut it = Supervision::new();
        play(&mut it, &[(5, Input::Launched(Policy::default(), Some(at(5))), &[KillTree])]);
    }

    #[test]
    fn the_deadline_cuts_the_grace_short() {
        let mut it = running(Kill, Some(at(3)));
        play(&mut it, &[(1, Input::Stop, &[StopTree(SIGTERM)])]);
        assert_eq!(it.wake_at(), Some(at(3)));
        play(
            &mut it,
            &[
                (3, Input::Woken, &[KillTree]),
                (3, Input::CommandEnded(KILLED), &[ReportEnded(KILLED)]),
                (
                    3,
                    Input::Reaped(Remains::None),
                    &[CloseKept, ReportTreeDead(KILLED, Some(KilledBy::Deadline))],
                ),
            ],
        );
    }

    #[test]
    fn a_wrapper_that_dies_takes_the_tree_along_and_the_will_comes_last() {
        play(
            &mut running(Kill, None),
            &[
                (1, Input::WrapperGone, &[KillTree]),
                (1, Input::CommandEnded(KILLED), &[ReportEnded(KILLED)]),
                (1, Input::Reaped(Remains::Some), &[]),
                (
                    2,
                    Input::Reaped(Remains::None),
                    &[CloseKept, ReportTreeDead(KILLED, Some(KilledBy::WrapperGone)), ExecuteWill],
                ),
            ],
        );
    }

    #[test]
    fn a_wrapper_that_dies_before_the_release_leaves_the_will() {
        play(
            &mut running(Kill, None),
            &[
                (1, Input::CommandEnded(OK), &[ReportEnded(OK)]),
                (1, Input::Reaped(Remains::None), &[CloseKept, ReportTreeDead(OK, None)]),
                (1, Input::WrapperGone, &[ExecuteWill]),
            ],
        );
        play(
            &mut running(Kill, None),
            &[(1, Input::NotExecuted, &[]), (1, Input::WrapperGone, &[ExecuteWill])],
        );
    }

    #[test]
    fn without_a_command_the_guardian_leaves_or_gives_the_place_back() {
        for (farewell, end) in [(Input::Goodbye, Leave), (Input::WrapperGone, ExecuteWill)] {
            let mut it = Supervision::new();
            play(&mut it, &[(1, Input::Stop, &[]), (1, Input::Kill, &[]), (2, farewell, &[end])]);
        }
    }

    #[test]
    fn a_tree_whose_connection_is_gone_is_stopped_by_the_wrapper_or_killed() {
        play(
            &mut running(Kill, None),
            &[
                (1, Input::ConnectionGone, &[]),
                (1, Input::Stop, &[StopTree(SIGTERM)]),
                (3, Input::Woken, &[]),
                (4, Input::Woken, &[KillTree]),
            ],
        );
        let mut alone = running(Wait, None);
        play(&mut alone, &[(1, Input::ConnectionGone, &[])]);
        assert_eq!(alone.wake_at(), Some(at(1) + PATIENCE));
        play(
            &mut alone,
            &[
                (2, Input::Woken, &[KillTree]),
                (2, Input::CommandEnded(KILLED), &[ReportEnded(KILLED)]),
                (
                    2,
                    Input::Reaped(Remains::None),
                    &[CloseKept, ReportTreeDead(KILLED, Some(KilledBy::Deadline))],
                ),
            ],
        );
    }

    #[test]
    fn a_goodbye_with_a_living_tree_is_a_death() {
        play(&mut running(Kill, None), &[(1, Input::Goodbye, &[KillTree])]);
    }

    #[test]
    fn freezing_is_for_trees_that_nobody_ends() {
        play(
            &mut running(Kill, None),
            &[
                (1, Input::Freeze, &[FreezeTree]),
                (2, Input::Thaw, &[ThawTree]),
                (3, Input::Stop, &[StopTree(SIGTERM)]),
                (3, Input::Freeze, &[]),
                (4, Input::Kill, &[KillTree]),
                (4, Input::Freeze, &[]),
                (4, Input::Thaw, &[]),
            ],
        );
    }

    #[test]
    fn a_kill_keeps_its_first_reason() {
        play(
            &mut running(Kill, Some(at(5))),
            &[
                (1, Input::Kill, &[KillTree]),
                (6, Input::WrapperGone, &[]),
                (6, Input::CommandEnded(KILLED), &[ReportEnded(KILLED)]),
                (
                    6,
                    Input::Reaped(Remains::None),
                    &[CloseKept, ReportTreeDead(KILLED, Some(KilledBy::Request)), ExecuteWill],
                ),
            ],
        );
    }
}
