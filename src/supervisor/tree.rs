//! All descendants of a process, mostly of this one, as one thing that can be signalled, frozen, killed and reaped.
//! It acts on what it finds and promises nothing about what it doesn't: the caller repeats until
//! [`Tree::reap`] says that nothing is left. When it can't look, it says that something is.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::boot_time::BootTime;
use crate::same_program::runs_this_program;

use super::descendants::{Process, Stat, children, descendants};
use super::guardian;
use super::messages::MAX_NAMED;
use super::pidfd;
use super::policy::Remains;
use super::{Exit, Leftover};

/// How often to look for processes that were forked while the others were being stopped. A tree
/// that still grows then is met again by the next sweep.
const STOP_ROUNDS: usize = 8;

/// Between two sweeps over a tree that doesn't die: soon at first, then ever later.
const FIRST_RETRY: Duration = Duration::from_millis(2);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// How long guardians in the tree are let live when it is killed, so that they can carry out their last
/// wills: the locks below ours needn't wait for their leases then. They do nothing of the command's work,
/// and it is well within the margin that every lease keeps.
const HEIRS_MAY_TAKE: Duration = Duration::from_millis(100);

/// Says of a process of the tree that it isn't to be ended with it: one that serves others as well. It
/// is asked anew each time, for a process may become something else, and must not block.
pub type Outlives = fn(Pid) -> bool;

/// All descendants of this process but those that are spared.
#[derive(Debug)]
pub(super) struct Tree {
    root: Pid,
    /// Children that aren't ours to end, and what is below them.
    spared: HashSet<Pid>,
    /// Which processes of the tree aren't ours to end either, wherever they are in it.
    outlives: Outlives,
    /// Our child that is or leads to the command, until it is reaped: to be killed without a look.
    command: Option<Pid>,
    /// A child that is no part of the command, though it is of the tree.
    our_own: Option<Pid>,
    /// What was sent SIGKILL: when it turns up as our child, orphaned by a parent that was quicker to
    /// die, it is no news. An id that is used anew meanwhile is met by the sweep that is due anyhow.
    killed: HashSet<Pid>,
    /// Guardians that the first sweep has met, until their time is over.
    heirs: HashSet<Pid>,
    heirs_until: Option<BootTime>,
    /// While the tree is frozen: what stood still before, and stays so when it is thawed.
    stood_still: Option<HashSet<Pid>>,
    retry_after: Duration,
    retry_at: Option<BootTime>,
    /// When a question that a look couldn't answer is to be asked again.
    ask_again_at: Option<BootTime>,
    sight: Sight,
}

/// Whether we have always been able to look.
#[derive(Debug)]
enum Sight {
    Clear,
    /// We haven't, for this reason, and nobody was told yet.
    Lost(io::Error),
    /// Nobody needs to be told again.
    Told,
}

/// What SIGKILL has not ended; lists are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survivors {
    /// We aren't allowed to send it (another user's, by setuid).
    pub(super) refused: Vec<Leftover>,
    /// It was sent seconds ago, and yet they live: frozen from outside, or in the middle of a call that
    /// doesn't end (a dead file server).
    pub(super) still_there: Vec<Leftover>,
}

/// A child that was reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reaped {
    pub(super) pid: Pid,
    pub(super) exit: Exit,
}

impl Tree {
    /// The descendants of this process.
    pub(super) fn new(spared: impl IntoIterator<Item = Pid>, outlives: Outlives) -> Self {
        Self::below(Pid::this(), spared, outlives)
    }

    /// The descendants of another process.
    pub(super) fn below(root: Pid, spared: impl IntoIterator<Item = Pid>, outlives: Outlives) -> Self {
        Self {
            root,
            spared: spared.into_iter().collect(),
            outlives,
            command: None,
            our_own: None,
            killed: HashSet::new(),
            heirs: HashSet::new(),
            heirs_until: None,
            stood_still: None,
            retry_after: FIRST_RETRY,
            retry_at: None,
            ask_again_at: None,
            sight: Sight::Clear,
        }
    }

    /// This child is the command, or the first process of its namespace.
    pub(super) fn set_command(&mut self, child: Pid) {
        self.command = Some(child);
    }

    /// This child is ours, not the command's: it isn't named among what the command left. It is the
    /// first process of a namespace, and nothing in there outlives it.
    pub(super) fn set_our_own(&mut self, child: Pid) {
        self.our_own = Some(child);
        self.outlives = |_| false;
    }

