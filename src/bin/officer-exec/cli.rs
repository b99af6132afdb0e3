//! Flags -> a ready plan; nothing else sees flags.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{FalseyValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum};
use nix::sys::signal::Signal;
use officer::backend::{ConnectOptions, ServerUrl, Wait, Wanted};
use officer::lease::Terms;
use officer::lock::Limit;
use officer::protocol::Who;
use officer::supervisor::{Leftovers, Policy};
use sha2::{Digest, Sha256};

use crate::duration;
use crate::hooks::HookLines;
use crate::log::{LogFormat, LogLevel};
use crate::server_args::ServerArgs;

/// Words that mean a verb when they come first.
pub const VERBS: [&str; 6] = ["serve", "status", "release", "verify", "ping", "generate"];

/// What the derived id has of the hash.
const DERIVED_HEX_DIGITS: usize = 12;

/// What others are told of the command at most; the server cuts as well.
const SHOWN_COMMAND_BYTES: usize = 256;

/// Run a command while holding a distributed lock.
///
/// The lock is taken first; the command's whole process tree is ended before anyone else can get it;
/// the exit code is the command's own.
#[derive(Parser, Debug)]
#[command(
    name = "officer-exec",
    version,
    override_usage = "officer-exec [OPTIONS] [--] COMMAND [ARG]...\n       officer-exec VERB [OPTIONS]",
    after_help = AFTER_HELP
)]
pub struct ExecArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// Name of the lock [default: derived from the command, see --print-lock-id]
    #[arg(short = 'i', long, alias = "lockid", value_name = "ID", env = "OFFICER_LOCK_ID",
          value_parser = NonEmptyStringValueParser::new(), hide_env_values = true)]
    lock_id: Option<String>,

    /// Namespace in front of the name [default: lockex on ZooKeeper, else none]
    #[arg(short = 'p', long, alias = "lockpath", value_name = "PATH", env = "OFFICER_LOCK_PATH",
          value_parser = NonEmptyStringValueParser::new(), hide_env_values = true)]
    lock_path: Option<String>,

    /// How many may hold the lock at once; all who use it must agree
    #[arg(
        short,
        long,
        value_name = "N",
        env = "OFFICER_CONCURRENT",
        default_value_t = 1,
        hide_env_values = true
    )]
    concurrent: u32,

    /// Wait for the lock (the default)
    #[arg(long, overrides_with = "no_blocking")]
    blocking: bool,

    /// Don't wait: fail at once if the lock is held; wins over --lock-timeout
    #[arg(short, long, overrides_with = "blocking", env = "OFFICER_NO_BLOCKING",
          value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, hide_env_values = true)]
    no_blocking: bool,

    /// Wait for the lock at most so long (1, 500ms, 2h; a bare number is seconds) [default: for ever]
    #[arg(short = 't', short_alias = 'w', long, alias = "locktimeout", alias = "wait", value_name = "DURATION",
          env = "OFFICER_LOCK_TIMEOUT", value_parser = duration::parse, hide_env_values = true)]
    lock_timeout: Option<Duration>,

    /// Give up at once if so many are in the queue already, holders counted
    #[arg(long, value_name = "K", env = "OFFICER_QUEUE_MAX", value_parser = clap::value_parser!(u64).range(1..),
          hide_env_values = true)]
    queue_max: Option<u64>,

    /// How long to try to reach the lock server
    #[arg(short = 'T', long, value_name = "DURATION", env = "OFFICER_CONNECT_TIMEOUT", default_value = "30s",
          value_parser = duration::parse, hide_env_values = true)]
    connect_timeout: Duration,

    /// How often to try for --connect-timeout
    #[arg(short = 'R', long, value_name = "N", env = "OFFICER_RETRY", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..), hide_env_values = true)]
    retry: u32,

    /// How often to try one operation of the lock server
    #[arg(short = 'r', long = "lock-retry", alias = "lockretry", value_name = "N", env = "OFFICER_LOCK_RETRY",
          default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), hide_env_values = true)]
    lock_retry: u32,

    /// How long the lock outlives a host that is gone; 0: the lock is bound to the connection
    #[arg(long, value_name = "DURATION", env = "OFFICER_TTL", default_value = "10s", value_parser = duration::parse,
          hide_env_values = true)]
    ttl: Duration,

    /// From the stop signal to SIGKILL
    #[arg(short = 'k', long, alias = "kill-after", value_name = "DURATION", env = "OFFICER_GRACE",
          default_value = "3s", value_parser = duration::parse, hide_env_values = true)]
    grace: Duration,

    /// The signal that asks the command to end
    #[arg(long, value_name = "SIGNAL", env = "OFFICER_STOP_SIGNAL", default_value = "TERM",
          value_parser = parse_signal, hide_env_values = true)]
    stop_signal: Signal,

    /// Exit code for "lock not acquired"
    #[arg(
        short = 'E',
        long,
        value_name = "CODE",
        env = "OFFICER_CONFLICT_EXIT_CODE",
        default_value_t = 75,
        hide_env_values = true
    )]
    conflict_exit_code: u8,

    /// Join the words and run them with sh -c
    #[arg(long, env = "OFFICER_SHELL", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue,
          hide_env_values = true)]
    shell: bool,

    /// When the command has ended and descendants live on: end them, or hold the lock until they are gone
    #[arg(
        long,
        value_enum,
        value_name = "kill|wait",
        env = "OFFICER_LEFTOVERS",
        default_value = "kill",
        hide_env_values = true
    )]
    leftovers: LeftoversArg,

    /// Keep the lock at least so long, also after a short command
    #[arg(long, value_name = "DURATION", env = "OFFICER_MIN_HOLD", value_parser = duration::parse,
          hide_env_values = true)]
    min_hold: Option<Duration>,

    /// Stop the command after so long and exit with 124
    #[arg(long, value_name = "DURATION", env = "OFFICER_MAX_HOLD", value_parser = duration::parse,
          hide_env_values = true)]
    max_hold: Option<Duration>,

    /// While the lock server can't be reached: run on, or let the whole tree stand still
    #[arg(
        long,
        value_enum,
        value_name = "run|freeze",
        env = "OFFICER_ON_SUSPEND",
        default_value = "run",
        hide_env_values = true
    )]
    on_suspend: OnSuspend,

    /// Run the command in a PID namespace of its own: nothing survives even SIGKILL of all of us
    #[arg(long, env = "OFFICER_ISOLATE", value_parser = FalseyValueParser::new(),
          action = ArgAction::SetTrue, hide_env_values = true)]
    isolate: bool,

    /// Shell command to run, beside the command, when the lock is acquired (10 s at most)
    #[arg(long, value_name = "CMD", env = "OFFICER_ON_ACQUIRED", hide_env_values = true)]
    on_acquired: Option<OsString>,

    /// Shell command to run when the lock is lost and the command is being stopped (10 s at most)
    #[arg(long, value_name = "CMD", env = "OFFICER_ON_LOST", hide_env_values = true)]
    on_lost: Option<OsString>,

    /// Shell command to run when the lock was given back (10 s at most)
    #[arg(long, value_name = "CMD", env = "OFFICER_ON_RELEASED", hide_env_values = true)]
    on_released: Option<OsString>,

    /// Print the lock's name and exit
    #[arg(long)]
    print_lock_id: bool,

    /// Write one JSON line to this file at the end: what happened
    #[arg(long, value_name = "FILE", env = "OFFICER_STATUS_FILE", hide_env_values = true)]
    status_file: Option<PathBuf>,

    /// Log more; twice: still more
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Log errors only
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,

    /// How the log looks on stderr
    #[arg(
        long,
        value_enum,
        value_name = "text|json",
        env = "OFFICER_LOG_FORMAT",
        default_value = "text",
        hide_env_values = true
    )]
    log_format: LogFormat,

    /// What the log tells
    #[arg(
        long,
        value_enum,
        value_name = "LEVEL",
        env = "OFFICER_LOG_LEVEL",
        default_value = "warn",
        hide_env_values = true
    )]
    log_level: LogLevel,

    /// Ambiguous: lockex meant connecting by it, others mean waiting.
    #[arg(long, hide = true, num_args = 0..=1, value_name = "DURATION")]
    timeout: Option<Option<OsString>>,

    /// The command and its arguments; options end at the first word that isn't one
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Verbs (as the first word): serve, a lock server; status, who holds and waits; release, take a lock
from its holder; verify, whether a token still holds; ping. Each has its own --help; to run a command
of such a name, put -- in front of it.

