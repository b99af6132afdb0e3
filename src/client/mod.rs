//! The client of an Officer server: what Officer's Ruby client has, async, and sessions.
//!
//! A [`Client`] is one connection without a session: its locks end with it. What must outlive a
//! broken connection or a restarted server needs a [`Session`].

mod connection;
mod endpoint;
mod question;
mod session;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::lock::Limit;
use crate::protocol::{LockRequest, Reply, Request, TurnedAway};

use tokio::sync::mpsc;

use connection::{Connection, Revoked};
pub use endpoint::{Endpoint, EndpointError};
pub use question::ask;
pub(crate) use session::close_at_last;
pub use session::{OpenError, Session, SessionEnd, SessionEvent, close_elsewhere};
pub(crate) use wire::Wire;
pub use wire::{Connect, Stream};

/// How often an idle client says that it lives; Officer's Ruby client: 6 a minute.
pub const DEFAULT_KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Put as `namespace:` in front of every name, and taken off again in replies.
    pub namespace: Option<String>,
    /// How often to send a keep-alive while nothing else is sent. The server closes connections
    /// that were silent for its `--max-idle` (60 s).
    pub keep_alive_every: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { namespace: None, keep_alive_every: DEFAULT_KEEP_ALIVE_EVERY }
    }
}

/// How to ask for a lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockOptions {
    /// How long to wait; `None`: for ever; zero: not at all.
    pub timeout: Option<Duration>,
    /// Give up at once if so many are in the queue already, holders counted; at least 1.
    pub queue_max: Option<u64>,
    /// How many may hold the lock at once; `None` is a plain Officer lock: one. With a limit, that an
    /// operator takes the lock is [told](Client::lost), and it stays ours until it is unlocked, for as
    /// long as the server keeps an idle connection; without one it is gone at once, and nothing is said.
    pub limit: Option<Limit>,
}

/// How a lock was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It is held from now on.
    Acquired,
    /// This client held it already; one unlock frees it.
    AlreadyAcquired,
}

/// What ended a hold from outside.
#[derive(Debug)]
pub enum Lost {
    /// An operator takes the lock: stop what it protects, then unlock it. Said of locks with a
    /// [limit](LockOptions::limit).
    Revoked {
        /// The lock, without the namespace.
        name: String,
        /// What the operator said.
        reason: String,
    },
    /// The connection broke: every lock of this client is gone.
    Disconnected {
        /// Why.
        source: io::Error,
    },
}

/// What can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The wait limit passed; the connection lives.
    #[error("timed out waiting for {name}; queue={queue:?}")]
    TimedOut {
        /// The lock, without the namespace.
        name: String,
        /// Everyone else who holds or waits.
        queue: Vec<String>,
    },
    /// The queue was too long; the connection lives.
    #[error("the queue of {name} is full; queue={queue:?}")]
    QueueMaxed {
        /// The lock, without the namespace.
        name: String,
        /// Everyone else who holds or waits.
        queue: Vec<String>,
    },
    /// The lock was neither held nor waited for; the connection lives.
    #[error("cannot release {name}: it is not held")]
    NotHeld {
        /// The lock, without the namespace.
        name: String,
    },
    /// The lock is in use with another limit; the connection lives.
    #[error("{name} is in use with limit {in_use}, not {asked}")]
    LimitMismatch {
        /// The lock, without the namespace.
        name: String,
        /// The limit in force.
        in_use: Limit,
        /// Ours.
        asked: Limit,
    },
    /// The server refused the request; the connection lives.
    #[error("the server refused: {message} ({code})")]
    Refused {
        /// The error's code, see `docs/protocol.md`.
        code: String,
        /// What was wrong and what is allowed.
        message: String,
    },
    /// The connection broke, or an earlier request was dropped before its reply came: every lock of
    /// this client is gone. [`Client::reconnect`] starts afresh.
    #[error("the connection to {server} is gone: {source}")]
    Disconnected {
        /// The server.
        server: String,
        /// Why.
        source: io::Error,
    },
}

