//! What must outlive the server: sessions, what they hold and wait for, and how far the tokens are
//! given out. Changes are collected and written in one transaction a turn of the loop; nothing that
//! depends on them may leave before [`Store::commit`] has succeeded.
//!
//! SQLite in WAL mode with synchronous=NORMAL: a commit survives our own crash without an fsync. The
//! reservation of tokens and what operators take are the exceptions, they must survive a crash of the host.

mod commit_mark;
mod disk;
mod pending;
mod rows;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::lock::{ClaimState, Grant, Limit, SessionId, Token, Who};

use super::StoreConfig;

pub(crate) use disk::LOG_FILE_NAME;

use disk::DiskStore;
use pending::PendingClaim;
use schema::SCHEMA_VERSION;

/// Why the store can't be opened or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("cannot create the data directory {}: {source}", path.display())]
    CreateDir { path: PathBuf, source: std::io::Error },
    #[error("cannot open the store {}: {source}; let this user read and write it, or name another --data-dir", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("cannot lock the data directory {}: {source}", path.display())]
    Lock { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot use the data directory {}: the server with pid {pid} uses it; stop that one or name another --data-dir",
        path.display()
    )]
    InUse { path: PathBuf, pid: String },
    #[error(
        "cannot use the store {}: it was not made by officer-exec; move it away or name another --data-dir",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "cannot use the store {}: its schema is version {found}, this program knows up to {SCHEMA_VERSION}; \
         start the newer officer-exec that wrote it",
        path.display()
    )]
    Newer { path: PathBuf, found: i32 },
    #[error(
        "cannot use the store {}: it is damaged ({cause}); make sure that no command runs under a lock \
         of this server, then move the file away and start again: all sessions are forgotten with it",
        path.display()
    )]
    Damaged { path: PathBuf, cause: String },
    #[error("cannot use the store {}: {source}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
}

/// What was there at the start.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) sessions: Vec<SavedSession>,
    /// Holds, then waits in the order of their tickets.
    pub(super) claims: Vec<SavedClaim>,
    /// The boot of the host that the store was last used in, once sessions were granted locks in it.
    pub(super) boot_id: Option<String>,
    /// The largest ttl that the last run allowed.
    pub(super) max_ttl: Duration,
}

#[derive(Debug)]
pub(super) struct SavedSession {
    pub(super) number: u64,
    pub(super) id: SessionId,
    pub(super) ttl: Duration,
    pub(super) who: Who,
}

#[derive(Debug)]
pub(super) struct SavedClaim {
    pub(super) session: u64,
    pub(super) name: String,
    pub(super) row: ClaimRow,
    /// Why an operator has taken it.
    pub(super) revoked: Option<String>,
}

/// A session's place at a lock, as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimRow {
    pub(super) limit: Limit,
    pub(super) extended: bool,
    pub(super) since_unix_ms: i64,
    pub(super) state: ClaimState,
}

/// Where sessions are kept.
pub(super) enum Store {
    /// In memory only: a restart forgets them.
    Ephemeral,
    Disk(Box<DiskStore>),
}

impl Saved {
    /// The tokens of all holds.
    pub(super) fn held_tokens(&self) -> impl Iterator<Item = Token> {
        self.claims.iter().filter_map(|claim| match claim.row.state {
            ClaimState::Holding { token, .. } => Some(token),
            ClaimState::Waiting { .. } => None,
        })
    }
}

impl Store {
    /// Opens or creates the store; what it holds comes with it, and the first token to give out.
    pub(super) fn open(config: &StoreConfig, max_ttl: Duration) -> Result<(Self, Saved, Token), StoreError> {
        match config {
            StoreConfig::Ephemeral => Ok((Self::Ephemeral, Saved::default(), fresh_token())),
            StoreConfig::Dir(dir) => {
                let (store, saved, token) = DiskStore::open(dir, max_ttl)?;
                Ok((Self::Disk(Box::new(store)), saved, token))
            }
        }
    }

    /// A new session.
    pub(super) fn session_opened(&mut self, session: SavedSession) {
        if let Self::Disk(disk) = self {
            disk.pending.opened.push(session);
        }
    }

