//! The wrapper's line to the guardian. Orders never block: what the guardian has no room for is
//! kept, at most one of each kind, and sent later. Whoever listens also keeps the vigil.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::boot_time::BootTime;
use crate::boot_timer::BootTimer;

use super::messages::{Channel, Order, Received, Report, Sent};
use super::pidfd;
use super::tree::{Outlives, Tree};
use super::vigil::{Verdict, Vigil};

/// How long to wait with what the guardian had no room for. It has room but for when it was stopped.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// How long a guardian may take to leave. It has nothing to do but to exit.
const FAREWELL: Duration = Duration::from_millis(200);

/// One guardian's line. While there is one, the guardian isn't reaped, so nobody else has its id.
#[derive(Debug)]
pub(super) struct Line {
    guardian: Pid,
    socket: Socket,
    unsent: Vec<Order>,
    vigil: Vigil,
    /// How long after a stop it has to kill.
    grace: Duration,
    outlives: Outlives,
    /// What is below the guardian, once it is to be helped with killing that.
    helped: Option<Tree>,
}

#[derive(Debug)]
enum Socket {
    /// Before there is a runtime.
    Plain(Channel),
    Watched(AsyncFd<Channel>, BootTimer),
    /// It could not be watched.
    Failed,
}

/// What was heard.
#[derive(Debug)]
pub(super) enum Heard {
    Report(Report),
    /// The guardian is gone, or can't be heard, which is as bad.
    Gone,
}

impl Line {
    pub(super) fn new(guardian: Pid, channel: Channel, outlives: Outlives) -> Self {
        Self {
            guardian,
            socket: Socket::Plain(channel),
            unsent: Vec::new(),
            vigil: Vigil::new(None, BootTime::now()),
            grace: Duration::ZERO,
            outlives,
            helped: None,
        }
    }

    /// Sends the order to start, with descriptors, and listens from here on.
    pub(super) fn start(
        &mut self,
        kill_deadline: Option<BootTime>,
        grace: Duration,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.vigil = Vigil::new(kill_deadline, BootTime::now());
        self.grace = grace;
        self.watch()?;
        match self.send(&Order::Start, descriptors)? {
            // Closed: what is heard next says so.
            Sent::Yes | Sent::Closed => {
                self.wake();
                Ok(())
            }
            Sent::Full => Err(Errno::EAGAIN.into()),
        }
    }

    /// Leaves a will for as long as there is no command.
    pub(super) fn bequeath(&self, will: BorrowedFd<'_>) -> io::Result<()> {
        match self.send(&Order::Bequeath, &[will])? {
            Sent::Yes | Sent::Closed => Ok(()),
            Sent::Full => Err(Errno::EAGAIN.into()),
        }
    }

