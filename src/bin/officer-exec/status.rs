//! The operators' verbs: `status`, `release`, `verify` and `ping`. One question to a lock server each,
//! one answer for people or, with `--json`, for programs.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use officer::lock::Token;
use officer::protocol::{Answer, HolderStatus, LockStatus, Reply, Request, ServerStatus, WaiterStatus, Who};

use crate::asking::{AskError, Asking};
use crate::console;
use crate::exit_status::ExitStatus;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// What a server that nobody needs would say.
const NOBODY: Answer<'_> = Answer::Status {
    server: concat!(
        r#"{"version":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","up":0,"connections":0,"sessions":0,"locks":0}"#
    )
    .as_bytes(),
    value: b"[]",
};

/// Who holds and waits.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Only this lock
    name: Option<String>,

    #[command(flatten)]
    asking: Asking,

    /// Look again every second, until interrupted; also while the server is away
    #[arg(long)]
    watch: bool,
}

/// Take a lock away from its holder. A wrapper is asked to end its command; the lock passes on when it
/// has, at the latest when its lease is over.
#[derive(Args, Clone, Debug)]
pub struct ReleaseArgs {
    /// The lock
    name: String,

    /// The holder's token, as status shows it: nobody who came later is hit
    #[arg(long)]
    token: u64,

    /// For the holder and the log
    #[arg(long, value_name = "TEXT")]
    reason: String,

    #[command(flatten)]
    asking: Asking,
}

/// Whether a token's grant is still held. Under a lock NAME and TOKEN come from the environment.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The lock
    #[arg(env = "OFFICER_LOCK")]
    name: String,

    /// The token of the grant
    #[arg(env = "OFFICER_TOKEN")]
    token: u64,

    #[command(flatten)]
    asking: Asking,
}

/// Whether the lock server serves.
#[derive(Args, Clone, Debug)]
pub struct PingArgs {
    #[command(flatten)]
    asking: Asking,
}

