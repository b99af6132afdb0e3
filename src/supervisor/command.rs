//! Starts the command: fork, a clean world for it, exec. What exec says comes back through a pipe
//! that closes itself when exec succeeds.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, execvpe, fork, getppid, pipe2, write};
use serde::{Deserialize, Serialize};

use super::inherited::Inherited;
use super::missed::Missed;

/// What `exec` needs, made before the fork.
#[derive(Debug)]
pub(super) struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
}

/// A command on its way into its program.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) pid: Pid,
    answer: OwnedFd,
}

/// Why it did not get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) errno: Errno,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// It could not be given a namespace of its own.
    Isolate,
    /// The same, and what stood in the way is a limit on the number of namespaces.
    Namespaces,
    /// It could not become its program.
    Execute,
    /// Its kill deadline had passed before.
    Deadline,
}

/// Variables by their names.
pub(super) type Environment = BTreeMap<OsString, OsString>;

/// This process's.
pub(super) fn environment() -> Environment {
    std::env::vars_os().collect()
}

impl Program {
    /// This command line in this environment with `changes` to it; `None` takes a variable out.
    pub(super) fn new(
        argv: Vec<OsString>,
        mut env: Environment,
        changes: Vec<(OsString, Option<OsString>)>,
    ) -> Result<Self, Errno> {
        for (name, value) in changes {
            match value {
                Some(value) => env.insert(name, value),
                None => env.remove(&name),
            };
        }
        let argv = argv.into_iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
        let env = env.into_iter().map(|(name, value)| variable(name, value)).collect::<Result<_, _>>()?;
        if argv.is_empty() { Err(Errno::EINVAL) } else { Ok(Self { argv, env }) }
    }

    /// Forks a child of this process that becomes the program, in this process's group and
    /// session. It dies with this thread.
    pub(super) fn start(&self, inherited: &Inherited) -> Result<Starting, Failure> {
        let failed = |errno| Failure { stage: Stage::Execute, errno };
        let (answer, result) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let parent = Pid::this();
        let missed = Missed::none().and_ours();
        // SAFETY: this process has one thread, so the child finds no lock held by another one.
        match unsafe { fork() }.map_err(failed)? {
            ForkResult::Parent { child } => Ok(Starting::new(child, answer)),
            ForkResult::Child => {
                let errno = match die_with(parent) {
                    Ok(()) => self.execute(inherited, missed),
                    Err(errno) => errno,
                };
                failed(errno).tell(&result);
                exit_at_once(127)
            }
        }
    }

    /// Becomes the program, which hears of what was `missed`; returns only if that fails.
    pub(super) fn execute(&self, inherited: &Inherited, missed: Missed) -> Errno {
        missed.raise();
        if let Err(error) = inherited.restore() {
            return Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL));
        }
        match execvpe(&self.argv[0], &self.argv, &self.env) {
            Ok(never) => match never {},
            Err(errno) => errno,
        }
    }
}

/// Whether a file is there by which `exec` goes by this name. For the error's text alone: our own PATH
/// is asked.
pub(super) fn exists(program: &OsStr) -> bool {
    match program.as_encoded_bytes().contains(&b'/') {
        true => Path::new(program).is_file(),
        false => {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
        }
    }
}

fn die_with(parent: Pid) -> nix::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // If the parent died before that call, no signal will come.
    if getppid() == parent { Ok(()) } else { Err(Errno::ECHILD) }
}

impl Failure {
    /// Tells it through the pipe on which [`Starting::result`] listens.
    pub(super) fn tell(self, pipe: &OwnedFd) {
        let stage = match self.stage {
            Stage::Isolate => ISOLATE,
            Stage::Namespaces => NAMESPACES,
            Stage::Execute => EXECUTE,
            Stage::Deadline => DEADLINE,
        };
        let [a, b, c, d] = (self.errno as i32).to_ne_bytes();
        // Nobody to tell if this fails; the exit code is what a shell would give.
        let _ = write(pipe, &[stage, a, b, c, d]);
    }
}

/// The stages in the pipe.
const ISOLATE: u8 = b'i';
const NAMESPACES: u8 = b'n';
const EXECUTE: u8 = b'x';
const DEADLINE: u8 = b'd';

impl Starting {
    pub(super) fn new(pid: Pid, answer: OwnedFd) -> Self {
        Self { pid, answer }
    }

    /// The result of exec; to be asked when [`Starting::as_fd`] can be read, else it blocks.
    pub(super) fn result(self) -> Result<Pid, Failure> {
        let mut told = [0; 5];
        match File::from(self.answer).read_exact(&mut told) {
            Ok(()) => {
                let [stage, errno @ ..] = told;
                let stage = match stage {
                    ISOLATE => Stage::Isolate,
                    NAMESPACES => Stage::Namespaces,
                    DEADLINE => Stage::Deadline,
                    _ => Stage::Execute,
                };
                Err(Failure { stage, errno: Errno::from_raw(i32::from_ne_bytes(errno)) })
            }
            // Closed without a word: it is the program now, or has died on the way.
            Err(_) => Ok(self.pid),
        }
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }
}

/// Ends this process without running anything that was meant for the process it was forked from.
pub(super) fn exit_at_once(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

fn variable(name: OsString, value: OsString) -> Result<CString, Errno> {
    let mut text = name;
    text.push("=");
    text.push(value);
    c_string(text)
}

fn c_string(text: OsString) -> Result<CString, Errno> {
    CString::new(text.into_vec()).map_err(|_| Errno::EINVAL)
}