    /// Gives an order, now or as soon as there is room.
    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::KillDeadline(at) => self.vigil.set_kill_deadline(at.map(BootTime::from_since_boot)),
            Order::Kill => self.vigil.told_to_kill(BootTime::now()),
            Order::Stop => self.vigil.told_to_stop(BootTime::now() + self.grace),
            Order::Bequeath
            | Order::Start
            | Order::Signal(_)
            | Order::Freeze
            | Order::Thaw
            | Order::Goodbye => {}
        }
        self.unsent.retain(|unsent| !order.replaces(unsent));
        self.unsent.push(order);
        self.send_unsent();
        self.wake();
    }

    /// The next report, or the guardian's end. Cancel safe.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            let send_again_at = (!self.send_unsent()).then(|| BootTime::now() + SEND_AGAIN_AFTER);
            self.keep_vigil();
            if self.vigil.is_given_up() {
                return self.last_words();
            }
            let wake_at = [self.vigil.wake_at(), send_again_at].into_iter().flatten().min();
            let Socket::Watched(channel, timer) = &mut self.socket else { return Heard::Gone };
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
                Ok(Received::Message(Report::Killing, _)) => self.vigil.has_begun(BootTime::now()),
                Ok(Received::Message(report, _)) => return Heard::Report(report),
                Ok(Received::Nothing) => ready.clear_ready(),
                Ok(Received::Closed) | Err(_) => return Heard::Gone,
            }
        }
    }

    /// Whether the guardian was given up: then its end is our doing.
    pub(super) fn is_given_up(&self) -> bool {
        self.vigil.is_given_up()
    }

    /// What a guardian that was given up has said before; then it is gone for us, even if it can't die yet.
    fn last_words(&self) -> Heard {
        let Socket::Watched(channel, _) = &self.socket else { return Heard::Gone };
        loop {
            match channel.get_ref().receive() {
                Ok(Received::Message(Report::Killing, _)) => {}
                Ok(Received::Message(report, _)) => return Heard::Report(report),
                Ok(Received::Nothing | Received::Closed) | Err(_) => return Heard::Gone,
            }
        }
    }

    /// [`Line::dismiss`] without blocking.
    pub(super) async fn farewell(&mut self) {
        self.order(Order::Goodbye);
        let _ = tokio::time::timeout(FAREWELL, pidfd::ended(self.guardian)).await;
        let _ = waitpid(self.guardian, Some(WaitPidFlag::WNOHANG));
    }

    /// Sends the guardian away and takes in its end, which comes at once: where process 1 takes in
    /// nobody (many containers), each guardian would stay a zombie for ever.
    pub(super) fn dismiss(&mut self) {
        self.order(Order::Goodbye);
        if let Ok(pidfd) = pidfd::open(self.guardian) {
            // Whatever comes of it: the next line doesn't wait.
            let _ = poll(
                &mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
                PollTimeout::try_from(FAREWELL).unwrap_or(PollTimeout::ZERO),
            );
        }
        let _ = waitpid(self.guardian, Some(WaitPidFlag::WNOHANG));
    }

    /// Hangs up, and hands over the timer.
    pub(super) fn into_timer(self) -> Option<BootTimer> {
        match self.socket {
            Socket::Watched(_, timer) => Some(timer),
            Socket::Plain(_) | Socket::Failed => None,
        }
    }

    fn keep_vigil(&mut self) {
        match self.vigil.check(BootTime::now()) {
            Verdict::Nothing => {}
            Verdict::Wake => self.wake(),
            Verdict::Help => {
                self.wake();
                self.help();
            }
            Verdict::Replace => {
                // If it can't die either (frozen from outside), what is below it is found all the same.
                let _ = kill(self.guardian, Signal::SIGKILL);
            }
        }
    }

    /// Kills what the guardian has not come to. What refuses is its to tell of.
    fn help(&mut self) {
        let below = || Tree::below(self.guardian, [], self.outlives);
        self.helped.get_or_insert_with(below).kill(BootTime::now());
    }

    /// A guardian that somebody stopped can't do its work.
    fn wake(&self) {
        // It is there, if only as a zombie, and ours to signal.
        let _ = kill(self.guardian, Signal::SIGCONT);
    }

    /// Listens from here on. Must be called inside a tokio runtime that has IO.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        self.socket = match std::mem::replace(&mut self.socket, Socket::Failed) {
            Socket::Plain(channel) => {
                let timer = BootTimer::new()?;
                // SAFETY: the channel owns its descriptor and names the same one until it is dropped.
                let channel = unsafe { AsyncFd::register_with_interest(channel, Interest::READABLE) }?;
                Socket::Watched(channel, timer)
            }
            socket @ (Socket::Watched(..) | Socket::Failed) => socket,
        };
        Ok(())
    }

    /// Returns whether all is sent.
    fn send_unsent(&mut self) -> bool {
        while let Some(order) = self.unsent.first() {
            match self.send(order, &[]) {
                Ok(Sent::Full) => return false,
                // An end of the guardian is heard, not seen here.
                Ok(Sent::Yes | Sent::Closed) | Err(_) => drop(self.unsent.remove(0)),
            }
        }
        true
    }

    fn send(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<Sent> {
        match &self.socket {
            Socket::Plain(channel) => channel.send(order, descriptors),
            Socket::Watched(channel, _) => channel.get_ref().send(order, descriptors),
            Socket::Failed => Ok(Sent::Closed),
        }
    }
}

impl Order {
    /// Only the newest of each kind counts; freezing and thawing are one kind.
    fn replaces(&self, older: &Self) -> bool {
        let is_standstill = |order: &Self| matches!(order, Self::Freeze | Self::Thaw);
        let is_deadline = |order: &Self| matches!(order, Self::KillDeadline(_));
        self == older
            || (is_standstill(self) && is_standstill(older))
            || (is_deadline(self) && is_deadline(older))
    }
}
