//! A plain client's connection: answers requests, and says that it lives while nothing is asked.

use std::io;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::protocol::{Reply, Request};

use super::wire::Wire;

/// A connection at rest: a task sends its keep-alives until the connection is needed. Dropping it
/// closes the connection.
pub(crate) struct Connection {
    keep_alive_every: Duration,
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
    pub(crate) fn new(wire: Wire, keep_alive_every: Duration) -> Self {
        let (wake, woken) = oneshot::channel();
        let task = tokio::spawn(rest(wire, keep_alive_every, woken));
        Self { keep_alive_every, resting: Resting { wake: Some(wake), task } }
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
                reply = receive(&mut wire) => break reply?,
                _ = beat.tick() => wire.queue(&Request::KeepAlive),
            }
        };
        Ok((Self::new(wire, self.keep_alive_every), reply))
    }
}

/// Sends keep-alives until woken, then gives the wire back.
async fn rest(mut wire: Wire, every: Duration, mut woken: oneshot::Receiver<()>) -> io::Result<Wire> {
    let mut beat = beats(every);
    beat.tick().await;
    loop {
        tokio::select! {
            _ = &mut woken => return Ok(wire),
            _ = beat.tick() => wire.queue(&Request::KeepAlive),
            // A line that nobody asked for: the connection is out of step, or it was closed.
            reply = receive(&mut wire) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unasked line {:?}", reply?)));
            }
        }
    }
}

/// The next reply. That an operator has taken a lock is said unasked: it stays ours until it is
/// unlocked, or until the server has waited for that for long enough.
async fn receive(wire: &mut Wire) -> io::Result<Reply> {
    loop {
        match wire.receive().await? {
            Reply::Revoked { name, reason, .. } => {
                tracing::warn!(lock = name, reason, "an operator takes the lock, unlock it soon");
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
