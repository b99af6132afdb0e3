//! The requests of the lock recipe, one function each, and the answers as far as they matter. Every one
//! of them may be repeated.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::backend::engine::Failure;
use crate::backend::held::Standing;
use crate::backend::{Loss, Will};
use crate::lock::Limit;

use super::gateway::{Blob, Gateway, Int};
use super::{Contender, Names};

/// A lease's number; as text in lower-case hexadecimal, as etcd's own lock writes it into keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseId(pub(super) i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for LeaseId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        i64::from_str_radix(text, 16).map(Self)
    }
}

/// The number of a change of the whole store; a key's create revision is its place in line.
pub(super) type Revision = Int;

/// The lock's requests to one cluster.
pub(super) struct Cluster {
    gateway: Gateway,
    server: String,
    url_with_secrets: String,
}

/// A lease as etcd granted it.
pub(super) struct GrantedLease {
    pub(super) id: LeaseId,
    /// Whole seconds, at least etcd's minimum.
    pub(super) ttl: Duration,
}

#[derive(Deserialize, Default)]
struct Header {
    #[serde(default)]
    revision: Revision,
}

#[derive(Deserialize)]
struct LeaseAnswer {
    #[serde(rename = "ID", default)]
    id: Int,
    /// Absent if the lease has ended.
    #[serde(rename = "TTL", default)]
    ttl: Int,
}

/// One key.
#[derive(Deserialize, Debug)]
pub(super) struct KeyValue {
    #[serde(default)]
    pub(super) key: Blob,
    #[serde(default)]
    pub(super) create_revision: Revision,
    #[serde(default)]
    pub(super) value: Blob,
}

/// Keys found.
#[derive(Deserialize, Default)]
pub(super) struct Range {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
    /// How many there are, shown or not.
    #[serde(default)]
    count: Int,
}

impl Range {
    /// At which revision this was true.
    pub(super) fn revision(&self) -> Revision {
        self.header.revision
    }

    /// Whether fewer than `limit` are ahead of us.
    pub(super) fn has_room(&self, limit: Limit) -> bool {
        self.kvs.len() < limit.get() as usize
    }
}

#[derive(Deserialize)]
struct Txn {
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<TxnPart>,
}

#[derive(Deserialize, Default)]
struct TxnPart {
    response_range: Option<Range>,
}

/// Our place, and what was there when we took it.
pub(super) struct Joined {
    pub(super) revision: Revision,
    /// The first ones of our kind, up to the limit, and the count of all, ours too.
    ours: Range,
    /// Someone of the other kind.
    others: Range,
}

impl Joined {
    /// The limit in force if it isn't ours. Only what stands *before* us counts: who came later finds
    /// out itself.
    pub(super) fn other_limit(&self, names: &Names) -> Option<String> {
        let earlier = |found: &&KeyValue| found.create_revision < self.revision;
        let mut found = self.others.kvs.iter().chain(&self.ours.kvs).filter(earlier).map(Contender::limit);
        found.find(|&limit| limit != names.limit).map(|limit| limit.to_string())
    }

    /// How many stand in line besides us.
    pub(super) fn ahead_or_behind(&self) -> u64 {
        u64::try_from(self.ours.count.0.saturating_sub(1)).unwrap_or(0)
    }
}

#[derive(Deserialize)]
struct WatchLine {
    #[serde(default)]
    events: Vec<serde_json::Value>,
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
}

impl Cluster {
    pub(super) fn new(gateway: Gateway, server: String, url_with_secrets: String) -> Self {
        Self { gateway, server, url_with_secrets }
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// How another process ends a lease, and with it what hangs on it.
    pub(super) fn will(&self, lease: LeaseId) -> Will {
        Will { server: self.url_with_secrets.clone(), handle: lease.to_string() }
    }

    /// A lease of at least `ttl`.
    pub(super) async fn grant_lease(&self, ttl: Duration) -> Result<GrantedLease, Failure> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let answer: LeaseAnswer = self.gateway.call("/v3/lease/grant", &json!({"TTL": Int(seconds)})).await?;
        Ok(GrantedLease {
            id: LeaseId(answer.id.0),
            ttl: Duration::from_secs(u64::try_from(answer.ttl.0).unwrap_or(0)),
        })
    }

