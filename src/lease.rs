//! The client's side of a lease, PURE: events and `now` go in, what to do comes out.
//!
//! It promises P1's half of the bargain: whatever is delayed, lost or paused, the command is told to
//! stop, and then killed, before the server could pass the lock on. It counts from when the last
//! *answered* renewal had been *sent*, because the server counts from when it arrived, which is later.
//! Who sends the renewal, stops and kills is the caller's business.
//!
//! ```text
//! proven_at          an answered renewal had been sent
//!   + ttl            lease end: the server can't pass the lock on before
//!   - margin         kill deadline
//!   - grace          stop deadline
//! ```

use std::time::Duration;

use crate::boot_time::BootTime;

/// How much slower our clock may run than the server's: 1 part in this. Two clocks that are each off
/// by 1 % in opposite ways differ by more, and with long ttls the promise is lost.
const CLOCK_RATE_PART: u32 = 100;

/// What killing a large tree takes on a busy host.
const KILL_TIME: Duration = Duration::from_millis(200);

/// So many renewals fit in a ttl.
pub const RENEWALS_PER_TTL: u32 = 3;

/// Part of a ttl after which an answer counts as missing, and is asked for again on another
/// connection. Early enough before the stop deadline for that to be made; late enough for a network
/// whose round trips take a seventh of the ttl.
pub const PATIENCE_PER_TTL: u32 = 5;

/// How often a lock without a lease says that it is alive (Officer's clients: 6 a minute).
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// The times of a lease, checked against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    ttl: Duration,
    grace: Duration,
}

/// A set of times that can't keep the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "grace {grace:?} + margin {margin:?} (1 % of the ttl + {KILL_TIME:?}) must be less than half of the ttl {ttl:?}, \
     or the command could not be ended before the lock passes on; use a ttl above {least_ttl:?} or a shorter grace"
)]
pub struct TermsError {
    ttl: Duration,
    grace: Duration,
    margin: Duration,
    least_ttl: Duration,
}

impl Terms {
    /// The terms for a ttl and a grace; a ttl of zero means no lease: the lock is bound to a connection.
    pub fn new(ttl: Duration, grace: Duration) -> Result<Self, TermsError> {
        let terms = Self { ttl, grace };
        // Saturates, for these come from a command line.
        let needed = grace.saturating_add(terms.margin()).saturating_mul(2);
        if terms.has_lease() && needed >= ttl {
            return Err(TermsError { ttl, grace, margin: terms.margin(), least_ttl: least_ttl(grace) });
        }
        Ok(terms)
    }

    /// The same grace with the ttl that the engine granted.
    pub fn with_ttl(self, ttl: Duration) -> Result<Self, TermsError> {
        Self::new(ttl, self.grace)
    }

    fn has_lease(self) -> bool {
        !self.ttl.is_zero()
    }

    fn margin(self) -> Duration {
        self.ttl / CLOCK_RATE_PART + KILL_TIME
    }

    fn renew_every(self) -> Duration {
        if self.has_lease() { self.ttl / RENEWALS_PER_TTL } else { KEEP_ALIVE_EVERY }
    }

    fn ask_again_after(self) -> Duration {
        if self.has_lease() { self.ttl / PATIENCE_PER_TTL } else { KEEP_ALIVE_EVERY }
    }
}

/// The ttl that `grace` just doesn't fit: ttl = 2 (grace + ttl/100 + 200 ms).
fn least_ttl(grace: Duration) -> Duration {
    grace.saturating_add(KILL_TIME).saturating_mul(2 * CLOCK_RATE_PART) / (CLOCK_RATE_PART - 2)
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a renewal. If the one before has not been answered by now, it never will be.
    Renew,
    /// Send the stop signal to the tree: the lock is lost, or about to be.
    Stop(Why),
    /// Kill the tree: the lock may pass on a margin from now.
    Kill,
}

/// Why the command must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No renewal was answered up to the stop deadline.
    NotRenewed,
    /// None was asked for while it was due: this process was stopped, or the host suspended.
    NotAsked,
    /// The server said that the lock isn't ours.
    ToldSo,
}

/// A grant that arrived when too much of its lease was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the grant arrived {age:?} after it was proven, more than half of its ttl {ttl:?}")]
pub struct TooLate {
    age: Duration,
    ttl: Duration,
}

/// A lease being held.
#[derive(Clone, Debug)]
pub struct Lease {
    terms: Terms,
    proven_at: BootTime,
    next_renewal: BootTime,
    told_lost: bool,
    /// Told so by an operator: what is to be given back is still ours.
    revoked: bool,
    /// Set from when the command must stop.
    lost: Option<Why>,
    kill_sent: bool,
}

impl Lease {
    /// A lease whose last answered renewal had been sent at `proven_at`; refused if more than half
    /// of it is over, for then a command that starts now could be stopped at once.
    pub fn start(terms: Terms, proven_at: BootTime, now: BootTime) -> Result<Self, TooLate> {
        let age = now.saturating_since(proven_at);
        if terms.has_lease() && age > terms.ttl / 2 {
            // Whole milliseconds: it is for people.
            let age = Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            return Err(TooLate { age, ttl: terms.ttl });
        }
        let next_renewal = proven_at + terms.renew_every();
        Ok(Self {
            terms,
            proven_at,
            next_renewal,
            told_lost: false,
            revoked: false,
            lost: None,
            kill_sent: false,
        })
    }

