//! Keys pressed before there was a command to hear them. A terminal's signal goes once to all that is
//! in its foreground group then: what is forked a moment later hasn't heard of it, and nobody sends it
//! again. So who is about to fork takes in what has come, and hands it on. Ctrl-Z isn't among that: the
//! wrapper stops, and the command is started all the same.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// What a terminal says to a whole group.
const KEYS: [Signal; 3] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];

/// The signals that a terminal has sent and the command hasn't got.
#[derive(Debug)]
pub(super) struct Missed {
    signals: SigSet,
    /// Closed after the fork only: what comes between the last look and the fork is lost.
    _ours: Option<SignalFd>,
}

impl Missed {
    pub(super) fn none() -> Self {
        Self { signals: SigSet::empty(), _ours: None }
    }

    /// With those that have come to this process, which blocks them, by now. If that can't be found out
    /// none has.
    pub(super) fn and_ours(mut self) -> Self {
        let keys: SigSet = KEYS.into_iter().collect();
        let Ok(ours) = SignalFd::with_flags(&keys, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else {
            return self;
        };
        while let Ok(Some(came)) = ours.read_signal() {
            // What a process has sent to the group the wrapper has got too, and passes on.
            let is_terminals = came.ssi_code == libc::SI_KERNEL;
            if let (true, Ok(signal)) = (is_terminals, Signal::try_from(came.ssi_signo as i32)) {
                self.signals.add(signal);
            }
        }
        Self { _ours: Some(ours), ..self }
    }

    /// Sends them to this process, just forked. While they are blocked they merge with what it has got itself, so it
    /// hears of each once.
    pub(super) fn raise(self) {
        for signal in &self.signals {
            // It can be sent: it is a signal, and to ourselves. To the process, as a terminal's is.
            let _ = kill(Pid::this(), signal);
        }
    }
}
