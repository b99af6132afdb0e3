//! The guardian: the process that is parent of the tree and dead man's switch. One `poll`, then
//! what it says; every decision is [`Supervision`]'s.
//!
//! It blocks all signals and leaves the terminal's session once the command runs, so that Ctrl-C,
//! Ctrl-Z, a hang-up, or a signal to the whole process group (SIGKILL and SIGSTOP too) don't reach
//! it. If it fails or panics it exits: the command dies with it, and the wrapper ends the rest.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_child_subreaper, set_name};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{Pid, setsid};

use crate::boot_time::BootTime;

use super::Exit;
use super::command::{self, Environment, Failure, Program, Stage, Starting, exit_at_once};
use super::descendants::{Process, children};
use super::inherited::Inherited;
use super::isolate::{self, Status};
use super::launch::{LastWill, Letter};
use super::messages::{Channel, Order, Received, Report, Sent};
use super::policy::{Action, Input, Remains, Supervision};
use super::stdio::let_go_of_stdio;
use super::tree::{Outlives, Survivors, Tree};
use super::will;

/// As `ps` and `pkill` know it; the wrapper's name doesn't match it.
pub(super) const NAME: &std::ffi::CStr = c"officer-guard";

/// That the other end will send no more; nix doesn't know it. Failures and full ends come unasked.
const HANG_UP: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// The exit code of a guardian that failed; only its parent sees it.
const FAILED: i32 = 70;

/// Turns this process, just forked, into a guardian.
pub(super) fn run(channel: Channel, outlives: Outlives, inherited: Inherited) -> ! {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Guard::new(channel, outlives, inherited).and_then(Guard::watch)
    }));
    match outcome {
        Ok(Ok(never)) => match never {},
        Ok(Err(_)) | Err(_) => exit_at_once(FAILED),
    }
}

#[derive(Debug)]
struct Guard {
    /// `None` once the wrapper is gone.
    channel: Option<Channel>,
    supervision: Supervision,
    inherited: Inherited,
    /// Ours, which the command gets with changes; read while there is nothing else to do.
    environment: Environment,
    tree: Tree,
    /// Our child that stands for the command: itself, or the first process of its namespace.
    command: Option<Pid>,
    /// Whom signals for the command are sent to.
    addressee: Option<Process>,
    end: EndOfCommand,
    /// The command's process until exec has succeeded or failed.
    starting: Option<Starting>,
    will: Option<LastWill>,
    kept: Kept,
    children: SignalFd,
    timer: TimerFd,
    timer_set_to: Option<BootTime>,
    /// What the wrapper had no room for; it may be stopped for a long time.
    unsent: Vec<Report>,
    /// The lists that were told last, so that they aren't told again with every sweep.
    survivors: Survivors,
}

/// A connection that is kept open for as long as the tree lives.
#[derive(Debug)]
enum Kept {
    /// None, or no longer.
    Nothing,
    Open(OwnedFd),
    /// The other end is gone; that was taken in.
    HungUp,
}

/// Where the command's end is learned from.
#[derive(Debug)]
enum EndOfCommand {
    /// It is our child's.
    OfChild,
    /// The first process of its namespace tells.
    Told(Status),
    /// It is known.
    Known,
}

/// What woke us, as far as it says more than "look around".
#[derive(Clone, Copy, Debug)]
struct Ready {
    channel: bool,
    children: bool,
    starting: bool,
    status: bool,
    hang_up: bool,
}

