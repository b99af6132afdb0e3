//! `officer-exec serve`: a server, its clean end, and its life in the background (start,
//! stop, restart, status), as Officer's daemon control had it.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use officer::server::{Address, Server};
use tracing::{Level, error, info};

use crate::console;
use crate::daemon::{self, Readiness, Side};
use crate::exit_status::ExitStatus;
use crate::log;
use crate::pid_file::{PidFile, PidFileError, RunningServer};
use crate::serve_args::{Action, ServeArgs};
use crate::serve_signals;
use crate::systemd;

/// How long a server may take to end.
const STOP_BOUND: Duration = Duration::from_secs(30);

/// Does what the flags say; comes back when the server has ended.
pub fn serve(args: ServeArgs) -> Result<ExitStatus, String> {
    match args.action {
        Action::Run => {
            warn_of_hidden_stats(&args);
            log::start_timed(args.log_level.into());
            let stopper = serve_signals::stop_on_hangup_too().map_err(cannot_watch)?;
            run(&args, stopper, || {})
        }
        Action::Start => start(args),
        Action::Stop => stop(&args),
        Action::Restart => {
            stop(&args)?;
            start(args)
        }
        Action::Status => status(&args),
    }
}

fn start(args: ServeArgs) -> Result<ExitStatus, String> {
    // A daemon leaves the working directory.
    let args = args.with_absolute_paths()?;
    // The daemon finds out for itself; asked here as well, for a message before anything happens.
    if let Some(pid) = args.running()? {
        return Err(PidFileError::Running { path: args.pid_file(), pid }.to_string());
    }
    warn_of_hidden_stats(&args);
    match daemon::split().map_err(|e| format!("cannot go into the background: {e}"))? {
        Side::Starter(told) => told.map(|()| ExitStatus::Success),
        Side::Daemon(readiness) => Ok(serve_in_background(&args, readiness)),
    }
}

/// On stderr whatever the level is: it may hide this as well.
fn warn_of_hidden_stats(args: &ServeArgs) {
    if args.stats && args.log_level < Level::INFO {
        let level = args.log_level.as_str().to_lowercase();
        console::complain(&format_args!(
            "--stats has no effect: statistics are logged at level info, and the log level is {level}"
        ));
    }
}

fn serve_in_background(args: &ServeArgs, readiness: Readiness) -> ExitStatus {
    let prepare = || {
        let pid_file = PidFile::claim(args.pid_file()).map_err(|e| e.to_string())?;
        let log = args.log_file();
        serve_signals::log_to(&log).map_err(|e| format!("cannot log to {}: {e}", log.display()))?;
        log::start_timed(args.log_level.into());
        serve_signals::reopen_on_hangup(log).map_err(cannot_watch)?;
        let stopper = serve_signals::stop().map_err(cannot_watch)?;
        Ok::<_, String>((pid_file, stopper))
    };
    let (pid_file, stopper) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => {
            readiness.failed(&error);
            return ExitStatus::Internal;
        }
    };
    let mut readiness = Some(readiness);
    let ended = run(args, stopper, || {
        if let Some(readiness) = readiness.take() {
            readiness.ready();
        }
    });
    match (ended, readiness) {
        (Ok(status), _) => status,
        (Err(error), Some(readiness)) => {
            // Gone before the starter hears of it, so that it can start again at once.
            drop(pid_file);
            readiness.failed(&error);
            ExitStatus::Internal
        }
        (Err(error), None) => {
            error!("{error}");
            ExitStatus::Internal
        }
    }
}

fn cannot_watch(error: io::Error) -> String {
    format!("cannot watch for signals: {error}")
}

fn stop(args: &ServeArgs) -> Result<ExitStatus, String> {
    let found = RunningServer::find(&args.pid_file()).map_err(|e| e.to_string())?;
    let Some(server) = found else { return Ok(ExitStatus::Success) };
    let failed =
        |cause: &dyn std::fmt::Display| format!("cannot end the server with pid {}: {cause}", server.pid());
    server.terminate().map_err(|e| failed(&e))?;
    match server.ends_within(STOP_BOUND).map_err(|e| failed(&e))? {
        true => Ok(ExitStatus::Success),
        false => Err(failed(&format_args!("it hasn't ended in {STOP_BOUND:?}"))),
    }
}

fn status(args: &ServeArgs) -> Result<ExitStatus, String> {
    Ok(match args.running()? {
        Some(pid) => console::print(format!("running with pid {pid}\n").as_bytes()),
        None => {
            // The code says it too.
            console::print(b"not running\n");
            ExitStatus::NotRunning
        }
    })
}

/// Serves until a signal ends it; `serving` is called once clients can connect.
fn run(args: &ServeArgs, stopper: UnixStream, serving: impl FnOnce()) -> Result<ExitStatus, String> {
    let mut listeners = systemd::listeners()?;
    if listeners.is_empty() {
        listeners = args.listeners()?;
    }
    let mut server = Server::bind(args.config()?, listeners).map_err(|e| e.to_string())?;
    server.stop_when_readable(stopper).map_err(|e| e.to_string())?;
    for address in server.addresses() {
        match address {
            Address::Tcp(address) => info!(%address, "listening"),
            Address::Unix(path) => info!(path = %path.display(), "listening"),
            Address::Unnamed => info!("listening on a UNIX socket without a name"),
        }
    }
    serving();
    systemd::tell_ready();
    server.run().map_err(|e| e.to_string())?;
    info!("ended");
    Ok(ExitStatus::Success)
}
