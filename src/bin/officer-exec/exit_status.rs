//! Every exit code, in one enum: the table of the README.

use std::process::ExitCode;

use officer::backend::ConnectError;
use officer::supervisor::Exit;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Nothing was to be run, and that was done.
    Success,
    /// The command's own.
    Command(Exit),
    /// A signal ended the wait; no command was run.
    Signal(i32),
    /// The lock was not acquired; the code can be chosen.
    NotAcquired(u8),
    /// The lock was lost while the command ran.
    Lost,
    /// The lock server can't be reached.
    Unreachable,
    /// The lock server doesn't let us in.
    Refused,
    /// The command was stopped because it held the lock too long.
    MaxHold,
    /// The command can't be run.
    CannotRun,
    /// There is no such command.
    NotFound,
    /// `serve status`: no server runs in the background (the code is init scripts' custom).
    NotRunning,
    /// Wrong options.
    Usage,
    /// Our own failure.
    Internal,
}

impl ExitStatus {
    /// The code that the parent process sees.
    pub fn code(self) -> u8 {
        let low_byte = |code: i32| code as u8;
        match self {
            Self::Success => 0,
            Self::Command(exit) => low_byte(exit.shell_code()),
            Self::Signal(signal) => low_byte(Exit::Signal(signal).shell_code()),
            Self::NotAcquired(code) => code,
            Self::Lost => 79,
            Self::Unreachable => 69,
            Self::Refused => 77,
            Self::MaxHold => 124,
            Self::CannotRun => 126,
            Self::NotFound => 127,
            Self::NotRunning => 3,
            Self::Usage => 2,
            Self::Internal => 70,
        }
    }

    /// One word for the status file.
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Success | Self::Command(_) => "ended",
            Self::Signal(_) => "interrupted",
            Self::NotAcquired(_) => "not_acquired",
            Self::Lost => "lost",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::MaxHold => "max_hold",
            Self::CannotRun => "cannot_run",
            Self::NotFound => "not_found",
            Self::NotRunning => "not_running",
            Self::Usage => "usage",
            Self::Internal => "failed",
        }
    }
}

impl From<&ConnectError> for ExitStatus {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::Unreachable { .. } => Self::Unreachable,
            ConnectError::Refused { .. } => Self::Refused,
            ConnectError::Unsupported(_) => Self::Usage,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}
