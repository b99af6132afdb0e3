//! The Officer server as an engine: a session with a lease, or, with a ttl of zero, a lock that lives
//! and dies with its connection (which is all that an original Officer server can do).
//!
//! * `reach`: connecting, again and again; `link`: what a lock hangs on then
//! * `place`: standing in line; `held`: the lock once it is ours

mod held;
mod link;
mod place;
mod reach;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::client::{Connect, Stream, close_at_last, close_elsewhere};
use crate::lock::SessionId;
use crate::secret;

use super::{AcquireError, Backend, ConnectError, ConnectOptions, Grant, Guard, ReleaseError, Wanted, Will};
use held::Held;
use link::Link;
use place::Place;
use reach::{dial, keep_trying};

/// How long leaving the queue may take; what isn't confirmed by then is left to the lease.
const LEAVE_BOUND: Duration = Duration::from_secs(2);

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