    /// A renewal was answered that had been sent at `sent`.
    pub fn renewed(&mut self, sent: BootTime) {
        if sent > self.proven_at {
            self.proven_at = sent;
            self.next_renewal = sent + self.terms.renew_every();
        }
    }

    /// The engine is reached again: renew at once.
    pub fn resumed(&mut self, now: BootTime) {
        self.next_renewal = now;
    }

    /// The engine said that the lock isn't ours any more.
    pub fn told_lost(&mut self) {
        self.told_lost = true;
    }

    /// An operator takes the lock away: it is ours, and nobody else's, until we give it back.
    pub fn told_revoked(&mut self) {
        self.told_lost = true;
        self.revoked = true;
    }

    /// Whether the command was told to stop because of the lease.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Why the command must stop, if it must.
    pub fn why_lost(&self) -> Option<Why> {
        self.lost
    }

    /// Whether the engine may count the lock as ours. Also after the lease's end: the engine may have
    /// heard renewals whose answers we have not.
    pub fn may_be_ours(&self) -> bool {
        !self.told_lost || self.revoked
    }

    /// When the server may pass the lock on at the earliest; `None`: no lease.
    pub fn end(&self) -> Option<BootTime> {
        self.terms.has_lease().then(|| self.proven_at + self.terms.ttl)
    }

    /// When the tree must be killed at the latest; `None`: no lease.
    pub fn kill_deadline(&self) -> Option<BootTime> {
        self.end().map(|end| end - self.terms.margin())
    }

    fn stop_deadline(&self) -> Option<BootTime> {
        self.kill_deadline().map(|deadline| deadline - self.terms.grace)
    }

    /// The next thing to do; call until `None`. Deadlines come first, also after any pause.
    pub fn poll(&mut self, now: BootTime) -> Option<Action> {
        let passed = |deadline: Option<BootTime>| deadline.is_some_and(|at| at <= now);
        if !self.kill_sent && passed(self.kill_deadline()) {
            self.lost = self.lost.or(Some(self.reason(now)));
            self.kill_sent = true;
            return Some(Action::Kill);
        }
        if self.lost.is_none() && (self.told_lost || passed(self.stop_deadline())) {
            let why = self.reason(now);
            self.lost = Some(why);
            return Some(Action::Stop(why));
        }
        // Also while stopping: a lease that lives keeps the next holder away until the tree is dead.
        if !self.told_lost && self.next_renewal <= now {
            self.next_renewal = now + self.terms.ask_again_after();
            return Some(Action::Renew);
        }
        None
    }

    fn reason(&self, now: BootTime) -> Why {
        if self.told_lost {
            Why::ToldSo
        } else if self.next_renewal + self.terms.ask_again_after() <= now {
            // Not even asked in all that time: whoever polls in time never lets it come so far.
            Why::NotAsked
        } else {
            Why::NotRenewed
        }
    }

