//! The wrapper's end of the guardian. A guardian that doesn't do its work is replaced: it is killed,
//! the command dies with it, and the rest of the tree is ended from here.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{ForkResult, Pid, fork};

use crate::boot_time::BootTime;

use super::command;
use super::error::{StartError, SupervisorError};
use super::event::Event;
use super::guardian;
use super::inherited::Inherited;
use super::launch::{LastWill, Launch, Letter};
use super::line::{Heard, Line};
use super::messages::{Channel, Order, Report};
use super::orphans::{Orphans, Progress};
use super::tree::Outlives;
use super::{Exit, KilledBy, Leftover};

/// The guardian, as the wrapper has it. Dropped while the tree lives, it does what it does when the
/// wrapper dies: ends the tree and carries out the last will.
#[derive(Debug)]
pub struct Guardian {
    pid: Pid,
    stage: Stage,
    command: Option<Pid>,
    /// How the command itself ended.
    exit: Option<Exit>,
    spared: Vec<Pid>,
    outlives: Outlives,
}

#[derive(Debug)]
enum Stage {
    /// No command yet.
    Idle(Line),
    /// The guardian watches over the tree.
    Guarded(Line),
    /// The guardian is gone, the tree may not be.
    Orphaned(Box<Orphans>),
    /// The tree is dead, or could not be started.
    Over(Line),
    /// The same, and the guardian is gone.
    Gone,
}

impl Guardian {
    /// Forks the guardian. Must be called before this process has a second thread, and on the thread
    /// that will live as long as the process; the sooner the cheaper, for both have to copy what this
    /// process has written to by then. Idle until [`Guardian::start`]; it exits if the wrapper dies
    /// or drops it before; what was [bequeathed](Guardian::bequeath) it carries out if the wrapper died.
    /// From here on SIGCHLD has its default action.
    pub fn fork() -> Result<Self, SupervisorError> {
        Self::fork_sparing(|_| false)
    }

