//! The program: parse, call, print one error, exit.

mod asking;
mod cli;
mod console;
mod daemon;
mod duration;
mod embedded;
mod exec;
mod exit_status;
mod generate;
mod hooks;
mod last_will;
mod log;
mod own_file;
mod pid_file;
mod request;
mod serve;
mod serve_args;
mod serve_signals;
mod server_args;
mod status;
mod status_file;
mod systemd;
mod user;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};
use exit_status::ExitStatus;
use officer::local::is_embedded_server;
use officer::supervisor::Guardian;

// Unwinding from the static part of the compiler's library: one shared library less to be found, mapped
// and searched at each start.
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {}

// musl's own maps and unmaps each page by itself: a tenth of a start's time.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // A program started by way of /proc/self/exe would be listed as "exe".
    let _ = nix::sys::prctl::set_name(c"officer-exec");
    officer::local::this_program_has_the_verb();
    let args: Vec<OsString> = std::env::args_os().collect();
    // A fault of ours has its own code; it was told when it came up, and the guardian has ended the tree.
    let status = std::panic::catch_unwind(|| run(args)).unwrap_or(ExitStatus::Internal);
    log::finish();
    status.into()
}

/// A verb is one only as the first word, so that no option's value is taken for it.
fn run(args: Vec<OsString>) -> ExitStatus {
    match args.get(1).and_then(|word| word.to_str()) {
        Some("serve") => serve(args),
        Some("status") => operator("officer-exec status", args, status::status),
        Some("release") => operator("officer-exec release", args, status::release),
        Some("verify") => operator("officer-exec verify", args, status::verify),
        Some("ping") => operator("officer-exec ping", args, status::ping),
        Some(officer::local::EMBEDDED_VERB) => embedded::serve(),
        Some("generate") => match verb::<generate::GenerateArgs>("officer-exec generate", args) {
            Ok(args) => generate::generate(args),
            Err(error) => usage(&error),
        },
        Some(last_will::VERB) => last_will::execute(),
        _ => exec(args),
    }
}

fn exec(args: Vec<OsString>) -> ExitStatus {
    // Before anything that may make a thread, and before this process has grown.
    let guardian = Guardian::fork_sparing(is_embedded_server);
    match cli::parse(args) {
        Ok((log, task)) => {
            log::start(log);
            match task {
                cli::Task::Exec(plan) => match guardian {
                    Ok(guardian) => exec::run(*plan, guardian),
                    Err(error) => exec::failed(&error),
                },
                cli::Task::PrintLockId(id) => console::print(format!("{id}\n").as_bytes()),
            }
        }
        Err(error) => usage(&error),
    }
}

fn serve(args: Vec<OsString>) -> ExitStatus {
    match serve_args::ServeArgs::parse(verb_command("officer-exec serve"), after_the_verb(args)) {
        Ok(args) => serve::serve(args).unwrap_or_else(|error| {
            console::complain(&error);
            ExitStatus::Internal
        }),
        Err(error) => usage(&error),
    }
}

/// A question to a lock server.
fn operator<A: Args + FromArgMatches>(
    name: &'static str,
    args: Vec<OsString>,
    ask: fn(A) -> Result<ExitStatus, asking::AskError>,
) -> ExitStatus {
    match verb::<A>(name, args) {
        Ok(args) => ask(args).unwrap_or_else(|error| {
            console::complain(&error);
            error.exit_status()
        }),
        Err(error) => usage(&error),
    }
}

/// Reads a verb's own flags, which follow it.
fn verb<A: Args + FromArgMatches>(name: &'static str, args: Vec<OsString>) -> Result<A, clap::Error> {
    let matches = A::augment_args(verb_command(name)).try_get_matches_from(after_the_verb(args))?;
    A::from_arg_matches(&matches)
}

/// A verb as it is typed, without its flags.
fn verb_command(name: &'static str) -> Command {
    Command::new(name).bin_name(name).version(env!("CARGO_PKG_VERSION")).no_binary_name(true)
}

fn after_the_verb(args: Vec<OsString>) -> Vec<OsString> {
    args.into_iter().skip(2).collect()
}

/// Prints clap's text: help on stdout, an error on stderr.
fn usage(error: &clap::Error) -> ExitStatus {
    // A closed stdout or stderr can't be told.
    let _ = error.print();
    if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Success }
}