/// A connection to an Officer server; its locks end with it.
///
/// One request is under way at a time. A request whose future is dropped before the reply came
/// leaves the connection unusable (the lock might have been granted unseen), so it is closed, which
/// gives back every lock; [`Client::reconnect`] goes on.
///
/// ```
/// use officer::client::{Client, LockOptions};
/// use officer::server::{Config, Listener, Server, StoreConfig};
/// use std::time::Duration;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// // A server of our own, so that this example can be run as it stands.
/// let config = Config { store: StoreConfig::Ephemeral, ..Config::default() };
/// let server = Server::bind(config, vec![Listener::tcp("127.0.0.1:0")?])?;
/// let url = server.addresses()[0].to_string();
/// let stop = server.handle();
/// let running = std::thread::spawn(move || server.run());
///
/// let mut client = Client::connect(&url).await?;
/// client.lock("nightly-report", LockOptions::default()).await?;
/// assert_eq!(client.my_locks().await?, ["nightly-report"]);
///
/// let mut other = Client::connect(&url).await?;
/// let options = LockOptions { timeout: Some(Duration::ZERO), ..LockOptions::default() };
/// assert!(other.lock("nightly-report", options).await.is_err());
///
/// client.unlock("nightly-report").await?;
/// let answer = other.with_lock("nightly-report", options, async |_| 42).await?;
/// assert_eq!(answer, 42);
///
/// stop.stop();
/// running.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Client {
    connector: Arc<dyn Connect>,
    options: ClientOptions,
    connection: Option<Connection>,
    /// Told by the connection there is now.
    revoked: mpsc::UnboundedReceiver<Revoked>,
}

impl Client {
    /// Connects to `officer://host:port` or `unix:/path`.
    pub async fn connect(url: &str) -> Result<Self, ClientError> {
        Self::connect_with(url, ClientOptions::default()).await
    }

