//! What is stored as rows: reading all of them at the start, writing what has changed.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::lock::{ClaimState, Limit, SessionId, Slot, Token};

use super::pending::{Pending, PendingClaim};
use super::{ClaimRow, Saved, SavedClaim, SavedSession};

pub(super) fn read_meta<T: rusqlite::types::FromSql>(
    db: &Connection,
    key: &str,
) -> rusqlite::Result<Option<T>> {
    db.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0)).optional()
}

pub(super) fn write_meta(db: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    let statement = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2";
    db.prepare_cached(statement)?.execute(params![key, value]).map(drop)
}

pub(super) fn load(db: &Connection) -> rusqlite::Result<Saved> {
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

pub(super) fn write_pending(transaction: &Transaction<'_>, pending: &Pending) -> rusqlite::Result<()> {
    for session in &pending.opened {
        insert_session(transaction, session)?;
    }
    for ((session, name), claim) in &pending.claims {
        match claim {
            PendingClaim { row: Some(row), .. } => upsert_claim(transaction, *session, name, row)?,
            PendingClaim { stored: true, row: None } => delete_claim(transaction, *session, name)?,
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
        write_meta(transaction, "boot_id", boot_id)?;
    }
    Ok(())
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
