//! Commands to run when the lock is acquired, lost and released. They run beside the command, for a
//! bounded time, and are never waited for while there is a lease to look after.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use officer::supervisor::ended;
use tokio::task::JoinHandle;

/// A hook that runs longer is killed, with its process group.
const BOUND: Duration = Duration::from_secs(10);

/// Which hooks there are; each is a shell command line.
#[derive(Clone, Debug, Default)]
pub struct HookLines {
    /// The lock was granted, the command is about to start.
    pub acquired: Option<OsString>,
    /// The lock is lost, the command is being stopped.
    pub lost: Option<OsString>,
    /// The lock was given back.
    pub released: Option<OsString>,
}

/// What a hook is run for.
#[derive(Clone, Copy, Debug)]
pub enum Occasion {
    Acquired,
    Lost,
    Released,
}

/// The hooks of one run.
pub struct Hooks {
    lines: HookLines,
    environment: Vec<(OsString, Option<OsString>)>,
    running: Vec<JoinHandle<()>>,
}

impl Hooks {
    /// Hooks with what the command is told of its lock.
    pub fn new(lines: HookLines, environment: Vec<(OsString, Option<OsString>)>) -> Self {
        Self { lines, environment, running: Vec::new() }
    }

    /// Starts a hook, if there is one for the occasion; returns its process.
    pub fn start(&mut self, occasion: Occasion) -> Option<Pid> {
        let line = occasion.line(&self.lines)?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(line);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("OFFICER_HOOK", occasion.name());
        // Stdout is the command's own. A group, so that all of it can be ended.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        match command.spawn() {
            Ok(child) => {
                let pid = Pid::from_raw(child.id() as i32);
                self.running.push(tokio::spawn(see_to_its_end(occasion, child)));
                Some(pid)
            }
            Err(error) => {
                tracing::error!("cannot run the hook --on-{}: {error}", occasion.name());
                None
            }
        }
    }

    /// Waits until every hook has ended, each for a bounded time.
    pub async fn finish(self) {
        for hook in self.running {
            // It panics only if the runtime ends, and then nobody is left to be told.
            let _ = hook.await;
        }
    }
}

impl Occasion {
    fn name(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Lost => "lost",
            Self::Released => "released",
        }
    }

    fn line(self, lines: &HookLines) -> Option<&OsString> {
        match self {
            Self::Acquired => lines.acquired.as_ref(),
            Self::Lost => lines.lost.as_ref(),
            Self::Released => lines.released.as_ref(),
        }
    }
}

async fn see_to_its_end(occasion: Occasion, mut child: Child) {
    let group = Pid::from_raw(child.id() as i32);
    match tokio::time::timeout(BOUND, ended(group)).await {
        Ok(Ok(())) => {}
        // Not reaped yet, so the group is still its own.
        Ok(Err(error)) => {
            let _ = killpg(group, Signal::SIGKILL);
            tracing::warn!("the hook --on-{} was killed: cannot watch it: {error}", occasion.name());
        }
        Err(_) => {
            let _ = killpg(group, Signal::SIGKILL);
            tracing::warn!("the hook --on-{} was killed after {BOUND:?}", occasion.name());
            let _ = ended(group).await;
        }
    }
    if let Ok(status) = child.wait()
        && !ExitStatus::success(&status)
    {
        tracing::warn!("the hook --on-{} failed: {status}", occasion.name());
    }
}
