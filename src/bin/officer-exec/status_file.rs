//! `--status-file`: one JSON line at the end that says how it went.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use officer::backend::Grant;
use officer::supervisor::Exit;
use serde::Serialize;

use crate::exit_status::ExitStatus;

/// The file, open from the start: better an error before the lock than a lost result after it.
pub struct StatusFile {
    path: PathBuf,
    file: File,
}

/// What is known of a run so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The lock's full name.
    pub lock: String,
    /// The fencing token, if the lock was granted by an engine that has them.
    pub token: Option<u64>,
    /// The place.
    pub slot: Option<u32>,
    /// Seconds from asking to the grant, or to giving up.
    pub waited: f64,
    /// Seconds from the grant to the release.
    pub held: Option<f64>,
    /// The command's exit code.
    pub code: Option<i32>,
    /// The signal that ended the command.
    pub signal: Option<i32>,
}

#[derive(Serialize)]
struct Line<'a> {
    outcome: &'static str,
    exit: u8,
    #[serde(flatten)]
    report: &'a Report,
}

impl Report {
    /// Notes what was granted.
    pub fn granted(&mut self, grant: &Grant) {
        self.lock.clone_from(&grant.name);
        self.token = grant.token.map(|token| token.0);
        self.slot = grant.slot.map(|slot| slot.0);
    }

    /// Notes how the command itself ended.
    pub fn ended(&mut self, exit: Exit) {
        match exit {
            Exit::Code(code) => self.code = Some(code),
            Exit::Signal(signal) => self.signal = Some(signal),
        }
    }
}

/// Seconds to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

impl StatusFile {
    /// Makes the file, empty. Neither this nor the writing waits: a FIFO must be read by somebody.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).map_err(|error| match error.raw_os_error() {
            Some(libc::ENXIO) => io::Error::new(error.kind(), "it is a FIFO or a socket that nobody reads"),
            Some(_) | None => error,
        })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes the line.
    pub fn write(mut self, status: ExitStatus, report: &Report) {
        let line = Line { outcome: status.outcome(), exit: status.code(), report };
        let text = serde_json::to_string(&line).expect("a report has only numbers and texts") + "\n";
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            tracing::error!("cannot write the status file {}: {error}", self.path.display());
        }
    }
}