    /// Ends a lease; one that has ended already is fine.
    pub(super) async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Failure> {
        let request = json!({"ID": Int(lease.0)});
        match self.gateway.call::<serde_json::Value>("/v3/lease/revoke", &request).await {
            Ok(_) | Err(Failure::Gone(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Extends the lease, then reads our key through the quorum.
    pub(super) async fn standing(
        &self,
        lease: LeaseId,
        key: &str,
        revision: Revision,
    ) -> Result<Standing, Failure> {
        if !self.keep_alive(lease).await? {
            return Ok(Standing::Lost(Loss::SessionGone));
        }
        let ours = is_own(&self.own(key).await?, revision);
        Ok(if ours { Standing::Ours } else { Standing::Lost(Loss::LockGone) })
    }

    /// Extends a lease; whether it was still there.
    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Line {
            result: LeaseAnswer,
        }
        let answer: Line = self.gateway.call("/v3/lease/keepalive", &json!({"ID": Int(lease.0)})).await?;
        Ok(answer.result.ttl.0 > 0)
    }

    /// Puts our key unless it is there, and looks around in the same transaction.
    pub(super) async fn join(
        &self,
        key: &str,
        value: &[u8],
        lease: LeaseId,
        names: &Names,
    ) -> Result<Joined, Failure> {
        let put =
            json!({"request_put": {"key": blob(key), "value": Blob(value.to_vec()), "lease": Int(lease.0)}});
        let own = json!({"request_range": {"key": blob(key)}});
        let ours = json!({"request_range": oldest(&names.prefix, names.limit)});
        let others = json!({"request_range": oldest(&names.other_prefix, Limit::ONE)});
        let request = json!({
            "compare": [created_at(key, Int(0))],
            "success": [put, ours, others],
            "failure": [own, ours, others],
        });
        let Txn { header, succeeded, responses } = self.gateway.call("/v3/kv/txn", &request).await?;
        let mut parts = responses.into_iter().map(|part| part.response_range.unwrap_or_default());
        let own = parts.next().unwrap_or_default();
        let revision = match (succeeded, own.kvs.first()) {
            (true, _) => header.revision,
            (false, Some(own)) => own.create_revision,
            (false, None) => {
                return Err(Failure::Answer("our key neither was there nor could be put".into()));
            }
        };
        Ok(Joined {
            revision,
            ours: parts.next().unwrap_or_default(),
            others: parts.next().unwrap_or_default(),
        })
    }

    /// Those who came before `revision`, the latest first, as many as the limit.
    pub(super) async fn contenders_before(
        &self,
        names: &Names,
        revision: Revision,
    ) -> Result<Range, Failure> {
        let request = json!({
            "key": blob(&names.prefix),
            "range_end": prefix_end(&names.prefix),
            "max_create_revision": Int(revision.0 - 1),
            "sort_target": "CREATE",
            "sort_order": "DESCEND",
            "limit": Int(i64::from(names.limit.get())),
            "keys_only": true,
        });
        self.gateway.call("/v3/kv/range", &request).await
    }

    /// The oldest keys of a lock, as many as may hold it.
    pub(super) async fn first_contenders(&self, names: &Names) -> Result<Range, Failure> {
        self.gateway.call("/v3/kv/range", &oldest(&names.prefix, names.limit)).await
    }

    /// Waits until someone leaves after `ahead` was true: with a limit of 1 the one before us, so that a
    /// release wakes one waiter only.
    pub(super) async fn deletion(&self, names: &Names, ahead: &Range) -> Result<(), Failure> {
        let from = Int(ahead.revision().0 + 1);
        match ahead.kvs.first() {
            Some(predecessor) if names.limit == Limit::ONE => {
                self.first_deletion(json!({"key": predecessor.key}), from).await
            }
            Some(_) | None => {
                let prefix = json!({"key": blob(&names.prefix), "range_end": prefix_end(&names.prefix)});
                self.first_deletion(prefix, from).await
            }
        }
    }

    /// Waits until our own key is deleted.
    pub(super) async fn own_deletion(&self, key: &str, revision: Revision) -> Result<(), Failure> {
        // A watch can't begin in the past for ever: revisions are compacted away.
        let own = self.own(key).await?;
        if !is_own(&own, revision) {
            return Ok(());
        }
        self.first_deletion(json!({"key": blob(key)}), Int(own.revision().0 + 1)).await
    }

    async fn own(&self, key: &str) -> Result<Range, Failure> {
        self.gateway.call("/v3/kv/range", &json!({"key": blob(key)})).await
    }

    async fn first_deletion(&self, mut range: serde_json::Value, from: Revision) -> Result<(), Failure> {
        range["start_revision"] = json!(from);
        range["filters"] = json!(["NOPUT"]);
        let mut lines = self.gateway.stream("/v3/watch", &json!({"create_request": range})).await?;
        loop {
            let line: WatchLine = lines.next().await?;
            if line.canceled {
                return Err(Failure::Unanswered(format!("the watch was cancelled: {}", line.cancel_reason)));
            }
            if !line.events.is_empty() {
                return Ok(());
            }
        }
    }

    /// Deletes our key, but not one that another client made in its place.
    pub(super) async fn delete_own(&self, key: &str, revision: Revision) -> Result<(), Failure> {
        let request = json!({
            "compare": [created_at(key, revision)],
            "success": [{"request_delete_range": {"key": blob(key)}}],
        });
        self.gateway.call::<serde_json::Value>("/v3/kv/txn", &request).await.map(drop)
    }
}

/// Whether the key found is the one that we made.
fn is_own(found: &Range, revision: Revision) -> bool {
    found.kvs.first().is_some_and(|own| own.create_revision == revision)
}

fn blob(text: &str) -> Blob {
    Blob(text.as_bytes().to_vec())
}

fn created_at(key: &str, revision: Revision) -> serde_json::Value {
    json!({"target": "CREATE", "result": "EQUAL", "key": blob(key), "create_revision": revision})
}

fn oldest(prefix: &str, limit: Limit) -> impl Serialize + Clone {
    json!({
        "key": blob(prefix),
        "range_end": prefix_end(prefix),
        "sort_target": "CREATE",
        "sort_order": "ASCEND",
        "limit": Int(i64::from(limit.get())),
    })
}

/// The first key behind all that start with `prefix`; our prefixes end in a slash.
fn prefix_end(prefix: &str) -> Blob {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix isn't empty");
    *last += 1;
    Blob(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_neighbour() {
        assert_eq!(prefix_end("a/"), blob("a0"));
    }

    #[test]
    fn a_lease_is_written_as_etcd_writes_it() {
        assert_eq!(LeaseId(0x694d_71dd_d6f0_2f09).to_string(), "694d71ddd6f02f09");
        assert_eq!("694d71ddd6f02f09".parse(), Ok(LeaseId(0x694d_71dd_d6f0_2f09)));
    }
}
