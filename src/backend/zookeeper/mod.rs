//! ZooKeeper: node for node the recipes of kazoo's `Lock` (a limit of 1) and `Semaphore` (more), so that
//! lockex and this program exclude each other at `/lockex/ID`.
//!
//! With a limit of 1 the contenders are ephemeral sequential nodes, the first of which holds the lock;
//! each waits for its predecessor only. With more, the leases are ephemeral nodes, and a lock next to
//! them serialises the entry, so the line is first come, first served as well. A node is made under an
//! id of ours and is found again if the answer was lost. The fencing token is the transaction that made
//! our node. Holders of a semaphore have no slots: kazoo's recipe has none.
//!
//! The lease is three quarters of the session's timeout (see `session.rs` for why), and a timeout is
//! asked for that makes it the `--ttl`. Every renewal goes through the leader and looks at our node; a
//! watch tells at once if someone deletes it. A will deletes our nodes, held or in line, which is what
//! others wait for; the session itself, then empty, ends by its timeout.
//!
//! All must agree on the limit. Seen are: another number in a semaphore's data, leases where a mutex is
//! asked for, contenders where a semaphore is asked for. Not here: TLS, SASL, ACLs other than open.

mod nodes;
mod session;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zookeeper_client::OneshotWatcher;

use crate::boot_time::BootTime;
use crate::lock::{Limit, Slot, Token};

use super::engine::{
    Failure, LEAVE_LIMIT, Patience, Turn, busy, call_limit, insist, lease_asked, reach, wait_at_most, within,
};
use super::held::{Held, Lease, Standing};
use super::{
    AcquireError, Backend, ConnectError, ConnectOptions, Grant, Guard, Loss, ReleaseError, Wait, WaitEnd,
    Wanted, Will,
};
use nodes::{Line, Names, NodeId, data_of, limit_in, split_chroot};
use session::{Change, OwnNode, Session, session_timeout};

/// Opens a session at the ensemble in `hosts`, which may end in a chroot.
pub(crate) async fn connect(hosts: &str, options: &ConnectOptions) -> Result<Box<dyn Backend>, ConnectError> {
    let ttl = lease_asked(options.ttl)?;
    let ensemble = Ensemble::parse(hosts)?;
    let session =
        reach(&ensemble.shown, options, || Session::open(&ensemble.hosts, session_timeout(ttl))).await?;
    Ok(Box::new(ZooKeeper {
        ensemble,
        data: contender_data(options),
        id: NodeId::random(),
        options: options.clone(),
        session: Some(session),
        patience: Patience::of(options),
    }))
}

/// Where the servers are.
#[derive(Clone)]
struct Ensemble {
    hosts: String,
    chroot: String,
    shown: String,
    url: String,
}

impl Ensemble {
    fn parse(text: &str) -> Result<Self, ConnectError> {
        let (hosts, chroot) = split_chroot(text);
        if !hosts.split(',').all(is_host) || chroot.contains("//") {
            let shown = text.rsplit('@').next().unwrap_or_default();
            let wrong = format!("zk://{shown} is no list of HOST[:PORT] with a chroot");
            return Err(ConnectError::Unsupported(wrong));
        }
        Ok(Self {
            hosts: hosts.into(),
            chroot: chroot.into(),
            shown: format!("zk://{text}"),
            url: format!("zk://{text}"),
        })
    }
}

/// `host`, `host:port` or `[ip6]:port`.
fn is_host(text: &str) -> bool {
    let behind_ip6 = text.rfind(']').map_or(0, |end| end + 1);
    let host_is_fine = !text.is_empty() && !text.contains(['@', '?', ' ', '/']) && !text.starts_with(':');
    match text[behind_ip6..].split_once(':') {
        Some((_, port)) => host_is_fine && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => host_is_fine,
    }
}

/// What kazoo's clients show of a contender.
fn contender_data(options: &ConnectOptions) -> Vec<u8> {
    let host = options.who.host.as_deref().unwrap_or("unknown");
    format!("{host}:{}", options.who.pid.unwrap_or_else(std::process::id)).into_bytes()
}

