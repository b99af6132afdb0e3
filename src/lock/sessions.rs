//! The lives of sessions: each owns what its owner in the table owns, is attached to at most one
//! connection, and ends when its ttl has passed without a renewal. PURE: ids are made by the
//! caller, `now` is an argument. What a session holds is the table's matter.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use slab::Slab;

use crate::boot_time::BootTime;

use super::table::{from_nanos, nanos};
use super::{OwnerId, Party, SessionId, Table, Who};

/// Which session; the `Party::Session` of its owner carries the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u32);

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Its secret.
    pub id: SessionId,
    /// Its number: given once, in the order of opening; no secret.
    pub number: u64,
    /// How long it lives without a renewal.
    pub ttl: Duration,
    /// How it describes itself.
    pub who: Who,
    /// Its owner in the table.
    pub owner: OwnerId,
    /// When it was last renewed, opened or resumed.
    pub renewed_at: BootTime,
    /// The caller's number for its connection; `None`: suspended.
    pub connection: Option<u32>,
}

/// All sessions of a server.
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: Slab<Session>,
    by_id: HashMap<SessionId, SessionKey>,
    ends: BTreeSet<(u64, SessionKey)>,
    next_number: u64,
}

impl Session {
    /// When it ends unless it is renewed.
    pub fn ends_at(&self) -> BootTime {
        self.renewed_at + self.ttl
    }

    fn end_key(&self, key: SessionKey) -> (u64, SessionKey) {
        (nanos(self.ends_at()), key)
    }
}

impl Sessions {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// A new session, without a connection yet. `None` if there is one with this id.
    pub fn open(
        &mut self,
        table: &mut Table,
        id: SessionId,
        ttl: Duration,
        who: Who,
        now: BootTime,
    ) -> Option<SessionKey> {
        self.restore(table, id, self.next_number, ttl, who, now)
    }

    /// A session from before a restart: it starts with its full ttl again. `None` if its id is taken.
    pub fn restore(
        &mut self,
        table: &mut Table,
        id: SessionId,
        number: u64,
        ttl: Duration,
        who: Who,
        now: BootTime,
    ) -> Option<SessionKey> {
        if self.by_id.contains_key(&id) {
            return None;
        }
        self.next_number = self.next_number.max(number + 1);
        let entry = self.sessions.vacant_entry();
        let key = SessionKey(entry.key() as u32);
        let owner = table.add_owner(Party::Session(key.0));
        let session = Session { id, number, ttl, who, owner, renewed_at: now, connection: None };
        self.ends.insert(session.end_key(key));
        self.by_id.insert(id, key);
        entry.insert(session);
        Some(key)
    }

    /// The session with this secret.
    pub fn find(&self, id: SessionId) -> Option<SessionKey> {
        self.by_id.get(&id).copied()
    }

    /// A session by its key; panics if it has ended.
    pub fn get(&self, key: SessionKey) -> &Session {
        &self.sessions[key.0 as usize]
    }

    /// Extends a session's life by its whole ttl from `now` on.
    pub fn renew(&mut self, key: SessionKey, now: BootTime) {
        let session = &mut self.sessions[key.0 as usize];
        self.ends.remove(&session.end_key(key));
        session.renewed_at = now;
        self.ends.insert(session.end_key(key));
    }

    /// Gives a session to a connection; tells which one had it before.
    pub fn attach(&mut self, key: SessionKey, connection: u32) -> Option<u32> {
        self.sessions[key.0 as usize].connection.replace(connection)
    }

    /// The session's connection is gone.
    pub fn detach(&mut self, key: SessionKey) {
        self.sessions[key.0 as usize].connection = None;
    }

    /// Ends a session; what its owner in the table has is still to be released.
    pub fn remove(&mut self, key: SessionKey) -> Session {
        let session = self.sessions.remove(key.0 as usize);
        self.ends.remove(&session.end_key(key));
        self.by_id.remove(&session.id);
        session
    }

    /// The sessions whose ttl has passed at `now`, the longest overdue first; they are still there.
    pub fn overdue(&self, now: BootTime) -> impl Iterator<Item = SessionKey> {
        let now = nanos(now);
        self.ends.iter().take_while(move |&&(end, _)| end <= now).map(|&(_, key)| key)
    }

    /// When the next session ends unless it is renewed.
    pub fn next_end(&self) -> Option<BootTime> {
        self.ends.first().map(|&(end, _)| from_nanos(end))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SessionKey, &Session)> {
        self.sessions.iter().map(|(key, session)| (SessionKey(key as u32), session))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TableBounds, Token};
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_since_boot(Duration::from_secs(seconds))
    }

    fn table() -> Table {
        Table::new(Token(1), TableBounds { claims_per_owner: 9, waiters_per_lock: 9 })
    }

    const ID: SessionId = SessionId::from_bytes([1; 16]);
    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_session_ends_a_ttl_after_its_last_renewal() {
        let (mut table, mut sessions) = (table(), Sessions::new());
        let key = sessions.open(&mut table, ID, TTL, Who::default(), at(0)).unwrap();
        sessions.renew(key, at(7));
        assert_eq!(sessions.next_end(), Some(at(17)));
        assert_eq!(sessions.overdue(at(16)).count(), 0);
        assert_eq!(sessions.overdue(at(17)).collect::<Vec<_>>(), [key]);
        sessions.remove(key);
        assert_eq!((sessions.find(ID), sessions.next_end()), (None, None));
    }

    #[test]
    fn a_secret_names_one_session() {
        let (mut table, mut sessions) = (table(), Sessions::new());
        assert!(sessions.open(&mut table, ID, TTL, Who::default(), at(0)).is_some());
        assert!(sessions.open(&mut table, ID, TTL, Who::default(), at(0)).is_none());
    }

    #[test]
    fn the_newer_connection_is_told_of_the_older() {
        let (mut table, mut sessions) = (table(), Sessions::new());
        let key = sessions.open(&mut table, ID, TTL, Who::default(), at(0)).unwrap();
        assert_eq!(sessions.attach(key, 4), None);
        assert_eq!(sessions.attach(key, 5), Some(4));
        sessions.detach(key);
        assert_eq!(sessions.attach(key, 6), None);
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let (mut table, mut sessions) = (table(), Sessions::new());
        sessions.restore(&mut table, ID, 41, TTL, Who::default(), at(0)).unwrap();
        let other = SessionId::from_bytes([2; 16]);
        let key = sessions.open(&mut table, other, TTL, Who::default(), at(0)).unwrap();
        assert_eq!(sessions.get(key).number, 42);
    }
}
