//! The wrapper's watch over its guardian: it sees to it that a guardian that has to kill does. PURE.
//!
//! A guardian that was stopped is woken; one that doesn't begin to kill in time is to be replaced, and one
//! that has begun is helped.
//! Its time starts when we notice that it has to: we may have been paused ourselves, and it with us.

use std::time::Duration;

use crate::boot_time::BootTime;

/// How long a guardian may take to begin killing, once it has to and is able to run. What is left of the
/// margin that every lease keeps (200 ms and more) is for the killing itself: 150 ms, as from a guardian
/// that is on time, and for waking up.
const PATIENCE: Duration = Duration::from_millis(40);

/// Between two helps for a guardian that kills, in case it was stopped meanwhile: soon at first, then ever
/// later.
const FIRST_WAKE_AFTER: Duration = Duration::from_millis(20);
const LAST_WAKE_AFTER: Duration = Duration::from_millis(250);

/// How much later than the grace after a stop is over it may begin: nothing else depends on that instant.
const SLACK_OF_STOP: Duration = Duration::from_secs(1);

/// How often to wake one that has nothing to do: if it was stopped it doesn't see the command end.
const ROUTINE_WAKE_AFTER: Duration = Duration::from_secs(10);

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vigil {
    /// There is nothing to do but to wait.
    Resting {
        /// When the guardian must begin to kill by itself.
        kill_deadline: Option<BootTime>,
        /// The same, because the tree was to be stopped.
        stopped_by: Option<BootTime>,
        /// When to wake it next.
        wake_at: BootTime,
    },
    /// It has to begin.
    Pressing {
        /// By then.
        until: BootTime,
    },
    /// It has begun.
    Killing {
        /// When to wake it next.
        wake_at: BootTime,
        /// How long after that again.
        wake_after: Duration,
    },
    /// It was to be replaced.
    GivenUp,
}

/// What is to be done about the guardian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing now.
    Nothing,
    /// Wake it, in case it was stopped.
    Wake,
    /// The same, and kill with it, in case nothing wakes it.
    Help,
    /// Kill it, and end the tree from here.
    Replace,
}

impl Vigil {
    /// Over a guardian with a tree.
    pub fn new(kill_deadline: Option<BootTime>, now: BootTime) -> Self {
        Self::Resting { kill_deadline, stopped_by: None, wake_at: now + ROUTINE_WAKE_AFTER }
    }

    /// The kill deadline has moved.
    pub fn set_kill_deadline(&mut self, at: Option<BootTime>) {
        match self {
            Self::Resting { kill_deadline, .. } => *kill_deadline = at,
            // Once it has to kill, nothing takes that back.
            Self::Pressing { .. } | Self::Killing { .. } | Self::GivenUp => {}
        }
    }

    /// It was told to stop the tree, with a grace up to then. The first time counts.
    pub fn told_to_stop(&mut self, grace_ends: BootTime) {
        match self {
            Self::Resting { stopped_by, .. } => {
                stopped_by.get_or_insert(grace_ends + SLACK_OF_STOP);
            }
            Self::Pressing { .. } | Self::Killing { .. } | Self::GivenUp => {}
        }
    }

    /// It was told to kill.
    pub fn told_to_kill(&mut self, now: BootTime) {
        match self {
            Self::Resting { .. } => *self = Self::Pressing { until: now + PATIENCE },
            Self::Pressing { .. } | Self::Killing { .. } | Self::GivenUp => {}
        }
    }

    /// It said that it has begun.
    pub fn has_begun(&mut self, now: BootTime) {
        match self {
            Self::Resting { .. } | Self::Pressing { .. } => *self = Self::killing(now, FIRST_WAKE_AFTER),
            Self::Killing { .. } | Self::GivenUp => {}
        }
    }

    fn killing(now: BootTime, after: Duration) -> Self {
        Self::Killing { wake_at: now + after, wake_after: (after * 2).min(LAST_WAKE_AFTER) }
    }

    /// What is to be done now.
    pub fn check(&mut self, now: BootTime) -> Verdict {
        match self {
            Self::Resting { kill_deadline, stopped_by, .. }
                if [*kill_deadline, *stopped_by].into_iter().flatten().any(|at| at <= now) =>
            {
                *self = Self::Pressing { until: now + PATIENCE };
                Verdict::Wake
            }
            Self::Resting { wake_at, .. } if *wake_at <= now => {
                *wake_at = now + ROUTINE_WAKE_AFTER;
                Verdict::Wake
            }
            Self::Pressing { until } if *until <= now => {
                *self = Self::GivenUp;
                Verdict::Replace
            }
            Self::Killing { wake_at, wake_after } if *wake_at <= now => {
                *self = Self::killing(now, *wake_after);
                Verdict::Help
            }
            Self::Resting { .. } | Self::Pressing { .. } | Self::Killing { .. } | Self::GivenUp => {
                Verdict::Nothing
            }
        }
    }

