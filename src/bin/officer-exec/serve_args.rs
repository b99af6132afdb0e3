//! The flags of `serve`: Officer's, with its letters, and ours. What they ask for is ready to be served:
//! addresses, bounds, places of files.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{RangedU64ValueParser, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, Args, Command, FromArgMatches, ValueEnum};
use officer::protocol::DEFAULT_PORT;
use officer::server::{Bounds, BusyPoll, Config, Listener, StoreConfig};
use tracing::Level;

use crate::duration;
use crate::pid_file;

/// How often `--stats` writes, as Officer did.
const STATS_EVERY: Duration = Duration::from_secs(5);

/// In the pid directory, as Officer called it.
const PID_FILE: &str = "officer.pid";
const LOG_FILE: &str = "officer.log";

/// No command of the protocol's has room in less.
const MIN_LINE_BYTES: u64 = 64;

const PORT_VARIABLE: &str = "OFFICER_PORT";

const AFTER_HELP: &str = "\
Signals: TERM and INT end the server cleanly; sessions are kept. HUP in the foreground (a closed
terminal) does the same, except under nohup; in the background it has the log file opened anew, so
that it can be moved away first.";

/// Run the lock server.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP, disable_help_flag = true)]
pub struct ServeArgs {
    /// What to do
    #[arg(value_enum, default_value = "run")]
    pub action: Action,

    /// Address to listen on; there is no authentication, so think before you open it to a network
    #[arg(short = 'h', long, default_value = "127.0.0.1", env = "OFFICER_HOST")]
    host: String,

    /// TCP port; 0: any free one. A variable of the form tcp://..., as Kubernetes sets it, is ignored
    #[arg(short, long, default_value_t = DEFAULT_PORT, env = PORT_VARIABLE)]
    port: u16,

    /// What to listen on; both: TCP,UNIX
    #[arg(short = 'o', long, value_enum, ignore_case = true, value_delimiter = ',', default_value = "TCP")]
    socket_type: Vec<SocketType>,

    /// The socket file for UNIX
    #[arg(short = 'f', long, default_value = "/tmp/officer.sock", env = "OFFICER_SOCKET_FILE")]
    socket_file: PathBuf,

    /// error, warn, info, debug or trace
    #[arg(short = 'l', long, default_value = "info", env = "OFFICER_LOG_LEVEL")]
    pub log_level: Level,

    /// Log statistics every 5 seconds, at level info
    #[arg(short = 's', long)]
    pub stats: bool,

    /// Directory of the pid file and the log of a server in the background
    #[arg(short = 'd', long, default_value = "/tmp", env = "OFFICER_PID_DIR")]
    pid_dir: PathBuf,

    /// Close connections that have said nothing for so long [seconds, or 500ms, 2h]
    #[arg(short = 'm', long, default_value = "60", value_parser = duration::parse_some, env = "OFFICER_MAX_IDLE")]
    max_idle: Duration,

    /// Where sessions are kept [default: $STATE_DIRECTORY, then the user's state directory]
    #[arg(long, env = "OFFICER_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Keep sessions in memory only: after a restart a lock can be granted while the command of its
    /// earlier holder still runs
    #[arg(long)]
    ephemeral: bool,

    /// The longest lease that clients may ask for; after a reboot sessions wait so long
    #[arg(long, default_value = "60", value_parser = duration::parse_some, env = "OFFICER_MAX_TTL")]
    max_ttl: Duration,

    /// Microseconds to look for new requests before sleeping: faster hand-overs for CPU time; 0: never
    /// [default: after hand-overs only, up to 150, as long as it pays]
    #[arg(long, value_name = "MICROS", env = "OFFICER_BUSY_POLL")]
    busy_poll: Option<u64>,

    /// Bytes of one line at most
    #[arg(long, value_name = "BYTES", default_value_t = Bounds::default().line_bytes,
          value_parser = RangedU64ValueParser::<usize>::new().range(MIN_LINE_BYTES..))]
    max_line: usize,

    /// Locks that one client holds and waits for at most
    #[arg(long, value_name = "N", default_value_t = Bounds::default().locks_per_client,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_locks: u32,

    /// Waiters of one lock at most
    #[arg(long, value_name = "N", default_value_t = Bounds::default().waiters_per_lock)]
    max_waiters: u32,

    /// Connections at most; the limit of file descriptors is a bound as well
    #[arg(long, value_name = "N", default_value_t = Bounds::default().connections,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    max_connections: usize,

    /// Sessions at most
    #[arg(long, value_name = "N", default_value_t = Bounds::default().sessions)]
    max_sessions: usize,

    /// Print help; so does -h without a value
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
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

impl ServeArgs {
    /// Reads what follows the verb.
    pub fn parse(verb: Command, words: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::augment_args(verb);
        if std::env::var_os(PORT_VARIABLE).is_some_and(|value| is_of_kubernetes(&value)) {
            command = command.mut_arg("port", |port| port.env(Resettable::Reset));
        }
        let mut matches = command.try_get_matches_from_mut(as_officer_had_them(words))?;
        // A variable yields to the flag; only two flags contradict each other.
        let data_dir_is_flag = matches.value_source("data_dir") == Some(ValueSource::CommandLine);
        let args = Self::from_arg_matches_mut(&mut matches)?;
        match args.ephemeral && data_dir_is_flag {
            true => {
                let text = "--ephemeral keeps nothing, so it cannot be used with --data-dir";
                Err(command.error(ErrorKind::ArgumentConflict, text))
            }
            false => Ok(args),
        }
    }

