//! What a signal asks of a wrapper whose command was started. PURE: the signal, how far the command
//! has come and `now` go in, the answer comes out.

use std::time::Duration;

use nix::sys::signal::Signal;
use officer::boot_time::BootTime;
use officer::supervisor::Received;

/// A second request to end means "now" only so long after the first: GNU timeout, for one, signals its
/// child and then its whole group, which is one request.
const SECOND_REQUEST_AFTER: Duration = Duration::from_millis(500);

/// How far the command has come, as far as it matters for a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It runs.
    Running {
        /// Whether it is in our process group: then a terminal's signals reach it without us.
        in_our_group: bool,
        /// Whether we lead the session: then a terminal's hang-up reaches us alone.
        leading: bool,
        /// Whether we let it stand still.
        frozen: bool,
        /// Whether it is being ended for another reason than a signal.
        ending: bool,
    },
    /// It has just ended; whether anything of it is left isn't told yet.
    Ended,
    /// It has ended, and what it left behind holds the lock.
    LeftBehind,
    /// Nothing of it is left; the lock is kept for a while.
    Over,
}

/// What to do about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has been seen to, or is not for us.
    Nothing,
    /// Pass it on to the command.
    Forward,
    /// End the tree with grace, and don't keep the lock beyond its end.
    Stop,
    /// End the tree now.
    Kill,
    /// Give the lock back now.
    LetGo,
}

/// The requests to end, so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    first: Option<BootTime>,
}

impl Requests {
    /// Takes a signal that came at `now`.
    pub fn take(&mut self, now: BootTime, received: Received, phase: Phase) -> Answer {
        let Received { signal, from_terminal } = received;
        match phase {
            Phase::Running { ending, .. } if signal == Signal::SIGTERM => self.end(now, ending),
            Phase::Running { frozen: true, .. } if signal == Signal::SIGCONT => Answer::Nothing,
            Phase::Running { leading: true, .. } if signal == Signal::SIGHUP => Answer::Forward,
            Phase::Running { in_our_group: true, .. } if from_terminal => Answer::Nothing,
            Phase::Running { .. } => Answer::Forward,
            // It may be the very one that has ended the command.
            Phase::Ended if from_terminal => Answer::Nothing,
            Phase::Ended | Phase::LeftBehind if asks_for_the_end(signal) => self.end(now, false),
            Phase::Over if asks_for_the_end(signal) => Answer::LetGo,
            Phase::Ended | Phase::LeftBehind | Phase::Over => Answer::Nothing,
        }
    }

    fn end(&mut self, now: BootTime, ending: bool) -> Answer {
        match self.first {
            None if ending => Answer::Kill,
            None => {
                self.first = Some(now);
                Answer::Stop
            }
            Some(first) if now.saturating_since(first) < SECOND_REQUEST_AFTER => Answer::Nothing,
            Some(_) => Answer::Kill,
        }
    }
}

/// Whether it is one of the signals by which people and programs ask us to end.
pub fn asks_for_the_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Signal::*;

    const RUNNING: Phase =
        Phase::Running { in_our_group: true, leading: false, frozen: false, ending: false };

    fn at(millis: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_millis(1_000_000 + millis))
    }

    fn from(signal: Signal, from_terminal: bool) -> Received {
        Received { signal, from_terminal }
    }

    #[test]
    fn each_signal_has_its_answer_in_each_phase() {
        let running =
            |in_our_group, leading, frozen, ending| Phase::Running { in_our_group, leading, frozen, ending };
        let away = running(false, false, false, false);
        let leading = running(true, true, false, false);
        let frozen = running(true, false, true, false);
        let ending = running(true, false, false, true);
        for (phase, signal, from_terminal, answer) in [
            (RUNNING, SIGTERM, false, Answer::Stop),
            (RUNNING, SIGINT, false, Answer::Forward),
            (RUNNING, SIGINT, true, Answer::Nothing),
            (RUNNING, SIGQUIT, true, Answer::Nothing),
            (RUNNING, SIGUSR1, false, Answer::Forward),
            (RUNNING, SIGCONT, false, Answer::Forward),
            (away, SIGINT, true, Answer::Forward),
            (away, SIGQUIT, true, Answer::Forward),
            (away, SIGTERM, false, Answer::Stop),
            (RUNNING, SIGHUP, true, Answer::Nothing),
            (leading, SIGHUP, true, Answer::Forward),
            (leading, SIGINT, true, Answer::Nothing),
            (frozen, SIGCONT, false, Answer::Nothing),
            (frozen, SIGUSR1, false, Answer::Forward),
            (frozen, SIGTERM, false, Answer::Stop),
            (ending, SIGTERM, false, Answer::Kill),
            (ending, SIGINT, false, Answer::Forward),
            (Phase::Ended, SIGTERM, false, Answer::Stop),
            (Phase::Ended, SIGINT, false, Answer::Stop),
            (Phase::Ended, SIGINT, true, Answer::Nothing),
            (Phase::Ended, SIGUSR1, false, Answer::Nothing),
            (Phase::LeftBehind, SIGTERM, false, Answer::Stop),
            (Phase::LeftBehind, SIGINT, true, Answer::Stop),
            (Phase::LeftBehind, SIGQUIT, true, Answer::Stop),
            (Phase::LeftBehind, SIGHUP, false, Answer::Stop),
            (Phase::LeftBehind, SIGWINCH, true, Answer::Nothing),
            (Phase::LeftBehind, SIGUSR1, false, Answer::Nothing),
            (Phase::Over, SIGTERM, false, Answer::LetGo),
            (Phase::Over, SIGINT, true, Answer::LetGo),
            (Phase::Over, SIGHUP, false, Answer::LetGo),
            (Phase::Over, SIGQUIT, false, Answer::LetGo),
            (Phase::Over, SIGWINCH, true, Answer::Nothing),
            (Phase::Over, SIGCONT, false, Answer::Nothing),
            (Phase::Over, SIGUSR1, false, Answer::Nothing),
        ] {
            let got = Requests::default().take(at(0), from(signal, from_terminal), phase);
            assert_eq!(got, answer, "{signal} in {phase:?}, from a terminal: {from_terminal}");
        }
    }

    #[test]
    fn two_requests_at_once_are_one_and_a_later_one_means_now() {
        let mut requests = Requests::default();
        for (millis, phase, answer) in [
            (0, RUNNING, Answer::Stop),
            (0, RUNNING, Answer::Nothing),
            (499, RUNNING, Answer::Nothing),
            (499, Phase::LeftBehind, Answer::Nothing),
            (500, RUNNING, Answer::Kill),
            (9000, Phase::LeftBehind, Answer::Kill),
        ] {
            assert_eq!(requests.take(at(millis), from(SIGTERM, false), phase), answer, "after {millis} ms");
        }
    }
}
