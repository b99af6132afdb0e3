//! Sleeping on the boot clock, the clock of every deadline.
//!
//! tokio's own timers run on CLOCK_MONOTONIC, which stands still while the host is suspended: a
//! deadline that passed during the suspend would come late by all of it. These don't.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::boot_time::BootTime;

/// The farthest setting, 136 years: beyond that the kernel's clock type wraps.
const FARTHEST: Duration = Duration::from_secs(u32::MAX as u64);

/// A timer on the boot clock; it can be set again and again, which costs one system call.
#[derive(Debug)]
pub struct BootTimer {
    timer: AsyncFd<Descriptor>,
    set_to: Option<BootTime>,
}

impl BootTimer {
    /// A timer that isn't set. Must be called inside a tokio runtime that has IO.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        // SAFETY: the timer owns its descriptor and names the same one until it is dropped, which the
        // registration doesn't outlive.
        let timer = unsafe { AsyncFd::register_with_interest(Descriptor(timer), Interest::READABLE) }?;
        Ok(Self { timer, set_to: None })
    }

    /// Sleeps until `at`; returns at once if that has passed. `None`: for ever. Cancel safe; a call
    /// with the instant of the last one costs nothing.
    pub async fn sleep_until(&mut self, at: Option<BootTime>) -> io::Result<()> {
        self.set(at)?;
        let Some(at) = at else { return std::future::pending().await };
        // The clock decides, not the readiness: what was read of an earlier setting may be stale.
        while BootTime::now() < at {
            let mut ready = self.timer.readable().await?;
            ready.clear_ready();
        }
        Ok(())
    }

    fn set(&mut self, at: Option<BootTime>) -> io::Result<()> {
        if self.set_to == at {
            return Ok(());
        }
        let timer = &self.timer.get_ref().0;
        match at {
            // A timerfd set to zero is disarmed; the boot itself has passed in any case.
            Some(at) if !at.since_boot().is_zero() => {
                let expiration = Expiration::OneShot(TimeSpec::from_duration(at.since_boot().min(FARTHEST)));
                timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            Some(_) | None => timer.unset()?,
        }
        self.set_to = at;
        Ok(())
    }
}

/// tokio asks for a raw descriptor, nix's timer only lends one.
#[derive(Debug)]
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Sleeps until `at` on the boot clock; returns at once if that has passed. Must be awaited inside
/// a tokio runtime that has IO.
pub async fn sleep_until(at: BootTime) -> io::Result<()> {
    BootTimer::new()?.sleep_until(Some(at)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(future)
    }

    #[test]
    fn never_wakes_early() {
        let at = BootTime::now() + Duration::from_millis(20);
        block_on(sleep_until(at)).unwrap();
        assert!(BootTime::now() >= at);
    }

    #[test]
    fn what_has_passed_is_not_waited_for() {
        block_on(sleep_until(BootTime::from_since_boot(Duration::ZERO))).unwrap();
        block_on(sleep_until(BootTime::now())).unwrap();
    }

    #[test]
    fn far_deadlines_do_not_fail() {
        block_on(async {
            let mut timer = BootTimer::new().unwrap();
            let far = BootTime::from_since_boot(Duration::MAX);
            tokio::select! {
                woken = timer.sleep_until(Some(far)) => panic!("woken at the end of time: {woken:?}"),
                woken = sleep_until(BootTime::now() + Duration::from_millis(5)) => woken.unwrap(),
            }
        });
    }

    #[test]
    fn a_deadline_moves_both_ways() {
        block_on(async {
            let mut timer = BootTimer::new().unwrap();
            let far = BootTime::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                woken = timer.sleep_until(Some(far)) => panic!("an hour has passed: {woken:?}"),
                () = std::future::ready(()) => {}
            }
            let near = BootTime::now() + Duration::from_millis(5);
            timer.sleep_until(Some(near)).await.unwrap();
            let later = BootTime::now() + Duration::from_millis(10);
            timer.sleep_until(Some(later)).await.unwrap();
            assert!(BootTime::now() >= later);
        });
    }
}
