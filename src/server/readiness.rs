//! After a restart of the host the store's last commits may be missing, so a session that isn't
//! known any more may still run its command: sessions are granted locks only once the host has been
//! up for longer than any lease can be old.

use std::time::Duration;

use tracing::info;

use crate::boot_time::BootTime;

use super::store::Saved;

const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Whether sessions may be granted locks.
pub(super) enum Readiness {
    /// From then on. The boot is remembered only then: a restart before must wait again.
    Waiting {
        ready_at: BootTime,
        boot_id: String,
    },
    Ready,
}

impl Readiness {
    /// `max_ttl` is this run's; the last run may have allowed longer leases.
    pub(super) fn at_start(saved: &Saved, max_ttl: Duration) -> Self {
        let boot_id = boot_id();
        if !boot_id.is_empty() && saved.boot_id.as_ref() == Some(&boot_id) {
            return Self::Ready;
        }
        let longest = saved.sessions.iter().map(|session| session.ttl).max().unwrap_or_default();
        let wait = match &saved.boot_id {
            // A new store: no lease was ever given.
            None => Duration::ZERO,
            Some(_) => longest.max(saved.max_ttl).max(max_ttl),
        };
        Self::Waiting { ready_at: BootTime::from_since_boot(wait), boot_id }
    }

    /// Until when sessions wait; `None`: they don't.
    pub(super) fn ready_at(&self) -> Option<BootTime> {
        match self {
            Self::Waiting { ready_at, .. } => Some(*ready_at),
            Self::Ready => None,
        }
    }

    /// At the moment when the waiting ends: the boot to remember.
    pub(super) fn get_ready(&mut self, now: BootTime) -> Option<String> {
        match self {
            Self::Waiting { ready_at, .. } if now < *ready_at => None,
            Self::Ready => None,
            Self::Waiting { ready_at, boot_id } => {
                if ready_at.since_boot() > Duration::ZERO {
                    info!("sessions are granted locks: the host is up for long enough");
                }
                let boot_id = std::mem::take(boot_id);
                *self = Self::Ready;
                Some(boot_id)
            }
        }
    }
}

/// Differs from boot to boot; empty where the kernel doesn't tell.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID_FILE).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_TTL: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn a_new_store_is_ready_at_once() {
        let mut readiness = Readiness::at_start(&Saved::default(), MAX_TTL);
        assert!(readiness.get_ready(at(0)).is_some());
        assert_eq!(readiness.ready_at(), None);
    }

    #[test]
    fn another_boot_waits_for_the_longest_lease_there_could_be() {
        let saved =
            Saved { boot_id: Some("other".into()), max_ttl: Duration::from_secs(90), ..Saved::default() };
        let mut readiness = Readiness::at_start(&saved, MAX_TTL);
        assert_eq!(readiness.ready_at(), Some(at(90)));
        assert_eq!(readiness.get_ready(at(89)), None);
        assert!(readiness.get_ready(at(90)).is_some());
    }

    #[test]
    fn the_same_boot_is_ready() {
        let boot_id = std::fs::read_to_string(BOOT_ID_FILE).unwrap().trim().to_owned();
        let saved = Saved { boot_id: Some(boot_id), ..Saved::default() };
        assert_eq!(Readiness::at_start(&saved, MAX_TTL).ready_at(), None);
    }
}
