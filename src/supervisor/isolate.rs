//! The command in a PID namespace of its own, so that even SIGKILL of wrapper and guardian at once
//! leaves nothing: the namespace's first process dies with the guardian (PR_SET_PDEATHSIG), and the
//! kernel kills a namespace with its first process.
//!
//! That first process is ours. It reaps, tells through a pipe how the command ended, and exits when
//! nothing else is left in the namespace. The command sees its own process ids and its own /proc.
//! Who may not make namespaces gets one inside a user namespace, where no set-user-id program works.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, clone};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getegid, geteuid, pipe2, write};

use super::Exit;
use super::command::{Failure, Program, Stage, Starting, exit_at_once};
use super::inherited::Inherited;
use super::missed::Missed;
use super::stdio::let_go_of_stdio;
use super::tree::exit_of;

/// As `ps` knows the namespace's first process.
const NAME: &std::ffi::CStr = c"officer-init";

/// The first process's stack until it forks: it calls little, and deep it doesn't.
const STACK_BYTES: usize = 256 * 1024;

/// Tells how the command in a namespace ended.
#[derive(Debug)]
pub(super) struct Status(OwnedFd);

impl Status {
    /// To be asked when it can be read, else it blocks. `None`: the first process died before it.
    pub(super) fn exit(self) -> Option<Exit> {
        let mut status = [0; 4];
        fs::File::from(self.0).read_exact(&mut status).ok()?;
        Some(exit_of(i32::from_ne_bytes(status)))
    }
}

impl AsFd for Status {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Status {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// Starts the program in a namespace; the process id is that of the namespace's first process.
pub(super) fn start(program: &Program, inherited: &Inherited) -> Result<(Starting, Status), Failure> {
    let plain = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
    match start_with(program, inherited, plain) {
        Err(Failure { errno: Errno::EPERM, .. }) => {
            start_with(program, inherited, plain | CloneFlags::CLONE_NEWUSER)
        }
        other => other,
    }
}

fn start_with(
    program: &Program,
    inherited: &Inherited,
    namespaces: CloneFlags,
) -> Result<(Starting, Status), Failure> {
    let failed = |errno| Failure { stage: Stage::Isolate, errno };
    let (answer, result) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (status, told) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    // Asked out here: in there they are nobody's until they are mapped.
    let user = (geteuid(), getegid());
    let mut stack = vec![0; STACK_BYTES];
    let mut theirs = Some((result, told, Missed::none().and_ours()));
    let first_process = Box::new(|| {
        // The guardian must be the only reader, so that its end is seen in there.
        close_copy(&answer);
        close_copy(&status);
        match theirs.take() {
            Some((result, told, missed)) => {
                FirstProcess { program, inherited, missed, namespaces, user, told }.run(result)
            }
            None => exit_at_once(1),
        }
    });
    // SAFETY: one thread, and the new process has its own copy of all memory, the stack included.
    let pid =
        unsafe { clone(first_process, &mut stack, namespaces, Some(libc::SIGCHLD)) }.map_err(not_cloned)?;
    drop(theirs);
    Ok((Starting::new(pid, answer), Status(status)))
}

/// "No space left on device" is what the kernel says of too many namespaces, one in the other or in all.
fn not_cloned(errno: Errno) -> Failure {
    let stage = if errno == Errno::ENOSPC { Stage::Namespaces } else { Stage::Isolate };
    Failure { stage, errno }
}

/// Closes a descriptor in the new process alone, where nobody uses it again.
fn close_copy(fd: &OwnedFd) {
    // SAFETY: the owner is a copy in memory that is never dropped: this process ends by `_exit`.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// What the namespace's first process knows.
struct FirstProcess<'a> {
    program: &'a Program,
    inherited: &'a Inherited,
    missed: Missed,
    namespaces: CloneFlags,
    user: (Uid, Gid),
    told: OwnedFd,
}

impl FirstProcess<'_> {
    fn run(self, result: OwnedFd) -> ! {
        let failed = |errno| Failure { stage: Stage::Isolate, errno };
        let prepared = self.prepare();
        let missed = self.missed.and_ours();
        // SAFETY: this process has one thread.
        match prepared.and_then(|()| unsafe { fork() }) {
            Ok(ForkResult::Child) => {
                let errno = self.program.execute(self.inherited, missed);
                Failure { stage: Stage::Execute, errno }.tell(&result);
                exit_at_once(127)
            }
            Ok(ForkResult::Parent { child }) => {
                drop(result);
                reap_until_alone(child, &self.told)
            }
            Err(errno) => {
                failed(errno).tell(&result);
                exit_at_once(1)
            }
        }
    }

    fn prepare(&self) -> Result<(), Errno> {
        set_name(NAME)?;
        set_pdeathsig(Signal::SIGKILL)?;
        // If the guardian died before that call, no signal will come; but then nobody reads the pipe.
        let mut reader = [PollFd::new(self.told.as_fd(), PollFlags::empty())];
        if poll(&mut reader, PollTimeout::ZERO)? > 0 {
            return Err(Errno::EPIPE);
        }
        if self.namespaces.contains(CloneFlags::CLONE_NEWUSER) {
            let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPERM));
            self.map_own_user().map_err(errno)?;
        }
        let nothing = None::<&str>;
        // Mounts made outside are still seen; ours stay here.
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, nothing)
    }

    /// The same user and group inside as outside.
    fn map_own_user(&self) -> io::Result<()> {
        let (user, group) = self.user;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
    }
}

/// Takes in everything that ends in the namespace; exits when nothing is left.
fn reap_until_alone(command: Pid, told: &OwnedFd) -> ! {
    // Without a null device whoever reads the command's output waits for the namespace's end.
    let _ = let_go_of_stdio();
    loop {
        let mut status = 0;
        // SAFETY: writes one number to where we say.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL) };
        match pid {
            -1 => exit_at_once(0),
            pid if pid == command.as_raw() => {
                // If nobody reads it, the guardian is gone and so are we.
                let _ = write(told, &status.to_ne_bytes());
            }
            _ => {}
        }
    }
}
