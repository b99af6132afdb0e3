//! What must outlive the server: sessions, what they hold and wait for, and how far the tokens are
//! given out. Changes are collected and written in one transaction a turn of the loop; nothing that
//! depends on them may leave before [`Store::commit`] has succeeded.
//!
//! SQLite in WAL mode with synchronous=NORMAL: a commit survives our own crash without an fsync. The
//! reservation of tokens is the exception, it must survive a crash of the host.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::lock::{ClaimState, Grant, Limit, SessionId, Slot, Token, Who};

use super::StoreConfig;

/// Tokens are reserved in blocks: what is left of one is skipped after a crash. A million makes the
/// reservation's fsync one in many seconds at full rate, and 2^53 lasts for 10^9 crashes.
const TOKEN_BLOCK: u64 = 1 << 20;
/// "OfEx": marks the file as ours.
const APPLICATION_ID: i32 = 0x4f66_4578;
const SCHEMA_VERSION: i32 = 2;
const FILE_NAME: &str = "officer.db";
const LOCK_FILE_NAME: &str = "officer.lock";

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, ttl_ms INTEGER NOT NULL, who TEXT NOT NULL
    ) STRICT;
    CREATE TABLE claims (
        session INTEGER NOT NULL, name TEXT NOT NULL, lock_limit INTEGER NOT NULL,
        extended INTEGER NOT NULL, since_unix_ms INTEGER NOT NULL,
        token INTEGER, slot INTEGER, ticket INTEGER, revoked TEXT,
        PRIMARY KEY (session, name)
    ) STRICT, WITHOUT ROWID;";

/// From each schema version to the next one, version 1 first.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize - 1] = [
    // Why an operator has taken a lock whose holder hasn't given it back; NULL: none has.
    "ALTER TABLE claims ADD COLUMN revoked TEXT",
];

/// Why the store can't be opened or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("cannot create the data directory {}: {source}", path.display())]
    CreateDir { path: PathBuf, source: std::io::Error },
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

pub(super) struct DiskStore {
    db: Connection,
    path: PathBuf,
    /// Held for as long as we live: two servers must never share a store.
    _lock: File,
    /// Tokens below this one may be given out.
    token_mark: u64,
    pending: Pending,
}

/// The changes since the last commit.
#[derive(Default)]
struct Pending {
    opened: Vec<SavedSession>,
    /// The last state of each place that changed; `None`: gone.
    claims: HashMap<(u64, Arc<str>), PendingClaim>,
    /// Holds that operators have taken, with the reasons.
    revoked: HashMap<(u64, Arc<str>), Arc<str>>,
    closed: Vec<u64>,
    boot_id: Option<String>,
}

struct PendingClaim {
    /// A row may be there from an earlier commit.
    stored: bool,
    row: Option<ClaimRow>,
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

impl DiskStore {
    fn open(dir: &Path, max_ttl: Duration) -> Result<(Self, Saved, Token), StoreError> {
        let lock = lock_dir(dir)?;
        let path = dir.join(FILE_NAME);
        let db = open_file(&path)?;
        check_ours(&db, &path)?;
        let failed = |source| broken(&path, source);
        let saved = load(&db).map_err(failed)?;
        let mark: Option<u64> = read_meta(&db, "next_token").map_err(failed)?;
        let next_token = mark.map_or_else(fresh_token, Token);
        write_meta(&db, "max_ttl_ms", max_ttl.as_millis() as i64).map_err(failed)?;
        let mut store = Self { db, path, _lock: lock, token_mark: 0, pending: Pending::default() };
        store.write_token_mark(next_token.0 + TOKEN_BLOCK)?;
        Ok((store, saved, next_token))
    }

    fn commit(&mut self, next_token: Token) -> Result<(), StoreError> {
        let written = self.write(next_token);
        match &written {
            Ok(()) => self.pending.clear(),
            Err(_) => self.pending.forget_the_dead(),
        }
        written
    }

