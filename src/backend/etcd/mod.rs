//! etcd: key for key the recipe of etcd's own `lock`, so that `etcdctl lock NAME` and a limit of 1 here
//! exclude each other and stand in one line, first come, first served.
//!
//! Under a prefix every contender has one key with a lease; the create revision is its place in line
//! and its fencing token. With a limit of 1 the prefix is `NAME/`; with more it is `NAME.semaphore/`,
//! because etcd's own recipe waits for *every* earlier key, also for those that a semaphore lets in
//! together. The two kinds are seen across prefixes: asking for the other one is a limit mismatch.
//!
//! A loss is noticed by a watch of our own key, and by each renewal, which asks for the lease and then
//! for the key. Holders of a semaphore have no slots. Users and TLS are those of etcdctl's
//! variables. Not here: users by the name in a certificate, which the gateway doesn't pass on.

mod gateway;
mod messages;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::boot_time::BootTime;
use crate::lock::{Limit, Slot, Token};
use crate::protocol::Who;

use super::engine::{
    Failure, LEAVE_LIMIT, Patience, Turn, busy, call_limit, check_name, describe, insist, lease_asked, reach,
    wait_at_most, within,
};
use super::held::{Held, Lease, Standing};
use super::{
    AcquireError, Backend, ConnectError, ConnectOptions, Grant, Guard, Loss, ReleaseError, Wait, WaitEnd,
    Wanted, Will,
};
use gateway::{Address, Credentials, Gateway};
use messages::{Cluster, KeyValue, LeaseId, Revision};
use tls::Files;

/// A watch that breaks at once must not become a busy loop.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// What a semaphore's prefix ends in, before the slash.
const SEMAPHORE: &str = ".semaphore";

/// Connects to the members in `hosts` and asks one of them for a lease, which proves that we are let in.
pub(crate) async fn connect(hosts: &str, options: &ConnectOptions) -> Result<Box<dyn Backend>, ConnectError> {
    let ttl = lease_asked(options.ttl)?;
    let cluster = Arc::new(cluster(hosts)?);
    let (granted, sent) = reach(cluster.server(), options, || async {
        let sent = BootTime::now();
        cluster.grant_lease(ttl).await.map(|granted| (granted, sent))
    })
    .await?;
    let lease = HeldLease { id: granted.id, ttl: granted.ttl, proven_at: sent };
    Ok(Box::new(Etcd {
        cluster,
        options: options.clone(),
        lease: Some(lease),
        patience: Patience::of(options),
    }))
}

/// Ends the lease of a dead process, and with it its place.
pub(crate) async fn execute_will(hosts: &str, handle: &str) -> Result<(), ReleaseError> {
    let unmade = |server: String, cause: String| ReleaseError { server, cause };
    let cluster = cluster(hosts).map_err(|cause| unmade("etcd".into(), cause.to_string()))?;
    let lease =
        handle.parse().map_err(|_| unmade(cluster.server().into(), "the will names no lease".into()))?;
    let mut patience = Patience::new(LEAVE_LIMIT);
    within(LEAVE_LIMIT, insist(&mut patience, LEAVE_LIMIT, || cluster.revoke_lease(lease)))
        .await
        .map_err(|cause| unmade(cluster.server().into(), cause.to_string()))
}

/// The way to the members, with the credentials that etcdctl would use.
fn cluster(hosts: &str) -> Result<Cluster, ConnectError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let unsupported = |wrong: String| ConnectError::Unsupported(format!("cannot use etcd://: {wrong}"));
    let mut address = Address::parse(hosts).map_err(unsupported)?;
    if address.credentials.is_none()
        && let Some(user) = variable("ETCDCTL_USER")
    {
        address.credentials = Some(match variable("ETCDCTL_PASSWORD") {
            Some(password) => Credentials { user, password },
            None => Credentials::parse(&user).map_err(unsupported)?,
        });
    }
    let files = Files {
        ca: variable("ETCDCTL_CACERT"),
        certificate: variable("ETCDCTL_CERT"),
        key: variable("ETCDCTL_KEY"),
    };
    let tls = files.client().map_err(unsupported)?;
    let server = format!("etcd://{}", address.members.join(","));
    Ok(Cluster::new(Gateway::new(address, tls), server, format!("etcd://{hosts}")))
}

