//! The requests of the lock to one Redis server, one function each, and what its errors mean. Every one
//! of them may be repeated, and dropped at any await.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, ProtocolVersion, PushInfo, PushKind,
    RedisError, Script, ScriptInvocation, ServerErrorKind,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};

use crate::backend::engine::Failure;
use crate::lock::{Limit, Slot, Token};

use super::Keys;

/// Who owns a place or a lease: 32 hexadecimal digits, as redis-py makes them. Who knows it can give it back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Owner(String);

impl Owner {
    pub(super) fn random() -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(crate::secret::draw())))
    }
}

/// Only the first digits: a log must not hand out the secret.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owner {}…", &self.0[..6.min(self.0.len())])
    }
}

/// What to ask for.
pub(super) struct Try {
    pub(super) owner: Owner,
    pub(super) ttl: Duration,
    pub(super) limit: Limit,
    pub(super) description: String,
    pub(super) queue_max: Option<u64>,
    pub(super) waits: bool,
}

/// What came of a try.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Granted { token: Token, slot: Slot },
    Wait { first_end: Duration, place: u64 },
    Busy,
    Full,
    Mismatch { in_use: String },
}

/// The way to one server.
pub(super) struct Server {
    client: Client,
    shown: String,
    url: String,
    scripts: Scripts,
    /// A call takes it out and puts it back when it was answered, so that a connection that hangs is
    /// not used twice.
    idle: Mutex<Option<MultiplexedConnection>>,
}

struct Scripts {
    acquire: Script,
    extend: Script,
    leave: Script,
    holders: Script,
}

impl Scripts {
    fn new() -> Self {
        let script = |body: &str| Script::new(&format!("{}\n{body}", include_str!("keys.lua")));
        Self {
            acquire: script(include_str!("acquire.lua")),
            extend: script(include_str!("extend.lua")),
            leave: script(include_str!("leave.lua")),
            holders: script(include_str!("holders.lua")),
        }
    }
}

impl Server {
    /// Reads a URL; connects later.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let shown =
            url.parse::<crate::backend::ServerUrl>().map_or_else(|_| "redis".into(), |u| u.to_string());
        if url.starts_with("rediss:") {
            // Only the first one of a process counts; any is fine.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = Client::open(url).map_err(|cause| format!("cannot use {shown}: {cause}"))?;
        // RESP3, so that messages and replies share a connection.
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))
            .map_err(|cause| format!("cannot use {shown}: {cause}"))?;
        Ok(Self { client, shown, url: url.into(), scripts: Scripts::new(), idle: Mutex::default() })
    }

    /// The server, without secrets.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn url_with_secrets(&self) -> &str {
        &self.url
    }

    /// Whether it answers and lets us in.
    pub(super) async fn ping(&self) -> Result<(), Failure> {
        let mut connection = self.connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await.map_err(failure)?;
        self.put_back(connection).await;
        Ok(())
    }

    pub(super) async fn acquire(&self, keys: &Keys, attempt: &Try) -> Result<Answer, Failure> {
        let mut call = self.script(&self.scripts.acquire, keys);
        call.arg(&attempt.owner.0).arg(milliseconds(attempt.ttl)).arg(attempt.limit.get());
        call.arg(&attempt.description);
        call.arg(attempt.queue_max.map_or(-1, |max| i64::try_from(max).unwrap_or(i64::MAX)));
        call.arg(u8::from(attempt.waits));
        let words: Vec<String> = self.invoke(&call).await?;
        answer(&words).ok_or_else(|| Failure::Answer(words.join(" ")))
    }

    /// Whether the lease is still ours, extended if so.
    pub(super) async fn extend(
        &self,
        keys: &Keys,
        owner: &Owner,
        ttl: Duration,
        limit: Limit,
    ) -> Result<bool, Failure> {
        let mut call = self.script(&self.scripts.extend, keys);
        call.arg(&owner.0).arg(milliseconds(ttl)).arg(limit.get());
        self.invoke(&call).await
    }

    pub(super) async fn leave(&self, keys: &Keys, owner: &Owner) -> Result<(), Failure> {
        let mut call = self.script(&self.scripts.leave, keys);
        call.arg(&owner.0);
        self.invoke::<i64>(&call).await.map(drop)
    }

    pub(super) async fn describe_holders(&self, keys: &Keys) -> Result<Vec<String>, Failure> {
        self.invoke(&self.script(&self.scripts.holders, keys)).await
    }

    /// A connection that hears a channel.
    pub(super) async fn subscribe(&self, channel: String) -> Result<Ear, Failure> {
        let mut ear = self.open_ear().await?;
        ear.connection.subscribe(channel).await.map_err(failure)?;
        Ok(ear)
    }

    /// Waits until the lock isn't the owner's any more: the server tells of every change of its key.
    pub(super) async fn watch(&self, keys: &Keys, owner: &Owner, limit: Limit) -> Result<(), Failure> {
        let mut ear = self.open_ear().await?;
        let mut tracking = redis::cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON");
        if let Err(cause) = tracking.query_async::<()>(&mut ear.connection).await {
            let failure = failure(cause);
            if let Failure::Unanswered(_) = failure {
                return Err(failure);
            }
            tracing::debug!(server = self.shown, %failure, "changes aren't told; each renewal looks");
            return std::future::pending().await;
        }
        while is_owner(&mut ear.connection, keys, owner, limit).await? {
            ear.heard().await?;
        }
        Ok(())
    }

    fn script<'a>(&self, script: &'a Script, keys: &Keys) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        for key in keys.all() {
            call.key(key);
        }
        call
    }

    async fn invoke<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, Failure> {
        let mut connection = self.connection().await?;
        let answer = call.invoke_async(&mut connection).await.map_err(failure);
        if !matches!(answer, Err(Failure::Unanswered(_))) {
            self.put_back(connection).await;
        }
        answer
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        match self.idle.lock().await.take() {
            Some(connection) => Ok(connection),
            None => self.open(AsyncConnectionConfig::new()).await,
        }
    }

    async fn put_back(&self, connection: MultiplexedConnection) {
        *self.idle.lock().await = Some(connection);
    }

    async fn open_ear(&self) -> Result<Ear, Failure> {
        let (told, pushes) = mpsc::unbounded_channel();
        let connection = self.open(AsyncConnectionConfig::new().set_push_sender(told)).await?;
        Ok(Ear { connection, pushes })
    }

    async fn open(&self, config: AsyncConnectionConfig) -> Result<MultiplexedConnection, Failure> {
        // Every caller bounds its calls by the lease.
        let config = config.set_connection_timeout(None).set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(failure)
    }
}

