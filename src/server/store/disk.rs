//! The store on disk: SQLite in a directory that one server at a time has.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::lock::Token;

use super::pending::Pending;
use super::rows::{load, read_meta, write_meta, write_pending};
use super::schema::{broken, check_ours, open_file};
use super::{Saved, StoreError, fresh_token};

/// Tokens are reserved in blocks: what is left of one is skipped after a crash. A million makes the
/// reservation's fsync one in many seconds at full rate, and 2^53 lasts for 10^9 crashes.
const TOKEN_BLOCK: u64 = 1 << 20;
const FILE_NAME: &str = "officer.db";
const LOCK_FILE_NAME: &str = "officer.lock";

pub(in crate::server) struct DiskStore {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    /// Held for as long as we live: two servers must never share a store.
    pub(super) _lock: File,
    /// Tokens below this one may be given out.
    pub(super) token_mark: u64,
    pub(super) pending: Pending,
}

impl DiskStore {
    pub(super) fn open(dir: &Path, max_ttl: Duration) -> Result<(Self, Saved, Token), StoreError> {
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

    pub(super) fn commit(&mut self, next_token: Token) -> Result<(), StoreError> {
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

    pub(super) fn write_token_mark(&mut self, mark: u64) -> Result<(), StoreError> {
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