/// Where a dead process had nodes, and the id in their names.
#[derive(Serialize, Deserialize)]
struct Handle {
    parents: Vec<String>,
    id: String,
}

/// Deletes what a dead process had: its place in line, its lease.
pub(crate) async fn execute_will(hosts: &str, handle: &str) -> Result<(), ReleaseError> {
    let unmade = |cause: String| ReleaseError { server: format!("zk://{hosts}"), cause };
    let ensemble = Ensemble::parse(hosts).map_err(|wrong| unmade(wrong.to_string()))?;
    let unread = || unmade("the will names no node".into());
    let Handle { parents, id } = serde_json::from_str(handle).map_err(|_| unread())?;
    let id = NodeId::parse(&id).ok_or_else(unread)?;
    let mut patience = Patience::new(LEAVE_LIMIT);
    let executed = insist(&mut patience, LEAVE_LIMIT, || async {
        let session = Session::open(&ensemble.hosts, LEAVE_LIMIT).await?;
        for parent in &parents {
            session.delete_all_of(&id, parent).await?;
        }
        session.close().await;
        Ok(())
    });
    within(LEAVE_LIMIT, executed).await.map_err(|cause| unmade(cause.to_string()))
}

/// Stands in line with one session.
struct ZooKeeper {
    ensemble: Ensemble,
    options: ConnectOptions,
    /// Of our nodes.
    data: Vec<u8>,
    /// In the names of our nodes; another one for each stand in line, so that none is taken for the next.
    id: NodeId,
    /// `None` once it is known to have ended.
    session: Option<Session>,
    patience: Patience,
}

/// Our node when its turn has come.
struct Won {
    node: OwnNode,
    proven_at: BootTime,
    session: Session,
}

#[async_trait]
impl Backend for ZooKeeper {
    async fn acquire(&mut self, wanted: &Wanted) -> Result<Box<dyn Guard>, AcquireError> {
        let names = Names::of(&self.ensemble.chroot, wanted)?;
        let turn = wait_at_most(wanted.wait, self.stand_in_line(&names, wanted)).await;
        match turn.map_err(|failure| failure.into_acquire_error(&self.ensemble.shown))? {
            Turn::Ours(won) => Ok(self.guard(&names, wanted.limit, won)),
            Turn::Busy(ended_by) => {
                let holders = self.holders(&names, wanted.limit).await;
                Err(busy(&names.shown, ended_by, holders))
            }
            Turn::LimitMismatch { in_use } => {
                Err(AcquireError::LimitMismatch { name: names.shown, in_use, asked: wanted.limit })
            }
        }
    }

    fn will(&self, wanted: &Wanted) -> Option<Will> {
        let names = Names::of(&self.ensemble.chroot, wanted).ok()?;
        Some(self.will_of(vec![names.inner(), names.node]))
    }

    async fn leave(&mut self) {
        let Some(session) = self.session.take() else { return };
        let bound = LEAVE_LIMIT.min(session.lease());
        if tokio::time::timeout(bound, session.close()).await.is_err() {
            tracing::warn!(server = self.ensemble.shown, "cannot leave the queue; the session will expire");
        }
    }
}

impl ZooKeeper {
    /// How our nodes below these are deleted by another process.
    fn will_of(&self, parents: Vec<String>) -> Will {
        let handle = Handle { parents, id: self.id.to_string() };
        Will {
            server: self.ensemble.url.clone(),
            handle: serde_json::to_string(&handle).expect("plain data"),
        }
    }

    /// Joins the line and waits for our turn; at the end of the line again if the session ended meanwhile.
    async fn stand_in_line(&mut self, names: &Names, wanted: &Wanted) -> Result<Turn<Won>, Failure> {
        loop {
            let session = self.session().await?;
            let mut stand = Stand {
                limit: call_limit(session.lease()),
                session,
                names,
                wanted,
                data: &self.data,
                id: &self.id,
                patience: &mut self.patience,
            };
            let turn = if wanted.limit == Limit::ONE { stand.mutex().await } else { stand.semaphore().await };
            match turn {
                Err(Failure::Gone(cause)) => {
                    tracing::warn!(server = self.ensemble.shown, lock = names.shown, %cause,
                        "the session ended while waiting; joining the queue again");
                    self.session = None;
                    self.id = NodeId::random();
                }
                end => return end,
            }
        }
    }

