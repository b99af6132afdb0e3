//! The store on disk: SQLite in a directory that one server at a time has.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::lock::Token;

use super::commit_mark::CommitMark;
use super::pending::Pending;
use super::rows::{load, read_meta, write_meta, write_pending};
use super::schema::{broken, check_ours, open_file};
use super::{Saved, StoreError, fresh_token};

/// Tokens are reserved in blocks: what is left of one is skipped after a crash. A million makes the
/// reservation's fsync one in many seconds at full rate, and 2^53 lasts for 10^9 crashes.
const TOKEN_BLOCK: u64 = 1 << 20;
const FILE_NAME: &str = "officer.db";
/// SQLite's log beside it: there while a server runs, and taken away by one that ends in order.
pub(crate) const LOG_FILE_NAME: &str = "officer.db-wal";
const LOCK_FILE_NAME: &str = "officer.lock";

/// The row of the number of commits.
const COMMITS: &str = "commits";

pub(in crate::server) struct DiskStore {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    /// Of transactions. In the lock file, which is held for as long as we live: two servers must never
    /// share a store.
    mark: CommitMark,
    commits: u64,
    /// Tokens below this one may be given out.
    pub(super) token_mark: u64,
    pub(super) pending: Pending,
}

/// What a transaction must survive, besides our own end.
enum Durability {
    /// Nothing.
    Process,
    /// A crash of the host.
    Host,
}

impl DiskStore {
    pub(super) fn open(dir: &Path, max_ttl: Duration) -> Result<(Self, Saved, Token), StoreError> {
        let mark = CommitMark::new(lock_dir(dir)?);
        let noted = |source| StoreError::Lock { path: dir.to_owned(), source };
        let path = dir.join(FILE_NAME);
        // Who moves the file away, as we advise where it is damaged, wants to begin anew.
        let expected = if path.exists() { mark.last().map_err(noted)? } else { 0 };
        let incomplete = |commits| {
            let cause = format!("it has {commits} of the {expected} changes that were written to it");
            StoreError::Damaged { path: path.clone(), cause }
        };
        if expected > 0 && path.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            // SQLite would begin it anew, and remove its log.
            return Err(incomplete(0));
        }
        let db = open_file(&path)?;
        check_ours(&db, &path)?;
        let failed = |source| broken(&path, source);
        let commits = read_meta(&db, COMMITS).map_err(failed)?.unwrap_or(0);
        if commits < expected {
            return Err(incomplete(commits));
        }
        mark.note(commits).map_err(noted)?;
        let saved = load(&db).map_err(failed)?;
        let next_token: Option<u64> = read_meta(&db, "next_token").map_err(failed)?;
        let next_token = next_token.map_or_else(fresh_token, Token);
        write_meta(&db, "max_ttl_ms", max_ttl.as_millis() as i64).map_err(failed)?;
        let mut store = Self { db, path, mark, commits, token_mark: 0, pending: Pending::default() };
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
        // An operator's word must survive a crash of the host.
        let durability = if self.pending.revoked.is_empty() { Durability::Process } else { Durability::Host };
        let Self { db, commits, pending, .. } = self;
        let written =
            transact(db, durability, *commits + 1, |transaction| write_pending(transaction, pending));
        self.written(written)
    }

    pub(super) fn write_token_mark(&mut self, mark: u64) -> Result<(), StoreError> {
        let written = transact(&mut self.db, Durability::Host, self.commits + 1, |transaction| {
            write_meta(transaction, "next_token", mark as i64)
        });
        self.written(written)?;
        self.token_mark = mark;
        Ok(())
    }

    fn written(&mut self, written: rusqlite::Result<()>) -> Result<(), StoreError> {
        written.map_err(|source| broken(&self.path, source))?;
        self.commits += 1;
        // A note that can't be made claims too little, not too much.
        let _ = self.mark.note(self.commits);
        Ok(())
    }
}

/// Writes all of it or nothing, as the commit of that number.
fn transact(
    db: &mut Connection,
    durability: Durability,
    number: u64,
    write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let transact = |db: &mut Connection| {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write(&transaction)?;
        write_meta(&transaction, COMMITS, number as i64)?;
        transaction.commit()
    };
    match durability {
        Durability::Process => transact(db),
        Durability::Host => {
            db.pragma_update(None, "synchronous", "FULL")?;
            let written = transact(db);
            db.pragma_update(None, "synchronous", "NORMAL")?;
            written
        }
    }
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
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            let pid = text.lines().next().unwrap_or_default().trim().to_owned();
            return Err(StoreError::InUse { path: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    Ok(file)
}