    fn write(&mut self, next_token: Token) -> Result<(), StoreError> {
        if next_token.0 + TOKEN_BLOCK / 2 > self.token_mark {
            self.write_token_mark(next_token.0 + TOKEN_BLOCK)?;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let Self { db, path, pending, .. } = self;
        let written = if pending.revoked.is_empty() {
            write_pending(db, pending)
        } else {
            // An operator's word must survive a crash of the host.
            synced(db, |db| write_pending(db, pending))
        };
        written.map_err(|source| broken(path, source))
    }

    fn write_token_mark(&mut self, mark: u64) -> Result<(), StoreError> {
        let written = synced(&mut self.db, |db| write_meta(db, "next_token", mark as i64));
        written.map_err(|source| broken(&self.path, source))?;
        self.token_mark = mark;
        Ok(())
    }
}

/// Writes what must survive a crash of the host.
fn synced(
    db: &mut Connection,
    write: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    db.pragma_update(None, "synchronous", "FULL")?;
    let written = write(db);
    db.pragma_update(None, "synchronous", "NORMAL")?;
    written
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.opened.is_empty()
            && self.claims.is_empty()
            && self.revoked.is_empty()
            && self.closed.is_empty()
            && self.boot_id.is_none()
    }

    /// What came and went without ever being written needn't be: however long the store fails, no more
    /// is kept than lives or was written before.
    fn forget_the_dead(&mut self) {
        let closed: HashSet<u64> = self.closed.iter().copied().collect();
        let unwritten: HashSet<u64> = self.opened.iter().map(|session| session.number).collect();
        self.opened.retain(|session| !closed.contains(&session.number));
        self.claims
            .retain(|(session, _), claim| !closed.contains(session) && (claim.stored || claim.row.is_some()));
        self.revoked.retain(|(session, _), _| !closed.contains(session));
        self.closed.retain(|number| !unwritten.contains(number));
    }

    fn clear(&mut self) {
        self.opened.clear();
        self.claims.clear();
        self.revoked.clear();
        self.closed.clear();
        self.boot_id = None;
    }
}

/// A store that was never used, and none at all, begin at the wall clock's microseconds: so tokens
/// keep growing in practice also where the earlier ones were lost (P4), and stay below 2^53.
fn fresh_token() -> Token {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Token(now.map_or(1, |since| since.as_micros() as u64))
}

fn lock_dir(dir: &Path) -> Result<File, StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StoreError::CreateDir { path: dir.to_owned(), source })?;
    let failed = |source| StoreError::Lock { path: dir.to_owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK_FILE_NAME))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            return Err(StoreError::InUse { path: dir.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let mut note_pid = || {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note_pid().map_err(failed)?;
    Ok(file)
}

/// The file holds the sessions' secrets: it is made for this user alone before SQLite opens it.
fn open_file(path: &Path) -> Result<Connection, StoreError> {
    let created = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    created.map_err(|source| StoreError::Lock { path: path.to_owned(), source })?;
    let open = || {
        let db = Connection::open(path)?;
        db.set_prepared_statement_cache_capacity(16);
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "cache_size", -1024)?;
        Ok(db)
    };
    open().map_err(|source| broken(path, source))
}

fn check_ours(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| broken(path, source);
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(failed);
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    match (application, version) {
        (0, 0) if tables == 0 => create(db).map_err(failed)?,
        (APPLICATION_ID, SCHEMA_VERSION) => {}
        (APPLICATION_ID, older @ 1..SCHEMA_VERSION) => migrate(db, older).map_err(failed)?,
        (APPLICATION_ID, found) => return Err(StoreError::Newer { path: path.to_owned(), found }),
        _ => return Err(StoreError::Foreign { path: path.to_owned() }),
    }
    let set_mode = || {
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")
    };
    set_mode().map_err(failed)?;
    let verdict: String = db.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(failed)?;
    if verdict != "ok" {
        return Err(StoreError::Damaged { path: path.to_owned(), cause: verdict });
    }
    Ok(())
}

fn create(db: &Connection) -> rusqlite::Result<()> {
    let transaction = db.unchecked_transaction()?;
    db.execute_batch(SCHEMA)?;
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    db.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// Brings an older schema up to date, all or nothing.
fn migrate(db: &Connection, from: i32) -> rusqlite::Result<()> {
    let transaction = db.unchecked_transaction()?;
    for step in &MIGRATIONS[from as usize - 1..] {
        db.execute_batch(step)?;
    }
    db.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

fn broken(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => StoreError::Foreign { path },
        Some(rusqlite::ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path, cause: source.to_string() },
        _ if is_nonsense(&source) => StoreError::Damaged { path, cause: source.to_string() },
        _ => StoreError::Sqlite { path, source },
    }
}

/// A value was read that we never write.
fn is_nonsense(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
    )
}

fn read_meta<T: rusqlite::types::FromSql>(db: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    db.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0)).optional()
}

fn write_meta(db: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    let statement = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2";
    db.prepare_cached(statement)?.execute(params![key, value]).map(drop)
}