    /// The session that we have, or a new one.
    async fn session(&mut self) -> Result<Session, Failure> {
        if let Some(session) = &self.session {
            return Ok(session.clone());
        }
        let (hosts, timeout) = (&self.ensemble.hosts, session_timeout(self.options.ttl));
        let limit = self.options.connect_timeout;
        let session = insist(&mut self.patience, limit, || Session::open(hosts, timeout)).await?;
        Ok(self.session.insert(session).clone())
    }

    /// Who holds the lock, for people: as far as it can be read in a moment.
    async fn holders(&self, names: &Names, limit: Limit) -> Vec<String> {
        let Some(session) = &self.session else { return Vec::new() };
        let found = within(call_limit(session.lease()), holders(session, names, limit)).await;
        found.unwrap_or_default()
    }

    fn guard(&mut self, names: &Names, limit: Limit, won: Won) -> Box<dyn Guard> {
        // From here on the guard owns the session.
        self.session = None;
        let grant = Grant {
            name: names.shown.clone(),
            token: u64::try_from(won.node.czxid).ok().map(Token),
            slot: (limit == Limit::ONE).then_some(Slot(0)),
            ttl: won.session.lease(),
            proven_at: won.proven_at,
            env: Vec::new(),
        };
        let held = HeldNode {
            session: Mutex::new(Some(won.session)),
            node: won.node,
            will: self.will_of(vec![names.node.clone()]),
            shown: self.ensemble.shown.clone(),
        };
        Box::new(Held::new(held, grant))
    }
}

async fn holders(session: &Session, names: &Names, limit: Limit) -> Result<Vec<String>, Failure> {
    let children = session.children(&names.node).await?;
    let holders = match Line::of(children.clone()).first() {
        Some(first) if limit == Limit::ONE => vec![first.to_owned()],
        Some(_) | None => children,
    };
    let mut shown = Vec::new();
    for holder in holders {
        if let Some(data) = session.data(&format!("{}/{holder}", names.node)).await? {
            shown.push(String::from_utf8_lossy(&data).into_owned());
        }
    }
    Ok(shown)
}

/// One stand in line: everything that a recipe needs.
struct Stand<'a> {
    session: Session,
    /// Of one call.
    limit: Duration,
    names: &'a Names,
    wanted: &'a Wanted,
    data: &'a [u8],
    id: &'a NodeId,
    patience: &'a mut Patience,
}

/// Where our contender is in its line.
enum Place {
    First,
    Behind,
}

