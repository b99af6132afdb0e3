//! One session at a ZooKeeper ensemble, one function for each request of the recipes, and what its
//! errors mean. All may be repeated.

use std::time::Duration;

use zookeeper_client::{
    Acls, Client, CreateMode, CreateOptions, Error, OneshotWatcher, SessionState, Stat, StateWatcher,
};

use crate::backend::engine::Failure;

use super::nodes::{Line, NodeId};

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
const CONTENDER: CreateOptions<'static> = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());

/// A follower answers its clients, and keeps their sessions alive at the leader only by what it says
/// every half tick; a session has at least two ticks. So a quarter of the session's time may have passed
/// at the leader when a request is answered: what we claim as lease is the rest.
const LEASE_OF_SESSION: (u32, u32) = (3, 4);

/// How long a server may be silent before another one is tried. The client library waits two fifths of
/// the session, which for a long one is longer than anybody waits for an answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// The session timeout to ask for, so that the lease is `ttl`.
pub(super) fn session_timeout(ttl: Duration) -> Duration {
    ttl * LEASE_OF_SESSION.1 / LEASE_OF_SESSION.0
}

/// A node of ours that is the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnNode {
    pub(super) path: String,
    /// The transaction that made it: its fencing token.
    pub(super) czxid: i64,
}

/// A live session; ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Session {
    client: Client,
}

/// Tells whether a session ends or its connection changes.
pub(super) struct SessionWatch(StateWatcher);

/// What became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Disconnected,
    Connected,
    Ended,
}

impl SessionWatch {
    /// Waits for the next change.
    pub(super) async fn changed(&mut self) -> Change {
        match self.0.changed().await {
            SessionState::Disconnected => Change::Disconnected,
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => Change::Connected,
            SessionState::AuthFailed | SessionState::Expired | SessionState::Closed => Change::Ended,
        }
    }

    /// Waits until the session has ended, for whatever reason.
    pub(super) async fn ended(&mut self) {
        if self.0.peek_state().is_terminated() {
            return;
        }
        while self.changed().await != Change::Ended {}
    }
}

impl Session {
    /// Opens a session of `timeout`; may be dropped, which leaves at most an empty session behind.
    pub(super) async fn open(hosts: &str, timeout: Duration) -> Result<Self, Failure> {
        let silence = LONGEST_SILENCE.min(timeout * 2 / 5);
        let connector = Client::connector().with_session_timeout(timeout).with_connection_timeout(silence);
        match connector.connect(hosts).await {
            Ok(client) => Ok(Self { client }),
            Err(Error::SessionExpired) => Err(Failure::Unanswered("no session was granted".into())),
            Err(cause) => Err(failure(cause)),
        }
    }

    /// How long after the last answered renewal was sent the session lives at least.
    pub(super) fn lease(&self) -> Duration {
        self.client.session_timeout() * LEASE_OF_SESSION.0 / LEASE_OF_SESSION.1
    }

    pub(super) fn watch(&self) -> SessionWatch {
        SessionWatch(self.client.state_watcher())
    }

    /// Ends the session and waits until the ensemble has confirmed it.
    pub(super) async fn close(self) {
        let mut watch = self.watch();
        drop(self);
        watch.ended().await;
    }

    /// Makes a persistent node and all above it; whatever is there already stays as it is.
    pub(super) async fn ensure(&self, path: &str) -> Result<(), Failure> {
        self.client.mkdir(path, &PERSISTENT).await.map_err(failure)
    }

    /// Makes a persistent node with `data`, or tells which data it has.
    pub(super) async fn ensure_data(&self, path: &str, data: Vec<u8>) -> Result<Vec<u8>, Failure> {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !parent.is_empty()
        {
            self.ensure(parent).await?;
        }
        match self.client.create(path, &data, &PERSISTENT).await {
            Ok(_) => Ok(data),
            Err(Error::NodeExists) => self.data(path).await.map(Option::unwrap_or_default),
            Err(cause) => Err(failure(cause)),
        }
    }

    /// A node's data; `None`: it isn't there.
    pub(super) async fn data(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        match self.client.get_data(path).await {
            Ok((data, _)) => Ok(Some(data)),
            Err(Error::NoNode) => Ok(None),
            Err(cause) => Err(failure(cause)),
        }
    }

    /// A node's data as long as it stays; the watch tells when it goes.
    pub(super) async fn watch_node(&self, path: &str) -> Result<Option<OneshotWatcher>, Failure> {
        match self.client.get_and_watch_data(path).await {
            Ok((_, _, watcher)) => Ok(Some(watcher)),
            Err(Error::NoNode) => Ok(None),
            Err(cause) => Err(failure(cause)),
        }
    }