/// A connection on which the server speaks unasked. What it says is only a reason to look: it needs no
/// bound of its own, because every look takes all that has been said.
pub(super) struct Ear {
    connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
}

impl Ear {
    /// Waits until something was said; an error: the connection is gone.
    pub(super) async fn heard(&mut self) -> Result<(), Failure> {
        loop {
            let first = self.pushes.recv().await;
            let mut said = first.map(|push| push.kind).into_iter().collect::<Vec<_>>();
            if said.is_empty() {
                return Err(Failure::Unanswered("the connection ended".into()));
            }
            while let Ok(push) = self.pushes.try_recv() {
                said.push(push.kind);
            }
            if said.contains(&PushKind::Disconnection) {
                return Err(Failure::Unanswered("the connection ended".into()));
            }
            if said.iter().any(|kind| matches!(kind, PushKind::Message | PushKind::Invalidate)) {
                return Ok(());
            }
        }
    }
}

async fn is_owner(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    owner: &Owner,
    limit: Limit,
) -> Result<bool, Failure> {
    if limit == Limit::ONE {
        let now: Option<String> =
            redis::cmd("GET").arg(&keys.lock).query_async(connection).await.map_err(failure)?;
        Ok(now.as_ref() == Some(&owner.0))
    } else {
        let mut score = redis::cmd("ZSCORE");
        score.arg(keys.holders()).arg(&owner.0);
        let ends: Option<f64> = score.query_async(connection).await.map_err(failure)?;
        Ok(ends.is_some())
    }
}

fn answer(words: &[String]) -> Option<Answer> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["granted", token, slot] => {
            Some(Answer::Granted { token: Token(token.parse().ok()?), slot: Slot(slot.parse().ok()?) })
        }
        ["wait", first_end, place] => Some(Answer::Wait {
            first_end: Duration::from_millis(first_end.parse().ok()?),
            place: place.parse().ok()?,
        }),
        ["busy"] => Some(Answer::Busy),
        ["full"] => Some(Answer::Full),
        ["mismatch", in_use] => Some(Answer::Mismatch { in_use: in_use.into() }),
        _ => None,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn failure(cause: RedisError) -> Failure {
    let text = cause.to_string();
    match (cause.kind(), cause.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED")) => {
            Failure::Refused(text)
        }
        // It is starting, or another one has taken over: it will answer.
        (
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain,
            ),
            _,
        ) => Failure::Unanswered(text),
        (ErrorKind::Io, _) => Failure::Unanswered(text),
        _ if cause.is_timeout() || cause.is_connection_dropped() => Failure::Unanswered(text),
        (ErrorKind::RESP3NotSupported, _) => Failure::Answer("it is older than Redis 6".into()),
        _ => Failure::Answer(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Option<Answer> {
        answer(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn answers_are_read() {
        let granted = Answer::Granted { token: Token(1_763_000_000_123), slot: Slot(2) };
        assert_eq!(read(&["granted", "1763000000123", "2"]), Some(granted));
        assert_eq!(read(&["mismatch", "3"]), Some(Answer::Mismatch { in_use: "3".into() }));
        assert_eq!(read(&["granted", "x", "2"]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        for url in ["redis://:hidden@h/1", "redis+unix:///run/r.sock?pass=hidden"] {
            let server = Server::new(url).unwrap();
            assert!(!server.shown().contains("hidden"), "{}", server.shown());
            assert_eq!(server.url_with_secrets(), url);
        }
    }

    #[test]
    fn an_owner_is_not_logged_whole() {
        let owner = Owner::random();
        assert!(!format!("{owner:?}").contains(&owner.0));
    }
}