Exit codes: the command's own, 128+N if signal N ended it; 75 lock not acquired (see -E); 79 lock lost
while running; 69 lock server unreachable; 77 refused by the lock server; 124 stopped by --max-hold;
126 command cannot be run; 127 command not found; 2 wrong options; 70 own failure.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LeftoversArg {
    Kill,
    Wait,
}

/// What the command does while the lock server can't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnSuspend {
    /// It runs on.
    Run,
    /// It stands still.
    Freeze,
}

/// What to do, with every option checked.
#[derive(Debug)]
pub struct Plan {
    /// The lock server.
    pub server: ServerUrl,
    /// Nobody has named a lock server: say so.
    pub server_is_assumed: bool,
    /// The lock.
    pub wanted: Wanted,
    /// How to reach the server.
    pub connect: ConnectOptions,
    /// The lease's times.
    pub terms: Terms,
    /// How to end the tree.
    pub policy: Policy,
    /// The command line as others are told of it.
    pub shown_command: String,
    /// What to run.
    pub argv: Vec<OsString>,
    /// Exit code for "not acquired".
    pub conflict_exit_code: u8,
    /// Keep the lock at least so long.
    pub min_hold: Option<Duration>,
    /// Stop the command after so long.
    pub max_hold: Option<Duration>,
    /// What the command does while the server can't be reached.
    pub on_suspend: OnSuspend,
    /// Whether the command gets a PID namespace of its own.
    pub isolate: bool,
    /// What to run when the lock comes and goes.
    pub hooks: HookLines,
    /// Where to write how it went.
    pub status_file: Option<PathBuf>,
}

