//! The wrapper's end of the guardian. Orders never block: what the guardian has no room for is kept,
//! at most one of each kind, and sent later. A guardian that doesn't do its work is replaced: it is
//! killed, the command dies with it, and the rest of the tree is ended from here.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::boot_time::BootTime;
use crate::boot_timer::BootTimer;

use super::guardian;
use super::inherited::Inherited;
use super::launch::{Launch, Letter};
use super::messages::{Channel, Order, Received, Report, Sent};
use super::orphans::{Orphans, Progress};
use super::policy::Policy;
use super::{Exit, KilledBy, Leftover};

/// How long a guardian may take to begin killing, once it has to and is able to run. Well within
/// the margin that every lease keeps.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long to wait with what the guardian had no room for. It has room but for when it was stopped.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The guardian, as the wrapper has it. Dropped while the tree lives, it does what it does when the
/// wrapper dies: ends the tree and carries out the last will.
#[derive(Debug)]
pub struct Guardian {
    pid: Pid,
    link: Link,
    stage: Stage,
    command: Option<Pid>,
    /// How the command itself ended.
    exit: Option<Exit>,
    kill_deadline: Option<BootTime>,
    /// The guardian must have begun to kill by then.
    must_kill_by: Option<BootTime>,
    unsent: Vec<Order>,
    spared: Vec<Pid>,
}

/// What happened to the command and its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The command itself has ended; descendants may live on.
    Ended(Exit),
    /// These descendants have outlived the command; [`Policy::leftovers`] says what is done with
    /// them. A long list is cut.
    Leftovers(Vec<Leftover>),
    /// These may not be killed by us (another user's, by setuid). The tree isn't dead; it is tried
    /// again and again. Told anew when the list changes.
    Unkillable(Vec<Leftover>),
    /// Nothing of the tree is left: confirmed, and final.
    TreeDead {
        /// How the command itself ended.
        exit: Exit,
        /// What made us send SIGKILL, if it was needed.
        killed_by: Option<KilledBy>,
    },
    /// The guardian is gone, and the command with it. What is left is being ended from here; go on
    /// asking for events until [`Event::TreeDead`]. Nobody would carry out the last will now.
    GuardianDied,
}