    /// When [`Lease::poll`] has something next; `None`: never without another event.
    pub fn next_wake(&self) -> Option<BootTime> {
        let renewal = (!self.told_lost).then_some(self.next_renewal);
        let stop = self.stop_deadline().filter(|_| self.lost.is_none());
        let kill = self.kill_deadline().filter(|_| !self.kill_sent);
        [renewal, stop, kill].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: BootTime = BootTime::from_since_boot(Duration::from_secs(1000));

    fn at(millis: u64) -> BootTime {
        T0 + Duration::from_millis(millis)
    }

    fn ten_seconds() -> Lease {
        let terms = Terms::new(Duration::from_secs(10), Duration::from_secs(3)).unwrap();
        Lease::start(terms, T0, at(1)).unwrap()
    }

    /// Everything that the lease wants at `now`.
    fn due(lease: &mut Lease, now: BootTime) -> Vec<Action> {
        std::iter::from_fn(|| lease.poll(now)).collect()
    }

    #[test]
    fn renewals_come_every_third_of_the_ttl() {
        let mut lease = ten_seconds();
        assert_eq!(due(&mut lease, at(3333)), []);
        assert_eq!(due(&mut lease, at(3334)), [Action::Renew]);
        lease.renewed(at(3334));
        assert_eq!(due(&mut lease, at(6000)), []);
        assert_eq!(due(&mut lease, at(6700)), [Action::Renew]);
    }

    #[test]
    fn an_unanswered_lease_stops_then_kills_before_its_end() {
        let mut lease = ten_seconds();
        assert_eq!(lease.kill_deadline(), Some(at(9700)));
        assert_eq!(due(&mut lease, at(3334)), [Action::Renew]);
        assert_eq!(due(&mut lease, at(5333)), []);
        assert_eq!(due(&mut lease, at(5334)), [Action::Renew], "asked again, with time left to reconnect");
        assert_eq!(due(&mut lease, at(6699)), []);
        assert_eq!(due(&mut lease, at(6700)), [Action::Stop(Why::NotRenewed)]);
        assert!(lease.is_lost());
        assert_eq!(
            due(&mut lease, at(9699)),
            [Action::Renew],
            "a lease that comes back keeps the next one away"
        );
        assert_eq!(due(&mut lease, at(9700))[0], Action::Kill);
        assert!(lease.end().unwrap() > at(9700));
    }

    #[test]
    fn an_answer_moves_the_deadlines_by_when_it_was_asked() {
        let mut lease = ten_seconds();
        due(&mut lease, at(3400));
        lease.renewed(at(3400));
        assert_eq!(lease.kill_deadline(), Some(at(3400 + 9700)));
        lease.renewed(at(100));
        assert_eq!(lease.kill_deadline(), Some(at(3400 + 9700)), "a late answer moves nothing back");
    }

    #[test]
    fn after_a_long_pause_the_deadline_comes_before_the_renewal() {
        let mut lease = ten_seconds();
        assert_eq!(due(&mut lease, at(60_000)), [Action::Kill, Action::Renew]);
        assert_eq!(lease.why_lost(), Some(Why::NotAsked));
        assert!(lease.is_lost());
        assert!(lease.may_be_ours(), "as the engine sees it: it may have heard of us");
    }

    #[test]
    fn a_pause_up_to_the_grace_is_no_fault_of_the_server() {
        let mut lease = ten_seconds();
        due(&mut lease, at(3400));
        lease.renewed(at(3400));
        assert_eq!(due(&mut lease, at(3400 + 7000))[0], Action::Stop(Why::NotAsked));
        assert_eq!(due(&mut lease, at(3400 + 9700))[0], Action::Kill);
        assert_eq!(lease.why_lost(), Some(Why::NotAsked), "the first reason stays");
    }

    #[test]
    fn what_is_revoked_is_stopped_at_once_and_still_to_be_given_back() {
        let mut lease = ten_seconds();
        lease.told_revoked();
        assert_eq!(due(&mut lease, at(10)), [Action::Stop(Why::ToldSo)]);
        assert!(lease.may_be_ours());
    }

    #[test]
    fn told_lost_stops_at_once_and_renews_no_more() {
        let mut lease = ten_seconds();
        lease.told_lost();
        assert_eq!(due(&mut lease, at(10)), [Action::Stop(Why::ToldSo)]);
        assert_eq!(lease.next_wake(), lease.kill_deadline());
        assert!(!lease.may_be_ours());
        assert_eq!(due(&mut lease, at(9700)), [Action::Kill]);
        assert_eq!(lease.next_wake(), None);
    }

    #[test]
    fn resumed_in_time_nothing_happened() {
        let mut lease = ten_seconds();
        due(&mut lease, at(3400));
        lease.resumed(at(6500));
        assert_eq!(due(&mut lease, at(6500)), [Action::Renew]);
        lease.renewed(at(6500));
        assert_eq!(due(&mut lease, at(9700)), []);
        assert!(!lease.is_lost());
    }

    #[test]
    fn a_late_grant_is_refused() {
        let terms = Terms::new(Duration::from_secs(10), Duration::from_secs(3)).unwrap();
        assert!(Lease::start(terms, T0, at(5000)).is_ok());
        let error = Lease::start(terms, T0, at(5001) + Duration::from_nanos(7)).unwrap_err();
        assert!(error.to_string().contains("5.001s"), "{error}");
    }

    #[test]
    fn without_a_ttl_only_being_told_counts() {
        let terms = Terms::new(Duration::ZERO, Duration::from_secs(3)).unwrap();
        let mut lease = Lease::start(terms, T0, at(1)).unwrap();
        assert_eq!(lease.kill_deadline(), None);
        assert_eq!(due(&mut lease, at(10_000)), [Action::Renew]);
        assert_eq!(due(&mut lease, at(90_000)), [Action::Renew]);
        lease.told_lost();
        assert_eq!(due(&mut lease, at(90_001)), [Action::Stop(Why::ToldSo)]);
        assert_eq!(lease.next_wake(), None);
    }

    #[test]
    fn times_that_cannot_keep_the_promise_are_refused_with_the_sum() {
        let error = Terms::new(Duration::from_secs(5), Duration::from_secs(3)).unwrap_err().to_string();
        assert!(error.contains("3s") && error.contains("250ms") && error.contains("5s"), "{error}");
        let least = least_ttl(Duration::from_secs(3));
        assert!(Terms::new(least, Duration::from_secs(3)).is_err());
        assert!(Terms::new(least + Duration::from_millis(1), Duration::from_secs(3)).is_ok());
        assert!(Terms::new(Duration::from_secs(1), Duration::MAX).is_err());
    }

    #[test]
    fn the_next_wake_is_never_later_than_what_is_due() {
        let mut lease = ten_seconds();
        for _ in 0..20 {
            let Some(wake) = lease.next_wake() else { break };
            assert!(lease.clone().poll(wake - Duration::from_nanos(1)).is_none());
            assert!(!due(&mut lease, wake).is_empty());
        }
    }
}
