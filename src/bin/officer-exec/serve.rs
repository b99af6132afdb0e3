//! `officer-exec serve`: flags -> a server, its clean end, and its life in the
//! background (start, stop, restart, status), as Officer's daemon control had it.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use officer::protocol::DEFAULT_PORT;
use officer::server::{Address, Bounds, BusyPoll, Config, Listener, Server, StoreConfig};
use tracing::{Level, error, info};

use crate::console;
use crate::daemon::{self, Readiness, Side};
use crate::duration;
use crate::exit_status::ExitStatus;
use crate::log;
use crate::pid_file::{self, PidFile, PidFileError, RunningServer};
use crate::serve_signals;
use crate::systemd;

/// How often `--stats` writes, as Officer did.
const STATS_EVERY: Duration = Duration::from_secs(5);

/// In the pid directory, as Officer called it.
const PID_FILE: &str = "officer.pid";
const LOG_FILE: &str = "officer.log";

/// How long a server may take to end.
const STOP_BOUND: Duration = Duration::from_secs(30);

const AFTER_HELP: &str = "\
Signals: TERM and INT end the server cleanly; sessions are kept. HUP in the foreground (a closed
terminal) does the same, except under nohup; in the background it has the log file opened anew, so
that it can be moved away first.";

/// Run the lock server.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ServeArgs {
    /// What to do
    #[arg(value_enum, default_value = "run")]
    action: Action,

    /// Address to listen on; there is no authentication, so think before you open it to a network
    #[arg(long, default_value = "127.0.0.1", env = "OFFICER_HOST")]
    host: String,

    /// TCP port; 0: any free one
    #[arg(short, long, default_value_t = DEFAULT_PORT, env = "OFFICER_PORT")]
    port: u16,

    /// What to listen on; both: TCP,UNIX
    #[arg(short = 'o', long, value_enum, ignore_case = true, value_delimiter = ',', default_value = "TCP")]
    socket_type: Vec<SocketType>,

    /// The socket file for UNIX
    #[arg(short = 'f', long, default_value = "/tmp/officer.sock", env = "OFFICER_SOCKET_FILE")]
    socket_file: PathBuf,

    /// error, warn, info, debug or trace
    #[arg(short = 'l', long, default_value = "info", env = "OFFICER_LOG_LEVEL")]
    log_level: Level,

    /// Log statistics every 5 seconds, at level info
    #[arg(short = 's', long)]
    stats: bool,

    /// Directory of the pid file and the log of a server in the background
    #[arg(short = 'd', long, default_value = "/tmp", env = "OFFICER_PID_DIR")]
    pid_dir: PathBuf,

    /// Close connections that have said nothing for so long [seconds, or 500ms, 2h]
    #[arg(short = 'm', long, default_value = "60", value_parser = duration::parse, env = "OFFICER_MAX_IDLE")]
    max_idle: Duration,

    /// Where sessions are kept [default: $STATE_DIRECTORY, then the user's state directory]
    #[arg(long, conflicts_with = "ephemeral", env = "OFFICER_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Keep sessions in memory only: after a restart a lock can be granted while the command of its
    /// earlier holder still runs
    #[arg(long)]
    ephemeral: bool,

    /// The longest lease that clients may ask for; after a reboot sessions wait so long
    #[arg(long, default_value = "60", value_parser = duration::parse, env = "OFFICER_MAX_TTL")]
    max_ttl: Duration,

    /// Microseconds to look for new requests before sleeping: faster hand-overs for CPU time; 0: never
    /// [default: after hand-overs only, up to 150, as long as it pays]
    #[arg(long, value_name = "MICROS", env = "OFFICER_BUSY_POLL")]
    busy_poll: Option<u64>,

    /// Bytes of one line at most
    #[arg(long, value_name = "BYTES", default_value_t = Bounds::default().line_bytes)]
    max_line: usize,

    /// Locks that one client holds and waits for at most
    #[arg(long, value_name = "N", default_value_t = Bounds::default().locks_per_client)]
    max_locks: u32,

    /// Waiters of one lock at most
    #[arg(long, value_name = "N", default_value_t = Bounds::default().waiters_per_lock)]
    max_waiters: u32,

    /// Connections at most; the limit of file descriptors is a bound as well
    #[arg(long, value_name = "N", default_value_t = Bounds::default().connections)]
    max_connections: usize,

    /// Sessions at most
    #[arg(long, value_name = "N", default_value_t = Bounds::default().sessions)]
    max_sessions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Serve in the foreground
    Run,
    /// Serve in the background; back when it serves. Its log: officer.log in the pid directory
    Start,
    /// End the server in the background; back when it has ended
    Stop,
    /// stop, then start
    Restart,
    /// Say whether a server runs in the background; exit code 3 if none does
    Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SocketType {
    #[value(name = "TCP")]
    Tcp,
    #[value(name = "UNIX")]
    Unix,
}

