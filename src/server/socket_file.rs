//! A socket file of our own: made, or taken over from a dead server, and removed at the end. Two
//! servers that find the same stale file must not both replace it, so everything that is done to a
//! socket file is done under a lock: a file beside it, `….lock`, that is there only meanwhile.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use mio::net::UnixListener;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// How long a turn is waited for. A server has it for a few system calls; whoever has it for longer may
/// have it for ever.
const TURN_BOUND: Duration = Duration::from_secs(5);

/// A socket file that this process has made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Listens at `path`. A file that is left behind by a dead server is replaced.
    pub(super) fn bind(path: PathBuf) -> io::Result<(UnixListener, Self)> {
        let _turn = Turn::take(&path)?;
        let listener = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => replace_stale(&path)?,
            bound => bound?,
        };
        let identity = Identity::of(&std::fs::symlink_metadata(&path)?);
        Ok((listener, Self { path, identity }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Best effort: a file that stays is seen to be stale by the next start.
        let Ok(_turn) = Turn::take(&self.path) else { return };
        // Somebody may have removed ours, and another server listens at this path now.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|meta| Identity::of(&meta) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }
}

/// A socket file that nobody listens behind refuses connections. So does any other file, which is
/// not ours to remove.
fn replace_stale(path: &Path) -> io::Result<UnixListener> {
    let in_use = |text| io::Error::new(io::ErrorKind::AddrInUse, text);
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(in_use("there is a file that is no socket"));
    }
    match try_connect(path) {
        Err(Errno::ECONNREFUSED) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        // More clients wait for it than it has accepted: it may stand still, but it is there.
        Ok(()) | Err(Errno::EAGAIN) => Err(in_use("another server listens there")),
        Err(_) => Err(in_use("the path is in use")),
    }
}

/// Never waits.
fn try_connect(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

/// The right to change one socket file, until it is dropped.
struct Turn {
    path: PathBuf,
    _locked: File,
}

impl Turn {
    /// Waits for whoever has it, which is never for long if it is a server.
    fn take(socket: &Path) -> io::Result<Self> {
        Self::take_within(socket, TURN_BOUND)
    }

    fn take_within(socket: &Path, bound: Duration) -> io::Result<Self> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let until = Instant::now() + bound;
        loop {
            let file = lock_until(open(&path)?, until).map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => held_too_long(&path, bound),
                _ => error,
            })?;
            // Whoever had it before has removed it: then what we have locked has no name any more, and
            // another one may have made and locked a new one.
            let named = match std::fs::symlink_metadata(&path) {
                Ok(meta) => Some(Identity::of(&meta)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if named == Some(Identity::of(&file.metadata()?)) {
                return Ok(Self { path, _locked: file });
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is locked, so that whoever waits for it sees that it is gone. One that stays does no
        // harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits for a lock until then. The system has no such wait, so it is a thread that does it, in the
/// order of all who wait, and gives back what comes too late.
fn lock_until(file: File, until: Instant) -> io::Result<File> {
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let (got, waits) = sync_channel(0);
    let wait = move || {
        let locked = file.lock().map(|()| file);
        // Nobody waits any more: closed, and so unlocked.
        let _ = got.send(locked);
    };
    std::thread::Builder::new().name("socket-lock".into()).spawn(wait)?;
    match waits.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(locked) => locked,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

fn held_too_long(path: &Path, bound: Duration) -> io::Error {
    let text = format!(
        "somebody has kept the lock on {} for {bound:?}, which no server does; \
         end that process (fuser names it) or remove the file",
        path.display()
    );
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Sockets are in folders that others can write to: a link there isn't followed.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot take turns by {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_servers_file_is_not_replaced_and_a_dead_ones_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (listener, file) = SocketFile::bind(path.clone()).unwrap();
        let refused = SocketFile::bind(path.clone()).unwrap_err();
        assert!(refused.to_string().contains("another server listens"), "{refused}");
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = SocketFile::bind(path.clone()).unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file or its lock stayed");
    }

    #[test]
    fn what_is_another_servers_by_now_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (_first, first_file) = SocketFile::bind(path.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (_second, _second_file) = SocketFile::bind(path.clone()).unwrap();
        drop(first_file);
        assert_eq!(try_connect(&path), Ok(()));
    }

    #[test]
    fn a_turn_that_somebody_keeps_is_waited_for_no_longer_than_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let kept = Turn::take(&path).unwrap();
        let error = Turn::take_within(&path, Duration::from_millis(1)).err().unwrap();
        assert!(error.to_string().contains("socket.lock"), "{error}");
        drop(kept);
        Turn::take(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        assert!(SocketFile::bind(path.clone()).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "x");
    }
}