/// The guardian could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Too late: a fork copies one thread only.
    #[error("cannot fork the guardian: this process has {threads} threads already")]
    ThreadsExist {
        /// How many.
        threads: usize,
    },
    /// Without /proc no descendant is found.
    #[error("cannot watch processes: /proc: {0}")]
    NoProc(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot fork the guardian: {0}")]
    Refused(#[source] io::Error),
}

/// The command was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such program (exit 127).
    #[error("cannot run {}: command not found", program.display())]
    NotFound {
        /// Its name as it was given.
        program: OsString,
    },
    /// There is one, and it can't be executed (exit 126).
    #[error("cannot run {}: {source}", program.display())]
    CannotRun {
        /// Its name as it was given.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// The guardian is gone; nothing runs.
    #[error("cannot start the command: the guardian is gone")]
    GuardianGone,
    /// It could not be asked.
    #[error("cannot start the command: {0}")]
    Refused(#[source] io::Error),
}

#[derive(Debug)]
enum Link {
    /// Before there is a runtime.
    Plain(Channel),
    Watched(AsyncFd<Channel>, BootTimer),
    /// The guardian is gone.
    Cut,
}

#[derive(Debug)]
enum Stage {
    /// No command yet, or it could not be started.
    Idle,
    /// The guardian watches over the tree.
    Guarded,
    /// The guardian is gone, the tree may not be.
    Orphaned(Box<Orphans>),
    /// The tree is dead.
    Over,
}

/// What [`Guardian::hear`] has got.
enum Heard {
    Report(Report),
    Gone,
}

impl Guardian {
    /// Forks the guardian. Must be called before this process has a second thread, and on the thread
    /// that will live as long as the process. Idle until [`Guardian::start`]; it exits if the wrapper
    /// dies or drops it before. From here on SIGCHLD has its default action.
    pub fn fork(policy: Policy) -> Result<Self, SupervisorError> {
        let threads = fs::read_dir("/proc/self/task").map_err(SupervisorError::NoProc)?.count();
        if threads != 1 {
            return Err(SupervisorError::ThreadsExist { threads });
        }
        let inherited = Inherited::capture().map_err(SupervisorError::Refused)?;
        let (ours, theirs) = Channel::pair().map_err(SupervisorError::Refused)?;
        // SAFETY: there is one thread, so the child finds no lock held by another one.
        match unsafe { fork() }.map_err(|errno| SupervisorError::Refused(errno.into()))? {
            ForkResult::Child => {
                drop(ours);
                guardian::run(theirs, policy, inherited)
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                link: Link::Plain(ours),
                stage: Stage::Idle,
                command: None,
                exit: None,
                kill_deadline: None,
                must_kill_by: None,
                unsent: Vec::new(),
                spared: Vec::new(),
            }),
        }
    }

    /// The guardian's process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Starts the command, once; returns its process id when it has become its program. From here on
    /// this process is a subreaper: daemons that it starts itself become its children, and are ended
    /// with the tree if the guardian dies, unless they are [spared](Guardian::spare).
    pub async fn start(&mut self, launch: Launch) -> Result<Pid, StartError> {
        assert!(matches!(self.stage, Stage::Idle) && self.command.is_none(), "one command a guardian");
        let program = launch.argv.first().cloned().unwrap_or_default();
        self.kill_deadline = launch.kill_deadline;
        self.send_launch(launch).map_err(StartError::Refused)?;
        self.stage = Stage::Guarded;
        let errno = match self.hear().await {
            Heard::Report(Report::Started { pid }) => {
                let pid = Pid::from_raw(pid);
                self.command = Some(pid);
                return Ok(pid);
            }
            Heard::Report(Report::NotStarted { errno }) => errno,
            Heard::Report(report) => unreachable!("before the command was started: {report:?}"),
            Heard::Gone => {
                self.end_what_it_started().await;
                return Err(StartError::GuardianGone);
            }
        };
        self.stage = Stage::Idle;
        match Errno::from_raw(errno) {
            Errno::ENOENT => Err(StartError::NotFound { program }),
            errno => Err(StartError::CannotRun { program, source: errno.into() }),
        }
    }

    /// Moves the kill deadline; each renewal of a lease does. `None`: there is none.
    pub fn set_kill_deadline(&mut self, at: Option<BootTime>) {
        self.kill_deadline = at;
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
        self.must_kill_by.get_or_insert(BootTime::now() + PATIENCE);
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
    }

    /// The next event. Cancel safe. Waits for ever after [`Event::TreeDead`].
    pub async fn event(&mut self) -> Event {
        loop {
            match &mut self.stage {
                Stage::Idle | Stage::Over => std::future::pending().await,
                Stage::Guarded => match self.hear().await {
                    Heard::Report(report) => {
                        if let Some(event) = self.event_of(report) {
                            return event;
                        }
                    }
                    Heard::Gone => {
                        self.orphan();
                        return Event::GuardianDied;
                    }
                },
                Stage::Orphaned(orphans) => match orphans.progress().await {
                    Progress::Ended(exit) => return Event::Ended(exit),
                    Progress::Unkillable(list) => return Event::Unkillable(list),
                    Progress::Dead { exit } => {
                        self.stage = Stage::Over;
                        return Event::TreeDead { exit, killed_by: Some(KilledBy::GuardianGone) };
                    }
                },
            }
        }
    }

    /// Ends the guardian without its last will: what had to be given back was given back. To be
    /// called when the tree is dead, or was never started; else it is the same as a drop.
    pub fn dismiss(self) {
        drop(self);
    }

    fn send_launch(&mut self, launch: Launch) -> io::Result<()> {
        set_child_subreaper(true)?;
        let (letter, kept) = Letter::new(launch);
        let letter = letter.seal()?;
        let mut descriptors = vec![letter.as_fd()];
        descriptors.extend(kept.as_ref().map(AsFd::as_fd));
        let channel = self.watch_link()?;
        match channel.send(&Order::Start, &descriptors)? {
            // Closed: what we hear next says so.
            Sent::Yes | Sent::Closed => Ok(()),
            Sent::Full => Err(Errno::EAGAIN.into()),
        }
    }

    /// The channel, known to the runtime.
    fn watch_link(&mut self) -> io::Result<&Channel> {
        if let Link::Plain(_) = self.link {
            let timer = BootTimer::new()?;
            if let Link::Plain(channel) = std::mem::replace(&mut self.link, Link::Cut) {
                // SAFETY: the channel owns its descriptor and names the same one until it is dropped.
                self.link = Link::Watched(
                    unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) }?,
                    timer,
                );
            }
        }
        match &self.link {
            Link::Watched(channel, _) => Ok(channel.get_ref()),
            Link::Plain(_) | Link::Cut => Err(Errno::EPIPE.into()),
        }
    }

    fn channel(&self) -> Option<&Channel> {
        match &self.link {
            Link::Plain(channel) => Some(channel),
            Link::Watched(channel, _) => Some(channel.get_ref()),
            Link::Cut => None,
        }
    }

    fn order(&mut self, order: Order) {
        // Only the newest of each kind counts; freezing and thawing are one kind.
        self.unsent.retain(|unsent| !order.replaces(unsent));
        self.unsent.push(order);
        self.send_unsent();
        self.revive();
    }

    /// Returns whether all is sent.
    fn send_unsent(&mut self) -> bool {
        while let (Some(channel), Some(order)) = (self.channel(), self.unsent.first()) {
            match channel.send(order, &[]) {
                Ok(Sent::Full) => return false,
                // An end of the guardian is heard, not seen here.
                Ok(Sent::Yes | Sent::Closed) | Err(_) => drop(self.unsent.remove(0)),
            }
        }
        true
    }

    /// A guardian that somebody stopped can't do its work.
    fn revive(&self) {
        if self.channel().is_some() {
            // It is our child and not reaped as long as there is a channel: nobody else has the id.
            let _ = kill(self.pid, Signal::SIGCONT);
        }
    }

    /// The next report, or the guardian's end. Cancel safe.
    async fn hear(&mut self) -> Heard {
        loop {
            let send_again_at = (!self.send_unsent()).then(|| BootTime::now() + SEND_AGAIN_AFTER);
            let wake_at = [self.check_guardian(), send_again_at].into_iter().flatten().min();
            let Link::Watched(channel, timer) = &mut self.link else { return Heard::Gone };
            let ready = tokio::select! {
                biased;
                ready = channel.readable() => ready,
                woken = timer.sleep_until(wake_at) => match woken {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            let Ok(mut ready) = ready else { return Heard::Gone };
            match ready.get_inner().receive() {
                Ok(Received::Message(report, _)) => {
                    if report == Report::Killing {
                        self.must_kill_by = None;
                        self.kill_deadline = None;
                    }
                    return Heard::Report(report);
                }
                Ok(Received::Nothing) => ready.clear_ready(),
                Ok(Received::Closed) | Err(_) => return Heard::Gone,
            }
        }
    }

    /// Sees to it that a guardian that has to kill does, and says when to look again.
    fn check_guardian(&mut self) -> Option<BootTime> {
        let now = BootTime::now();
        match (self.must_kill_by, self.kill_deadline) {
            (Some(by), _) if by <= now => {
                // Its end is heard at once, since its end of the channel closes.
                let _ = kill(self.pid, Signal::SIGKILL);
                self.must_kill_by = None;
                self.kill_deadline = None;
                None
            }
            (Some(by), _) => Some(by),
            // Its patience starts now: we may have been paused ourselves, and it with us.
            (None, Some(deadline)) if deadline <= now => {
                self.revive();
                self.must_kill_by = Some(now + PATIENCE);
                self.must_kill_by
            }
            (None, deadline) => deadline,
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
                self.stage = Stage::Idle;
                None
            }
            Report::Killing => None,
            Report::Ended(exit) => {
                self.exit = Some(exit);
                Some(Event::Ended(exit))
            }
            Report::Leftovers(list) => Some(Event::Leftovers(list)),
            Report::Unkillable(list) => Some(Event::Unkillable(list)),
            Report::TreeDead { exit, killed_by } => {
                self.stage = Stage::Over;
                Some(Event::TreeDead { exit, killed_by })
            }
        }
    }

    fn orphan(&mut self) {
        self.unsent.clear();
        self.stage = match std::mem::replace(&mut self.link, Link::Cut) {
            Link::Watched(_, timer) => {
                let spared = self.spared.iter().copied();
                Stage::Orphaned(Box::new(Orphans::new(self.command, self.exit, spared, timer)))
            }
            Link::Plain(_) | Link::Cut => unreachable!("nothing was started over this link"),
        };
    }

    async fn end_what_it_started(&mut self) {
        self.orphan();
        while !matches!(self.stage, Stage::Over) {
            self.event().await;
        }
    }
}

impl Order {
    fn replaces(&self, older: &Self) -> bool {
        let is_standstill = |order: &Self| matches!(order, Self::Freeze | Self::Thaw);
        let is_deadline = |order: &Self| matches!(order, Self::KillDeadline(_));
        self == older
            || (is_standstill(self) && is_standstill(older))
            || (is_deadline(self) && is_deadline(older))
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let is_needed = match self.stage {
            Stage::Idle | Stage::Over => std::thread::panicking(),
            Stage::Guarded | Stage::Orphaned(_) => true,
        };
        if let Some(channel) = self.channel()
            && !is_needed
        {
            // If it isn't heard, the will is carried out for nothing, which does no harm.
            let _ = channel.send(&Order::Goodbye, &[]);
        }
        self.revive();
    }
}