    /// Connects with options.
    pub async fn connect_with(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let endpoint = url.parse::<Endpoint>().map_err(|e| ClientError::Disconnected {
            server: url.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, e),
        })?;
        let (_, revoked) = mpsc::unbounded_channel();
        let mut client = Self { connector: Arc::new(endpoint), options, connection: None, revoked };
        client.reconnect().await?;
        Ok(client)
    }

    /// Asks for a lock and waits for it.
    pub async fn lock(&mut self, name: &str, options: LockOptions) -> Result<Granted, ClientError> {
        let full_name = self.full_name(name);
        let request = Request::Lock(LockRequest {
            name: full_name.into(),
            timeout: options.timeout,
            queue_max: options.queue_max,
            limit: options.limit,
        });
        let own = |TurnedAway { queue, .. }| (name.to_owned(), queue);
        match self.ask(&request).await? {
            Reply::Acquired(_) => Ok(Granted::Acquired),
            Reply::AlreadyAcquired(_) => Ok(Granted::AlreadyAcquired),
            Reply::TimedOut(away) => {
                let (name, queue) = own(away);
                Err(ClientError::TimedOut { name, queue })
            }
            Reply::QueueMaxed(away) => {
                let (name, queue) = own(away);
                Err(ClientError::QueueMaxed { name, queue })
            }
            Reply::LimitMismatch { limit, asked, .. } => {
                Err(ClientError::LimitMismatch { name: name.to_owned(), in_use: limit, asked })
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Gives a lock back.
    pub async fn unlock(&mut self, name: &str) -> Result<(), ClientError> {
        let full_name = self.full_name(name);
        match self.ask(&Request::Unlock { name: full_name.into() }).await? {
            Reply::Released { .. } => Ok(()),
            Reply::ReleaseFailed { .. } => Err(ClientError::NotHeld { name: name.to_owned() }),
            other => Err(self.unexpected(other)),
        }
    }

    /// Runs `work` while holding a lock. Nested calls with one name unlock at the outermost.
    ///
    /// If `work` unwinds or is dropped, the lock stays held by this client until it is unlocked,
    /// reset or disconnected.
    pub async fn with_lock<T>(
        &mut self,
        name: &str,
        options: LockOptions,
        work: impl AsyncFnOnce(&mut Self) -> T,
    ) -> Result<T, ClientError> {
        let granted = self.lock(name, options).await?;
        let result = work(self).await;
        match granted {
            Granted::Acquired => self.unlock(name).await?,
            Granted::AlreadyAcquired => {}
        }
        Ok(result)
    }

    /// Gives back every lock of this client.
    pub async fn reset(&mut self) -> Result<(), ClientError> {
        match self.ask(&Request::Reset).await? {
            Reply::ResetSucceeded => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Closes the connection, which gives back every lock, and makes a new one.
    pub async fn reconnect(&mut self) -> Result<(), ClientError> {
        self.disconnect();
        let stream = self.connector.connect().await.map_err(|source| self.disconnected(source))?;
        let (tell, revoked) = mpsc::unbounded_channel();
        self.connection = Some(Connection::new(Wire::new(stream), self.options.keep_alive_every, tell));
        self.revoked = revoked;
        Ok(())
    }

    /// Closes the connection, which gives back every lock.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Waits until a lock of this client is lost: what runs under a lock has to stop then. Cancel safe;
    /// without a connection it answers at once.
    ///
    /// ```no_run
    /// # async fn example(mut client: officer::client::Client) -> Result<(), officer::client::ClientError> {
    /// # use officer::client::LockOptions;
    /// # async fn write_report() {}
    /// let written = client.with_lock("nightly-report", LockOptions::default(), async |client| {
    ///     tokio::select! {
    ///         () = write_report() => true,
    ///         lost = client.lost() => {
    ///             eprintln!("stopped: {lost:?}");
    ///             false
    ///         }
    ///     }
    /// });
    /// # written.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lost(&mut self) -> Lost {
        let broken = async {
            match &mut self.connection {
                Some(connection) => connection.broken().await,
                None => not_connected(),
            }
        };
        tokio::select! {
            biased;
            Some(Revoked { name, reason }) = self.revoked.recv() => {
                Lost::Revoked { name: self.own_name(&name).unwrap_or(&name).to_owned(), reason }
            }
            source = broken => {
                self.disconnect();
                Lost::Disconnected { source }
            }
        }
    }

    /// Every lock in use, under its full name, with who holds it and then who waits, as `ip:port`.
    pub async fn locks(&mut self) -> Result<BTreeMap<String, Vec<String>>, ClientError> {
        match self.ask(&Request::Locks).await? {
            Reply::Locks { value } => Ok(value),
            other => Err(self.unexpected(other)),
        }
    }

    /// Every connection that has asked for a lock, with the full names it holds or waits for.
    pub async fn connections(&mut self) -> Result<BTreeMap<String, Vec<String>>, ClientError> {
        match self.ask(&Request::Connections).await? {
            Reply::Connections { value } => Ok(value),
            other => Err(self.unexpected(other)),
        }
    }

    /// What this client holds, in the order of asking; names outside the namespace are left out.
    pub async fn my_locks(&mut self) -> Result<Vec<String>, ClientError> {
        match self.ask(&Request::MyLocks).await? {
            Reply::MyLocks { value } => {
                Ok(value.iter().filter_map(|name| self.own_name(name)).map(str::to_owned).collect())
            }
            other => Err(self.unexpected(other)),
        }
    }

    fn full_name(&self, name: &str) -> String {
        match &self.options.namespace {
            Some(namespace) => format!("{namespace}:{name}"),
            None => name.to_owned(),
        }
    }

    /// A name without the namespace; `None` if it isn't in ours.
    fn own_name<'a>(&self, full_name: &'a str) -> Option<&'a str> {
        match &self.options.namespace {
            Some(namespace) => full_name.strip_prefix(namespace)?.strip_prefix(':'),
            None => Some(full_name),
        }
    }

    /// Sends one request and waits for its one reply. An error line leaves the connection up.
    async fn ask(&mut self, request: &Request<'_>) -> Result<Reply, ClientError> {
        // Out of its place while a reply is due: if this future is dropped, the connection goes too.
        let Some(connection) = self.connection.take() else {
            return Err(self.disconnected(not_connected()));
        };
        match connection.ask(request).await {
            Ok((connection, reply)) => {
                self.connection = Some(connection);
                match reply {
                    Reply::Error { error, message } => Err(ClientError::Refused { code: error, message }),
                    reply => Ok(reply),
                }
            }
            Err(source) => Err(self.disconnected(source)),
        }
    }

    fn disconnected(&self, source: io::Error) -> ClientError {
        ClientError::Disconnected { server: self.connector.server(), source }
    }

    /// A reply of another kind: requests and replies are out of step, so the connection ends.
    fn unexpected(&mut self, reply: Reply) -> ClientError {
        self.disconnect();
        let text = format!("the server sent {reply:?} out of turn");
        self.disconnected(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

fn not_connected() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "it was closed or a request was abandoned")
}