    /// The same; what `outlives` says of is no part of the tree, wherever it is in it. But in a namespace
    /// of its own nothing outlives the command.
    pub fn fork_sparing(outlives: Outlives) -> Result<Self, SupervisorError> {
        let threads = threads().map_err(SupervisorError::NoProc)?;
        if threads != 1 {
            return Err(SupervisorError::ThreadsExist { threads });
        }
        let inherited = Inherited::capture().map_err(SupervisorError::Refused)?;
        let (ours, theirs) = Channel::pair().map_err(SupervisorError::Refused)?;
        let refused = |errno: Errno| SupervisorError::Refused(errno.into());
        // The guardian hears no signal: from its first moment on, or a key would end it alone.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(refused)?;
        // SAFETY: there is one thread, so the child finds no lock held by another one.
        let forked = unsafe { fork() };
        if !matches!(forked, Ok(ForkResult::Child)) {
            mask.thread_set_mask().map_err(refused)?;
        }
        match forked.map_err(refused)? {
            ForkResult::Child => {
                drop(ours);
                guardian::run(theirs, outlives, inherited)
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                stage: Stage::Idle(Line::new(child, ours, outlives)),
                command: None,
                exit: None,
                spared: Vec::new(),
                outlives,
            }),
        }
    }

    /// The guardian's process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Leaves a will for the time before the command, in place of an earlier one: carried out if this
    /// process dies. The command's own ([`Launch::will`]) takes its place.
    pub fn bequeath(&mut self, will: LastWill) -> io::Result<()> {
        match &self.stage {
            Stage::Idle(line) => line.bequeath(will.seal()?.as_fd()),
            Stage::Guarded(_) | Stage::Orphaned(_) | Stage::Over(_) | Stage::Gone => Ok(()),
        }
    }

    /// Starts the command, once; returns its process id when it has become its program. From here on
    /// this process is a subreaper: daemons that it starts itself become its children, and are ended
    /// with the tree if the guardian dies, unless they are [spared](Guardian::spare).
    pub async fn start(&mut self, launch: Launch) -> Result<Pid, StartError> {
        let program = launch.argv.first().cloned().unwrap_or_default();
        if matches!(self.stage, Stage::Gone) {
            return Err(StartError::GuardianGone);
        }
        self.send_launch(launch).map_err(StartError::Refused)?;
        match self.hear().await {
            Heard::Report(Report::Started { pid }) => {
                let pid = Pid::from_raw(pid);
                self.command = Some(pid);
                Ok(pid)
            }
            Heard::Report(Report::NotStarted { stage, errno }) => {
                self.over();
                Err(match (stage, Errno::from_raw(errno)) {
                    (command::Stage::Execute, Errno::ENOENT) if command::exists(&program) => {
                        StartError::NoInterpreter { program }
                    }
                    (command::Stage::Execute, Errno::ENOENT) => StartError::NotFound { program },
                    (command::Stage::Execute, errno) => {
                        StartError::CannotRun { program, source: errno.into() }
                    }
                    (command::Stage::Isolate, errno) => {
                        StartError::CannotIsolate { program, source: errno.into() }
                    }
                    (command::Stage::Namespaces, _) => StartError::NoNamespaceLeft { program },
                    (command::Stage::Deadline, _) => StartError::TooLate { program },
                })
            }
            Heard::Report(report) => unreachable!("before the command was started: {report:?}"),
            Heard::Gone => {
                self.end_what_it_started().await;
                Err(StartError::GuardianGone)
            }
        }
    }

    /// Moves the kill deadline; each renewal of a lease does. `None`: there is none.
    pub fn set_kill_deadline(&mut self, at: Option<BootTime>) {
        self.order(Order::KillDeadline(at.map(BootTime::since_boot)));
    }

    /// Sends a signal to the command itself.
    pub fn signal(&mut self, signal: Signal) {
        self.order(Order::Signal(signal as i32));
    }

    /// Sends the stop signal to the whole tree, and SIGKILL to what is left of it after the grace.
    pub fn stop(&mut self) {
        self.order(Order::Stop);
    }

    /// Sends SIGKILL to the whole tree.
    pub fn kill(&mut self) {
        self.order(Order::Kill);
    }

    /// Lets the whole tree stand still. Ending it works as before.
    pub fn freeze(&mut self) {
        self.order(Order::Freeze);
    }

    /// Lets the tree go on; what stood still before it was frozen still does.
    pub fn thaw(&mut self) {
        self.order(Order::Thaw);
    }

    /// Names a child of this process that isn't part of the tree: neither it nor its descendants are
    /// ended if the guardian dies.
    pub fn spare(&mut self, child: Pid) {
        self.spared.push(child);
        if let Stage::Orphaned(orphans) = &mut self.stage {
            orphans.spare(child);
        }
    }

    /// The next event. Cancel safe. Before [`Guardian::start`] only the guardian's own death is one;
    /// after [`Event::TreeDead`] there is none.
    pub async fn event(&mut self) -> Event {
        loop {
            match &mut self.stage {
                Stage::Over(_) | Stage::Gone => std::future::pending().await,
                Stage::Idle(line) => {
                    // What can't be listened to is as good as gone.
                    if line.watch().is_err() || matches!(line.hear().await, Heard::Gone) {
                        self.stage = Stage::Gone;
                        return Event::GuardianDied;
                    }
                }
                Stage::Guarded(line) => match line.hear().await {
                    Heard::Report(report) => {
                        if let Some(event) = self.event_of(report) {
                            return event;
                        }
                    }
                    Heard::Gone => {
                        let is_given_up = line.is_given_up();
                        self.orphan();
                        return if is_given_up { Event::GuardianGivenUp } else { Event::GuardianDied };
                    }
                },
                Stage::Orphaned(orphans) => match orphans.progress().await {
                    Progress::Ended(exit) => return Event::Ended(exit),
                    Progress::Unkillable(list) => return Event::Unkillable(list),
                    Progress::StillThere(list) => tell_survivors(&list),
                    Progress::CannotLook(error) => tell_blindness(&error),
                    Progress::Dead { exit } => {
                        self.stage = Stage::Gone;
                        return Event::TreeDead { exit, killed_by: Some(KilledBy::GuardianGone) };
                    }
                },
            }
        }
    }

    /// Ends the guardian without its last will: what had to be given back was given back. To be
    /// called when the tree is dead, or was never started; else it is the same as a drop. Returns when
    /// the guardian is gone; it has nothing to do but to exit.
    pub async fn dismiss(mut self) {
        if let Stage::Idle(line) | Stage::Over(line) = &mut self.stage {
            line.farewell().await;
            self.stage = Stage::Gone;
        }
    }

    fn send_launch(&mut self, launch: Launch) -> io::Result<()> {
        set_child_subreaper(true)?;
        let (kill_deadline, grace) = (launch.kill_deadline, launch.policy.grace);
        let (letter, kept) = Letter::new(launch);
        let letter = letter.seal()?;
        let mut descriptors = vec![letter.as_fd()];
        descriptors.extend(kept.as_ref().map(AsFd::as_fd));
        self.stage = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Idle(mut line) => {
                line.start(kill_deadline, grace, &descriptors)?;
                Stage::Guarded(line)
            }
            stage @ (Stage::Guarded(_) | Stage::Orphaned(_) | Stage::Over(_) | Stage::Gone) => {
                panic!("one command a guardian: {stage:?}")
            }
        };
        Ok(())
    }

    fn order(&mut self, order: Order) {
        match &mut self.stage {
            Stage::Guarded(line) => line.order(order),
            Stage::Idle(_) | Stage::Orphaned(_) | Stage::Over(_) | Stage::Gone => {}
        }
    }

    async fn hear(&mut self) -> Heard {
        match &mut self.stage {
            Stage::Guarded(line) => line.hear().await,
            Stage::Idle(_) | Stage::Orphaned(_) | Stage::Over(_) | Stage::Gone => Heard::Gone,
        }
    }

    fn event_of(&mut self, report: Report) -> Option<Event> {
        match report {
            // From a start that was cancelled.
            Report::Started { pid } => {
                self.command = Some(Pid::from_raw(pid));
                None
            }
            Report::NotStarted { .. } => {
                self.over();
                None
            }
            Report::Killing => None,
            Report::Ended(exit) => {
                self.exit = Some(exit);
                Some(Event::Ended(exit))
            }
            Report::Leftovers(list) => Some(Event::Leftovers(list)),
            Report::Unkillable(list) => Some(Event::Unkillable(list)),
            Report::StillThere(list) => {
                tell_survivors(&list);
                None
            }
            Report::CannotLook(cause) => {
                tell_blindness(&cause);
                None
            }
            Report::TreeDead { exit, killed_by } => {
                self.over();
                Some(Event::TreeDead { exit, killed_by })
            }
        }
    }

    /// Nothing runs any more; the guardian waits for the farewell.
    fn over(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Guarded(line) => Stage::Over(line),
            stage @ (Stage::Idle(_) | Stage::Orphaned(_) | Stage::Over(_) | Stage::Gone) => stage,
        };
    }

    /// The guardian is gone: the tree is ours.
    fn orphan(&mut self) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Guarded(line) => {
                let spared = self.spared.iter().copied();
                let timer = line.into_timer();
                let orphans = Orphans::new(self.command, self.exit, spared, self.outlives, timer);
                Stage::Orphaned(Box::new(orphans))
            }
            stage @ (Stage::Idle(_) | Stage::Orphaned(_) | Stage::Over(_) | Stage::Gone) => stage,
        };
    }

    async fn end_what_it_started(&mut self) {
        self.orphan();
        while let Stage::Orphaned(_) = self.stage {
            self.event().await;
        }
    }
}

