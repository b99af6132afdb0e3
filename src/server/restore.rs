//! Puts what was stored back into the table: every session with a full ttl and suspended until it
//! resumes, what it held, and its places in queues in their order. What was taken from it stays taken.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::boot_time::BootTime;
use crate::lock::{ClaimState, OwnerId, Party, Restored, SessionKey, Sessions, Table};

use super::revocations::{Revocation, Revocations};
use super::store::Saved;

pub(super) fn put_back(
    saved: Saved,
    table: &mut Table,
    sessions: &mut Sessions,
    revocations: &mut Revocations,
    now: BootTime,
) -> Result<(), String> {
    let mut owners: HashMap<u64, (SessionKey, OwnerId)> = HashMap::new();
    for session in saved.sessions {
        let key = sessions
            .restore(table, session.id, session.number, session.ttl, session.who, now)
            .ok_or_else(|| format!("session {} is stored twice", session.number))?;
        let owner = sessions.get(key).owner;
        table.suspend(owner);
        owners.insert(session.number, (key, owner));
    }
    for claim in saved.claims {
        let owner = owners.get(&claim.session);
        let &(session, owner) = owner.ok_or_else(|| format!("{:?} belongs to no session", claim.name))?;
        let restored = Restored {
            limit: claim.row.limit,
            extended: claim.row.extended,
            since: boot_time_of(claim.row.since_unix_ms, now),
            state: claim.row.state,
        };
        table.restore(owner, &claim.name, &restored).map_err(|e| e.to_string())?;
        if let (ClaimState::Holding { token, .. }, Some(reason)) = (claim.row.state, claim.revoked) {
            let taken = Revocation { name: claim.name.into(), token, reason: reason.into() };
            revocations.add(Party::Session(session.0), taken, None);
        }
    }
    Ok(())
}

/// Only for telling people since when a lock is held: the wall clock may have been set since.
fn boot_time_of(unix_ms: i64, now: BootTime) -> BootTime {
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms.max(0) as u64);
    now - SystemTime::now().duration_since(then).unwrap_or_default()
}
