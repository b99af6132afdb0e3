//! The Officer server as an engine: a session with a lease, or, with a ttl of zero, a lock that lives
//! and dies with its connection (which is all that an original Officer server can do).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::boot_time::BootTime;
use crate::boot_timer::{BootTimer, sleep_until};
use crate::client::{Connect, OpenError, Session, Stream, close_at_last, close_elsewhere};
use crate::lease::{PATIENCE_PER_TTL, RENEWALS_PER_TTL};
use crate::lock::{Limit, SessionId};
use crate::protocol::{Granted, Holder, LockRequest, Reply, Request, TurnedAway};
use crate::secret;

use super::link::{Heard, Link};
use super::{
    AcquireError, Backend, Busy, ConnectError, ConnectOptions, Event, Grant, Guard, Loss, ReleaseError, Wait,
    WaitEnd, Wanted, Will,
};

/// Between tries to reach a server at the start: doubles from the first to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// How long one try to connect may take: a server that went without a word is asked anew.
const TRY_BOUND: Duration = Duration::from_secs(5);

/// How much later than the wait limit the server's word on it may come.
const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// How long leaving the queue may take; what isn't confirmed by then is left to the lease.
const LEAVE_BOUND: Duration = Duration::from_secs(2);

/// The error by which a server says that it grants no session a lock yet.
const NOT_READY: &str = "not_ready";

/// Keep-alives of a lock without a lease while waiting.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// Reaches the server. The session is opened with the first request: that is one round trip less,
/// and one commit of the server's.
pub(super) async fn connect(
    connector: Arc<dyn Connect>,
    options: &ConnectOptions,
) -> Result<Box<dyn Backend>, ConnectError> {
    let server = connector.server();
    let dialed = keep_trying(&server, options, || {
        let connector = connector.clone();
        Box::pin(async move { dial(&*connector).await })
    })
    .await?;
    Ok(Box::new(Officer {
        connector,
        options: options.clone(),
        dialed: Some(dialed),
        next_id: draw_id(),
        opening: None,
        link: None,
    }))
}

/// Closes the session that `handle` names, as the will of a process that is gone.
pub(super) async fn execute_will(connector: Arc<dyn Connect>, handle: &str) -> Result<(), ReleaseError> {
    let failed = |cause: String| ReleaseError { server: connector.server(), cause };
    let id = SessionId::from_hex(handle).ok_or_else(|| failed("the will names no session".into()))?;
    close_elsewhere(&*connector, id).await.map_err(|error| failed(error.to_string()))
}

/// One try to reach a server.
type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

/// Tries until it works, `connect_tries` times `connect_timeout` long.
async fn keep_trying<T>(
    server: &str,
    options: &ConnectOptions,
    mut attempt: impl FnMut() -> Attempt<T> + Send,
) -> Result<T, ConnectError> {
    let mut told = false;
    let mut last = ConnectError::Unreachable { server: server.to_owned(), cause: "no answer".into() };
    for _ in 0..options.connect_tries.max(1) {
        let until = BootTime::now() + options.connect_timeout;
        let mut backoff = FIRST_BACKOFF;
        while BootTime::now() < until {
            let left = until.saturating_since(BootTime::now());
            match tokio::time::timeout(left.min(TRY_BOUND), attempt()).await {
                Ok(Ok(reached)) => return Ok(reached),
                Ok(Err(error @ (ConnectError::Refused { .. } | ConnectError::Unsupported(_)))) => {
                    return Err(error);
                }
                Ok(Err(error)) => last = error,
                Err(_) => {}
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(for_up_to = ?options.connect_timeout, "{last}; still trying");
            }
            tokio::time::sleep(backoff.min(until.saturating_since(BootTime::now()))).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }
    Err(last)
}

async fn dial(connector: &dyn Connect) -> Result<Box<dyn Stream>, ConnectError> {
    connector.connect().await.map_err(|error| unreachable(connector.server(), &error))
}

fn unreachable(server: String, error: &std::io::Error) -> ConnectError {
    let cause = error.to_string();
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => ConnectError::Refused { server, cause },
        _ => ConnectError::Unreachable { server, cause },
    }
}

