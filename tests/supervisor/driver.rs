//! Starts a wrapper and talks to it. Nothing here sleeps for a fixed time: everything waits for an
//! event, up to one generous deadline.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use officer::supervisor::Leftovers;
use serde_json::Value;
use tempfile::TempDir;

use crate::wrapper::Plan;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A wrapper's life yet to be.
pub(crate) struct Setting {
    pub(crate) folder: TempDir,
    pub(crate) plan: Plan,
    pub(crate) command: Command,
}

impl Setting {
    /// A shell script under a wrapper: grace and deadline are out of the way.
    pub(crate) fn script(script: &str) -> Self {
        Self::program(["sh", "-c", script])
    }

    pub(crate) fn program<A: Into<OsString>>(argv: impl IntoIterator<Item = A>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let plan = Plan {
            control: folder.path().join("control"),
            argv: argv.into_iter().map(Into::into).collect(),
            stop_signal: Signal::SIGTERM as i32,
            grace: PATIENCE,
            leftovers: Leftovers::Kill,
            isolate: false,
            deadline: None,
            will: None,
            keep_open: None,
            leave_early: false,
            wait: false,
        };
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        // Its own group, as a shell with job control would start it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        Self { folder, plan, command }
    }

    pub(crate) fn grace(mut self, grace: Duration) -> Self {
        self.plan.grace = grace;
        self
    }

    pub(crate) fn deadline(mut self, after: Duration) -> Self {
        self.plan.deadline = Some(after);
        self
    }

    pub(crate) fn will(mut self) -> Self {
        self.plan.will = Some(self.folder.path().join("will"));
        self
    }

    pub(crate) fn start(mut self) -> Wrapper {
        let listener = UnixListener::bind(&self.plan.control).expect("a socket");
        // Some wrappers are another user's.
        std::fs::set_permissions(&self.plan.control, std::fs::Permissions::from_mode(0o777)).expect("ours");
        self.command.arg("wrapper").arg(serde_json::to_string(&self.plan).expect("a plan"));
        let mut child = self.command.spawn().expect("the wrapper starts");
        let control = accept(&listener);
        let stdin = child.stdin.take();
        let output = child.stdout.take().map(BufReader::new);
        let mut wrapper = Wrapper::of_a_shell(self.folder, control);
        (wrapper.child, wrapper.stdin, wrapper.output) = (Some(child), stdin, output);
        wrapper
    }
}

/// A wrapper that runs. Dropped, it is killed, and its tree with it.
pub(crate) struct Wrapper {
    pub(crate) folder: TempDir,
    pub(crate) pid: i32,
    pub(crate) guardian: i32,
    pub(crate) stdin: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    events: BufReader<UnixStream>,
    /// `None` if it is another's child.
    child: Option<Child>,
}

impl Wrapper {
    /// A wrapper that was started by somebody else and has connected.
    pub(crate) fn of_a_shell(folder: TempDir, control: UnixStream) -> Self {
        control.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let events = BufReader::new(control);
        let mut it = Self { folder, pid: 0, guardian: 0, stdin: None, output: None, events, child: None };
        let ready = it.event("ready");
        (it.pid, it.guardian) = (pid_in(&ready["pid"]), pid_in(&ready["guardian"]));
        it
    }

    /// The next event, which must be this one.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        let event = self.next_event();
        assert_eq!(event["event"], name, "{event}");
        event
    }

    pub(crate) fn next_event(&mut self) -> Value {
        let mut line = String::new();
        self.events.read_line(&mut line).expect("an event in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("no event but {line:?}: {error}"))
    }

    /// The event of this name, whatever comes before.
    pub(crate) fn event_at_last(&mut self, name: &str) -> Value {
        loop {
            let event = self.next_event();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// The command's process id.
    pub(crate) fn started(&mut self) -> i32 {
        pid_in(&self.event("started")["pid"])
    }

    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.events.get_mut(), "{order}").expect("the wrapper listens");
    }

    /// A line of the command's output.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        let output = self.output.as_mut().expect("its output is a pipe");
        if output.buffer().is_empty() {
            wait_for_input(output.get_ref().as_fd());
        }
        output.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    /// A process id that the command prints.
    pub(crate) fn pid_line(&mut self) -> i32 {
        let line = self.line();
        line.parse().unwrap_or_else(|_| panic!("no process id: {line:?}"))
    }

    pub(crate) fn send(&self, signal: Signal) {
        send(self.pid, signal);
    }

    pub(crate) fn will_file(&self) -> PathBuf {
        self.folder.path().join("will")
    }

    /// The wrapper's own end.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it is our child");
        let mut ended = None;
        wait_until("the wrapper has ended", || {
            ended = child.try_wait().expect("it is our child");
            ended.is_some()
        });
        ended.expect("it has ended")
    }

    pub(crate) fn code(&mut self) -> i32 {
        self.exit().code().expect("the wrapper exits by itself")
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        // It may have ended by itself.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Copies a program. Not by ourselves: a child that another thread forks meanwhile would have the
/// copy open for writing, and then it can't be executed.
pub(crate) fn copy(program: impl AsRef<Path>, to: &Path) {
    let copied = Command::new("cp").arg(program.as_ref()).arg(to).status().expect("cp is there");
    assert!(copied.success());
}

/// The next connection, in time.
pub(crate) fn accept(listener: &UnixListener) -> UnixStream {
    wait_for_input(listener.as_fd());
    listener.accept().expect("somebody connects").0
}

/// Waits until there is something to read.
pub(crate) fn wait_for_input(from: BorrowedFd<'_>) {
    let mut polled = [PollFd::new(from, PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).expect("it isn't for ever");
    assert_eq!(poll(&mut polled, patience), Ok(1), "nothing to read in time");
}

pub(crate) fn pid_in(value: &Value) -> i32 {
    value.as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a process id")
}

pub(crate) fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|errno| panic!("cannot signal {pid}: {errno}"));
}

/// Whether the process is there and not a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Its state, one letter of /proc.
pub(crate) fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