    /// Whether anything is left that must end, given what [`Tree::reap`] has said. As with those that
    /// are spared, the list of our children can be trusted. Without one there is something, and the
    /// question is to be asked again by [`Tree::ask_again_at`].
    pub(super) fn remains_to_end(&mut self, now: BootTime, remains: Remains) -> Remains {
        self.ask_again_at = None;
        match remains {
            Remains::None => Remains::None,
            Remains::Some => match self.look() {
                Some(children) if !children.iter().any(|child| self.must_end(*child)) => Remains::None,
                Some(_) => Remains::Some,
                None => {
                    self.ask_again_at = Some(now + LAST_RETRY);
                    Remains::Some
                }
            },
        }
    }

    /// When to ask again what is left; nothing else may bring it up.
    pub(super) fn ask_again_at(&self) -> Option<BootTime> {
        self.ask_again_at
    }

    /// Why processes could not be looked for; said once.
    pub(super) fn take_blindness(&mut self) -> Option<io::Error> {
        match std::mem::replace(&mut self.sight, Sight::Told) {
            Sight::Clear => {
                self.sight = Sight::Clear;
                None
            }
            Sight::Lost(error) => Some(error),
            Sight::Told => None,
        }
    }

    fn must_end(&self, child: Pid) -> bool {
        !self.spared.contains(&child) && !(self.outlives)(child)
    }

    /// Our children; `None` if they can't be listed. A list that is empty although `wait` knows of
    /// children isn't ours.
    fn look(&mut self) -> Option<Vec<Pid>> {
        let listed = match children(self.root) {
            Ok(none) if none.is_empty() && peek() != Err(Errno::ECHILD) => {
                Err(io::Error::other("/proc doesn't list our children"))
            }
            listed => listed,
        };
        listed.map_err(|error| self.lose_sight(error)).ok()
    }

    fn lose_sight(&mut self, error: io::Error) {
        match self.sight {
            Sight::Clear => self.sight = Sight::Lost(error),
            Sight::Lost(_) | Sight::Told => {}
        }
    }

    /// Takes in all children that have ended, and says whether others are left.
    pub(super) fn reap(&mut self) -> (Vec<Reaped>, Remains) {
        let (reaped, remains) = if self.spared.is_empty() { reap_all() } else { self.reap_all_but_spared() };
        for one in &reaped {
            self.killed.remove(&one.pid);
            self.command = self.command.filter(|command| *command != one.pid);
        }
        (reaped, remains)
    }

    /// With children that are spared, whose end is their owner's to take in, `wait` never says that
    /// none is left. But nobody but us takes a child off our list, so the list can be trusted.
    fn reap_all_but_spared(&mut self) -> (Vec<Reaped>, Remains) {
        let Some(children) = self.look() else { return self.reap_unseen() };
        let ours = children.into_iter().filter(|child| !self.spared.contains(child));
        let reaped = ours.filter_map(|child| wait_for(child.as_raw()).ok().flatten()).collect();
        match self.look() {
            Some(children) if children.iter().all(|child| self.spared.contains(child)) => {
                (reaped, Remains::None)
            }
            Some(_) | None => (reaped, Remains::Some),
        }
    }

    /// Without a list, up to the first spared child that has ended and that its owner hasn't taken in.
    fn reap_unseen(&self) -> (Vec<Reaped>, Remains) {
        let mut reaped = Vec::new();
        loop {
            match peek() {
                Err(_) => return (reaped, Remains::None),
                Ok(Some(child)) if !self.spared.contains(&child) => {
                    reaped.extend(wait_for(child.as_raw()).ok().flatten());
                }
                Ok(Some(_) | None) => return (reaped, Remains::Some),
            }
        }
    }

    /// The living, by name; at most as many as anybody wants to read. Our own first process of a
    /// namespace is not among them.
    pub(super) fn named(&mut self) -> Vec<Leftover> {
        self.named_if(|_| true)
    }

    fn named_if(&mut self, counts: impl Fn(Pid) -> bool) -> Vec<Leftover> {
        let mut names = Vec::new();
        for process in self.processes().into_iter().filter(|it| Some(it.pid) != self.our_own) {
            match Stat::of(process.pid) {
                Some(stat) if !stat.is_dead() && counts(process.pid) => {
                    names.push(Leftover { pid: process.pid.as_raw(), name: stat.name })
                }
                Some(_) | None => {}
            }
        }
        names.truncate(MAX_NAMED);
        names
    }

