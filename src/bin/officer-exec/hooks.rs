//! Commands to run when the lock is acquired, lost and released. They run beside the command, for a
//! bounded time, and are never waited for while there is a lease to look after.

use std::ffi::OsString;
use std::future::Future;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use officer::supervisor::ended;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A hook that runs longer is killed, with its process group.
const BOUND: Duration = Duration::from_secs(10);

/// How long to wait for the end of a hook that was killed. One that can't die (in a call to a dead file
/// server) must not keep us.
const DEATH_BOUND: Duration = Duration::from_secs(1);

/// Runs the line that is its `$0`, with SIGTTOU ignored: a hook is a process group of its own, hence in
/// the terminal's background, and where that stops background writers (`stty tostop`) its first word on
/// stderr would stop it for good.
const RUN_UNSTOPPED: &str = "trap '' TTOU; exec sh -c \"$0\"";

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
    /// Dropped to have those that still run killed.
    let_run: watch::Sender<()>,
}

impl Hooks {
    /// Hooks with what the command is told of its lock.
    pub fn new(lines: HookLines, environment: Vec<(OsString, Option<OsString>)>) -> Self {
        Self { lines, environment, running: Vec::new(), let_run: watch::Sender::new(()) }
    }

    /// Starts a hook, if there is one for the occasion; returns its process.
    pub fn start(&mut self, occasion: Occasion) -> Option<Pid> {
        let line = occasion.line(&self.lines)?;
        let mut command = Command::new("sh");
        command.args(["-c", RUN_UNSTOPPED]).arg(line);
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
                self.running.push(tokio::spawn(see_to_its_end(occasion, child, self.let_run.subscribe())));
                Some(pid)
            }
            Err(error) => {
                tracing::error!("cannot run the hook --on-{}: {error}", occasion.name());
                None
            }
        }
    }

    /// Waits until every hook has ended, each for a bounded time; those that still run when `hurry` is
    /// over are killed.
    pub async fn finish(self, hurry: impl Future) {
        let Self { running, let_run, .. } = self;
        let all_ended = async {
            for hook in running {
                // It panics only if the runtime ends, and then nobody is left to be told.
                let _ = hook.await;
            }
        };
        tokio::pin!(all_ended);
        tokio::select! {
            () = &mut all_ended => {}
            _ = hurry => {
                drop(let_run);
                all_ended.await;
            }
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

async fn see_to_its_end(occasion: Occasion, mut child: Child, mut may_run: watch::Receiver<()>) {
    let group = Pid::from_raw(child.id() as i32);
    let killed = tokio::select! {
        end = timeout(BOUND, ended(group)) => match end {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("cannot watch it: {error}")),
            Err(_) => Some(format!("it ran for {BOUND:?}")),
        },
        // Nothing is ever sent: the sender is gone.
        _ = may_run.changed() => Some("we were asked to end".into()),
    };
    if let Some(why) = &killed {
        // Not reaped yet, so the group is still its own.
        let _ = killpg(group, Signal::SIGKILL);
        tracing::warn!("the hook --on-{} was killed: {why}", occasion.name());
        let _ = timeout(DEATH_BOUND, ended(group)).await;
    }
    if let Ok(Some(status)) = child.try_wait()
        && !ExitStatus::success(&status)
        && killed.is_none()
    {
        tracing::warn!("the hook --on-{} failed: {status}", occasion.name());
    }
}
