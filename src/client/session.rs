//! A session at a lock server: outlives its connection, is resumed by itself, says what it hears.
//!
//! It leaves to its owner when to renew ([`crate::lease`] knows) and what a loss means.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::boot_time::BootTime;
use crate::lease::{PATIENCE_PER_TTL, RENEWALS_PER_TTL};
use crate::lock::SessionId;
use crate::protocol::{Held, Reply, Request, Who};

use super::wire::{Connect, Stream, Wire};

/// Between tries to reach a server that is gone: doubles from the first to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// How often in a row another connection may take the session over before it counts as somebody
/// else's. One of ours that was given up can do so, when its last bytes arrive late.
const SUPERSEDED_AT_MOST: u32 = 5;

/// What a session hears.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent {
    /// A reply or an unasked line that isn't about the session itself.
    Reply(Reply),
    /// A renewal (or a resume, which is one) was answered.
    Renewed {
        /// When it had been sent.
        sent: BootTime,
    },
    /// The connection is gone; the session goes on trying to resume.
    Suspended {
        /// The cause.
        cause: String,
    },
    /// Back on a new connection. Requests that were not answered are to be asked again.
    Resumed {
        /// What the session holds, also by a grant that was never received.
        holds: Vec<Held>,
        /// What it waits for.
        waits: Vec<String>,
    },
    /// The server doesn't know the session any more: everything it had is gone. Nothing follows.
    Gone(SessionEnd),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// It expired or was closed.
    Unknown,
    /// Another client has its secret and keeps resuming it.
    Superseded,
}

/// A session can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody answers at that address.
    #[error("cannot reach {server}: {source}")]
    Unreachable {
        /// The server.
        server: String,
        /// The last cause.
        source: io::Error,
    },
    /// The server answered with something else than a session.
    #[error("cannot open a session at {server}: it answered {answer}")]
    Refused {
        /// The server.
        server: String,
        /// What it said.
        answer: String,
    },
}

/// A session at a lock server.
pub struct Session {
    connector: Arc<dyn Connect>,
    id: SessionId,
    ttl: Duration,
    proven_at: BootTime,
    link: Link,
    seq: u64,
    /// Renewals sent on this connection and not answered yet, oldest first.
    unanswered: VecDeque<Renewal>,
    /// So often in a row was the session taken over.
    superseded: u32,
    /// A break that was found by [`Session::renew`] and is still to be told.
    untold_break: Option<String>,
}

struct Renewal {
    seq: u64,
    sent: BootTime,
}

enum Link {
    Up(Wire),
    Resuming(Pin<Box<dyn Future<Output = Resumption> + Send>>),
    Over(SessionEnd),
}

enum Resumption {
    Back { wire: Wire, sent: BootTime, ttl: Duration, holds: Vec<Held>, waits: Vec<String> },
    Over(SessionEnd),
}

impl Session {
    /// Opens a session, once, on a new connection; the caller bounds the time and tries again.
    pub async fn open(connector: Arc<dyn Connect>, ttl: Duration, who: Who) -> Result<Self, OpenError> {
        match connector.connect().await {
            Ok(stream) => Self::open_on(stream, connector, None, ttl, who, None).await,
            Err(source) => Err(OpenError::Unreachable { server: connector.server(), source }),
        }
    }