    /// Sends a signal to every process, parents first, so that a shell doesn't go on to its next
    /// command. Those that stand still are let go, else they could not act on it.
    pub(super) fn signal(&mut self, signal: Signal) {
        self.stood_still = None;
        for process in self.processes() {
            // What can't be signalled is found again, and reported, when the tree is killed.
            let _ = self.send(process, signal);
            let _ = self.send(process, Signal::SIGCONT);
        }
    }

    /// Stops every process, until no new one turns up; also those of a frozen tree that somebody has
    /// let go on.
    pub(super) fn freeze(&mut self) {
        let stands_still = |pid: &Pid| Stat::of(*pid).is_some_and(|stat| stat.is_stopped());
        match &mut self.stood_still {
            // What we have stopped ourselves isn't to be taken for such.
            Some(stood_still) => stood_still.retain(stands_still),
            None => {
                let processes = self.processes().into_iter().map(|process| process.pid);
                self.stood_still = Some(processes.filter(stands_still).collect());
            }
        }
        self.stop_all();
    }

    /// Lets go on what was frozen; children first, so that no parent sees a child stand still.
    pub(super) fn thaw(&mut self) {
        let stood_still = self.stood_still.take().unwrap_or_default();
        for process in self.processes().into_iter().rev() {
            if !stood_still.contains(&process.pid) {
                // Gone, or not ours to signal: then it wasn't frozen either.
                let _ = self.send(process, Signal::SIGCONT);
            }
        }
    }

    /// Kills what can be found, and the command itself even if nothing can be. Returns
    /// what that doesn't end, as far as it is known yet. A next sweep is due by [`Tree::retry_at`] if the
    /// tree isn't dead by then.
    pub(super) fn kill(&mut self, now: BootTime) -> Survivors {
        // Most trees die of the first sweep. What comes through it forks, so it is stopped first.
        let found = if self.retry_at.is_none() { self.processes() } else { self.stop_all() };
        self.choose_heirs(now, &found);
        let killed_before = self.killed.clone();
        let mut refused = Vec::new();
        for process in found.into_iter().filter(|process| !self.heirs.contains(&process.pid)) {
            match self.send(process, Signal::SIGKILL) {
                Ok(()) => {
                    self.killed.insert(process.pid);
                }
                Err(Errno::EPERM) => refused.push(process.pid),
                // Gone already, or found anew under its new parent by the next sweep.
                Err(_) => {}
            }
        }
        let heirs_until = self.heirs_until.filter(|_| !self.heirs.is_empty());
        self.retry_at = [Some(now + self.retry_after), heirs_until].into_iter().flatten().min();
        self.retry_after = (self.retry_after * 2).min(LAST_RETRY);
        let still_there = match self.retry_after == LAST_RETRY {
            true => self.named_if(|pid| killed_before.contains(&pid) && !refused.contains(&pid)),
            false => vec![],
        };
        Survivors { refused: refused.iter().take(MAX_NAMED).map(|pid| named(*pid)).collect(), still_there }
    }

    /// With the first sweep; later ones may find them with another name. The command isn't one: until it
    /// has become its program it looks like us, whom it was forked from.
    fn choose_heirs(&mut self, now: BootTime, found: &[Process]) {
        match self.heirs_until {
            None => {
                self.heirs_until = Some(now + HEIRS_MAY_TAKE);
                let is_heir =
                    |process: &&Process| self.command != Some(process.pid) && is_guardian(process.pid);
                for process in found.iter().filter(is_heir) {
                    self.heirs.insert(process.pid);
                    // One that stands still can't act. It may have gone: then there is nothing to do.
                    let _ = self.send(*process, Signal::SIGCONT);
                }
            }
            Some(until) if until <= now => self.heirs.clear(),
            Some(_) => {}
        }
    }

    /// One more child that isn't ours to end.
    pub(super) fn spare(&mut self, child: Pid) {
        self.spared.insert(child);
    }

    /// When the next sweep is due.
    pub(super) fn retry_at(&self) -> Option<BootTime> {
        self.retry_at
    }

    /// Whether we have got a child that no sweep has met: one that was forked or orphaned since.
    pub(super) fn has_new_child(&mut self) -> bool {
        let is_new = |child: &Pid| {
            !self.killed.contains(child) && !self.heirs.contains(child) && self.must_end(*child)
        };
        // Without a look: the sweep that is due anyhow meets it.
        children(self.root).is_ok_and(|children| children.iter().any(is_new))
    }