/// Opens a session, or without a lease nothing, and sends the first request in the same packet.
async fn open(
    connector: Arc<dyn Connect>,
    options: ConnectOptions,
    dialed: Option<Box<dyn Stream>>,
    id: SessionId,
    first: Request<'static>,
) -> Result<Link, ConnectError> {
    let stream = match dialed {
        Some(stream) => stream,
        None => dial(&*connector).await?,
    };
    if options.ttl.is_zero() {
        let mut link = Link::bound(stream);
        link.ask(&first);
        return Ok(link);
    }
    let server = connector.server();
    match Session::open_on(stream, connector, Some(id), options.ttl, options.who, Some(&first)).await {
        Ok(session) => Ok(Link::Leased(session)),
        Err(OpenError::Unreachable { source, .. }) => Err(unreachable(server, &source)),
        Err(OpenError::Refused { answer, .. }) => Err(ConnectError::Refused { server, cause: answer }),
    }
}

fn draw_id() -> SessionId {
    SessionId::from_bytes(secret::draw())
}

/// A connection that can stand in line.
struct Officer {
    connector: Arc<dyn Connect>,
    options: ConnectOptions,
    /// Connected, and nothing said yet.
    dialed: Option<Box<dyn Stream>>,
    /// Of the session to open next.
    next_id: SessionId,
    /// The session that is being opened: the server may know it before we hear of it.
    opening: Option<SessionId>,
    /// `None` before the first request, and once it has become a guard.
    link: Option<Link>,
}

#[async_trait]
impl Backend for Officer {
    async fn acquire(&mut self, wanted: &Wanted) -> Result<Box<dyn Guard>, AcquireError> {
        let mut place = Place::new(self, wanted);
        let granted = place.wait().await?;
        let server = self.connector.server();
        let link = self.link.take().expect("acquire is called once");
        let grant = Grant {
            name: granted.name,
            token: granted.token,
            slot: granted.slot,
            ttl: link.ttl(),
            proven_at: link.proven_at(),
            env: Vec::new(),
        };
        Ok(Box::new(Held { link, grant, server, lost: false }))
    }

    fn will(&self, _: &Wanted) -> Option<Will> {
        let has_lease = !self.options.ttl.is_zero();
        has_lease.then(|| Will { server: self.connector.server(), handle: self.next_id.to_hex() })
    }

    async fn leave(&mut self) {
        let leaving = async {
            if let Some(link) = self.link.take() {
                link.close().await;
            } else if let Some(id) = self.opening {
                close_at_last(self.connector.clone(), id, LEAVE_BOUND).await;
            }
        };
        if tokio::time::timeout(LEAVE_BOUND, leaving).await.is_err() {
            tracing::info!(
                server = self.connector.server(),
                "leaving was not confirmed, the lease ends the place"
            );
        }
    }
}

/// A place in a queue, from asking to the answer.
struct Place<'a> {
    officer: &'a mut Officer,
    wanted: &'a Wanted,
    full_name: String,
    /// When the wait limit passes; it counts from when the server is reached.
    until: Option<BootTime>,
    /// Since when the server can't be reached.
    suspended_since: Option<BootTime>,
    next_renewal: BootTime,
    /// Since when the link is up.
    linked_at: BootTime,
    setbacks: Option<Setbacks>,
}

/// Links that were lost as soon as they were made, one after another.
#[derive(Clone, Copy)]
struct Setbacks {
    since: BootTime,
    pause: Duration,
}

impl<'a> Place<'a> {
    fn new(officer: &'a mut Officer, wanted: &'a Wanted) -> Self {
        let now = BootTime::now();
        let full_name = match &wanted.path {
            Some(path) => format!("{path}:{}", wanted.name),
            None => wanted.name.clone(),
        };
        let mut place = Self {
            officer,
            wanted,
            full_name,
            until: None,
            suspended_since: None,
            next_renewal: now,
            linked_at: now,
            setbacks: None,
        };
        place.next_renewal = now + place.renew_every();
        place
    }

    fn link(&mut self) -> &mut Link {
        self.officer.link.as_mut().expect("a place is left before its link")
    }

