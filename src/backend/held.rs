//! A lock held on an engine that is asked by requests: one task renews when it is told to, repeats what
//! wasn't answered, watches the lock and reports. The engine's part is the trait [`Lease`]; what to do
//! about a late renewal is the caller's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::boot_time::BootTime;

use super::engine::{Failure, Patience, call_limit, within};
use super::{Event, Grant, Guard, Loss, ReleaseError, Will};

/// Events that may wait for a caller who doesn't listen; past it the task waits, and so does renewing.
const EVENTS_KEPT: usize = 64;

/// A watch that breaks at once must not become a busy loop.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// What an engine can do for a lock that is held.
#[async_trait]
pub(super) trait Lease: Send + Sync + 'static {
    /// Extends the lease once and checks that the lock is still ours.
    async fn renew(&self) -> Result<Standing, Failure>;

    /// Waits until the lock is no longer ours; an error: the watch broke and is to be set again.
    async fn taken(&self) -> Result<Loss, Failure>;

    /// Deletes what is ours and ends the session; may be repeated.
    async fn give_back(&self) -> Result<(), Failure>;

    /// How another process gives the lock back.
    fn will(&self) -> Will;

    /// The engine, without secrets.
    fn server(&self) -> &str;
}

/// What a renewal found.
#[derive(Debug)]
pub(super) enum Standing {
    /// The lock is still ours.
    Ours,
    /// It isn't.
    Lost(Loss),
}

/// The guard of any engine.
pub(super) struct Held<L: Lease> {
    lease: Arc<L>,
    grant: Grant,
    ask: mpsc::Sender<()>,
    events: mpsc::Receiver<Event>,
    keeper: JoinHandle<()>,
}

impl<L: Lease> Held<L> {
    /// Takes over a lock that was just granted.
    pub(super) fn new(lease: L, grant: Grant) -> Self {
        let lease = Arc::new(lease);
        let (ask, asked) = mpsc::channel(1);
        let (tell, events) = mpsc::channel(EVENTS_KEPT);
        let keeper = Keeper::new(lease.clone(), call_limit(grant.ttl), tell);
        Self { lease, grant, ask, events, keeper: tokio::spawn(keeper.run(asked)) }
    }
}

#[async_trait]
impl<L: Lease> Guard for Held<L> {
    fn grant(&self) -> &Grant {
        &self.grant
    }

    fn will(&self) -> Option<Will> {
        Some(self.lease.will())
    }

    fn renew(&mut self) {
        // Full: one is asked for already. Closed: the loss has been reported.
        let _ = self.ask.try_send(());
    }

    async fn event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // Nothing follows a loss.
            None => std::future::pending().await,
        }
    }

    async fn release(self: Box<Self>, bound: Duration) -> Result<(), ReleaseError> {
        self.keeper.abort();
        give_back_within(bound, &*self.lease).await.map_err(|cause| ReleaseError {
            server: self.lease.server().to_owned(),
            cause: cause.to_string(),
        })
    }
}

impl<L: Lease> Drop for Held<L> {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Repeats giving back until it is answered or the bound has passed.
async fn give_back_within<L: Lease>(bound: Duration, lease: &L) -> Result<(), Failure> {
    let mut patience = Patience::new(bound);
    within(bound, super::engine::insist(&mut patience, bound, || lease.give_back())).await
}

type Running<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The task behind a [`Held`].
struct Keeper<L> {
    lease: Arc<L>,
    limit: Duration,
    tell: mpsc::Sender<Event>,
    /// Whether the last renewal was answered.
    link: Link,
    renewal: Option<Running<(BootTime, Result<Standing, Failure>)>>,
    watch: Option<Running<Result<Loss, Failure>>>,
    /// When to renew or watch again without being asked.
    retry_at: Option<Instant>,
}

enum Link {
    Up,
    Down(Patience),
}

/// What the task wakes up for.
enum Heard {
    Asked,
    Forgotten,
    Renewal(BootTime, Result<Standing, Failure>),
    Watch(Result<Loss, Failure>),
    RetryDue,
}

impl<L: Lease> Keeper<L> {
    fn new(lease: Arc<L>, limit: Duration, tell: mpsc::Sender<Event>) -> Self {
        let mut keeper =
            Self { lease, limit, tell, link: Link::Up, renewal: None, watch: None, retry_at: None };
        keeper.watch();
        keeper
    }

