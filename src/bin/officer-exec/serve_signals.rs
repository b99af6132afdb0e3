//! What signals mean to `serve`: an end, or, in the background, a log file to open anew. What acts on
//! them waits for a socket to be readable, so no handler does more than write a byte.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use tracing::{error, info};

use crate::daemon;
use crate::own_file;

/// Can be read from once a signal came that asks us to end.
pub fn stop() -> io::Result<UnixStream> {
    readable_on(&[SIGTERM, SIGINT])
}

/// The same for a server with a terminal, whose end is ours, unless it was to be survived (nohup).
pub fn stop_on_hangup_too() -> io::Result<UnixStream> {
    match is_hangup_ignored() {
        true => stop(),
        false => readable_on(&[SIGTERM, SIGINT, SIGHUP]),
    }
}

/// From now on SIGHUP has the log file opened anew: the one there was may have been moved away.
pub fn reopen_on_hangup(log: PathBuf) -> io::Result<()> {
    let (mut told, tells) = UnixStream::pair()?;
    pipe::register(SIGHUP, tells)?;
    let reopen = move || {
        // Many signals may be one; each that comes after a read is one more.
        while told.read(&mut [0; 64]).is_ok_and(|count| count > 0) {
            match log_to(&log) {
                Ok(()) => info!(path = %log.display(), "the log goes on in this file"),
                // It goes on where it was.
                Err(error) => error!("cannot open the log {} anew: {error}", log.display()),
            }
        }
    };
    std::thread::Builder::new().name("log-reopener".into()).spawn(reopen).map(drop)
}

/// Sends what goes to stderr to this file. It is for this user: names of locks and clients stand in it.
pub fn log_to(path: &Path) -> io::Result<()> {
    daemon::redirect_stderr(own_file::open_or_create(path, File::options().append(true))?)
}

fn readable_on(signals: &[i32]) -> io::Result<UnixStream> {
    let (readable, writer) = UnixStream::pair()?;
    readable.set_nonblocking(true)?;
    for &signal in signals {
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(readable)
}

fn is_hangup_ignored() -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action this only writes the present one, which is plain data.
    unsafe {
        libc::sigaction(SIGHUP, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