    /// Stops all it finds, until a look finds nothing new, and returns them.
    fn stop_all(&mut self) -> Vec<Process> {
        let mut seen = HashSet::new();
        let mut stopped = Vec::new();
        for _ in 0..STOP_ROUNDS {
            let fresh: Vec<Process> =
                self.processes().into_iter().filter(|process| seen.insert(process.pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for process in fresh.iter().filter(|process| !self.heirs.contains(&process.pid)) {
                // One that has gone, or that we may not stop, is dealt with by the caller.
                let _ = self.send(*process, Signal::SIGSTOP);
            }
            stopped.extend(fresh);
        }
        stopped
    }

    fn processes(&mut self) -> Vec<Process> {
        let mut skipped = self.spared.clone();
        // Parents come first, so one pass skips everything below a spared child.
        self.look_at_all()
            .into_iter()
            .filter(|process| !(self.outlives)(process.pid))
            .filter(|process| {
                let skip = skipped.contains(&process.pid) || skipped.contains(&process.parent);
                if skip {
                    skipped.insert(process.pid);
                }
                !skip
            })
            .collect()
    }

    /// All descendants that can be found; the command is known without a look.
    fn look_at_all(&mut self) -> Vec<Process> {
        let found = descendants(self.root);
        let mut processes = found.processes;
        if let Some(error) = found.error {
            self.lose_sight(error);
            let unseen = self.command.filter(|command| processes.iter().all(|it| it.pid != *command));
            processes.extend(unseen.map(|pid| Process { pid, parent: self.root }));
        }
        processes
    }

    /// Sends a signal to one process of the tree.
    pub(super) fn send(&self, process: Process, signal: Signal) -> nix::Result<()> {
        // Our own child keeps its id until we reap it, so it can't be anybody else.
        if process.parent == Pid::this() {
            return kill(process.pid, signal);
        }
        // Another's child may have gone since, and its id may be a stranger's now. The pidfd holds
        // on to whoever has the id; if that one's parent is still the one we found, or the root, it is ours.
        let pidfd = pidfd::open(process.pid)?;
        match Stat::of(process.pid) {
            Some(stat) if stat.parent == process.parent || stat.parent == self.root => {
                pidfd::send_signal(&pidfd, signal)
            }
            Some(_) | None => Err(Errno::ESRCH),
        }
    }
}

/// Whether it is the guardian of a wrapper that runs this very program. Who only calls itself so
/// gains nothing but a moment.
fn is_guardian(pid: Pid) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.name.as_bytes() == guardian::NAME.to_bytes())
        && runs_this_program(pid)
}

fn named(pid: Pid) -> Leftover {
    Leftover { pid: pid.as_raw(), name: Stat::of(pid).map(|stat| stat.name).unwrap_or_default() }
}

/// A child that has ended, if there is one, left where it is. ECHILD: there is no child at all.
fn peek() -> nix::Result<Option<Pid>> {
    // SAFETY: all zeros are such a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: writes one such value to where we say.
    Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) })?;
    // SAFETY: what `waitid` leaves there has the field; it is zero if no child has ended.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

fn reap_all() -> (Vec<Reaped>, Remains) {
    const ANY_CHILD: libc::pid_t = -1;
    let mut reaped = Vec::new();
    loop {
        match wait_for(ANY_CHILD) {
            Ok(Some(one)) => reaped.push(one),
            Ok(None) => return (reaped, Remains::Some),
            Err(Errno::ECHILD) => return (reaped, Remains::None),
            Err(errno) => unreachable!("a wait that doesn't block fails: {errno}"),
        }
    }
}

/// Takes in a child that has ended, if there is one. nix's `wait` loses those that a real-time
/// signal killed.
fn wait_for(pid: libc::pid_t) -> nix::Result<Option<Reaped>> {
    let mut status = 0;
    // SAFETY: writes one number to where we say.
    let pid = Errno::result(unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG | libc::__WALL) })?;
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(Reaped { pid: Pid::from_raw(pid), exit: exit_of(status) }))
}

/// What `wait` says of a process that has ended.
pub(super) fn exit_of(status: i32) -> Exit {
    match libc::WIFEXITED(status) {
        true => Exit::Code(libc::WEXITSTATUS(status)),
        false => Exit::Signal(libc::WTERMSIG(status)),
    }
}