/// Stands in line with one lease.
struct Etcd {
    cluster: Arc<Cluster>,
    options: ConnectOptions,
    /// The lease of our key; `None` once it is known to have ended.
    lease: Option<HeldLease>,
    patience: Patience,
}

#[derive(Clone, Copy, Debug)]
struct HeldLease {
    id: LeaseId,
    ttl: Duration,
    /// When the last renewal that was answered had been sent.
    proven_at: BootTime,
}

/// Where the keys of one lock are.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    /// As people and the command are told.
    full: String,
    limit: Limit,
    /// Under which the contenders of this limit's kind stand.
    prefix: String,
    /// The prefix of the other kind, which must be empty.
    other_prefix: String,
}

impl Names {
    fn of(wanted: &Wanted) -> Result<Self, AcquireError> {
        check_name(&wanted.name, &['/'])?;
        if wanted.name.ends_with(SEMAPHORE) {
            let reserved = format!("a lock's name can't end in {SEMAPHORE} on etcd");
            return Err(ConnectError::Unsupported(reserved).into());
        }
        let full = match wanted.path.as_deref().map(|path| path.trim_end_matches('/')) {
            Some(path) if !path.is_empty() => format!("{path}/{}", wanted.name),
            Some(_) | None => wanted.name.clone(),
        };
        let (mutex, semaphore) = (format!("{full}/"), format!("{full}{SEMAPHORE}/"));
        let (prefix, other_prefix) =
            if wanted.limit == Limit::ONE { (mutex, semaphore) } else { (semaphore, mutex) };
        Ok(Self { full, limit: wanted.limit, prefix, other_prefix })
    }

    fn key(&self, lease: LeaseId) -> String {
        format!("{}{lease}", self.prefix)
    }
}

/// The value of a key: who stands there, and with which limit. etcdctl leaves it empty.
#[derive(Debug, Serialize, Deserialize)]
struct Contender {
    #[serde(flatten)]
    who: Who,
    limit: Limit,
}

impl Contender {
    /// A command line can be long; others only need to recognise it.
    const LONGEST_RUN_CHARS: usize = 200;

    fn value(who: &Who, limit: Limit) -> Vec<u8> {
        let mut who = who.clone();
        who.run = who.run.map(|run| run.chars().take(Self::LONGEST_RUN_CHARS).collect());
        serde_json::to_vec(&Self { who, limit }).expect("plain data")
    }

    fn describe(found: &KeyValue) -> String {
        match serde_json::from_slice::<Self>(&found.value.0) {
            Ok(contender) => describe(&contender.who),
            Err(_) => format!("key {}", String::from_utf8_lossy(&found.key.0)),
        }
    }

    /// The limit that a key was made with.
    fn limit(found: &KeyValue) -> Limit {
        serde_json::from_slice::<Self>(&found.value.0).map_or(Limit::ONE, |contender| contender.limit)
    }
}

/// Our key when its turn has come.
struct Won {
    key: String,
    revision: Revision,
    /// Of the answer that said so, as etcdctl tells its command.
    seen_at: Revision,
    lease: HeldLease,
}

#[async_trait]
impl Backend for Etcd {
    async fn acquire(&mut self, wanted: &Wanted) -> Result<Box<dyn Guard>, AcquireError> {
        let names = Names::of(wanted)?;
        let turn = wait_at_most(wanted.wait, self.stand_in_line(&names, wanted)).await;
        let server = self.cluster.server();
        match turn.map_err(|failure| failure.into_acquire_error(server))? {
            Turn::Ours(won) => Ok(self.guard(&names, won)),
            Turn::Busy(ended_by) => Err(busy(&names.full, ended_by, self.holders(&names).await)),
            Turn::LimitMismatch { in_use } => {
                Err(AcquireError::LimitMismatch { name: names.full, in_use, asked: names.limit })
            }
        }
    }

    fn will(&self, _: &Wanted) -> Option<Will> {
        self.lease.map(|lease| self.cluster.will(lease.id))
    }

    async fn leave(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let bound = LEAVE_LIMIT.min(lease.ttl);
        let mut patience = Patience::new(bound);
        let left = within(bound, insist(&mut patience, bound, || self.cluster.revoke_lease(lease.id))).await;
        if let Err(cause) = left {
            tracing::warn!(server = self.cluster.server(), %cause, "cannot leave the queue; its lease will end");
        }
    }
}