    /// The same for a process in another working directory.
    pub fn with_absolute_paths(mut self) -> Result<Self, String> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|e| format!("cannot use the path {}: {e}", path.display()))
        };
        self.data_dir = match self.store()? {
            StoreConfig::Dir(dir) => Some(absolute(&dir)?),
            StoreConfig::Ephemeral => None,
        };
        self.pid_dir = absolute(&self.pid_dir)?;
        self.socket_file = absolute(&self.socket_file)?;
        Ok(self)
    }

    /// Of a server in the background.
    pub fn pid_file(&self) -> PathBuf {
        self.pid_dir.join(PID_FILE)
    }

    /// Of a server in the background.
    pub fn log_file(&self) -> PathBuf {
        self.pid_dir.join(LOG_FILE)
    }

    /// The pid of the server in the background.
    pub fn running(&self) -> Result<Option<i32>, String> {
        pid_file::running(&self.pid_file()).map_err(|e| e.to_string())
    }

    /// What to listen on.
    pub fn listeners(&self) -> Result<Vec<Listener>, String> {
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

    fn store(&self) -> Result<StoreConfig, String> {
        Ok(match (self.ephemeral, &self.data_dir) {
            (true, _) => StoreConfig::Ephemeral,
            (false, Some(dir)) => StoreConfig::Dir(dir.clone()),
            (false, None) => StoreConfig::Dir(default_data_dir()?),
        })
    }

    /// How to behave.
    pub fn config(&self) -> Result<Config, String> {
        Ok(Config {
            max_idle: self.max_idle,
            max_ttl: self.max_ttl,
            store: self.store()?,
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

/// What Kubernetes sets for a service of the name "officer", as Docker's links did.
fn is_of_kubernetes(port: &OsStr) -> bool {
    port.as_encoded_bytes().starts_with(b"tcp://")
}

/// Officer's `-h` was the host; without a value it is everyone's. Its options stood behind a `--`.
fn as_officer_had_them(words: Vec<OsString>) -> Vec<OsString> {
    let is_action = |word: &OsStr| word.to_str().is_some_and(|word| Action::from_str(word, false).is_ok());
    let is_value = |word: &OsString| !word.as_encoded_bytes().starts_with(b"-") && !is_action(word);
    let mut words = words;
    if let Some(at) = words.iter().position(|word| word == "--") {
        words.remove(at);
    }
    for at in 0..words.len() {
        if words[at] == "-h" && !words.get(at + 1).is_some_and(is_value) {
            words[at] = "--help".into();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<ServeArgs, clap::Error> {
        let verb = Command::new("officer-exec serve").no_binary_name(true);
        ServeArgs::parse(verb, words.iter().map(OsString::from).collect())
    }

    #[test]
    fn officers_letters_mean_what_they_meant() {
        let words =
            ["-h", "::1", "-p", "1", "-o", "UNIX", "-f", "s", "-l", "error", "-s", "-d", "p", "-m", "9"];
        for before in [&["start"][..], &["start", "--"]] {
            let args = parse(&[before, &words[..]].concat()).unwrap();
            assert_eq!((args.action, args.tcp_address().as_str()), (Action::Start, "[::1]:1"));
            assert_eq!((args.socket_type, args.socket_file), (vec![SocketType::Unix], "s".into()));
            assert_eq!((args.log_level, args.stats, args.pid_dir), (Level::ERROR, true, "p".into()));
            assert_eq!(args.max_idle, Duration::from_secs(9));
        }
    }

    #[test]
    fn without_a_value_h_is_help() {
        for words in [&["-h"][..], &["start", "-h"], &["-h", "-s"], &["-h", "start"], &["--help"]] {
            assert_eq!(parse(words).unwrap_err().kind(), ErrorKind::DisplayHelp, "{words:?}");
        }
    }

    #[test]
    fn bounds_that_make_no_sense_are_refused_with_what_would() {
        for (flag, hint) in [
            ("--max-line", "64.."),
            ("--max-locks", "1.."),
            ("--max-connections", "1.."),
            ("--max-ttl", "more than 0"),
            ("--max-idle", "more than 0"),
        ] {
            let refused = parse(&[flag, "0"]).unwrap_err().to_string();
            assert!(refused.contains(flag) && refused.contains(hint), "{refused}");
        }
    }

    #[test]
    fn the_store_is_kept_or_not() {
        assert_eq!(parse(&["--ephemeral"]).unwrap().store().unwrap(), StoreConfig::Ephemeral);
        let both = parse(&["--ephemeral", "--data-dir", "d"]).unwrap_err();
        assert_eq!(both.kind(), ErrorKind::ArgumentConflict);
    }
}
