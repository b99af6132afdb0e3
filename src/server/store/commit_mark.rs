//! How many commits the store has had, noted in the lock file beside it. A store that knows of fewer has
//! lost some, which SQLite doesn't tell: it takes a log that is damaged for one that ends there, and a file
//! of no length for a new one.
//!
//! The note isn't synced, so it is believed within one boot of the host only: a crash of the host may lose
//! the last commits, and the note with them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::readiness::boot_id;

/// A lock file of ours is shorter.
const MAX_BYTES: u64 = 4096;

/// The note. It is rewritten in place, so that a full disk is no hindrance.
pub(super) struct CommitMark {
    /// The lock file: it names the server's process first.
    file: File,
    boot_id: String,
}

impl CommitMark {
    pub(super) fn new(file: File) -> Self {
        Self { file, boot_id: boot_id() }
    }

    /// How many commits the store has to know of; 0 if nothing is noted.
    pub(super) fn last(&self) -> io::Result<u64> {
        let mut text = vec![0; self.file.metadata()?.len().min(MAX_BYTES) as usize];
        self.file.read_exact_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text);
        let noted = text.lines().nth(1).and_then(|line| line.rsplit_once(' '));
        let commits = noted.filter(|(boot_id, _)| !boot_id.is_empty() && *boot_id == self.boot_id);
        Ok(commits.and_then(|(_, commits)| commits.parse().ok()).unwrap_or(0))
    }

    pub(super) fn note(&self, commits: u64) -> io::Result<()> {
        // Of one width, so that nothing of an earlier note is left behind it.
        let text = format!("{:<10}\n{} {commits:020}\n", std::process::id(), self.boot_id);
        self.file.write_all_at(text.as_bytes(), 0)
    }
}