impl Etcd {
    /// Joins the line and waits for our turn; at the end of the line again if the lease ended meanwhile.
    async fn stand_in_line(&mut self, names: &Names, wanted: &Wanted) -> Result<Turn<Won>, Failure> {
        loop {
            match self.stand_once(names, wanted).await {
                Err(Failure::Gone(cause)) => {
                    tracing::warn!(server = self.cluster.server(), lock = names.full, %cause,
                        "the lease ended while waiting; joining the queue again");
                    self.lease = None;
                }
                end => return end,
            }
        }
    }

    async fn stand_once(&mut self, names: &Names, wanted: &Wanted) -> Result<Turn<Won>, Failure> {
        let lease = self.lease().await?;
        let key = names.key(lease.id);
        let value = Contender::value(&self.options.who, names.limit);
        let joined = {
            let cluster = &self.cluster;
            let join = || cluster.join(&key, &value, lease.id, names);
            insist(&mut self.patience, call_limit(lease.ttl), join).await?
        };
        if let Some(in_use) = joined.other_limit(names) {
            return Ok(Turn::LimitMismatch { in_use });
        }
        if let Some(max) = wanted.queue_max.filter(|&max| joined.ahead_or_behind() >= max) {
            return Ok(Turn::Busy(WaitEnd::QueueMax(max)));
        }
        self.wait_for_turn(names, wanted.wait, key, joined.revision).await
    }

    /// The lease that we have, or a new one.
    async fn lease(&mut self) -> Result<HeldLease, Failure> {
        if let Some(lease) = self.lease {
            return Ok(lease);
        }
        let ttl = self.options.ttl;
        let sent = BootTime::now();
        let cluster = &self.cluster;
        let granted = insist(&mut self.patience, call_limit(ttl), || cluster.grant_lease(ttl)).await?;
        let lease = HeldLease { id: granted.id, ttl: granted.ttl, proven_at: sent };
        self.lease = Some(lease);
        Ok(lease)
    }

    async fn wait_for_turn(
        &mut self,
        names: &Names,
        wait: Wait,
        key: String,
        revision: Revision,
    ) -> Result<Turn<Won>, Failure> {
        loop {
            let lease = self.lease().await?;
            let cluster = self.cluster.clone();
            let look = || cluster.contenders_before(names, revision);
            let ahead = insist(&mut self.patience, call_limit(lease.ttl), look).await?;
            if ahead.has_room(names.limit) {
                let lease = self.renew(&key, revision).await?;
                return Ok(Turn::Ours(Won { key, revision, seen_at: ahead.revision(), lease }));
            }
            if wait == Wait::No {
                return Ok(Turn::Busy(WaitEnd::NotWaiting));
            }
            self.wait_for_change(cluster.deletion(names, &ahead), &key, revision).await?;
        }
    }