/// What the log tells, and how.
#[derive(Clone, Copy, Debug)]
pub struct LogPlan {
    /// The form of a line.
    pub format: LogFormat,
    /// From which level on.
    pub level: LogLevel,
}

/// What the flags ask for.
#[derive(Debug)]
pub enum Task {
    /// Run a command under a lock.
    Exec(Box<Plan>),
    /// Print the name of the lock that would be taken.
    PrintLockId(String),
}

/// Reads exec's arguments, the program's name first.
pub fn parse(args: Vec<OsString>) -> Result<(LogPlan, Task), clap::Error> {
    let mut command = ExecArgs::command();
    let mut matches = command.try_get_matches_from_mut(args)?;
    let args = ExecArgs::from_arg_matches_mut(&mut matches)?;
    let usage = |text: String| command.error(clap::error::ErrorKind::ValueValidation, text);
    let log = args.log_plan();
    args.into_task().map(|task| (log, task)).map_err(usage)
}

impl ExecArgs {
    fn log_plan(&self) -> LogPlan {
        let level = match (self.quiet, self.verbose) {
            (true, _) => LogLevel::Error,
            (false, 0) => self.log_level,
            (false, 1) => self.log_level.max(LogLevel::Info),
            (false, _) => self.log_level.max(LogLevel::Debug),
        };
        LogPlan { format: self.log_format, level }
    }

    fn into_task(self) -> Result<Task, String> {
        if self.timeout.is_some() {
            return Err(
                "--timeout is ambiguous: use --lock-timeout (-t) for how long to wait for the lock, \
                        --connect-timeout (-T) for reaching the lock server"
                    .into(),
            );
        }
        let name = self.lock_id.clone().unwrap_or_else(|| derived_lock_id(&self.command));
        if self.print_lock_id {
            return Ok(Task::PrintLockId(name));
        }
        let terms =
            Terms::new(self.ttl, self.grace).map_err(|error| format!("--ttl and --grace: {error}"))?;
        let named_server = self.server.named()?;
        let limit = Limit::new(self.concurrent).ok_or("--concurrent must be 1 or more")?;
        Ok(Task::Exec(Box::new(Plan {
            server_is_assumed: named_server.is_none(),
            server: named_server.unwrap_or(ServerUrl::Local),
            wanted: Wanted {
                name,
                path: self.lock_path.clone(),
                limit,
                wait: self.wait(),
                queue_max: self.queue_max,
            },
            connect: ConnectOptions {
                connect_timeout: self.connect_timeout,
                connect_tries: self.retry,
                operation_tries: self.lock_retry,
                ttl: self.ttl,
                who: Who::default(),
            },
            terms,
            policy: Policy {
                stop_signal: self.stop_signal,
                grace: self.grace,
                leftovers: match self.leftovers {
                    LeftoversArg::Kill => Leftovers::Kill,
                    LeftoversArg::Wait => Leftovers::Wait,
                },
            },
            shown_command: shown(&self.command),
            argv: if self.shell { shell_argv(&self.command) } else { self.command },
            conflict_exit_code: self.conflict_exit_code,
            min_hold: self.min_hold,
            max_hold: self.max_hold,
            on_suspend: self.on_suspend,
            isolate: self.isolate,
            hooks: HookLines { acquired: self.on_acquired, lost: self.on_lost, released: self.on_released },
            status_file: self.status_file,
        })))
    }

    fn wait(&self) -> Wait {
        match self.lock_timeout {
            _ if self.no_blocking => Wait::No,
            Some(limit) if limit.is_zero() => Wait::No,
            Some(limit) => Wait::AtMost(limit),
            None => Wait::Forever,
        }
    }
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let number = text.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    number
        .or_else(|| name.parse().ok())
        .ok_or_else(|| "use a signal's name (TERM, INT, QUIT, USR1) or number".into())
}

