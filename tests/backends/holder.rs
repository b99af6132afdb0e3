//! A guard that is renewed as the wrapper would renew it, and what it hears.

use std::time::Duration;

use officer::backend::{Event, Grant, Guard, Loss, ReleaseError};
use officer::boot_time::BootTime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::engines::process::{DEADLINE, soon};

/// What a holder's task hands back when it is told to release.
type Released = Result<(), ReleaseError>;

/// A lock held and renewed every third of its ttl.
pub(crate) struct Holder {
    pub(crate) grant: Grant,
    events: mpsc::UnboundedReceiver<Event>,
    let_go: oneshot::Sender<()>,
    task: JoinHandle<Released>,
}

impl Holder {
    pub(crate) fn of(guard: Box<dyn Guard>) -> Self {
        let grant = guard.grant().clone();
        let (tell, events) = mpsc::unbounded_channel();
        let (let_go, told) = oneshot::channel();
        let task = tokio::spawn(hold(guard, grant.ttl / 3, tell, told));
        Self { grant, events, let_go, task }
    }

    /// Gives the lock back.
    pub(crate) async fn release(self) {
        let _ = self.let_go.send(());
        let released = soon("the release ends", self.task).await.expect("no panic");
        released.unwrap_or_else(|cause| panic!("{cause}"));
    }

    /// The next event for which `is_it`; a loss that isn't it fails the test.
    pub(crate) async fn hears(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        soon(what, async {
            loop {
                let event = self.events.recv().await.expect("the holder's task lives");
                if is_it(&event) {
                    return event;
                }
                assert!(!matches!(event, Event::Lost(_)), "{event:?} instead of: {what}");
            }
        })
        .await
    }

    pub(crate) async fn is_suspended(&mut self) {
        self.hears("suspended", |event| matches!(event, Event::Suspended { .. })).await;
    }

    pub(crate) async fn is_lost(&mut self) -> Loss {
        match self.hears("lost", |event| matches!(event, Event::Lost(_))).await {
            Event::Lost(loss) => loss,
            other => unreachable!("{other:?}"),
        }
    }

    /// A renewal that was sent after `earliest` is answered.
    pub(crate) async fn is_renewed_after(&mut self, earliest: BootTime) {
        self.hears("renewed", |event| matches!(event, Event::Renewed { sent } if *sent > earliest)).await;
    }

    /// All that was heard and not yet looked at.
    pub(crate) fn heard(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

async fn hold(
    mut guard: Box<dyn Guard>,
    pause: Duration,
    tell: mpsc::UnboundedSender<Event>,
    mut told: oneshot::Receiver<()>,
) -> Released {
    let mut ticks = tokio::time::interval(pause);
    // After a loss nothing follows, as in the program.
    let mut lost = false;
    loop {
        tokio::select! {
            event = guard.event(), if !lost => {
                lost = matches!(event, Event::Lost(_));
                let _ = tell.send(event);
            }
            _ = ticks.tick() => guard.renew(),
            _ = &mut told => return guard.release(DEADLINE).await,
        }
    }
}