/// Does what the flags say; comes back when the server has ended.
pub(crate) fn serve(args: ServeArgs) -> Result<ExitStatus, String> {
    match args.action {
        Action::Run => {
            warn_of_hidden_stats(&args);
            log::start_timed(args.log_level.into());
            let stopper = serve_signals::stop_on_hangup_too().map_err(cannot_watch)?;
            run(&args, stopper, || {})
        }
        Action::Start => start(&args),
        Action::Stop => stop(&args),
        Action::Restart => {
            stop(&args)?;
            start(&args)
        }
        Action::Status => status(&args),
    }
}

fn start(args: &ServeArgs) -> Result<ExitStatus, String> {
    // The daemon finds out for itself; asked here as well, for a message before anything happens.
    if let Some(pid) = args.running()? {
        return Err(PidFileError::Running { path: args.pid_file(), pid }.to_string());
    }
    warn_of_hidden_stats(args);
    match daemon::split().map_err(|e| format!("cannot go into the background: {e}"))? {
        Side::Starter(told) => told.map(|()| ExitStatus::Success),
        Side::Daemon(readiness) => Ok(serve_in_background(args, readiness)),
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
        let log = args.pid_dir.join(LOG_FILE);
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

impl ServeArgs {
    fn pid_file(&self) -> PathBuf {
        self.pid_dir.join(PID_FILE)
    }

    /// The pid of the server in the background.
    fn running(&self) -> Result<Option<i32>, String> {
        pid_file::running(&self.pid_file()).map_err(|e| e.to_string())
    }

    fn listeners(&self) -> Result<Vec<Listener>, String> {
        let listen = |kind: &SocketType| match kind {
            SocketType::Tcp => Listener::tcp(self.tcp_address()),
            SocketType::Unix => Listener::unix(&self.socket_file),
        };
        self.socket_type.iter().map(listen).collect::<Result<_, _>>().map_err(|e| e.to_string())
    }

    /// `host:port`, an IPv6 address in brackets.
    fn tcp_address(&self) -> String {
        match self.host.contains(':') && !self.host.starts_with('[') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn config(&self) -> Result<Config, String> {
        let store = match (self.ephemeral, &self.data_dir) {
            (true, _) => StoreConfig::Ephemeral,
            (false, Some(dir)) => StoreConfig::Dir(dir.clone()),
            (false, None) => StoreConfig::Dir(default_data_dir()?),
        };
        Ok(Config {
            max_idle: self.max_idle,
            max_ttl: self.max_ttl,
            store,
            busy_poll: match self.busy_poll {
                Some(micros) => BusyPoll::Always(Duration::from_micros(micros)),
                None => BusyPoll::Adaptive,
            },
            stats: self.stats.then_some(STATS_EVERY),
            bounds: Bounds {
                line_bytes: self.max_line,
                locks_per_client: self.max_locks,
                waiters_per_lock: self.max_waiters,
                connections: self.max_connections,
                sessions: self.max_sessions,
            },
            ..Config::default()
        })
    }
}

/// systemd gives a unit its directory; everyone else has one below the home directory, beside that of
/// the embedded server.
fn default_data_dir() -> Result<PathBuf, String> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(dirs) = set("STATE_DIRECTORY") {
        let first = std::env::split_paths(&dirs).next();
        return first.ok_or_else(|| "cannot use STATE_DIRECTORY: it is empty".to_owned());
    }
    if let Some(state) = set("XDG_STATE_HOME") {
        return Ok(PathBuf::from(state).join("officer-exec/server"));
    }
    match std::env::home_dir() {
        Some(home) => Ok(home.join(".local/state/officer-exec/server")),
        None => Err("cannot choose a data directory: this user has no home; name one with --data-dir".into()),
    }
}
