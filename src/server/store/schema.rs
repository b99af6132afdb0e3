//! The store's file: its schema, how older ones are brought up to date, and what is wrong with a file
//! that isn't ours.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// "OfEx": marks the file as ours.
const APPLICATION_ID: i32 = 0x4f66_4578;
pub(super) const SCHEMA_VERSION: i32 = 2;
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

/// The file holds the sessions' secrets: it is made for this user alone before SQLite opens it.
pub(super) fn open_file(path: &Path) -> Result<Connection, StoreError> {
    let created = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    created.map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    let open = || {
        let db = Connection::open(path)?;
        db.set_prepared_statement_cache_capacity(16);
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        db.pragma_update(None, "cache_size", -1024)?;
        Ok(db)
    };
    open().map_err(|source| broken(path, source))
}

pub(super) fn check_ours(db: &Connection, path: &Path) -> Result<(), StoreError> {
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

pub(super) fn broken(path: &Path, source: rusqlite::Error) -> StoreError {
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
