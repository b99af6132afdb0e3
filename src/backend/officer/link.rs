//! How a lock hangs on an Officer server: by a session with a lease, or by a bare connection.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::boot_time::BootTime;
use crate::client::{Session, SessionEnd, SessionEvent, Stream, Wire};
use crate::protocol::{Held, Reply, Request};

use crate::backend::Loss;

pub(super) enum Link {
    Leased(Session),
    Bound(Bound),
}

/// A lock without a lease: what happens to the connection happens to the lock.
pub(super) struct Bound {
    wire: Wire,
    since: BootTime,
    /// The last sign of life was asked for and has not come.
    unanswered: bool,
    gone: Option<String>,
}

pub(super) enum Heard {
    Reply(Reply),
    Renewed { sent: BootTime },
    Suspended { cause: String },
    Resumed { holds: Vec<Held> },
    Over(Loss),
}

impl Link {
    pub(super) fn bound(stream: Box<dyn Stream>) -> Self {
        let wire = Wire::new(stream);
        Self::Bound(Bound { wire, since: BootTime::now(), unanswered: false, gone: None })
    }

    pub(super) fn ttl(&self) -> Duration {
        match self {
            Self::Leased(session) => session.ttl(),
            Self::Bound(_) => Duration::ZERO,
        }
    }

    pub(super) fn proven_at(&self) -> BootTime {
        match self {
            Self::Leased(session) => session.proven_at(),
            Self::Bound(bound) => bound.since,
        }
    }

    pub(super) fn duplicate(&self) -> Option<OwnedFd> {
        match self {
            Self::Leased(_) => None,
            Self::Bound(bound) => bound.wire.duplicate().ok(),
        }
    }

    pub(super) fn ask(&mut self, request: &Request<'_>) {
        match self {
            Self::Leased(session) => session.ask(request),
            Self::Bound(bound) => bound.wire.queue(request),
        }
    }

    pub(super) fn renew(&mut self) {
        match self {
            Self::Leased(session) => session.renew(),
            Self::Bound(bound) => bound.ask_for_life(),
        }
    }

    /// The next thing heard. Cancel safe.
    pub(super) async fn next(&mut self) -> Heard {
        match self {
            Self::Bound(bound) => bound.next().await,
            Self::Leased(session) => match session.next().await {
                SessionEvent::Reply(reply) => Heard::Reply(reply),
                SessionEvent::Renewed { sent } => Heard::Renewed { sent },
                SessionEvent::Suspended { cause } => Heard::Suspended { cause },
                SessionEvent::Resumed { holds, .. } => Heard::Resumed { holds },
                SessionEvent::Gone(SessionEnd::Unknown) => Heard::Over(Loss::SessionGone),
                SessionEvent::Gone(SessionEnd::Superseded) => Heard::Over(Loss::Superseded),
            },
        }
    }

    /// Gives the lock back and ends the session; the caller bounds the time.
    pub(super) async fn release(self, name: &str) {
        match self {
            Self::Leased(session) => session.close().await,
            Self::Bound(bound) => bound.release(name).await,
        }
    }

    /// Gives everything back; the caller bounds the time.
    pub(super) async fn close(self) {
        match self {
            Self::Leased(session) => session.close().await,
            Self::Bound(_) => {}
        }
    }
}

impl Bound {
    /// Asks something that is answered, so that a peer that is gone without a word is noticed when
    /// the next sign of life is due. `my_locks`, because original Officer servers know it.
    fn ask_for_life(&mut self) {
        if self.unanswered {
            self.gone = Some("the server has stopped answering".into());
        } else {
            self.wire.queue(&Request::MyLocks);
            self.unanswered = true;
        }
    }

    async fn next(&mut self) -> Heard {
        loop {
            if let Some(cause) = &self.gone {
                return Heard::Over(Loss::ConnectionGone { cause: cause.clone() });
            }
            match self.wire.receive().await {
                Ok(Reply::MyLocks { .. }) => self.unanswered = false,
                Ok(reply) => return Heard::Reply(reply),
                Err(error) => self.gone = Some(error.to_string()),
            }
        }
    }

    async fn release(mut self, name: &str) {
        self.wire.queue(&Request::Unlock { name: name.into() });
        while let Heard::Reply(reply) = self.next().await {
            if matches!(reply, Reply::Released { .. } | Reply::ReleaseFailed { .. }) {
                return;
            }
        }
    }
}