    async fn run(mut self, mut asked: mpsc::Receiver<()>) {
        loop {
            let going_on = match self.hear(&mut asked).await {
                Heard::Asked => self.renew(),
                Heard::Forgotten => return,
                Heard::Renewal(sent, answer) => self.renewed(sent, answer).await,
                Heard::Watch(Ok(loss)) => self.lost(loss).await,
                Heard::Watch(Err(cause)) => self.watch_broke(&cause),
                Heard::RetryDue => self.retry(),
            };
            if going_on.is_none() {
                return;
            }
        }
    }

    async fn hear(&mut self, asked: &mut mpsc::Receiver<()>) -> Heard {
        let renewing = self.renewal.is_some();
        let retry_at = self.retry_at;
        tokio::select! {
            request = asked.recv(), if !renewing => request.map_or(Heard::Forgotten, |()| Heard::Asked),
            (sent, answer) = finished(&mut self.renewal) => Heard::Renewal(sent, answer),
            end = finished(&mut self.watch) => Heard::Watch(end),
            () = at(retry_at), if !renewing => Heard::RetryDue,
        }
    }

    fn renew(&mut self) -> Option<()> {
        let (lease, limit) = (self.lease.clone(), self.limit);
        if let Link::Down(_) = self.link {
            self.retry_at = None;
        }
        self.renewal = Some(Box::pin(async move {
            let sent = BootTime::now();
            (sent, within(limit, lease.renew()).await)
        }));
        Some(())
    }

    fn watch(&mut self) {
        let lease = self.lease.clone();
        self.watch = Some(Box::pin(async move { lease.taken().await }));
    }

    async fn renewed(&mut self, sent: BootTime, answer: Result<Standing, Failure>) -> Option<()> {
        match answer {
            Ok(Standing::Ours) => self.still_ours(sent).await,
            Ok(Standing::Lost(loss)) => self.lost(loss).await,
            Err(Failure::Gone(_)) => self.lost(Loss::SessionGone).await,
            Err(failure @ (Failure::Unanswered(_) | Failure::Refused(_) | Failure::Answer(_))) => {
                self.unanswered(sent, &failure).await
            }
        }
    }

    async fn still_ours(&mut self, sent: BootTime) -> Option<()> {
        if let Link::Down(_) = std::mem::replace(&mut self.link, Link::Up) {
            self.tell(Event::Resumed).await?;
        }
        if self.watch.is_none() {
            self.retry_at.get_or_insert_with(|| Instant::now() + WATCH_PAUSE);
        }
        self.tell(Event::Renewed { sent }).await
    }

    /// Goes on trying without being asked; the caller's clock decides how long that makes sense.
    async fn unanswered(&mut self, sent: BootTime, failure: &Failure) -> Option<()> {
        if let Link::Up = self.link {
            self.link = Link::Down(Patience::new(Duration::MAX));
            self.tell(Event::Suspended { cause: failure.to_string() }).await?;
        }
        let Link::Down(patience) = &mut self.link else { return Some(()) };
        let pause = patience.unanswered(sent, BootTime::now()).unwrap_or(WATCH_PAUSE);
        self.retry_at = Some(Instant::now() + pause);
        Some(())
    }

    /// Asks at once: a broken watch is the first sign of most troubles.
    fn watch_broke(&mut self, cause: &Failure) -> Option<()> {
        tracing::debug!(server = self.lease.server(), %cause, "the watch of the lock broke");
        self.watch = None;
        if self.renewal.is_none() { self.renew() } else { Some(()) }
    }

    fn retry(&mut self) -> Option<()> {
        self.retry_at = None;
        match self.link {
            Link::Up => {
                self.watch();
                Some(())
            }
            Link::Down(_) => self.renew(),
        }
    }

    async fn lost(&mut self, loss: Loss) -> Option<()> {
        self.tell(Event::Lost(loss)).await?;
        None
    }

    /// `None`: nobody holds the guard any more.
    async fn tell(&mut self, event: Event) -> Option<()> {
        self.tell.send(event).await.ok()
    }
}

/// Waits for what is running, for ever if nothing is; takes it away once it has ended.
async fn finished<T>(running: &mut Option<Running<T>>) -> T {
    let Some(future) = running else { return std::future::pending().await };
    let end = future.await;
    *running = None;
    end
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
