//! `officer-exec serve`: flags -> a server, and its clean end on SIGTERM and SIGINT.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use officer::protocol::DEFAULT_PORT;
use officer::server::{Address, Config, Listener, Server, StoreConfig};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::info;

use crate::duration;

/// How often `--stats` writes, as Officer did.
const STATS_EVERY: Duration = Duration::from_secs(5);

/// Run the lock server.
#[derive(Args, Clone, Debug)]
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
    log_level: tracing::Level,

    /// Log statistics every 5 seconds
    #[arg(short = 's', long)]
    stats: bool,

    /// Directory of the pid file
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

    /// Microseconds to look for new requests before sleeping: faster hand-overs for CPU time
    #[arg(long, default_value_t = 0, value_name = "MICROS", env = "OFFICER_BUSY_POLL")]
    busy_poll: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Serve in the foreground
    Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SocketType {
    #[value(name = "TCP")]
    Tcp,
    #[value(name = "UNIX")]
    Unix,
}

/// Does what the flags say; comes back when the server has ended.
pub(crate) fn serve(args: ServeArgs) -> Result<(), String> {
    start_log(args.log_level);
    match args.action {
        Action::Run => run(&args),
    }
}

fn run(args: &ServeArgs) -> Result<(), String> {
    let mut signals =
        Signals::new([SIGTERM, SIGINT]).map_err(|e| format!("cannot watch for signals: {e}"))?;
    let server = Server::bind(args.config()?, args.listeners()?).map_err(|e| e.to_string())?;
    for address in server.addresses() {
        match address {
            Address::Tcp(address) => info!(%address, "listening"),
            Address::Unix(path) => info!(path = %path.display(), "listening"),
            Address::Unnamed => info!("listening on a UNIX socket without a name"),
        }
    }
    let handle = server.handle();
    let watch = signals.handle();
    let watcher = std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            info!(signal, "ending");
            handle.stop();
        }
    });
    let ended = server.run().map_err(|e| e.to_string());
    watch.close();
    watcher.join().map_err(|_| "cannot end cleanly: the watcher of signals panicked".to_owned())?;
    ended
}

impl ServeArgs {
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
            busy_poll: Duration::from_micros(self.busy_poll),
            stats: self.stats.then_some(STATS_EVERY),
            ..Config::default()
        })
    }
}

/// systemd gives a unit its directory; everyone else has one below the home directory.
fn default_data_dir() -> Result<PathBuf, String> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(dirs) = set("STATE_DIRECTORY") {
        let first = std::env::split_paths(&dirs).next();
        return first.ok_or_else(|| "cannot use STATE_DIRECTORY: it is empty".to_owned());
    }
    if let Some(state) = set("XDG_STATE_HOME") {
        return Ok(PathBuf::from(state).join("officer-exec"));
    }
    match std::env::home_dir() {
        Some(home) => Ok(home.join(".local/state/officer-exec")),
        None => Err("cannot choose a data directory: this user has no home; name one with --data-dir".into()),
    }
}

fn start_log(level: tracing::Level) {
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Whoever started us may have set up a log already.
    let _ = log.try_init();
}
