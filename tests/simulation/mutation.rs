//! Rules broken on purpose, to show that the checkers would see it. Each is broken in the
//! simulator's own parts: the client's and the server's glue and the store.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The tree is killed at the end of the lease, not a margin before.
    NoMargin,
    /// The session is closed when the command has ended, whatever it left running.
    ReleaseBeforeTheTreeIsDead,
    /// The guardian closes the session when the wrapper dies, before the tree is dead.
    WillBeforeTheTreeIsDead,
    /// The guardian leaves without giving anything back.
    NoLastWill,
    /// A renewal counts from when its answer came.
    RenewalCountsFromItsAnswer,
    /// A grant counts from when it came.
    GrantCountsFromItsArrival,
    /// Timers stop while the host is suspended, and nothing is checked when it wakes up.
    TimersStopInSuspend,
    /// The guardian isn't told of later deadlines.
    GuardianKeepsItsFirstDeadline,
    /// The wrapper's death isn't noticed and its deadline forgotten.
    GuardianDiesWithTheWrapper,
    /// The wrapper neither wakes a guardian that was stopped nor replaces one that doesn't kill.
    NobodyWatchesTheGuardian,
    /// The wrapper takes the tree of a guardian that was killed for dead.
    OrphansLiveOn,
    /// Requests aren't repeated after a resume.
    NothingIsAskedAgain,
    /// Replies leave before the commit, which comes with the next turn.
    ReplyBeforeCommit,
    /// Tokens go on from the greatest one in the store.
    TokensAreReused,
    /// Sessions end a tenth of their ttl and 200 ms too early.
    ExpiresEarly,
    /// A session that has ended keeps its locks.
    ExpiryKeepsTheLocks,
    /// A waiter without a connection is granted its lock.
    SuspendedWaiterIsGranted,
    /// A waiter that is back is still passed over.
    ResumedWaiterIsPassedOver,
    /// Sessions get locks at once after a reboot.
    NoWaitAfterReboot,
    /// A restart of the server ends the wait after a reboot.
    RestartEndsTheWait,
    /// A resumed session isn't told what it holds.
    ResumeTellsNoGrants,
    /// `close` of a session that is gone frees what it once held, whoever holds it now.
    StaleCloseFreesTheNewHolder,
    /// A restart forgets who holds what.
    RestartForgetsHolds,
    /// A lock that an operator takes passes on before its holder has given it back.
    RevokedPassesOnAtOnce,
    /// A restart forgets what operators have taken.
    RestartForgetsRevocations,
    /// A waiter takes what it is said to hold after a reboot without asking for it.
    HoldsOutliveAReboot,
    /// After a reboot the first session is considered first, not the first waiter.
    ReadyInOrderOfSessions,
    /// No rule but the assumption: clocks differ in rate by up to 3 %.
    ClocksDifferTooMuch,
}

impl Mutation {
    pub(crate) const ALL: [Self; 28] = [
        Self::NoMargin,
        Self::ReleaseBeforeTheTreeIsDead,
        Self::WillBeforeTheTreeIsDead,
        Self::NoLastWill,
        Self::RenewalCountsFromItsAnswer,
        Self::GrantCountsFromItsArrival,
        Self::TimersStopInSuspend,
        Self::GuardianKeepsItsFirstDeadline,
        Self::GuardianDiesWithTheWrapper,
        Self::NobodyWatchesTheGuardian,
        Self::OrphansLiveOn,
        Self::NothingIsAskedAgain,
        Self::ReplyBeforeCommit,
        Self::TokensAreReused,
        Self::ExpiresEarly,
        Self::ExpiryKeepsTheLocks,
        Self::SuspendedWaiterIsGranted,
        Self::ResumedWaiterIsPassedOver,
        Self::NoWaitAfterReboot,
        Self::RestartEndsTheWait,
        Self::ResumeTellsNoGrants,
        Self::StaleCloseFreesTheNewHolder,
        Self::RestartForgetsHolds,
        Self::RevokedPassesOnAtOnce,
        Self::RestartForgetsRevocations,
        Self::HoldsOutliveAReboot,
        Self::ReadyInOrderOfSessions,
        Self::ClocksDifferTooMuch,
    ];
}