    /// When to check again.
    pub fn wake_at(&self) -> Option<BootTime> {
        match *self {
            Self::Resting { kill_deadline, stopped_by, wake_at } => {
                [kill_deadline, stopped_by, Some(wake_at)].into_iter().flatten().min()
            }
            Self::Pressing { until } => Some(until),
            Self::Killing { wake_at, .. } => Some(wake_at),
            Self::GivenUp => None,
        }
    }

    /// Whether the guardian was to be replaced: nothing more is expected of it.
    pub fn is_given_up(&self) -> bool {
        matches!(self, Self::GivenUp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn a_guardian_that_sleeps_past_the_deadline_is_woken_then_replaced() {
        let mut vigil = Vigil::new(Some(at(5)), at(0));
        assert_eq!(vigil.check(at(4)), Verdict::Nothing);
        assert_eq!(vigil.check(at(5)), Verdict::Wake);
        assert_eq!(vigil.check(at(5)), Verdict::Nothing);
        assert_eq!(vigil.wake_at(), Some(at(5) + PATIENCE));
        assert_eq!(vigil.check(at(5) + PATIENCE), Verdict::Replace);
        vigil.has_begun(at(6));
        assert!(vigil.is_given_up(), "whatever it says now");
        assert_eq!((vigil.check(at(7)), vigil.wake_at()), (Verdict::Nothing, None));
    }

    #[test]
    fn a_pause_of_both_is_no_fault_of_the_guardian() {
        let mut vigil = Vigil::new(Some(at(5)), at(0));
        assert_eq!(vigil.check(at(500)), Verdict::Wake, "not replaced");
        vigil.has_begun(at(500));
        assert_eq!(vigil.check(at(500) + PATIENCE), Verdict::Help, "in case it was stopped since");
    }

    #[test]
    fn an_order_to_kill_is_pressed_once() {
        let mut vigil = Vigil::new(None, at(0));
        vigil.told_to_kill(at(1));
        vigil.told_to_kill(at(2));
        vigil.set_kill_deadline(Some(at(100)));
        assert_eq!(vigil.wake_at(), Some(at(1) + PATIENCE));
    }

    #[test]
    fn a_guardian_that_kills_is_helped() {
        let mut vigil = Vigil::new(None, at(0));
        vigil.told_to_kill(at(1));
        vigil.has_begun(at(1));
        assert_eq!(vigil.check(at(1)), Verdict::Nothing);
        assert_eq!(vigil.wake_at(), Some(at(1) + FIRST_WAKE_AFTER));
        assert_eq!(vigil.check(at(2)), Verdict::Help);
        assert_eq!(vigil.wake_at(), Some(at(2) + FIRST_WAKE_AFTER * 2));
        for seconds in 3..9 {
            assert_eq!(vigil.check(at(seconds)), Verdict::Help);
        }
        assert_eq!(vigil.wake_at(), Some(at(8) + LAST_WAKE_AFTER));
    }

    #[test]
    fn a_moved_deadline_is_the_one_that_counts() {
        let mut vigil = Vigil::new(Some(at(5)), at(0));
        vigil.set_kill_deadline(Some(at(9)));
        assert_eq!(vigil.check(at(6)), Verdict::Nothing);
        vigil.set_kill_deadline(None);
        assert_eq!(vigil.check(at(9)), Verdict::Nothing);
    }

    #[test]
    fn one_that_has_nothing_to_do_is_woken_now_and_then() {
        let mut vigil = Vigil::new(None, at(0));
        for wakes in 1..4 {
            let due = at(0) + ROUTINE_WAKE_AFTER * wakes;
            assert_eq!(vigil.wake_at(), Some(due));
            assert_eq!((vigil.check(due), vigil.check(due)), (Verdict::Wake, Verdict::Nothing));
        }
    }

    #[test]
    fn one_that_does_not_stop_the_tree_is_replaced() {
        let mut vigil = Vigil::new(None, at(0));
        vigil.told_to_stop(at(3));
        vigil.told_to_stop(at(90));
        assert_eq!(vigil.check(at(3)), Verdict::Nothing, "it may be a little late");
        let due = at(3) + SLACK_OF_STOP;
        assert_eq!(vigil.wake_at(), Some(due));
        assert_eq!(vigil.check(due), Verdict::Wake);
        assert_eq!(vigil.check(due + PATIENCE), Verdict::Replace);
    }
}