    /// The same on a connection that `connector` has made. `id`: a secret that the caller has drawn,
    /// so that it can [close](close_elsewhere) the session, or try again, also if it never hears the
    /// answer. `first`: a request that travels in the same packet; its reply is heard by
    /// [`Session::next`].
    pub async fn open_on(
        stream: Box<dyn Stream>,
        connector: Arc<dyn Connect>,
        id: Option<SessionId>,
        ttl: Duration,
        who: Who,
        first: Option<&Request<'_>>,
    ) -> Result<Self, OpenError> {
        let unreachable = |source| OpenError::Unreachable { server: connector.server(), source };
        let mut wire = Wire::new(stream);
        let sent = BootTime::now();
        wire.queue(&Request::Open { session: id, ttl, who });
        if let Some(first) = first {
            wire.queue(first);
        }
        let reply = wire.receive().await.map_err(unreachable)?;
        let refused = |answer| OpenError::Refused { server: connector.server(), answer };
        let (id, ttl) = match reply {
            Reply::Opened { session, ttl } => (session, ttl),
            Reply::Error { error, message } => return Err(refused(format!("{error}: {message}"))),
            other => return Err(refused(format!("{other:?}"))),
        };
        let id = SessionId::from_hex(&id).ok_or_else(|| refused("a malformed session id".into()))?;
        let ttl =
            Duration::try_from_secs_f64(ttl).map_err(|e| refused(format!("a ttl that is none: {e}")))?;
        let link = Link::Up(wire);
        Ok(Self {
            connector,
            id,
            ttl,
            proven_at: sent,
            link,
            seq: 0,
            unanswered: VecDeque::new(),
            superseded: 0,
            untold_break: None,
        })
    }

    /// The secret by which it can be closed from elsewhere.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// How long the server keeps it without a renewal.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// When the last renewal answered so far had been sent.
    pub fn proven_at(&self) -> BootTime {
        self.proven_at
    }

    /// The server's name for messages.
    pub fn server(&self) -> String {
        self.connector.server()
    }

    /// Queues a request; [`Session::next`] sends it. Dropped while suspended: ask again once resumed.
    pub fn ask(&mut self, request: &Request<'_>) {
        if let Link::Up(wire) = &mut self.link {
            wire.queue(request);
        }
    }

    /// Queues a renewal. If the one before has not been answered by now, the connection is taken
    /// for dead, and a new one is tried: packets may vanish without an error.
    pub fn renew(&mut self) {
        if !self.unanswered.is_empty() {
            self.untold_break = Some("a renewal was not answered in time".into());
            self.suspend();
            return;
        }
        if let Link::Up(wire) = &mut self.link {
            self.seq += 1;
            wire.queue(&Request::Renew { seq: self.seq });
            self.unanswered.push_back(Renewal { seq: self.seq, sent: BootTime::now() });
        }
    }

    /// The next thing heard; sends what was queued. Cancel safe.
    pub async fn next(&mut self) -> SessionEvent {
        if let Some(cause) = self.untold_break.take() {
            return SessionEvent::Suspended { cause };
        }
        loop {
            match &mut self.link {
                Link::Over(end) => return SessionEvent::Gone(*end),
                Link::Resuming(resumption) => {
                    let resumption = resumption.await;
                    return self.resumed(resumption);
                }
                Link::Up(wire) => match wire.receive().await {
                    Ok(reply) => {
                        if let Some(event) = self.heard(reply) {
                            return event;
                        }
                    }
                    Err(error) => {
                        self.suspend();
                        return SessionEvent::Suspended { cause: error.to_string() };
                    }
                },
            }
        }
    }

    fn heard(&mut self, reply: Reply) -> Option<SessionEvent> {
        match reply {
            Reply::Renewed { seq, .. } => {
                let position = self.unanswered.iter().position(|renewal| renewal.seq == seq)?;
                let sent = self.unanswered[position].sent;
                self.unanswered.drain(..=position);
                self.proven_at = self.proven_at.max(sent);
                self.superseded = 0;
                Some(SessionEvent::Renewed { sent })
            }
            // `Closed` also comes unasked, if the session was closed from elsewhere.
            Reply::SessionUnknown | Reply::Expired | Reply::Closed => Some(self.over(SessionEnd::Unknown)),
            Reply::Superseded => Some(self.taken_over()),
            other => Some(SessionEvent::Reply(other)),
        }
    }

    fn taken_over(&mut self) -> SessionEvent {
        self.superseded += 1;
        if self.superseded > SUPERSEDED_AT_MOST {
            return self.over(SessionEnd::Superseded);
        }
        self.suspend();
        SessionEvent::Suspended { cause: "another connection resumed the session".into() }
    }

