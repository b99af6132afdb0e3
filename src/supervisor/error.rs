//! Why a command could not be started.

use std::ffi::OsString;
use std::io;

/// The guardian could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Too late: a fork copies one thread only.
    #[error("cannot fork the guardian: this process has {threads} threads already")]
    ThreadsExist {
        /// How many.
        threads: usize,
    },
    /// Without /proc no descendant is found.
    #[error("cannot watch processes: /proc: {0}")]
    NoProc(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot fork the guardian: {0}")]
    Refused(#[source] io::Error),
}

/// The command was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such program (exit 127).
    #[error("cannot run {}: command not found", program.display())]
    NotFound {
        /// Its name as it was given.
        program: OsString,
    },
    /// There is one, and what its first line names to read it isn't there (exit 127).
    #[error("cannot run {}: its interpreter is missing", program.display())]
    NoInterpreter {
        /// Its name as it was given.
        program: OsString,
    },
    /// There is one, and it can't be executed (exit 126).
    #[error("cannot run {}: {source}", program.display())]
    CannotRun {
        /// Its name as it was given.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel doesn't allow a PID namespace (exit 70).
    #[error("cannot isolate {} in a PID namespace: {source}", program.display())]
    CannotIsolate {
        /// Its name as it was given.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// The user has all namespaces that one may have (exit 70).
    #[error(
        "cannot isolate {} in a PID namespace: a limit on namespaces is reached (look at the sysctls \
         user.max_pid_namespaces, user.max_mnt_namespaces and user.max_user_namespaces)",
        program.display()
    )]
    NoNamespaceLeft {
        /// Its name as it was given.
        program: OsString,
    },
    /// Its kill deadline had passed before it was started; nothing runs.
    #[error("cannot start {}: its time was over before", program.display())]
    TooLate {
        /// Its name as it was given.
        program: OsString,
    },
    /// The guardian is gone; nothing runs.
    #[error("cannot start the command: the guardian is gone")]
    GuardianGone,
    /// It could not be asked.
    #[error("cannot start the command: {0}")]
    Refused(#[source] io::Error),
}