impl Stand<'_> {
    async fn ask<T, Call>(&mut self, call: impl FnMut() -> Call) -> Result<T, Failure>
    where
        Call: Future<Output = Result<T, Failure>>,
    {
        insist(self.patience, self.limit, call).await
    }

    /// kazoo's Lock.
    async fn mutex(&mut self) -> Result<Turn<Won>, Failure> {
        let (session, names, data) = (self.session.clone(), self.names, self.data);
        let found = self.ask(|| session.ensure_data(&names.node, Vec::new())).await?;
        if let Some(in_use) = limit_in(&found).filter(|&in_use| in_use != 1) {
            return Ok(Turn::LimitMismatch { in_use: in_use.to_string() });
        }
        let id = self.id;
        let own = self.ask(|| session.contend(&names.node, id, data)).await?;
        let line = self.ask(|| session.line(&names.node)).await?;
        if line.leases > 0 {
            return Ok(Turn::LimitMismatch { in_use: "more than 1".into() });
        }
        if let Some(max) = self.wanted.queue_max.filter(|&max| line.besides_us() >= max) {
            return Ok(Turn::Busy(WaitEnd::QueueMax(max)));
        }
        match self.wait_in_line(&names.node, &own, self.wanted.wait).await? {
            Place::First => self.won(format!("{}/{own}", names.node)).await,
            Place::Behind => Ok(Turn::Busy(WaitEnd::NotWaiting)),
        }
    }

    /// kazoo's Semaphore.
    async fn semaphore(&mut self) -> Result<Turn<Won>, Failure> {
        let (session, names, data) = (self.session.clone(), self.names, self.data);
        let limit = self.wanted.limit;
        let found = self.ask(|| session.ensure_data(&names.node, data_of(limit))).await?;
        if let Some(in_use) = limit_in(&found).filter(|&in_use| in_use != limit.get()) {
            return Ok(Turn::LimitMismatch { in_use: in_use.to_string() });
        }
        let (inner, id) = (names.inner(), self.id);
        self.ask(|| session.ensure(&inner)).await?;
        let own = self.ask(|| session.contend(&inner, id, data)).await?;
        let turn = self.enter(&inner, &own, &names.lease(id)).await?;
        // Held or not: whoever keeps the inner lock keeps everyone out.
        let at_the_door = format!("{inner}/{own}");
        self.ask(|| session.delete(&at_the_door)).await?;
        Ok(turn)
    }

    /// Waits for the inner lock, then for a place.
    async fn enter(&mut self, inner: &str, own: &str, lease: &str) -> Result<Turn<Won>, Failure> {
        let session = self.session.clone();
        let outside = self.ask(|| session.line(inner)).await?;
        let inside = self.ask(|| session.line(&self.names.node)).await?;
        let others = inside.leases as u64 + outside.besides_us();
        if let Some(max) = self.wanted.queue_max.filter(|&max| others >= max) {
            return Ok(Turn::Busy(WaitEnd::QueueMax(max)));
        }
        match self.reach_the_door(inner, own, &inside).await? {
            Place::First => self.take_place(lease).await,
            Place::Behind => Ok(Turn::Busy(WaitEnd::NotWaiting)),
        }
    }

    /// Who doesn't want to wait still lets those pass who are only going through the door.
    async fn reach_the_door(&mut self, inner: &str, own: &str, inside: &Line) -> Result<Place, Failure> {
        if self.wanted.wait != Wait::No {
            return self.wait_in_line(inner, own, self.wanted.wait).await;
        }
        if inside.leases >= self.places() {
            return Ok(Place::Behind);
        }
        let passing = self.limit;
        match tokio::time::timeout(passing, self.wait_in_line(inner, own, Wait::Forever)).await {
            Ok(place) => place,
            Err(_) => Ok(Place::Behind),
        }
    }

    fn places(&self) -> usize {
        self.wanted.limit.get() as usize
    }

    /// Holding the inner lock: waits until fewer than the limit have a lease, and takes one.
    async fn take_place(&mut self, lease: &str) -> Result<Turn<Won>, Failure> {
        let (session, names, data) = (self.session.clone(), self.names, self.data);
        let mutex_in_use = || Ok(Turn::LimitMismatch { in_use: Limit::ONE.to_string() });
        loop {
            let (inside, watcher) = self.ask(|| session.watch_line(&names.node)).await?;
            if inside.contenders() > 0 {
                return mutex_in_use();
            }
            if inside.leases < self.places() {
                self.ask(|| session.take_lease(lease, data)).await?;
                // Who stood in the other kind of line meanwhile didn't see our lease, so we must see them.
                let inside = self.ask(|| session.line(&names.node)).await?;
                if inside.contenders() > 0 {
                    return mutex_in_use();
                }
                if inside.leases <= self.places() {
                    return self.won(lease.to_owned()).await;
                }
                // The inner lock was taken from us by hand, and someone else came in.
                self.ask(|| session.delete(lease)).await?;
            } else if self.wanted.wait == Wait::No {
                return Ok(Turn::Busy(WaitEnd::NotWaiting));
            } else {
                self.change(watcher).await;
            }
        }
    }

    /// Waits until our contender is the first; each watches only the one before it.
    async fn wait_in_line(&mut self, line_node: &str, own: &str, wait: Wait) -> Result<Place, Failure> {
        let session = self.session.clone();
        loop {
            let line = self.ask(|| session.line(line_node)).await?;
            if !line.contains(own) {
                return Err(Failure::Gone("our place in line was deleted".into()));
            }
            let Some(predecessor) = line.predecessor(own) else { return Ok(Place::First) };
            if wait == Wait::No {
                return Ok(Place::Behind);
            }
            let predecessor = format!("{line_node}/{predecessor}");
            if let Some(watcher) = self.ask(|| session.watch_node(&predecessor)).await? {
                self.change(watcher).await;
            }
        }
    }

    /// Waits for what is watched, or for anything to happen to the session: then it's time to look.
    async fn change(&mut self, watcher: OneshotWatcher) {
        let mut state = self.session.watch();
        tokio::select! {
            _ = watcher.changed() => {}
            _ = state.changed() => {}
        }
    }

    /// Our turn has come if the leader knows our node.
    async fn won(&mut self, path: String) -> Result<Turn<Won>, Failure> {
        let session = self.session.clone();
        let found = self.ask(|| async {
            let sent = BootTime::now();
            session.find_own(&path).await.map(|node| (node, sent))
        });
        match found.await? {
            (Some(node), proven_at) => Ok(Turn::Ours(Won { node, proven_at, session })),
            (None, _) => Err(Failure::Gone("our node was deleted".into())),
        }
    }
}