    /// A session has ended, with all it had.
    pub(super) fn session_closed(&mut self, number: u64) {
        if let Self::Disk(disk) = self {
            disk.pending.closed.push(number);
        }
    }

    /// A session holds a lock or waits for it; `fresh` if it did neither before.
    pub(super) fn claimed(&mut self, session: u64, name: Arc<str>, fresh: bool, row: ClaimRow) {
        if let Self::Disk(disk) = self {
            disk.pending
                .claims
                .entry((session, name))
                .and_modify(|claim| claim.row = Some(row))
                .or_insert(PendingClaim { stored: !fresh, row: Some(row) });
        }
    }

    /// A session holds a lock no more and doesn't wait for it.
    pub(super) fn left(&mut self, session: u64, name: Arc<str>) {
        let Self::Disk(disk) = self else { return };
        if !disk.pending.revoked.is_empty() {
            disk.pending.revoked.remove(&(session, Arc::clone(&name)));
        }
        let claim = disk
            .pending
            .claims
            .entry((session, name))
            .and_modify(|claim| claim.row = None)
            .or_insert(PendingClaim { stored: true, row: None });
        claim.row = None;
    }

    /// An operator has taken a lock that a session holds; forgotten when the session has left it.
    pub(super) fn revoked(&mut self, session: u64, name: Arc<str>, reason: Arc<str>) {
        if let Self::Disk(disk) = self {
            disk.pending.revoked.insert((session, name), reason);
        }
    }

    /// Sessions are granted locks in this boot of the host.
    pub(super) fn booted(&mut self, boot_id: String) {
        if let Self::Disk(disk) = self {
            disk.pending.boot_id = Some(boot_id);
        }
    }

    /// Grants with tokens below this one may be told.
    pub(super) fn token_mark(&self) -> Token {
        match self {
            Self::Ephemeral => Token(u64::MAX),
            Self::Disk(disk) => Token(disk.token_mark),
        }
    }

    /// What was read can't be.
    pub(super) fn damaged(&self, cause: String) -> StoreError {
        match self {
            Self::Ephemeral => StoreError::Damaged { path: PathBuf::new(), cause },
            Self::Disk(disk) => StoreError::Damaged { path: disk.path.clone(), cause },
        }
    }

    /// Writes everything since the last commit. On an error nothing is lost: it is tried again with
    /// what comes until then.
    pub(super) fn commit(&mut self, next_token: Token) -> Result<(), StoreError> {
        match self {
            Self::Ephemeral => Ok(()),
            Self::Disk(disk) => disk.commit(next_token),
        }
    }

    /// Writes the exact token to go on from, so that a clean end skips none.
    pub(super) fn close(self, next_token: Token) -> Result<(), StoreError> {
        match self {
            Self::Ephemeral => Ok(()),
            Self::Disk(mut disk) => {
                disk.commit(next_token)?;
                disk.write_token_mark(next_token.0)
            }
        }
    }
}

impl ClaimRow {
    /// A place as it is from now on.
    pub(super) fn new(limit: Limit, extended: bool, state: ClaimState) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { limit, extended, since_unix_ms: now.as_millis() as i64, state }
    }

    /// A place that is held from now on.
    pub(super) fn held(grant: &Grant, extended: bool) -> Self {
        let state = ClaimState::Holding { token: grant.token, slot: grant.slot };
        Self::new(grant.limit, extended, state)
    }
}

/// A store that was never used, and none at all, begin at the wall clock's microseconds: so tokens
/// keep growing in practice also where the earlier ones were lost (P4), and stay below 2^53.
fn fresh_token() -> Token {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Token(now.map_or(1, |since| since.as_micros() as u64))
}

#[cfg(test)]
impl Store {
    /// Lets every transaction fail that needs another page, as a full disk would.
    pub(super) fn pretend_full(&self, is_full: bool) {
        let Self::Disk(disk) = self else { panic!("only a disk can be full") };
        let pages = if is_full { 1 } else { 1_000_000 };
        disk.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }

    /// How many changes wait to be written.
    pub(super) fn pending_len(&self) -> usize {
        let Self::Disk(disk) = self else { panic!("only a disk can be full") };
        disk.pending.opened.len()
            + disk.pending.claims.len()
            + disk.pending.revoked.len()
            + disk.pending.closed.len()
    }
}
