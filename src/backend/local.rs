//! The embedded server as an engine: the Officer server of this user on this host, started by the
//! first wrapper that needs it. See [`crate::local`] for where it is.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::prctl;

use crate::client::{Connect, Stream};
use crate::local::{EMBEDDED_VERB, Running, this_program};
use crate::own_thread;

/// Another wrapper's server may win the election and then be slow: so often is it tried again.
const STARTS: u32 = 5;

/// Between starts that found someone else starting.
const AFTER_LOST_ELECTION: Duration = Duration::from_millis(20);

/// Connects to this user's embedded server, and starts it if nobody listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

#[async_trait]
impl Connect for Local {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        for _ in 0..STARTS {
            match Running.connect().await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                result => return result,
            }
            own_thread::run(start).await??;
            match Running.connect().await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tokio::time::sleep(AFTER_LOST_ELECTION).await;
                }
                result => return result,
            }
        }
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the embedded server ends as soon as it starts"))
    }

    fn server(&self) -> String {
        Running.server()
    }
}

/// The first process of the namespace that `--isolate` makes goes by this name.
const ISOLATED_BY: &str = "officer-init\n";

/// What is started in a namespace of its own ends with it, and no process may outlive that: so a server
/// for the whole user isn't started in there.
fn refuse_in_isolation() -> io::Result<()> {
    match std::fs::read_to_string("/proc/1/comm") {
        Ok(first_process) if first_process == ISOLATED_BY => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "no embedded server runs, and one that is started under --isolate would end with it; \
             have one started outside or name another server with --server",
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Starts the embedded server; returns when it serves, or when another one won the election.
fn start() -> io::Result<()> {
    refuse_in_isolation()?;
    let program = this_program().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "no embedded server runs, and this program can't start one; \
             have officer-exec start it or name another server",
        )
    })?;
    let started = orphaning(|| {
        Command::new(program)
            .arg0("officer-exec")
            .arg(EMBEDDED_VERB)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
    })?;
    if started.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&started.stderr);
    Err(io::Error::other(format!("cannot start the embedded server: {}", said.trim())))
}

/// Runs `start`, whose orphans become init's and not ours: a wrapper ends the tree of which it is the
/// reaper, and the server doesn't belong to that. Below another lock they become its guardian's, who
/// knows the server by [`crate::local::is_embedded_server`]. One at a time: a start that took too long goes on
/// beside the next one, which must not take "no reaper" for what it has to restore.
fn orphaning<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // What is guarded is the process's own flag; nothing of it can be left half done.
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let was_reaper = prctl::get_child_subreaper()?;
    prctl::set_child_subreaper(false)?;
    let result = start();
    prctl::set_child_subreaper(was_reaper)?;
    result
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_program_without_the_verb_is_not_started_as_a_server() {
        let error = start().unwrap_err();
        assert!(error.to_string().contains("this program can't start one"), "{error}");
    }

    #[test]
    fn two_starts_at_once_leave_the_process_a_reaper() {
        prctl::set_child_subreaper(true).unwrap();
        let (second_is_in, second_came_in) = channel();
        let second = std::thread::scope(|scope| {
            let first = orphaning(|| {
                let second = scope.spawn(|| orphaning(|| second_is_in.send(()).map_err(io::Error::other)));
                // It may not come in while the first is there: a moment to try.
                let came_in = second_came_in.recv_timeout(Duration::from_millis(300)).is_ok();
                Ok((second, came_in))
            });
            let (second, came_in) = first.unwrap();
            second.join().unwrap().unwrap();
            came_in
        });
        let is_reaper = prctl::get_child_subreaper().unwrap();
        prctl::set_child_subreaper(false).unwrap();
        assert!(is_reaper && !second);
    }
}
