//! What the suite needs of an engine: a fixture around one real server.

use std::time::Duration;

use officer::backend::{self, Backend, ConnectError, ConnectOptions, Loss, Wait, Wanted};
use officer::lock::Limit;
use officer::protocol::Who;

/// One real server of an engine, on a free port of loopback, with its data in a folder of its own.
pub(crate) trait Engine: Send + Sized + 'static {
    /// Starts a server and waits until it answers.
    fn start() -> Self;

    /// A server that tests share, because all they do is done with locks of their own names.
    fn shared() -> &'static Self;

    /// The port that it listens on.
    fn port(&self) -> u16;

    /// The `--server` for a server that listens on `port` of loopback.
    fn url_at(port: u16) -> String;

    /// Kills the server (SIGKILL) and leaves it so.
    fn stop(&mut self);

    /// Kills the server (SIGKILL) and starts it again with the same data and port.
    fn restart(&mut self);

    /// Stops the server (SIGSTOP): connections stay, nothing is answered.
    fn pause(&self);

    /// Lets it go on.
    fn resume(&self);

    /// What an operator would do to take a lock of limit 1 away: deletes it with the engine's own tool.
    fn delete_by_hand(port: u16, lock: &str);

    /// How the holder is told of that.
    fn loss_by_hand() -> Loss {
        Loss::LockGone
    }

    /// The shortest lease that the server grants.
    const SHORTEST_TTL: Duration;

    /// Whether each holder of a semaphore has a number.
    const SLOTS: bool;

    fn url(&self) -> String {
        Self::url_at(self.port())
    }
}

/// Usual options with a lease of `ttl`.
pub(crate) fn options(ttl: Duration) -> ConnectOptions {
    ConnectOptions {
        connect_timeout: Duration::from_secs(30),
        connect_tries: 1,
        operation_tries: 1,
        ttl,
        who: Who {
            host: Some("test-host".into()),
            pid: Some(4711),
            user: Some("tester".into()),
            run: Some("true".into()),
        },
    }
}

/// So long that nothing in a test ends by it.
pub(crate) const LONG_TTL: Duration = Duration::from_secs(60);

pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Box<dyn Backend>, ConnectError> {
    backend::connect(&url.parse().expect("a URL"), options).await
}

/// A client with a long lease.
pub(crate) async fn client(url: &str) -> Box<dyn Backend> {
    client_with(url, LONG_TTL).await
}

pub(crate) async fn client_with(url: &str, ttl: Duration) -> Box<dyn Backend> {
    connect(url, &options(ttl)).await.unwrap_or_else(|cause| panic!("{cause}"))
}

/// Asks for a lock of limit 1, for ever.
pub(crate) fn wanted(name: &str) -> Wanted {
    Wanted { name: name.into(), path: None, limit: Limit::ONE, wait: Wait::Forever, queue_max: None }
}

/// The same without waiting.
pub(crate) fn at_once(name: &str) -> Wanted {
    Wanted { wait: Wait::No, ..wanted(name) }
}

/// Of `limit` holders, without waiting.
pub(crate) fn one_of(limit: u32, name: &str) -> Wanted {
    Wanted { limit: Limit::new(limit).expect("not zero"), ..at_once(name) }
}
