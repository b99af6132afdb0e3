//! Instants on the host's boot clock (CLOCK_BOOTTIME), the clock of every deadline.
//!
//! Unlike `std::time::Instant` it goes on while the host is suspended, so a lease that ended
//! during the suspend is seen as ended. Pure code takes a `BootTime` as `now` and never asks for it.

use std::ops::{Add, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the host was booted, suspends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// The clock's reading.
    pub fn now() -> Self {
        let reading = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has CLOCK_BOOTTIME");
        Self(Duration::from(reading))
    }

    /// An instant that lies `since_boot` after the boot.
    pub const fn from_since_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// How long after the boot this instant lies.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// How long from `earlier` to here; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    /// Saturates: a deadline beyond the clock's range is never reached.
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;

    /// Saturates at the boot.
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}
