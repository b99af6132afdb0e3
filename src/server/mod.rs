//! The lock server: Officer's protocol with sessions on top, see `docs/protocol.md`. One thread on
//! mio owns everything; the lock table is pure, connections know no sockets, the loop is thin.
//!
//! Promises: exclusion, order and tokens (P1, P3, P4) by the table; sessions survive a restart (P6) by
//! the store; whatever a client sends, memory is bounded and the others are served (P8).
//!
//! ```no_run
//! use officer::server::{Config, Listener, Server};
//!
//! let server = Server::bind(Config::default(), vec![Listener::tcp("127.0.0.1:0")?])?;
//! println!("{:?}", server.addresses());
//! let handle = server.handle();
//! let thread = std::thread::spawn(|| server.run());
//! handle.stop();
//! thread.join().unwrap()?;
//! # Ok::<(), officer::server::ServeError>(())
//! ```

mod bounds;
mod commands;
mod connection;
mod event_loop;
#[doc(hidden)]
pub mod fuzzing;
mod listener;
mod listing;
mod lookout;
mod operators;
mod readiness;
mod restore;
mod revocations;
mod service;
#[cfg(test)]
mod service_test;
mod socket_file;
mod statistics;
mod store;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::Waker;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::boot_time::BootTime;

pub use bounds::Bounds;
pub use connection::Peer;
pub use listener::{Address, Listener};
pub use lookout::BusyPoll;
pub(crate) use store::LOG_FILE_NAME;
pub use store::StoreError;

use event_loop::EventLoop;
use service::Service;

/// File descriptors that aren't clients: the store's, the listeners', the log's.
const RESERVED_FDS: u64 = 64;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// A connection without a session that has said nothing for so long is closed.
    pub max_idle: Duration,
    /// The longest ttl a session may ask for.
    pub max_ttl: Duration,
    /// Where sessions are kept.
    pub store: StoreConfig,
    /// End when there was no connection and no session for so long: for a server that is started
    /// when it is needed.
    pub exit_when_empty: Option<Duration>,
    /// Serve UNIX clients of this user only.
    pub only_uid: Option<u32>,
    /// When to look for requests without sleeping: hot locks change hands faster, at the price of a
    /// busy CPU.
    pub busy_poll: BusyPoll,
    /// Log statistics so often.
    pub stats: Option<Duration>,
    /// What clients may use.
    pub bounds: Bounds,
}

/// Where sessions are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In this directory, made if need be; they survive a restart of the server (P6).
    Dir(PathBuf),
    /// In memory: a restart forgets every session, so a command may still run when its lock is
    /// granted again (neither P1 nor P6 holds over a restart), and tokens grow only as far as the
    /// wall clock does (P4).
    Ephemeral,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_idle: Duration::from_secs(60),
            max_ttl: Duration::from_secs(60),
            store: StoreConfig::Ephemeral,
            exit_when_empty: None,
            only_uid: None,
            busy_poll: BusyPoll::Adaptive,
            stats: None,
            bounds: Bounds::default(),
        }
    }
}

/// Why a server can't start or go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("cannot wait for clients: {source}")]
    Poll { source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A server that listens but doesn't serve yet.
pub struct Server {
    event_loop: EventLoop,
    addresses: Vec<Address>,
    handle: Handle,
}

/// Ends a server that runs in another thread.
#[derive(Clone)]
pub struct Handle {
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Server {
    /// Opens the store and makes everything ready; clients can connect from here on and are served
    /// once it runs.
    pub fn bind(mut config: Config, listeners: Vec<Listener>) -> Result<Self, ServeError> {
        let fd_limit = raise_fd_limit();
        let most = (fd_limit.saturating_sub(RESERVED_FDS) as usize).max(1);
        let wanted = config.bounds.connections;
        config.bounds.connections = wanted.min(most);
        let addresses = listeners
            .iter()
            .map(|listener| listener.address().map_err(|source| ServeError::Poll { source }))
            .collect::<Result<_, _>>()?;
        let service = Service::open(&config, BootTime::now())?;
        if wanted > most {
            tell_of_fewer_connections(most, wanted, fd_limit);
        }
        let (event_loop, waker) = EventLoop::new(config, listeners, service)?;
        let handle = Handle { stop: Arc::clone(&event_loop.stop), waker };
        Ok(Self { event_loop, addresses, handle })
    }

    /// Where it can be reached, in the order of the listeners.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// For ending it from elsewhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Has it end once `stopper` can be read from: the end of a pipe that signal handlers write to,
    /// without a thread that waits for signals.
    pub fn stop_when_readable(&mut self, stopper: impl Into<OwnedFd>) -> Result<(), ServeError> {
        self.event_loop.stop_when_readable(stopper.into())
    }

    /// Serves until it is told to stop. Sessions are kept for the next start.
    pub fn run(self) -> Result<(), ServeError> {
        self.event_loop.run()
    }
}

impl Handle {
    /// Has the server end after its current turn.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // It can only fail if the server is gone.
        let _ = self.waker.wake();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// Only a bound that somebody has chosen is worth a warning.
fn tell_of_fewer_connections(most: usize, wanted: usize, fd_limit: u64) {
    match wanted == Bounds::default().connections {
        true => info!(most, fd_limit, "the limit of file descriptors bounds the connections"),
        false => {
            warn!(fd_limit, "at most {most} connections are served, not {wanted}: each takes a descriptor")
        }
    }
}

/// Each client takes a file descriptor; the hard limit is what the administrator allows.
fn raise_fd_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    if soft >= hard {
        return soft;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => {
            info!(from = soft, to = hard, "raised the limit of file descriptors");
            hard
        }
        Err(_) => soft,
    }
}
