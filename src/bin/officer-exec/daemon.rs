//! Going into the background: a process session of its own, no terminal, neither the starter's
//! directory nor its descriptors. The starter waits until the daemon serves, or hears why it doesn't.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// Which of the two processes we are after [`split`].
pub enum Side {
    /// The one that was started; what the daemon had to tell.
    Starter(Result<(), String>),
    /// The daemon.
    Daemon(Readiness),
}

/// The daemon's word to its starter; dropped without one means that it failed.
pub struct Readiness(PipeWriter);

const READY: &str = "ready";

impl Readiness {
    /// Lets the starter go: we serve, or someone else does already.
    pub fn ready(mut self) {
        // A starter that is gone needn't be told.
        let _ = self.0.write_all(READY.as_bytes());
    }

    /// Tells the starter why there will be no service.
    pub fn failed(mut self, error: &dyn std::fmt::Display) {
        let _ = write!(self.0, "{error}");
    }
}

/// Forks. Must be called before any thread exists.
pub fn split() -> io::Result<Side> {
    let (told, tells) = io::pipe()?;
    // SAFETY: there is one thread, so the child may do whatever the parent could.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(tells);
            Ok(Side::Starter(hear(told)))
        }
        ForkResult::Child => {
            drop(told);
            setsid()?;
            // Whatever the starter's directory is on can be unmounted.
            chdir("/")?;
            close_all_but(&tells)?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            dup2_stdin(&null)?;
            dup2_stdout(&null)?;
            Ok(Side::Daemon(Readiness(tells)))
        }
    }
}

/// Sends what goes to stderr to `log` from now on; the starter's stderr is let go.
pub fn redirect_stderr(log: impl AsFd) -> io::Result<()> {
    Ok(dup2_stderr(log)?)
}

fn hear(mut told: PipeReader) -> Result<(), String> {
    let mut text = String::new();
    match told.read_to_string(&mut text) {
        Ok(_) if text == READY => Ok(()),
        Ok(0) => Err("the server ended without a word".into()),
        Ok(_) => Err(text),
        Err(error) => Err(format!("cannot hear from the server: {error}")),
    }
}

/// Whatever the starter had open, a lock file of a script say, must not stay open in a daemon.
fn close_all_but(kept: &PipeWriter) -> io::Result<()> {
    const FIRST_UNNAMED: u32 = 3;
    let kept = kept.as_raw_fd() as u32;
    for (first, last) in [(FIRST_UNNAMED, kept - 1), (kept + 1, u32::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: closes descriptors that nothing in this process owns: it has made none but `kept`.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