    /// Reaches the server, if it isn't reached yet, and asks for the lock.
    async fn link_up(&mut self) -> Result<(), ConnectError> {
        let server = self.officer.connector.server();
        let mut dialed = self.officer.dialed.take();
        // The same for each try: one whose answer was lost must not stand in line before us.
        let id = std::mem::replace(&mut self.officer.next_id, draw_id());
        self.officer.opening = (!self.officer.options.ttl.is_zero()).then_some(id);
        let (connector, options) = (&self.officer.connector, &self.officer.options);
        let (full_name, wanted, until) = (&self.full_name, self.wanted, self.until);
        let link = keep_trying(&server, options, || {
            let first = lock_request(full_name, wanted, until, BootTime::now());
            Box::pin(open(connector.clone(), options.clone(), dialed.take(), id, first))
        })
        .await?;
        self.officer.link = Some(link);
        self.officer.opening = None;
        let now = BootTime::now();
        self.until = self.until.or(wait_limit(self.wanted).map(|limit| now + limit));
        self.linked_at = now;
        self.suspended_since = None;
        self.next_renewal = now + self.renew_every();
        Ok(())
    }

    fn renew_every(&self) -> Duration {
        match self.officer.options.ttl {
            Duration::ZERO => KEEP_ALIVE_EVERY,
            ttl => ttl / RENEWALS_PER_TTL,
        }
    }

    fn ask_again_after(&self) -> Duration {
        match self.officer.options.ttl {
            Duration::ZERO => KEEP_ALIVE_EVERY,
            ttl => ttl / PATIENCE_PER_TTL,
        }
    }

    async fn wait(&mut self) -> Result<Granted, AcquireError> {
        let timer_failed = |cause: std::io::Error| self_failure(&cause);
        let mut timer = BootTimer::new().map_err(timer_failed)?;
        self.link_up().await?;
        loop {
            let wake = self.wake();
            tokio::select! {
                heard = self.link().next() => {
                    if let Some(granted) = self.heard(heard).await? {
                        return Ok(granted);
                    }
                }
                woken = timer.sleep_until(Some(wake)) => {
                    woken.map_err(timer_failed)?;
                    self.woken(BootTime::now())?;
                }
            }
        }
    }

    fn wake(&self) -> BootTime {
        let Some(since) = self.suspended_since else {
            let overdue = self.until.map(|until| until + ANSWER_SLACK);
            return overdue.map_or(self.next_renewal, |overdue| overdue.min(self.next_renewal));
        };
        let unreachable_at = since + self.officer.options.connect_timeout;
        self.until.map_or(unreachable_at, |until| until.min(unreachable_at))
    }

    /// A renewal is due, or a server that is gone has been gone too long.
    fn woken(&mut self, now: BootTime) -> Result<(), AcquireError> {
        let Some(since) = self.suspended_since else {
            if self.until.is_some_and(|until| until + ANSWER_SLACK <= now) {
                return Err(self.busy(Vec::new()));
            }
            self.next_renewal = now + self.ask_again_after();
            self.link().renew();
            return Ok(());
        };
        if self.until.is_some_and(|until| until <= now) {
            return Err(self.busy(Vec::new()));
        }
        if since + self.officer.options.connect_timeout <= now {
            let server = self.officer.connector.server();
            let cause = format!("the connection was lost {:?} ago", now.saturating_since(since));
            return Err(ConnectError::Unreachable { server, cause }.into());
        }
        Ok(())
    }

    async fn heard(&mut self, heard: Heard) -> Result<Option<Granted>, AcquireError> {
        match heard {
            Heard::Reply(Reply::Revoked { name, reason, .. }) if name == self.full_name => {
                // Granted, but that was lost, and then taken by an operator: to be given back unused.
                if let Some(link) = self.officer.link.take() {
                    let _in_time = tokio::time::timeout(LEAVE_BOUND, link.close()).await;
                }
                self.start_over(Loss::Revoked { reason }).await.map(|()| None)
            }
            Heard::Reply(reply) => self.answered(reply),
            Heard::Renewed { sent } => {
                self.next_renewal = sent + self.renew_every();
                Ok(None)
            }
            Heard::Suspended { cause } => {
                tracing::info!(lock = self.full_name, cause, "connection lost while waiting");
                self.suspended_since = Some(BootTime::now());
                Ok(None)
            }
            Heard::Resumed { .. } => {
                self.suspended_since = None;
                self.next_renewal = BootTime::now() + self.renew_every();
                // Also if it lists our lock: only the answer says that we have it, for the list may
                // come from before a reboot of the server's host, and another may have had it since.
                let again = lock_request(&self.full_name, self.wanted, self.until, BootTime::now());
                self.link().ask(&again);
                Ok(None)
            }
            Heard::Over(loss) => self.start_over(loss).await.map(|()| None),
        }
    }

