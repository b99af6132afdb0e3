//! The server that the first wrapper of a user starts when no other is configured.
//!
//! Binding the socket elects it: whoever loses the election leaves the field at once. See
//! [`officer::local`] for where it is.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use officer::local::{socket_address, state_folder};
use officer::server::{Config, Listener, ServeError, Server, StoreConfig, StoreError};

use crate::cli::LogPlan;
use crate::daemon::{self, Side};
use crate::exit_status::ExitStatus;
use crate::log::{self, LogFormat, LogLevel};

/// How long a server that nobody uses stays.
const EMPTY_FOR: Duration = Duration::from_secs(60);

/// A predecessor that is just ending gives its store up by then.
const STORE_WAIT: Duration = Duration::from_secs(10);
const STORE_RETRY: Duration = Duration::from_millis(10);

/// In the state folder; written anew by each server.
const LOG_FILE: &str = "log";

/// Starts the server in the background; returns in the starter once it serves or another one does.
pub fn serve() -> ExitStatus {
    let readiness = match daemon::split() {
        Ok(Side::Starter(Ok(()))) => return ExitStatus::Success,
        Ok(Side::Starter(Err(error))) => return failed(&error),
        Ok(Side::Daemon(readiness)) => readiness,
        Err(error) => return failed(&error),
    };
    match bind() {
        Ok(Some(server)) => {
            readiness.ready();
            match server.run() {
                Ok(()) => ExitStatus::Success,
                Err(error) => {
                    tracing::error!("{error}");
                    ExitStatus::Internal
                }
            }
        }
        Ok(None) => {
            readiness.ready();
            ExitStatus::Success
        }
        Err(error) => {
            readiness.failed(&error);
            ExitStatus::Internal
        }
    }
}

/// To the wrapper, which reads our stderr.
fn failed(error: &dyn std::fmt::Display) -> ExitStatus {
    // The wrapper says it with its own name in front.
    let _ = writeln!(io::stderr(), "{error}");
    ExitStatus::Internal
}

/// `None`: another server has won the election.
fn bind() -> Result<Option<Server>, Box<dyn std::error::Error>> {
    let listener = match UnixListener::bind_addr(&socket_address()?) {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(None),
        Err(error) => return Err(format!("cannot bind the socket of this user's server: {error}").into()),
    };
    let state = state_folder()?;
    start_log(&state)?;
    let until = Instant::now() + STORE_WAIT;
    loop {
        let listeners = vec![Listener::from_std_unix(listener.try_clone()?)?];
        match Server::bind(config(&state), listeners) {
            Err(ServeError::Store(StoreError::InUse { .. })) if Instant::now() < until => {
                std::thread::sleep(STORE_RETRY)
            }
            Err(error) => return Err(error.into()),
            Ok(server) => return Ok(Some(server)),
        }
    }
}

fn start_log(state: &Path) -> io::Result<()> {
    daemon::redirect_stderr(File::create(state.join(LOG_FILE))?)?;
    log::start(LogPlan { format: LogFormat::Text, level: LogLevel::Info });
    Ok(())
}

fn config(state: &Path) -> Config {
    Config {
        store: StoreConfig::Dir(state.to_owned()),
        exit_when_empty: Some(EMPTY_FOR),
        only_uid: Some(geteuid().as_raw()),
        ..Config::default()
    }
}