impl Guard {
    fn new(channel: Channel, outlives: Outlives, inherited: Inherited) -> io::Result<Self> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
        set_name(NAME)?;
        set_child_subreaper(true)?;
        let mut child = SigSet::empty();
        child.add(Signal::SIGCHLD);
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self {
            channel: Some(channel),
            supervision: Supervision::new(),
            inherited,
            environment: command::environment(),
            tree: Tree::new([], outlives),
            command: None,
            addressee: None,
            end: EndOfCommand::OfChild,
            starting: None,
            will: None,
            kept: Kept::Nothing,
            children: SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?,
            timer_set_to: None,
            unsent: Vec::new(),
            survivors: Survivors::default(),
        })
    }

    fn watch(mut self) -> io::Result<std::convert::Infallible> {
        loop {
            self.set_timer()?;
            let ready = self.wait()?;
            // Time first: whatever else has come, a tree past its deadline dies now.
            self.take(Input::Woken)?;
            self.sweep_if_due()?;
            self.ask_again_if_due()?;
            if ready.hang_up {
                self.kept = Kept::HungUp;
                self.take(Input::ConnectionGone)?;
            }
            if ready.starting {
                self.take_exec_result()?;
            }
            if ready.children || ready.status {
                self.take_children(ready.status)?;
            }
            if ready.channel {
                self.take_orders()?;
            }
            self.tell_blindness()?;
            self.send_unsent()?;
        }
    }

    /// Waits for whatever comes first.
    fn wait(&self) -> io::Result<Ready> {
        let told = match self.unsent.is_empty() {
            true => PollFlags::POLLIN,
            false => PollFlags::POLLIN | PollFlags::POLLOUT,
        };
        let mut polled = vec![
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
        ];
        let channel = self.channel.as_ref().map(|channel| {
            polled.push(PollFd::new(channel.as_fd(), told));
            polled.len() - 1
        });
        let starting = self.starting.as_ref().map(|starting| {
            polled.push(PollFd::new(starting.as_fd(), PollFlags::POLLIN));
            polled.len() - 1
        });
        let status = match &self.end {
            EndOfCommand::Told(status) => {
                polled.push(PollFd::new(status.as_fd(), PollFlags::POLLIN));
                Some(polled.len() - 1)
            }
            EndOfCommand::OfChild | EndOfCommand::Known => None,
        };
        let kept = match &self.kept {
            // Its end alone: what is to be read there is the wrapper's.
            Kept::Open(connection) => {
                polled.push(PollFd::new(connection.as_fd(), HANG_UP));
                Some(polled.len() - 1)
            }
            Kept::Nothing | Kept::HungUp => None,
        };
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |n: usize| polled[n].any().unwrap_or(true);
        Ok(Ready {
            channel: channel.is_some_and(is_ready),
            children: is_ready(0),
            starting: starting.is_some_and(is_ready),
            status: status.is_some_and(is_ready),
            hang_up: kept.is_some_and(is_ready),
        })
    }

    fn set_timer(&mut self) -> io::Result<()> {
        let retry_at = if self.supervision.is_killing() { self.tree.retry_at() } else { None };
        let ask_at = if self.supervision.is_tree_alive() { self.tree.ask_again_at() } else { None };
        let wake_at = [self.supervision.wake_at(), retry_at, ask_at].into_iter().flatten().min();
        if wake_at == self.timer_set_to {
            return Ok(());
        }
        match wake_at {
            Some(at) => {
                let expiration = Expiration::OneShot(TimeSpec::from_duration(at.since_boot()));
                self.timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        self.timer_set_to = wake_at;
        Ok(())
    }

    fn take(&mut self, input: Input) -> io::Result<()> {
        for action in self.supervision.handle(BootTime::now(), input) {
            self.act(action)?;
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> io::Result<()> {
        match action {
            Action::ReportEnded(exit) => self.tell(Report::Ended(exit))?,
            Action::ReportLeftovers => self.tell_leftovers()?,
            Action::ReportTreeDead(exit, killed_by) => self.tell(Report::TreeDead { exit, killed_by })?,
            Action::SignalCommand(signal) => {
                if let Some(command) = self.addressee {
                    // It has ended, or refuses (EPERM): nothing to do then.
                    let _ = self.tree.send(command, signal);
                }
            }
            Action::StopTree(signal) => self.tree.signal(signal),
            Action::KillTree => {
                self.tell(Report::Killing)?;
                self.sweep()?;
            }
            Action::FreezeTree => self.tree.freeze(),
            Action::ThawTree => self.tree.thaw(),
            Action::CloseKept => self.kept = Kept::Nothing,
            Action::ExecuteWill => self.execute_will(),
            Action::Leave => exit_at_once(0),
        }
        Ok(())
    }

    fn execute_will(&mut self) -> ! {
        match self.will.take() {
            Some(will) => {
                // Before a command neither is done yet. If it was, it fails, which is as good.
                let _ = setsid();
                self.let_go();
                let _errno = will::execute(&will, &self.inherited);
                exit_at_once(FAILED)
            }
            None => exit_at_once(0),
        }
    }

    fn sweep_if_due(&mut self) -> io::Result<()> {
        let is_due = self.tree.retry_at().is_some_and(|at| at <= BootTime::now());
        if self.supervision.is_killing() && is_due {
            // The next one is due soon enough if the wrapper can't be told now.
            let _ = self.sweep();
            // What outlives the tree says nothing when it alone is left.
            self.take_children(false)?;
        }
        Ok(())
    }

    /// What is left could not be found out, and maybe no child's end will make us ask.
    fn ask_again_if_due(&mut self) -> io::Result<()> {
        match self.tree.ask_again_at() {
            Some(at) if at <= BootTime::now() => self.take_children(false),
            Some(_) | None => Ok(()),
        }
    }

    /// Once, and after the word that the command runs.
    fn tell_blindness(&mut self) -> io::Result<()> {
        match self.starting {
            Some(_) => Ok(()),
            None => match self.tree.take_blindness() {
                Some(error) => self.tell(Report::CannotLook(error.to_string())),
                None => Ok(()),
            },
        }
    }

    fn sweep(&mut self) -> io::Result<()> {
        let now = self.tree.kill(BootTime::now());
        if self.starting.is_some() {
            // The word that the command runs comes first. A later sweep tells it.
            return Ok(());
        }
        let before = std::mem::replace(&mut self.survivors, now.clone());
        if now.refused != before.refused && !now.refused.is_empty() {
            self.tell(Report::Unkillable(now.refused))?;
        }
        if now.still_there != before.still_there && !now.still_there.is_empty() {
            self.tell(Report::StillThere(now.still_there))?;
        }
        Ok(())
    }

    fn take_exec_result(&mut self) -> io::Result<()> {
        let Some(starting) = self.starting.take() else { return Ok(()) };
        match starting.result() {
            Ok(pid) => {
                let command = self.find_command(pid);
                self.addressee = Some(command);
                self.tell(Report::Started { pid: command.pid.as_raw() })?;
                self.let_go();
                Ok(())
            }
            Err(failure) => {
                self.command = None;
                self.end = EndOfCommand::Known;
                self.reap_quietly();
                self.not_started(failure)
            }
        }
    }

    fn not_started(&mut self, failure: Failure) -> io::Result<()> {
        self.take(Input::NotExecuted)?;
        self.tell(Report::NotStarted { stage: failure.stage, errno: failure.errno as i32 })
    }

    /// Our child itself, or the only child of the first process of its namespace.
    fn find_command(&self, child: Pid) -> Process {
        let inner = match self.end {
            EndOfCommand::Told(_) => children(child).ok().and_then(|inside| inside.first().copied()),
            EndOfCommand::OfChild | EndOfCommand::Known => None,
        };
        match inner {
            Some(pid) => Process { pid, parent: child },
            None => Process { pid: child, parent: Pid::this() },
        }
    }

    /// The child that failed to become the command; it exits at once.
    fn reap_quietly(&mut self) {
        while self.tree.reap().1 == Remains::Some {
            std::thread::yield_now();
        }
    }

    /// Readers and writers at the other ends of the command's streams must see what it does with
    /// them, so nobody else may hold on to them. Stderr stays, for the last will. Without a null
    /// device stdin and stdout stay too: their ends are seen late then, when the tree is dead.
    fn let_go(&mut self) {
        let _ = let_go_of_stdio();
        let ours = [
            self.channel.as_ref().map(AsRawFd::as_raw_fd),
            Some(self.children.as_fd().as_raw_fd()),
            Some(self.timer.as_fd().as_raw_fd()),
            match &self.kept {
                Kept::Open(connection) => Some(connection.as_raw_fd()),
                Kept::Nothing | Kept::HungUp => None,
            },
            match &self.end {
                EndOfCommand::Told(status) => Some(status.as_raw_fd()),
                EndOfCommand::OfChild | EndOfCommand::Known => None,
            },
        ];
        close_all_but(ours.into_iter().flatten());
    }

    fn take_children(&mut self, status_is_ready: bool) -> io::Result<()> {
        while let Ok(Some(_)) = self.children.read_signal() {}
        if !self.supervision.is_tree_alive() {
            return Ok(());
        }
        let (reaped, remains) = self.tree.reap();
        let ended = reaped.iter().find(|one| Some(one.pid) == self.command).map(|one| one.exit);
        if ended.is_some() {
            // What exec said comes first; with its process gone, the answer is there.
            self.take_exec_result()?;
            self.command = None;
            self.addressee = None;
        }
        if let Some(exit) = self.end_of_command(ended, status_is_ready) {
            self.addressee = None;
            self.take(Input::CommandEnded(exit))?;
        }
        if self.supervision.is_tree_alive() {
            // With the command itself there is no need to look.
            let remains = match self.command {
                Some(_) => remains,
                None => self.tree.remains_to_end(BootTime::now(), remains),
            };
            self.take(Input::Reaped(remains))?;
        }
        if self.supervision.is_killing() && self.tree.has_new_child() {
            self.sweep()?;
        }
        Ok(())
    }

    /// How the command ended, if that is news. With our child gone the pipe has got all it will get.
    fn end_of_command(&mut self, child: Option<Exit>, status_is_ready: bool) -> Option<Exit> {
        match std::mem::replace(&mut self.end, EndOfCommand::Known) {
            EndOfCommand::OfChild if child.is_some() => child,
            EndOfCommand::Told(status) if child.is_some() || status_is_ready => {
                let exit = status.exit().or(child);
                if exit.is_none() {
                    // The first process is dying without a word: its end is the command's.
                    self.end = EndOfCommand::OfChild;
                }
                exit
            }
            end @ (EndOfCommand::OfChild | EndOfCommand::Told(_) | EndOfCommand::Known) => {
                self.end = end;
                None
            }
        }
    }

    fn take_orders(&mut self) -> io::Result<()> {
        while let Some(channel) = &self.channel {
            match channel.receive::<Order>()? {
                Received::Message(order, descriptors) => self.take_order(order, descriptors)?,
                Received::Nothing => return Ok(()),
                Received::Closed => {
                    self.channel = None;
                    self.unsent.clear();
                    self.take(Input::WrapperGone)?;
                }
            }
        }
        Ok(())
    }

    fn take_order(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match order {
            Order::Bequeath => self.take_will(descriptors),
            Order::Start => self.start(descriptors),
            Order::KillDeadline(at) => self.take(Input::KillDeadline(at.map(BootTime::from_since_boot))),
            Order::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => self.take(Input::Signal(signal)),
                Err(_) => Ok(()),
            },
            Order::Stop => self.take(Input::Stop),
            Order::Kill => self.take(Input::Kill),
            Order::Freeze => self.take(Input::Freeze),
            Order::Thaw => self.take(Input::Thaw),
            Order::Goodbye => self.take(Input::Goodbye),
        }
    }

    fn take_will(&mut self, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let will = descriptors.into_iter().next().ok_or(Errno::EPROTO)?;
        self.will = Some(LastWill::open(will)?);
        Ok(())
    }

    fn start(&mut self, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let mut descriptors = descriptors.into_iter();
        let letter = descriptors.next().ok_or(Errno::EPROTO)?;
        self.kept = descriptors.next().map_or(Kept::Nothing, Kept::Open);
        let mut letter = Letter::open(letter)?;
        self.will = letter.take_will();
        let (policy, kill_deadline) = (letter.policy, letter.kill_deadline());
        let started = match kill_deadline {
            // The wrapper or the host stood still since the grant: another one may hold the lock.
            Some(at) if at <= BootTime::now() => Err(Failure { stage: Stage::Deadline, errno: Errno::ETIME }),
            Some(_) | None => self.start_program(letter),
        };
        // From here on signals to the wrapper's process group and terminal are none of our business.
        // It fails if it was done before, which is as good.
        let _ = setsid();
        match started {
            Ok(starting) => {
                self.command = Some(starting.pid);
                self.tree.set_command(starting.pid);
                self.starting = Some(starting);
                self.take(Input::Launched(policy, kill_deadline))
            }
            Err(failure) => self.not_started(failure),
        }
    }

    fn start_program(&mut self, mut letter: Letter) -> Result<Starting, Failure> {
        let environment = std::mem::take(&mut self.environment);
        let program = Program::new(letter.take_argv(), environment, letter.take_env())
            .map_err(|errno| Failure { stage: Stage::Execute, errno })?;
        if !letter.isolate {
            return program.start(&self.inherited);
        }
        let (starting, status) = isolate::start(&program, &self.inherited)?;
        self.tree.set_our_own(starting.pid);
        self.end = EndOfCommand::Told(status);
        Ok(starting)
    }

    fn tell_leftovers(&mut self) -> io::Result<()> {
        // What has ended since and isn't reaped yet is no news.
        match self.tree.named() {
            nobody if nobody.is_empty() => Ok(()),
            leftovers => self.tell(Report::Leftovers(leftovers)),
        }
    }

    fn tell(&mut self, report: Report) -> io::Result<()> {
        // A newer list of what lives on replaces the older one.
        if matches!(report, Report::Unkillable(_) | Report::StillThere(_)) {
            let kind = std::mem::discriminant(&report);
            self.unsent.retain(|unsent| std::mem::discriminant(unsent) != kind);
        }
        self.unsent.push(report);
        self.send_unsent()
    }

    fn send_unsent(&mut self) -> io::Result<()> {
        let Some(channel) = &self.channel else {
            self.unsent.clear();
            return Ok(());
        };
        while let Some(report) = self.unsent.first() {
            match channel.send(report, &[])? {
                Sent::Yes | Sent::Closed => drop(self.unsent.remove(0)),
                Sent::Full => break,
            }
        }
        Ok(())
    }
}

/// Closes every descriptor above the standard ones but these.
fn close_all_but(kept: impl Iterator<Item = RawFd>) {
    let mut kept: Vec<RawFd> = kept.collect();
    kept.sort_unstable();
    let mut first = libc::STDERR_FILENO + 1;
    for fd in kept {
        close_range(first, fd - 1);
        first = fd + 1;
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if first <= last {
        // SAFETY: nothing in this process owns a descriptor in the range but through the wrapper's
        // memory, a copy that nobody uses here. A kernel without the call leaves them open, which
        // only delays what others see.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}