    /// Our session is gone and our place with it: a new session, at the end of the queue.
    async fn start_over(&mut self, loss: Loss) -> Result<(), AcquireError> {
        let pause = self.set_back(&loss, BootTime::now())?;
        let until = self.until;
        let opening = async {
            tokio::time::sleep(pause).await;
            self.link_up().await
        };
        match until {
            None => Ok(opening.await?),
            Some(until) => tokio::select! {
                linked = opening => Ok(linked?),
                _ = sleep_until(until) => Err(self.busy(Vec::new())),
            },
        }
    }

    /// How long to pause before asking again. A server that takes connections and ends them at once is
    /// no better than one that isn't there, and is given up like one.
    fn set_back(&mut self, loss: &Loss, now: BootTime) -> Result<Duration, AcquireError> {
        let has_lasted = now.saturating_since(self.linked_at) >= LAST_BACKOFF;
        let Some(setbacks) = self.setbacks.filter(|_| !has_lasted) else {
            tracing::warn!(lock = self.full_name, %loss, "place in the queue lost, asking again");
            self.setbacks = Some(Setbacks { since: now, pause: FIRST_BACKOFF });
            return Ok(if has_lasted { Duration::ZERO } else { FIRST_BACKOFF });
        };
        if setbacks.since + self.officer.options.connect_timeout <= now {
            let (server, cause) = (self.officer.connector.server(), loss.to_string());
            return Err(ConnectError::Unreachable { server, cause }.into());
        }
        let pause = (setbacks.pause * 2).min(LAST_BACKOFF);
        self.setbacks = Some(Setbacks { pause, ..setbacks });
        Ok(pause)
    }

    fn answered(&mut self, reply: Reply) -> Result<Option<Granted>, AcquireError> {
        match reply {
            Reply::Acquired(granted) | Reply::AlreadyAcquired(granted) if granted.name == self.full_name => {
                if granted.limit.is_none() && self.wanted.limit != Limit::ONE {
                    return Err(self.protocol("it has no semaphores, only --concurrent 1".into()));
                }
                Ok(Some(granted))
            }
            Reply::TimedOut(away) => Err(self.busy(away_texts(away))),
            Reply::QueueMaxed(away) => {
                let max = self.wanted.queue_max.unwrap_or_default();
                Err(self.busy_by(WaitEnd::QueueMax(max), away_texts(away)))
            }
            Reply::LimitMismatch { name, limit, asked } => {
                Err(AcquireError::LimitMismatch { name, in_use: limit.to_string(), asked })
            }
            Reply::Error { error, message } if error == NOT_READY => {
                Err(AcquireError::NotReady { server: self.officer.connector.server(), message })
            }
            Reply::Error { error, message } => {
                let (server, cause) = (self.officer.connector.server(), format!("{error}: {message}"));
                Err(ConnectError::Refused { server, cause }.into())
            }
            other => Err(self.protocol(format!("{other:?} out of turn"))),
        }
    }

    fn busy(&self, holders: Vec<String>) -> AcquireError {
        let ended_by = match self.wanted.wait {
            Wait::Forever | Wait::No => WaitEnd::NotWaiting,
            Wait::AtMost(limit) => WaitEnd::WaitLimit(limit),
        };
        self.busy_by(ended_by, holders)
    }

    fn busy_by(&self, ended_by: WaitEnd, holders: Vec<String>) -> AcquireError {
        AcquireError::Busy(Busy { name: self.full_name.clone(), ended_by, holders })
    }

