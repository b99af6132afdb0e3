//! The wrapper's own signals, in one place and as events. Signals that were ignored when this is
//! asked for stay ignored (`nohup`); SIGTSTP, SIGTTIN and SIGTTOU keep their default action, so that
//! the shell's job control stops the wrapper as it stops the command.

use std::io;
use std::os::unix::net::UnixStream as PlainStream;

use nix::sys::signal::Signal;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use tokio::net::UnixStream;

use super::inherited::is_ignored;

/// What a wrapper can be sent and can pass on. Not among them: what reports a fault of our own or a
/// child's end, what stops, and what can't be caught.
const FORWARDABLE: [Signal; 15] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGURG,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGWINCH,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGXCPU,
];

/// A signal that was sent to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Whether a terminal sent it: then it has reached the command as well.
    pub from_terminal: bool,
}

/// The source of this process's signals. From its making on they don't have their default action,
/// for the rest of the process's life.
#[derive(Debug)]
pub struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
    /// Taken in and not yet asked for.
    pending: std::collections::VecDeque<Received>,
}

impl Signals {
    /// Listens from here on. Must be called inside a tokio runtime that has IO, after
    /// [`super::Guardian::fork`].
    pub fn listen() -> io::Result<Self> {
        let (read, write) = PlainStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let signals = FORWARDABLE.iter().filter(|signal| !is_ignored(**signal)).map(|it| *it as libc::c_int);
        let delivery =
            SignalDelivery::with_pipe(UnixStream::from_std(read)?, write, WithOrigin::default(), signals)?;
        Ok(Self { delivery, pending: std::collections::VecDeque::new() })
    }

    /// Takes the first of those that have come already and for which this says so.
    pub fn find_pending(&mut self, is_it: impl FnMut(&Received) -> bool) -> Option<Received> {
        self.take_in();
        let place = self.pending.iter().position(is_it)?;
        self.pending.remove(place)
    }

    fn take_in(&mut self) {
        self.pending.extend(self.delivery.pending().filter_map(received));
    }

    /// The next signal. Cancel safe. Signals of one kind that come in quick succession may be one.
    pub async fn next(&mut self) -> io::Result<Received> {
        loop {
            self.take_in();
            if let Some(received) = self.pending.pop_front() {
                return Ok(received);
            }
            self.delivery.get_read().readable().await?;
            // The bytes only wake us; what came is written down elsewhere.
            let mut woken = [0; 64];
            match self.delivery.get_read().try_read(&mut woken) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn received(origin: Origin) -> Option<Received> {
    let signal = Signal::try_from(origin.signal).ok()?;
    // The kernel itself sends some of these for other reasons than a terminal; these it sends for it.
    let is_terminals = matches!(
        signal,
        Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP | Signal::SIGWINCH | Signal::SIGCONT
    );
    Some(Received { signal, from_terminal: is_terminals && origin.cause == Cause::Kernel })
}