/// Our node, while we hold the lock.
struct HeldNode {
    /// `None` once it is given back.
    session: Mutex<Option<Session>>,
    node: OwnNode,
    will: Will,
    shown: String,
}

impl HeldNode {
    fn session(&self) -> Result<Session, Failure> {
        let session = self.session.lock().expect("nothing panics while it is locked");
        session.clone().ok_or_else(|| Failure::Gone("the session was closed".into()))
    }

    fn is_ours(&self, found: Option<OwnNode>) -> bool {
        found.is_some_and(|found| found == self.node)
    }
}

#[async_trait]
impl Lease for HeldNode {
    async fn renew(&self) -> Result<Standing, Failure> {
        let found = self.session()?.find_own(&self.node.path).await?;
        Ok(if self.is_ours(found) { Standing::Ours } else { Standing::Lost(Loss::LockGone) })
    }

    async fn taken(&self) -> Result<Loss, Failure> {
        let session = self.session()?;
        let mut state = session.watch();
        loop {
            let (found, watcher) = match session.watch_own(&self.node.path).await {
                Err(Failure::Gone(_)) => return Ok(Loss::SessionGone),
                watched => watched?,
            };
            if !self.is_ours(found) {
                return Ok(Loss::LockGone);
            }
            tokio::select! {
                _ = watcher.changed() => {}
                change = state.changed() => match change {
                    Change::Disconnected => return Err(Failure::Unanswered("disconnected".into())),
                    Change::Connected => {}
                    Change::Ended => return Ok(Loss::SessionGone),
                }
            }
        }
    }

    async fn give_back(&self) -> Result<(), Failure> {
        let Ok(session) = self.session() else { return Ok(()) };
        match session.delete(&self.node.path).await {
            Ok(()) | Err(Failure::Gone(_)) => {}
            Err(failure) => return Err(failure),
        }
        drop(session);
        let last = self.session.lock().expect("nothing panics while it is locked").take();
        if let Some(session) = last {
            session.close().await;
        }
        Ok(())
    }

    fn will(&self) -> Will {
        self.will.clone()
    }

    fn server(&self) -> &str {
        &self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_hosts_is_checked() {
        for fine in ["h", "h:1", "[::1]:2181,h2", "h1,h2:2/chroot/deep"] {
            assert!(Ensemble::parse(fine).is_ok(), "{fine}");
        }
        for wrong in ["", "h,", ":1", "h:0", "h:x", "me:secret@h", "h//x", "::1"] {
            let Err(error) = Ensemble::parse(wrong) else { panic!("{wrong:?} was taken") };
            let error = error.to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
