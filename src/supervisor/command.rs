//! Starts the command: fork, a clean world for it, exec. What exec says comes back through a pipe
//! that closes itself when exec succeeds.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, execvpe, fork, getppid, pipe2, write};

use super::inherited::Inherited;

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

impl Program {
    /// This command line in our environment with `added` to it.
    pub(super) fn new(argv: Vec<OsString>, added: Vec<(OsString, OsString)>) -> Result<Self, Errno> {
        let env: BTreeMap<OsString, OsString> = std::env::vars_os().chain(added).collect();
        let argv = argv.into_iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
        let env = env.into_iter().map(|(name, value)| variable(name, value)).collect::<Result<_, _>>()?;
        if argv.is_empty() { Err(Errno::EINVAL) } else { Ok(Self { argv, env }) }
    }

    /// Forks a child of this process that becomes the program, in this process's group and
    /// session. It dies with this thread.
    pub(super) fn start(&self, inherited: &Inherited) -> io::Result<Starting> {
        let (answer, result) = pipe2(OFlag::O_CLOEXEC)?;
        let parent = Pid::this();
        // SAFETY: this process has one thread, so the child finds no lock held by another one.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Starting { pid: child, answer }),
            ForkResult::Child => {
                let errno = self.become_program(inherited, parent);
                // Nobody to tell if this fails; the exit code is what a shell would give.
                let _ = write(&result, &(errno as i32).to_ne_bytes());
                exit_at_once(127)
            }
        }
    }

    fn become_program(&self, inherited: &Inherited, parent: Pid) -> Errno {
        if let Err(errno) = set_pdeathsig(Signal::SIGKILL) {
            return errno;
        }
        // If the parent died before that call, no signal will come.
        if getppid() != parent {
            return Errno::ECHILD;
        }
        if let Err(error) = inherited.restore() {
            return Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL));
        }
        match execvpe(&self.argv[0], &self.argv, &self.env) {
            Ok(never) => match never {},
            Err(errno) => errno,
        }
    }
}

impl Starting {
    /// The result of exec; to be asked when [`Starting::as_fd`] can be read, else it blocks.
    pub(super) fn result(self) -> Result<Pid, Errno> {
        let mut errno = [0; 4];
        match File::from(self.answer).read_exact(&mut errno) {
            Ok(()) => Err(Errno::from_raw(i32::from_ne_bytes(errno))),
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