/// `base name-12 hex digits of SHA-256 over the words joined by NUL`: the same on every host.
fn derived_lock_id(command: &[OsString]) -> String {
    let words: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
    let digest = Sha256::digest(words.join(&0));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let program = command.first().map(OsString::as_os_str).unwrap_or_default();
    let base = Path::new(program).file_name().unwrap_or(program);
    format!("{}-{}", base.to_string_lossy(), &hex[..DERIVED_HEX_DIGITS])
}

fn shell_argv(words: &[OsString]) -> Vec<OsString> {
    vec!["sh".into(), "-c".into(), words.join(OsStr::new(" "))]
}

/// The command line as others are told of it.
fn shown(command: &[OsString]) -> String {
    let mut text = command.join(OsStr::new(" ")).to_string_lossy().into_owned();
    text.truncate(text.floor_char_boundary(SHOWN_COMMAND_BYTES));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> Plan {
        match parse(args(words)).unwrap().1 {
            Task::Exec(plan) => *plan,
            Task::PrintLockId(id) => panic!("{id}"),
        }
    }

    fn refusal(words: &[&str]) -> String {
        parse(args(words)).unwrap_err().to_string()
    }

    fn args(words: &[&str]) -> Vec<OsString> {
        ["officer-exec"].iter().chain(words).map(OsString::from).collect()
    }

    #[test]
    fn options_end_at_the_command() {
        for words in [&["-t", "1", "sleep", "-n", "30"][..], &["-t", "1", "--", "sleep", "-n", "30"][..]] {
            let plan = plan(words);
            assert_eq!(plan.argv, ["sleep", "-n", "30"]);
            assert_eq!(plan.wanted.wait, Wait::AtMost(Duration::from_secs(1)));
        }
    }

    #[test]
    fn the_derived_id_is_stable() {
        let id = derived_lock_id(&["/bin/sleep".into(), "30".into()]);
        assert_eq!(id, "sleep-5443b3dccfcf");
        assert_ne!(id, derived_lock_id(&["/bin/sleep".into(), "31".into()]));
        assert_ne!(derived_lock_id(&["a b".into()])[2..], derived_lock_id(&["a".into(), "b".into()])[2..]);
    }

    #[test]
    fn a_bare_timeout_names_the_two_it_could_mean() {
        for words in [&["--timeout", "5", "true"][..], &["--timeout=5", "true"][..]] {
            let text = refusal(words);
            assert!(text.contains("--lock-timeout") && text.contains("--connect-timeout"), "{text}");
        }
    }

    #[test]
    fn lockex_spellings_are_understood() {
        let plan =
            plan(&["--lockid", "a", "--lockpath", "b", "--locktimeout", "2.5", "--lockretry", "3", "true"]);
        assert_eq!((plan.wanted.name.as_str(), plan.wanted.path.as_deref()), ("a", Some("b")));
        assert_eq!(plan.wanted.wait, Wait::AtMost(Duration::from_millis(2500)));
        assert_eq!(plan.connect.operation_tries, 3);
    }

    #[test]
    fn the_last_of_blocking_and_no_blocking_wins() {
        assert_eq!(plan(&["--blocking", "-n", "true"]).wanted.wait, Wait::No);
        assert_eq!(plan(&["-n", "--blocking", "true"]).wanted.wait, Wait::Forever);
        assert_eq!(plan(&["-n", "-t", "5", "true"]).wanted.wait, Wait::No);
    }

    #[test]
    fn wrong_values_are_named() {
        for (words, named) in [
            (&["--ttl", "5", "--grace", "3", "true"][..], "--ttl"),
            (&["-c", "0", "true"][..], "--concurrent"),
            (&["-s", "ftp://x", "true"][..], "ftp://x"),
            (&["-s", "local", "-z", "h", "true"][..], "--zkhosts"),
            (&["-t", "soon", "true"][..], "500ms"),
            (&["--stop-signal", "NONE", "true"][..], "USR1"),
            (&["--queue-max", "0", "true"][..], "1.."),
            (&["-i", "", "true"][..], "--lock-id"),
            (&[][..], "COMMAND"),
        ] {
            let text = refusal(words);
            assert!(text.contains(named), "{words:?}: {text}");
        }
    }

    #[test]
    fn shell_joins_the_words() {
        assert_eq!(plan(&["--shell", "echo", "a;", "echo", "b"]).argv, ["sh", "-c", "echo a; echo b"]);
    }
}