    fn resumed(&mut self, resumption: Resumption) -> SessionEvent {
        match resumption {
            Resumption::Over(end) => self.over(end),
            Resumption::Back { wire, sent, ttl, holds, waits } => {
                self.link = Link::Up(wire);
                // Where it didn't renew, because an operator has taken something, the rest of the ttl is told.
                let proven_at = sent - self.ttl.saturating_sub(ttl);
                self.proven_at = self.proven_at.max(proven_at);
                SessionEvent::Resumed { holds, waits }
            }
        }
    }

    fn over(&mut self, end: SessionEnd) -> SessionEvent {
        self.link = Link::Over(end);
        SessionEvent::Gone(end)
    }

    fn suspend(&mut self) {
        self.unanswered.clear();
        self.link = Link::Resuming(Box::pin(resume(self.connector.clone(), self.id, self.ttl)));
    }

    /// Ends the session, with everything it has, and waits for the confirmation; the caller bounds
    /// the time. While suspended it doesn't resume first: a server that gets the request is enough,
    /// even if we never see its answer.
    pub async fn close(mut self) {
        let patience = self.patience();
        self.ask(&Request::Close { session: None });
        while let Link::Up(_) = self.link {
            match tokio::time::timeout(patience, self.next()).await {
                Ok(SessionEvent::Gone(_)) => return,
                Ok(
                    SessionEvent::Reply(_)
                    | SessionEvent::Renewed { .. }
                    | SessionEvent::Resumed { .. }
                    | SessionEvent::Suspended { .. },
                ) => {}
                Err(_) => break,
            }
        }
        match self.link {
            Link::Over(_) => {}
            Link::Up(_) | Link::Resuming(_) => close_at_last(self.connector, self.id, patience).await,
        }
    }

    /// How long an answer may take before the connection counts as dead.
    fn patience(&self) -> Duration {
        self.ttl / PATIENCE_PER_TTL
    }
}

/// Tries to close a session until the server has answered; `patience`: how long each answer may take.
pub(crate) async fn close_at_last(connector: Arc<dyn Connect>, id: SessionId, patience: Duration) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        match tokio::time::timeout(patience, close_elsewhere(&*connector, id)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(server = connector.server(), %error, "close failed"),
            Err(_) => tracing::debug!(server = connector.server(), "close was not answered in time"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF);
    }
}

/// Tries to resume until the server has answered, at once and then with growing pauses.
async fn resume(connector: Arc<dyn Connect>, id: SessionId, ttl: Duration) -> Resumption {
    let mut backoff = FIRST_BACKOFF;
    loop {
        match tokio::time::timeout(ttl / RENEWALS_PER_TTL, try_resume(&*connector, id)).await {
            Ok(Ok(resumption)) => return resumption,
            Ok(Err(error)) => tracing::debug!(server = connector.server(), %error, "resume failed"),
            Err(_) => tracing::debug!(server = connector.server(), "resume was not answered in time"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(LAST_BACKOFF).min(ttl / 10);
    }
}

async fn try_resume(connector: &dyn Connect, id: SessionId) -> io::Result<Resumption> {
    let mut wire = Wire::new(connector.connect().await?);
    let sent = BootTime::now();
    wire.queue(&Request::Resume { session: id });
    match wire.receive().await? {
        Reply::Resumed { ttl, holds, waits } => {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let ttl = Duration::try_from_secs_f64(ttl).map_err(invalid)?;
            Ok(Resumption::Back { wire, sent, ttl, holds, waits })
        }
        Reply::SessionUnknown => Ok(Resumption::Over(SessionEnd::Unknown)),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {other:?}"))),
    }
}

/// Ends the session of another process, as its last will. `Ok` also if it had ended before.
pub async fn close_elsewhere(connector: &dyn Connect, id: SessionId) -> io::Result<()> {
    let mut wire = Wire::new(connector.connect().await?);
    wire.queue(&Request::Close { session: Some(id) });
    match wire.receive().await? {
        Reply::Closed | Reply::SessionUnknown => Ok(()),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {other:?}"))),
    }
}