    fn protocol(&self, answer: String) -> AcquireError {
        AcquireError::Protocol { server: self.officer.connector.server(), answer }
    }
}

fn wait_limit(wanted: &Wanted) -> Option<Duration> {
    match wanted.wait {
        Wait::Forever => None,
        Wait::AtMost(limit) => Some(limit),
        Wait::No => Some(Duration::ZERO),
    }
}

/// Asks for the lock, with what is left of the wait limit.
fn lock_request(
    full_name: &str,
    wanted: &Wanted,
    until: Option<BootTime>,
    now: BootTime,
) -> Request<'static> {
    let left = until.map(|until| until.saturating_since(now));
    Request::Lock(LockRequest {
        name: full_name.to_owned().into(),
        timeout: left.or(wait_limit(wanted)),
        queue_max: wanted.queue_max,
        limit: Some(wanted.limit),
    })
}

fn self_failure(cause: &std::io::Error) -> AcquireError {
    AcquireError::Protocol { server: "this host".into(), answer: format!("cannot make a timer: {cause}") }
}

/// Who is in the way: the holders as they describe themselves, or all addresses if the server is
/// one that doesn't tell.
fn away_texts(away: TurnedAway) -> Vec<String> {
    if away.holders.is_empty() {
        return away.queue;
    }
    away.holders.iter().map(holder_text).collect()
}

fn holder_text(holder: &Holder) -> String {
    let who = &holder.who;
    let mut text = match (&who.user, &who.host) {
        (Some(user), Some(host)) => format!("{user}@{host}"),
        (None, Some(host)) => host.clone(),
        (_, None) => holder.peer.clone().unwrap_or_else(|| "someone".into()),
    };
    if let Some(pid) = who.pid {
        text += &format!(" pid {pid}");
    }
    if let Some(run) = &who.run {
        text += &format!(" ({run})");
    }
    let held = Duration::try_from_secs_f64(holder.held).unwrap_or_default();
    text + &format!(" since {}", humantime::format_duration(Duration::from_secs(held.as_secs())))
}

/// A lock held at an Officer server.
struct Held {
    link: Link,
    grant: Grant,
    server: String,
    /// The loss was told; nothing follows it.
    lost: bool,
}

#[async_trait]
impl Guard for Held {
    fn grant(&self) -> &Grant {
        &self.grant
    }

    fn will(&self) -> Option<Will> {
        let Link::Leased(session) = &self.link else { return None };
        Some(Will { server: self.server.clone(), handle: session.id().to_hex() })
    }

    fn connection(&self) -> Option<std::os::fd::OwnedFd> {
        self.link.duplicate()
    }

    fn renew(&mut self) {
        self.link.renew();
    }

    async fn event(&mut self) -> Event {
        if self.lost {
            return std::future::pending().await;
        }
        let event = self.next_event().await;
        self.lost = matches!(event, Event::Lost(_));
        event
    }

    async fn release(self: Box<Self>, bound: Duration) -> Result<(), ReleaseError> {
        let Self { link, grant, server, .. } = *self;
        let released = tokio::time::timeout(bound, link.release(&grant.name)).await;
        released.map_err(|_| ReleaseError { server, cause: format!("no answer in {bound:?}") })
    }
}

impl Held {
    async fn next_event(&mut self) -> Event {
        loop {
            match self.link.next().await {
                Heard::Renewed { sent } => return Event::Renewed { sent },
                Heard::Suspended { cause } => return Event::Suspended { cause },
                Heard::Over(loss) => return Event::Lost(loss),
                Heard::Resumed { holds } => {
                    let ours = holds.iter().any(|held| {
                        held.name == self.grant.name
                            && self.grant.token.is_none_or(|token| token == held.token)
                    });
                    return if ours { Event::Resumed } else { Event::Lost(Loss::LockGone) };
                }
                Heard::Reply(Reply::Revoked { name, reason, .. }) if name == self.grant.name => {
                    return Event::Lost(Loss::Revoked { reason });
                }
                Heard::Reply(reply) => tracing::debug!(?reply, "a reply that nobody asked for"),
            }
        }
    }
}
