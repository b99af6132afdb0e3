//! When to look out for requests without going to sleep. PURE.
//!
//! Where CPUs sleep when idle, waking one takes tens of microseconds: most of the time in which a hot
//! lock changes hands. Then it pays to look out for a moment after a waiter was granted a lock, for the
//! next hand-over may follow at once. Where others need the CPU it does harm. So both are tried, and
//! what passed locks on faster is kept, until the next trial.

use std::time::Duration;

use crate::boot_time::BootTime;

/// How long to look out after a hand-over at most: two wakings of CPUs that slept deeply, one for the
/// new holder and one for us.
const AFTER_HAND_OVER: Duration = Duration::from_micros(150);

/// Hand-overs farther apart say nothing: what takes the time is the holder's work.
const HOT: Duration = Duration::from_micros(500);

/// Hand-overs by which a way is judged.
const TRIAL: u32 = 32;

/// One trial of the other way comes after so many of the better one.
const TRIALS_KEPT: u32 = 31;

/// Looking out must save this part of the time at least, for what it costs.
const LEAST_GAIN: u32 = 5;

/// How the loop looks out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyPoll {
    /// After hand-overs only, as long as it pays.
    Adaptive,
    /// Before each sleep, for so long.
    Always(Duration),
}

/// What to do after a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sleep,
    LookOut,
}

#[derive(Debug)]
pub(super) struct Lookout {
    mode: BusyPoll,
    way: Way,
    /// The last hand-over.
    last: Option<BootTime>,
    /// Hand-overs of this trial, and the time that they took together.
    trial: (u32, Duration),
    /// What the last trial of each way took; `None`: not tried yet.
    asleep: Option<Duration>,
    looking: Option<Duration>,
    /// Trials since the other way was tried.
    kept: u32,
    /// While looking out after a hand-over.
    until: Option<BootTime>,
}

impl Lookout {
    pub(super) fn new(mode: BusyPoll) -> Self {
        Self {
            mode,
            way: Way::Sleep,
            last: None,
            trial: (0, Duration::ZERO),
            asleep: None,
            looking: None,
            kept: 0,
            until: None,
        }
    }

    /// A waiter has been granted a lock.
    pub(super) fn handed_over(&mut self, now: BootTime) {
        let since = self.last.replace(now).map(|last| now.saturating_since(last));
        match since.filter(|&since| since < HOT) {
            Some(since) => self.judge(since),
            // A trial with gaps says nothing, and nobody is in a hurry.
            None => self.rest(),
        }
        self.until = match self.way {
            Way::Sleep => None,
            Way::LookOut => Some(now + AFTER_HAND_OVER),
        };
    }

    /// Until when to look out from `now` on, instead of sleeping.
    pub(super) fn until(&self, now: BootTime) -> Option<BootTime> {
        match self.mode {
            BusyPoll::Adaptive => self.until,
            BusyPoll::Always(Duration::ZERO) => None,
            BusyPoll::Always(time) => Some(now + time),
        }
    }

    /// Nothing came until then.
    pub(super) fn in_vain(&mut self) {
        self.until = None;
    }

    fn rest(&mut self) {
        self.way = Way::Sleep;
        self.trial = (0, Duration::ZERO);
        (self.asleep, self.looking) = (None, None);
        self.kept = 0;
    }

    fn judge(&mut self, since: Duration) {
        self.trial.0 += 1;
        self.trial.1 += since;
        if self.trial.0 < TRIAL {
            return;
        }
        let (_, took) = std::mem::take(&mut self.trial);
        match self.way {
            Way::Sleep => self.asleep = Some(took),
            Way::LookOut => self.looking = Some(took),
        }
        self.kept += 1;
        self.way = match (self.asleep, self.looking) {
            (None, _) => Way::Sleep,
            (_, None) => Way::LookOut,
            (Some(asleep), Some(looking)) => {
                let better = if looking < asleep - asleep / LEAST_GAIN { Way::LookOut } else { Way::Sleep };
                if self.kept > TRIALS_KEPT {
                    self.kept = 0;
                    better.other()
                } else {
                    better
                }
            }
        };
    }
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Sleep => Self::LookOut,
            Self::LookOut => Self::Sleep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_secs(1) + Duration::from_micros(micros))
    }

    /// Hand-overs that take so long, by the way that is chosen; how many of them were looked out for.
    fn play(lookout: &mut Lookout, start: u64, count: u32, asleep: u64, looking: u64) -> (u64, u32) {
        let (mut now, mut looked) = (start, 0);
        for _ in 0..count {
            let looks = lookout.until(at(now)).is_some();
            looked += u32::from(looks);
            now += if looks { looking } else { asleep };
            lookout.handed_over(at(now));
        }
        (now, looked)
    }

    #[test]
    fn where_waking_is_slow_it_looks_out() {
        let (_, looked) = play(&mut Lookout::new(BusyPoll::Adaptive), 0, 10_000, 90, 30);
        assert!(looked > 9_500, "{looked}");
    }

    #[test]
    fn where_it_gains_little_it_sleeps() {
        for looking in [11, 12, 100] {
            let (_, looked) = play(&mut Lookout::new(BusyPoll::Adaptive), 0, 10_000, 12, looking);
            assert!(looked < 500, "{looked} of 10000 at {looking}");
        }
    }

    #[test]
    fn it_notices_when_that_changes() {
        let mut lookout = Lookout::new(BusyPoll::Adaptive);
        let (now, _) = play(&mut lookout, 0, 10_000, 90, 30);
        let (now, looked) = play(&mut lookout, now, 10_000, 12, 60);
        assert!(looked < 2_000, "{looked}");
        let (_, looked) = play(&mut lookout, now, 10_000, 90, 30);
        assert!(looked > 8_000, "{looked}");
    }

    #[test]
    fn locks_that_are_held_for_long_are_no_reason() {
        let (_, looked) = play(&mut Lookout::new(BusyPoll::Adaptive), 0, 10_000, 2_000, 1_900);
        assert_eq!(looked, 0);
    }

    #[test]
    fn it_never_looks_out_for_longer_than_it_says() {
        let mut lookout = Lookout::new(BusyPoll::Adaptive);
        let (now, _) = play(&mut lookout, 0, 10_000, 90, 30);
        assert_eq!(lookout.until(at(now)), Some(at(now) + AFTER_HAND_OVER));
        lookout.in_vain();
        assert_eq!(lookout.until(at(now)), None);
    }

    #[test]
    fn an_operator_may_want_it_always_or_never() {
        let mut always = Lookout::new(BusyPoll::Always(Duration::from_micros(50)));
        assert_eq!(always.until(at(0)), Some(at(50)));
        always.in_vain();
        assert_eq!(always.until(at(0)), Some(at(50)));
        let (_, looked) = play(&mut Lookout::new(BusyPoll::Always(Duration::ZERO)), 0, 10_000, 90, 30);
        assert_eq!(looked, 0);
    }
}