    pub(super) async fn line(&self, path: &str) -> Result<Line, Failure> {
        match self.client.list_children(path).await {
            Ok(children) => Ok(Line::of(children)),
            Err(Error::NoNode) => Ok(Line::of(Vec::new())),
            Err(cause) => Err(failure(cause)),
        }
    }

    /// The line, and a watch that tells when it changes.
    pub(super) async fn watch_line(&self, path: &str) -> Result<(Line, OneshotWatcher), Failure> {
        let listed = self.client.list_and_watch_children(path).await;
        let (children, watcher) = listed.map_err(gone_without_node)?;
        Ok((Line::of(children), watcher))
    }

    /// The names of all children, for looking at their data.
    pub(super) async fn children(&self, path: &str) -> Result<Vec<String>, Failure> {
        self.client.list_children(path).await.map_err(failure)
    }

    /// Stands in line at `path`; one that stands there already, because an answer was lost, stays.
    /// The name of our contender.
    pub(super) async fn contend(&self, path: &str, id: &NodeId, data: &[u8]) -> Result<String, Failure> {
        if let Some(own) = self.line(path).await?.find(id) {
            return Ok(own.to_owned());
        }
        let prefix = id.contender();
        let create = self.client.create(&format!("{path}/{prefix}"), data, &CONTENDER).await;
        let (_, number) = create.map_err(gone_without_node)?;
        Ok(format!("{prefix}{number}"))
    }

    /// Makes our lease of a semaphore, or finds it.
    pub(super) async fn take_lease(&self, path: &str, data: &[u8]) -> Result<(), Failure> {
        match self.client.create(path, data, &EPHEMERAL).await {
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(cause) => Err(failure(cause)),
        }
    }

    /// Deletes a node that may be gone already.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Failure> {
        match self.client.delete(path, None).await {
            Ok(()) | Err(Error::NoNode) => Ok(()),
            Err(cause) => Err(failure(cause)),
        }
    }

    /// Asks the leader, then looks at a node of ours: `None` if it isn't there, or isn't this session's.
    pub(super) async fn find_own(&self, path: &str) -> Result<Option<OwnNode>, Failure> {
        // Both are sent before either is answered, and are answered in this order.
        let through_leader = self.client.sync(path);
        let found = self.client.check_stat(path);
        through_leader.await.map_err(failure)?;
        Ok(self.own(path, found.await.map_err(failure)?))
    }

    /// The same without asking the leader, and a watch that tells when it changes.
    pub(super) async fn watch_own(&self, path: &str) -> Result<(Option<OwnNode>, OneshotWatcher), Failure> {
        let (found, watcher) = self.client.check_and_watch_stat(path).await.map_err(failure)?;
        Ok((self.own(path, found), watcher))
    }

    fn own(&self, path: &str, found: Option<Stat>) -> Option<OwnNode> {
        let session = self.client.session_id().0;
        found
            .filter(|stat| stat.ephemeral_owner == session)
            .map(|stat| OwnNode { path: path.to_owned(), czxid: stat.czxid })
    }

    /// Deletes every node below `parent` that was made under this id.
    pub(super) async fn delete_all_of(&self, id: &NodeId, parent: &str) -> Result<(), Failure> {
        let children = match self.client.list_children(parent).await {
            Err(Error::NoNode) => return Ok(()),
            children => children.map_err(failure)?,
        };
        for child in children.iter().filter(|child| id.is_in(child)) {
            self.delete(&format!("{parent}/{child}")).await?;
        }
        Ok(())
    }
}

/// For what is done below the lock's node: without it there is no line, and one begins anew.
fn gone_without_node(cause: Error) -> Failure {
    match cause {
        Error::NoNode => Failure::Gone("the lock's node was deleted".into()),
        other => failure(other),
    }
}

fn failure(cause: Error) -> Failure {
    let text = cause.to_string();
    match cause {
        Error::SessionExpired | Error::ClientClosed => Failure::Gone(text),
        Error::AuthFailed | Error::NoAuth => Failure::Refused(text),
        Error::BadArguments(_)
        | Error::NoNode
        | Error::NodeExists
        | Error::NotEmpty
        | Error::BadVersion
        | Error::NoChildrenForEphemerals
        | Error::InvalidAcl
        | Error::QuotaExceeded
        | Error::Unimplemented
        | Error::UnmarshalError { .. }
        | Error::MarshallingError => Failure::Answer(text),
        // Connection trouble comes as any of the others.
        _ => Failure::Unanswered(text),
    }
}
