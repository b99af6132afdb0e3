//! Clients of an engine, in this process.

use std::time::Duration;

use officer::backend::{self, Backend, ConnectError, ConnectOptions, Wait, Wanted};
use officer::lock::Limit;
use officer::protocol::Who;

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