fn load(db: &Connection) -> rusqlite::Result<Saved> {
    let sessions = db
        .prepare("SELECT number, id, ttl_ms, who FROM sessions ORDER BY number")?
        .query_map([], read_session)?
        .collect::<Result<_, _>>()?;
    let claims = db
        .prepare(
            "SELECT session, name, lock_limit, extended, since_unix_ms, token, slot, ticket, revoked
             FROM claims ORDER BY ticket IS NOT NULL, ticket, token",
        )?
        .query_map([], read_claim)?
        .collect::<Result<_, _>>()?;
    let max_ttl_ms: Option<u64> = read_meta(db, "max_ttl_ms")?;
    Ok(Saved {
        sessions,
        claims,
        boot_id: read_meta(db, "boot_id")?,
        max_ttl: Duration::from_millis(max_ttl_ms.unwrap_or(0)),
    })
}

fn read_session(row: &rusqlite::Row<'_>) -> rusqlite::Result<SavedSession> {
    let who: String = row.get(3)?;
    Ok(SavedSession {
        number: row.get(0)?,
        id: SessionId::from_bytes(row.get(1)?),
        ttl: Duration::from_millis(row.get(2)?),
        who: serde_json::from_str(&who).map_err(|source| {
            rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(source))
        })?,
    })
}

fn read_claim(row: &rusqlite::Row<'_>) -> rusqlite::Result<SavedClaim> {
    let limit: u32 = row.get(2)?;
    let state = match row.get::<_, Option<u64>>(5)? {
        Some(token) => ClaimState::Holding { token: Token(token), slot: Slot(row.get(6)?) },
        None => ClaimState::Waiting { ticket: row.get(7)? },
    };
    let row_values = ClaimRow {
        limit: Limit::new(limit).ok_or(rusqlite::Error::IntegralValueOutOfRange(2, 0))?,
        extended: row.get(3)?,
        since_unix_ms: row.get(4)?,
        state,
    };
    Ok(SavedClaim { session: row.get(0)?, name: row.get(1)?, row: row_values, revoked: row.get(8)? })
}

fn write_pending(db: &mut Connection, pending: &Pending) -> rusqlite::Result<()> {
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for session in &pending.opened {
        insert_session(&transaction, session)?;
    }
    for ((session, name), claim) in &pending.claims {
        match claim {
            PendingClaim { row: Some(row), .. } => upsert_claim(&transaction, *session, name, row)?,
            PendingClaim { stored: true, row: None } => delete_claim(&transaction, *session, name)?,
            // Taken and left between two commits: the store never heard of it.
            PendingClaim { stored: false, row: None } => {}
        }
    }
    for ((session, name), reason) in &pending.revoked {
        let statement = "UPDATE claims SET revoked = ? WHERE session = ? AND name = ?";
        transaction.prepare_cached(statement)?.execute(params![reason, session, name])?;
    }
    for &number in &pending.closed {
        transaction.prepare_cached("DELETE FROM claims WHERE session = ?")?.execute([number])?;
        transaction.prepare_cached("DELETE FROM sessions WHERE number = ?")?.execute([number])?;
    }
    if let Some(boot_id) = &pending.boot_id {
        write_meta(&transaction, "boot_id", boot_id)?;
    }
    transaction.commit()
}

fn insert_session(transaction: &Transaction<'_>, session: &SavedSession) -> rusqlite::Result<()> {
    let who = serde_json::to_string(&session.who).expect("texts and numbers are JSON");
    transaction
        .prepare_cached("INSERT INTO sessions VALUES (?, ?, ?, ?)")?
        .execute(params![session.number, session.id.as_bytes(), session.ttl.as_millis() as i64, who])
        .map(drop)
}

fn upsert_claim(
    transaction: &Transaction<'_>,
    session: u64,
    name: &str,
    row: &ClaimRow,
) -> rusqlite::Result<()> {
    let (token, slot, ticket) = match row.state {
        ClaimState::Holding { token, slot } => (Some(token.0), Some(slot.0), None),
        ClaimState::Waiting { ticket } => (None, None, Some(ticket)),
    };
    let limit = row.limit.get();
    transaction
        .prepare_cached("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)")?
        .execute(params![session, name, limit, row.extended, row.since_unix_ms, token, slot, ticket])
        .map(drop)
}

fn delete_claim(transaction: &Transaction<'_>, session: u64, name: &str) -> rusqlite::Result<()> {
    let statement = "DELETE FROM claims WHERE session = ? AND name = ?";
    transaction.prepare_cached(statement)?.execute(params![session, name]).map(drop)
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
