//! A plain client's connection: answers requests, and says that it lives while nothing is asked.

use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::protocol::{Reply, Request};

use super::wire::Wire;

/// An operator takes this lock; said unasked.
pub(crate) struct Revoked {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// A connection at rest: a task sends its keep-alives until the connection is needed. Dropping it
/// closes the connection.
pub(crate) struct Connection {
    keep_alive_every: Duration,
    /// Where revocations are told.
    revoked: mpsc::UnboundedSender<Revoked>,
    resting: Resting,
}

struct Resting {
    wake: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<Wire>>,
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    pub(crate) fn new(
        wire: Wire,
        keep_alive_every: Duration,
        revoked: mpsc::UnboundedSender<Revoked>,
    ) -> Self {
        let (wake, woken) = oneshot::channel();
        let task = tokio::spawn(rest(wire, keep_alive_every, woken, revoked.clone()));
        Self { keep_alive_every, revoked, resting: Resting { wake: Some(wake), task } }
    }

    /// Ends when the connection does, with the cause; not to be used after that. Cancel safe.
    pub(crate) async fn broken(&mut self) -> io::Error {
        match (&mut self.resting.task).await {
            Ok(Ok(_)) => unreachable!("nobody woke the task"),
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        }
    }

    /// Asks and waits for the reply, keeping the connection alive meanwhile.
    pub(crate) async fn ask(mut self, request: &Request<'_>) -> io::Result<(Self, Reply)> {
        drop(self.resting.wake.take());
        let mut wire = (&mut self.resting.task).await.map_err(io::Error::other)??;
        wire.queue(request);
        let mut beat = beats(self.keep_alive_every);
        beat.tick().await;
        let reply = loop {
            tokio::select! {
                reply = receive(&mut wire, &self.revoked) => break reply?,
                _ = beat.tick() => wire.queue(&Request::KeepAlive),
            }
        };
        Ok((Self::new(wire, self.keep_alive_every, self.revoked.clone()), reply))
    }
}

/// Sends keep-alives until woken, then gives the wire back.
async fn rest(
    mut wire: Wire,
    every: Duration,
    mut woken: oneshot::Receiver<()>,
    revoked: mpsc::UnboundedSender<Revoked>,
) -> io::Result<Wire> {
    let mut beat = beats(every);
    beat.tick().await;
    loop {
        tokio::select! {
            _ = &mut woken => return Ok(wire),
            _ = beat.tick() => wire.queue(&Request::KeepAlive),
            // A line that nobody asked for: the connection is out of step, or it was closed.
            reply = receive(&mut wire, &revoked) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unasked line {:?}", reply?)));
            }
        }
    }
}

/// The next reply. That an operator takes a lock is said unasked.
async fn receive(wire: &mut Wire, revoked: &mpsc::UnboundedSender<Revoked>) -> io::Result<Reply> {
    loop {
        match wire.receive().await? {
            Reply::Revoked { name, reason, .. } => {
                tracing::warn!(lock = name, reason, "an operator takes the lock, unlock it soon");
                // Without a receiver the client is gone, and with it the lock.
                let _ = revoked.send(Revoked { name, reason });
            }
            reply => return Ok(reply),
        }
    }
}

fn beats(every: Duration) -> tokio::time::Interval {
    let mut beats = interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}