pub fn status(args: StatusArgs) -> Result<ExitStatus, AskError> {
    let clears = args.watch && !args.asking.json && io::stdout().is_terminal();
    let clear = if clears { "\x1b[H\x1b[2J" } else { "" };
    let print = |text: String| console::print(format!("{clear}{}\n", text.trim_end()).as_bytes());
    let mut printed = print(look(&args)?);
    let mut told_away = false;
    // Who watches ends when nobody reads any more.
    while args.watch && printed == ExitStatus::Success {
        std::thread::sleep(WATCH_EVERY);
        match look(&args) {
            Ok(text) => {
                printed = print(text);
                told_away = false;
            }
            Err(error) if error.is_away() => {
                if !std::mem::replace(&mut told_away, true) {
                    console::complain(&format_args!("{error}; still looking"));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(printed)
}

fn look(args: &StatusArgs) -> Result<String, AskError> {
    let request = Request::Status { name: args.name.as_deref().map(Into::into) };
    let answered = args.asking.exchange(&request, Some(&NOBODY))?;
    let Reply::Status { server, value } = &answered.reply else { return Err(answered.strange()) };
    Ok(match &args.name {
        _ if args.asking.json => answered.line,
        _ if answered.at_rest => "nobody holds or waits (no embedded server runs)".to_owned(),
        Some(_) => table(server, value),
        None => table(server, value) + &unlisted(server, value),
    })
}

pub fn release(args: ReleaseArgs) -> Result<ExitStatus, AskError> {
    let request = Request::Release {
        name: args.name.as_str().into(),
        token: Token(args.token),
        reason: args.reason.as_str().into(),
    };
    let at_rest = Answer::NotHeld { name: &args.name, token: Token(args.token) };
    let answered = args.asking.exchange(&request, Some(&at_rest))?;
    let (text, status) = match &answered.reply {
        Reply::Taken { .. } => ("taken: the lock has passed on".to_owned(), ExitStatus::Success),
        Reply::Revoking { ends_in, .. } => (
            format!(
                "told the holder; the lock passes on when its command has ended, in {ends_in:.1} s at the latest"
            ),
            ExitStatus::Success,
        ),
        Reply::NotHeld { .. } => ("not held by this token".to_owned(), ExitStatus::Lost),
        _ => return Err(answered.strange()),
    };
    say(if args.asking.json { &answered.line } else { &text });
    Ok(status)
}

pub fn verify(args: VerifyArgs) -> Result<ExitStatus, AskError> {
    let request = Request::Verify { name: args.name.as_str().into(), token: Token(args.token) };
    let at_rest = Answer::Verified { name: &args.name, token: Token(args.token), held: false };
    let answered = args.asking.exchange(&request, Some(&at_rest))?;
    let Reply::Verified { held, .. } = answered.reply else { return Err(answered.strange()) };
    say(match (args.asking.json, held) {
        (true, _) => &answered.line,
        (false, true) => "held",
        (false, false) => "not held",
    });
    Ok(if held { ExitStatus::Success } else { ExitStatus::Lost })
}

pub fn ping(args: PingArgs) -> Result<ExitStatus, AskError> {
    let answered = args.asking.exchange(&Request::Ping, None)?;
    let Reply::Pong { version } = &answered.reply else { return Err(answered.strange()) };
    say(if args.asking.json { &answered.line } else { version });
    Ok(ExitStatus::Success)
}

fn say(text: &str) {
    // A closed stdout can't be told.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}

const HEADERS: [&str; 7] = ["LOCK", "PLACE", "TOKEN", "FOR", "SEEN", "STATE", "WHO"];

/// A line for each holder and waiter, in columns.
fn table(server: &ServerStatus, locks: &[LockStatus]) -> String {
    if locks.is_empty() {
        return format!(
            "nobody holds or waits ({}, {})",
            counted(server.connections, "connection"),
            counted(server.sessions, "session")
        );
    }
    let mut rows = vec![HEADERS.map(str::to_owned)];
    for lock in locks {
        rows.extend(lock.holders.iter().map(|holder| holder_row(lock, holder)));
        rows.extend(lock.queue.iter().enumerate().map(|(place, waiter)| waiter_row(lock, place, waiter)));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How many locks a list of all of them has left out.
fn unlisted(server: &ServerStatus, locks: &[LockStatus]) -> String {
    match server.locks.saturating_sub(locks.len() as u64) {
        0 => String::new(),
        more => format!("and {}\n", counted(more, "more lock")),
    }
}

/// So many of what `one` names.
fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

fn holder_row(lock: &LockStatus, status: &HolderStatus) -> [String; 7] {
    let state = match (status.revoked, status.suspended) {
        (true, _) => "revoked",
        (false, true) => "suspended",
        (false, false) => "holds",
    };
    [
        lock.name.escape_debug().to_string(),
        format!("{}/{}", status.holder.slot, lock.limit),
        status.holder.token.to_string(),
        ago(status.holder.held),
        ago(status.seen),
        state.to_owned(),
        person(&status.holder.who, status.holder.peer.as_deref()),
    ]
}

fn waiter_row(lock: &LockStatus, place: usize, waiter: &WaiterStatus) -> [String; 7] {
    let state = if waiter.suspended { "suspended" } else { "waits" };
    [
        lock.name.escape_debug().to_string(),
        format!("+{}", place + 1),
        "-".to_owned(),
        ago(waiter.waited),
        ago(waiter.seen),
        state.to_owned(),
        person(&waiter.who, waiter.peer.as_deref()),
    ]
}

fn ago(seconds: f64) -> String {
    const TENTHS_UP_TO: f64 = 10.0;
    match seconds < TENTHS_UP_TO {
        true => format!("{seconds:.1}s"),
        false => humantime::format_duration(Duration::from_secs(seconds as u64)).to_string(),
    }
}

/// `user@host[pid]: command`, as far as it is known.
fn person(who: &Who, peer: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(user) = &who.user {
        let _ = write!(text, "{user}@");
    }
    text.push_str(who.host.as_deref().or(peer).unwrap_or("?"));
    if let Some(pid) = who.pid {
        let _ = write!(text, "[{pid}]");
    }
    if let Some(run) = &who.run {
        let _ = write!(text, ": {run}");
    }
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_and_waiter_has_a_line() {
        let line = r#"{"server":{"version":"1","up":1,"connections":2,"sessions":1,"locks":3},"value":[{"name":"a","limit":2,"holders":[{"host":"h","pid":7,"user":"u","run":"job x","token":12,"slot":1,"held":3.25,"seen":0.5,"suspended":false,"revoked":false}],"queue":[{"peer":"1.2.3.4:5","waited":75,"seen":75,"suspended":false}]}],"result":"status"}"#;
        let Ok(Reply::Status { server, value }) = Reply::parse(line) else { panic!() };
        let expected = "\
LOCK  PLACE  TOKEN  FOR     SEEN    STATE  WHO
a     1/2    12     3.2s    0.5s    holds  u@h[7]: job x
a     +1     -      1m 15s  1m 15s  waits  1.2.3.4:5
";
        assert_eq!(table(&server, &value), expected);
        for (locks, more) in [(1, ""), (2, "and 1 more lock\n"), (3, "and 2 more locks\n")] {
            assert_eq!(unlisted(&ServerStatus { locks, ..server.clone() }, &value), more);
        }
        assert_eq!(table(&server, &[]), "nobody holds or waits (2 connections, 1 session)");
    }
}