/// There is nothing that the caller could do about it.
fn tell_blindness(cause: &dyn std::fmt::Display) {
    tracing::error!(
        "cannot look for the processes of the command: {cause}; taking them for alive, trying again"
    );
}

/// The same: they end when what holds them up does.
fn tell_survivors(list: &[Leftover]) {
    let names = list.iter().map(Leftover::to_string).collect::<Vec<_>>().join(", ");
    tracing::error!("still there after SIGKILL, frozen or in a call that doesn't end: {names}; trying again");
}

/// How many threads this process has: each is a folder.
fn threads() -> io::Result<usize> {
    const TASKS: &str = "/proc/self/task";
    // A folder's links are its own two and one of each folder in it: that is asked for faster than a
    // list, where the file system counts them.
    match fs::metadata(TASKS)?.nlink() {
        3 => Ok(1),
        _ => Ok(fs::read_dir(TASKS)?.count()),
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        match &mut self.stage {
            // If it isn't heard, the will is carried out for nothing, which does no harm. A panic
            // may have come before the release, so the will must be carried out then.
            Stage::Idle(line) | Stage::Over(line) if !std::thread::panicking() => line.dismiss(),
            Stage::Idle(_) | Stage::Guarded(_) | Stage::Orphaned(_) | Stage::Over(_) | Stage::Gone => {}
        }
    }
}
