//! Reaching an Officer server: tried again for as long as the options say.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::boot_time::BootTime;
use crate::client::{Connect, OpenError, Session, Stream};
use crate::lock::SessionId;
use crate::protocol::{ErrorCode, Request};

use super::link::Link;
use crate::backend::{ConnectError, ConnectOptions};

/// Between tries to reach a server: doubles from the first to the last.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(50);
pub(super) const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// How long one try to connect may take: a server that went without a word is asked anew.
const TRY_BOUND: Duration = Duration::from_secs(5);

/// One try to reach a server.
pub(super) type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

/// Tries until it works, `connect_tries` times `connect_timeout` long.
pub(super) async fn keep_trying<T>(
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

pub(super) async fn dial(connector: &dyn Connect) -> Result<Box<dyn Stream>, ConnectError> {
    connector.connect().await.map_err(|error| ConnectError::new(connector.server(), &error))
}

impl ConnectError {
    /// Why a connection to a lock server can't be made, or broke.
    pub fn new(server: String, error: &std::io::Error) -> Self {
        let cause = error.to_string();
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Self::Refused { server, cause },
            _ => Self::Unreachable { server, cause },
        }
    }
}

/// A server says of a ttl that it doesn't allow what it does allow; that is for whoever chose the ttl.
fn refused(server: String, ttl: Duration, answer: String) -> ConnectError {
    let of_ttl = format!("{}: ttl ", ErrorCode::BadField.as_str());
    match answer.strip_prefix(&of_ttl) {
        Some(allowed) => {
            let ttl = humantime::format_duration(ttl);
            ConnectError::Unsupported(format!("cannot use --ttl {ttl} at {server}: it {allowed}"))
        }
        None => ConnectError::Refused { server, cause: answer },
    }
}

/// Opens a session, or without a lease nothing, and sends the first request in the same packet; it is
/// made when there is a connection to send it on.
pub(super) async fn open(
    connector: Arc<dyn Connect>,
    options: ConnectOptions,
    dialed: Option<Box<dyn Stream>>,
    id: SessionId,
    first: impl FnOnce() -> Request<'static>,
) -> Result<Link, ConnectError> {
    let stream = match dialed {
        Some(stream) => stream,
        None => dial(&*connector).await?,
    };
    let first = first();
    if options.ttl.is_zero() {
        let mut link = Link::bound(stream);
        link.ask(&first);
        return Ok(link);
    }
    let server = connector.server();
    match Session::open_on(stream, connector, Some(id), options.ttl, options.who, Some(&first)).await {
        Ok(session) => Ok(Link::Leased(session)),
        Err(OpenError::Unreachable { source, .. }) => Err(ConnectError::new(server, &source)),
        Err(OpenError::Refused { answer, .. }) => Err(refused(server, options.ttl, answer)),
    }
}
