//! True time, which nobody in the simulated world can read, and the hosts' clocks, which they can.

use std::time::Duration;

use officer::boot_time::BootTime;

/// Nanoseconds of true time since the start of the run.
pub(crate) type Time = u64;

pub(crate) const MILLI: Time = 1_000_000;
pub(crate) const SECOND: Time = 1000 * MILLI;

const MILLION: u128 = 1_000_000;

/// A host's boot clock: right up to its rate, and with a zero of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Its rate: so many of its seconds pass in a million true ones.
    pub(crate) per_million: u64,
    /// Its reading at `zero`.
    pub(crate) offset: u64,
    pub(crate) zero: Time,
}

impl Clock {
    pub(crate) fn read(&self, now: Time) -> BootTime {
        let passed = u128::from(now - self.zero) * u128::from(self.per_million) / MILLION;
        BootTime::from_since_boot(Duration::from_nanos(self.offset + passed as u64))
    }

    /// The first true instant at which the clock shows `reading` or more.
    pub(crate) fn when(&self, reading: BootTime) -> Time {
        let shown = reading.since_boot().as_nanos().saturating_sub(u128::from(self.offset));
        let passed = (shown * MILLION).div_ceil(u128::from(self.per_million));
        self.zero.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}