    /// Keeps the lease alive until someone ahead has left, or the watch must be set again.
    async fn wait_for_change(
        &mut self,
        change: impl Future<Output = Result<(), Failure>>,
        key: &str,
        revision: Revision,
    ) -> Result<(), Failure> {
        /// Of four renewals three may be lost.
        const RENEWALS_PER_TTL: u32 = 4;
        let mut change = std::pin::pin!(change);
        loop {
            let lease = self.lease().await?;
            tokio::select! {
                seen = &mut change => match seen {
                    Err(Failure::Unanswered(cause)) => {
                        tracing::debug!(cause, "the watch broke; looking again");
                        tokio::time::sleep(WATCH_PAUSE).await;
                        return self.renew(key, revision).await.map(drop);
                    }
                    seen => return seen,
                },
                () = tokio::time::sleep(lease.ttl / RENEWALS_PER_TTL) => {
                    let answered_at_once = self.renew_or_suffer(key, revision).await?;
                    if !answered_at_once {
                        // What was cut may have been the watch as well.
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Renews; whether the first try was answered.
    async fn renew_or_suffer(&mut self, key: &str, revision: Revision) -> Result<bool, Failure> {
        let before = BootTime::now();
        let lease = self.renew(key, revision).await?;
        Ok(lease.proven_at.saturating_since(before) < call_limit(lease.ttl) / 2)
    }

    /// Extends the lease and checks that our key is still there.
    async fn renew(&mut self, key: &str, revision: Revision) -> Result<HeldLease, Failure> {
        let mut lease = self.lease().await?;
        let cluster = &self.cluster;
        let sent = insist(&mut self.patience, call_limit(lease.ttl), || async {
            let sent = BootTime::now();
            match cluster.standing(lease.id, key, revision).await? {
                Standing::Ours => Ok(sent),
                Standing::Lost(loss) => Err(Failure::Gone(loss.to_string())),
            }
        })
        .await?;
        lease.proven_at = sent;
        self.lease = Some(lease);
        Ok(lease)
    }

    /// Who holds the lock, for people: as far as it can be read in one call.
    async fn holders(&self, names: &Names) -> Vec<String> {
        let limit = call_limit(self.options.ttl);
        let own = self.lease.map(|lease| names.key(lease.id)).unwrap_or_default();
        match within(limit, self.cluster.first_contenders(names)).await {
            Ok(first) => first
                .kvs
                .iter()
                .filter(|found| found.key.0 != own.as_bytes())
                .map(Contender::describe)
                .collect(),
            Err(_) => Vec::new(),
        }
    }

    fn guard(&mut self, names: &Names, won: Won) -> Box<dyn Guard> {
        // From here on the guard owns the lease.
        self.lease = None;
        let grant = Grant {
            name: names.full.clone(),
            token: u64::try_from(won.revision.0).ok().map(Token),
            slot: (names.limit == Limit::ONE).then_some(Slot(0)),
            ttl: won.lease.ttl,
            proven_at: won.lease.proven_at,
            env: vec![
                ("ETCD_LOCK_KEY".into(), won.key.clone()),
                ("ETCD_LOCK_REV".into(), won.seen_at.0.to_string()),
            ],
        };
        let cluster = self.cluster.clone();
        Box::new(Held::new(
            HeldKey { cluster, lease: won.lease.id, key: won.key, revision: won.revision },
            grant,
        ))
    }
}

/// Our key, while we hold the lock.
struct HeldKey {
    cluster: Arc<Cluster>,
    lease: LeaseId,
    key: String,
    revision: Revision,
}

#[async_trait]
impl Lease for HeldKey {
    async fn renew(&self) -> Result<Standing, Failure> {
        self.cluster.standing(self.lease, &self.key, self.revision).await
    }

    async fn taken(&self) -> Result<Loss, Failure> {
        self.cluster.own_deletion(&self.key, self.revision).await?;
        // A lease that ends deletes the key as well: which of the two was it?
        match self.renew().await? {
            Standing::Lost(loss) => Ok(loss),
            Standing::Ours => Ok(Loss::LockGone),
        }
    }

    async fn give_back(&self) -> Result<(), Failure> {
        self.cluster.delete_own(&self.key, self.revision).await?;
        self.cluster.revoke_lease(self.lease).await
    }

    fn will(&self) -> Will {
        self.cluster.will(self.lease)
    }

    fn server(&self) -> &str {
        self.cluster.server()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, path: Option<&str>, limit: u32) -> Wanted {
        Wanted {
            name: name.into(),
            path: path.map(Into::into),
            limit: Limit::new(limit).unwrap(),
            wait: Wait::No,
            queue_max: None,
        }
    }

    #[test]
    fn a_mutex_stands_where_etcdctl_looks() {
        let names = Names::of(&wanted("backup", None, 1)).unwrap();
        assert_eq!(names.key(LeaseId(0x694d)), "backup/694d");
        assert_eq!(Names::of(&wanted("backup", Some("/locks/"), 1)).unwrap().prefix, "/locks/backup/");
    }

    #[test]
    fn a_semaphore_does_not_stand_in_a_mutex_line() {
        let names = Names::of(&wanted("backup", None, 2)).unwrap();
        assert_eq!((names.prefix.as_str(), names.other_prefix.as_str()), ("backup.semaphore/", "backup/"));
        assert!(!names.prefix.starts_with(&names.other_prefix));
    }

    #[test]
    fn names_that_would_share_keys_are_refused() {
        for name in ["a/b", "a.semaphore", ""] {
            assert!(Names::of(&wanted(name, None, 1)).is_err(), "{name:?}");
        }
    }
}
