//! Which server runs in the background. The server keeps its pid file locked for as long as it lives,
//! and the lock itself says who it is: it covers one byte more than the server's pid. So there is no
//! moment in which a lock goes with the number of a dead server, and what stands in the file is for
//! people. Who looks takes no lock. Nobody else can hold one: the file is ours alone.
//!
//! A pid may be another process's by the time it is used, so signals go through a descriptor that
//! stands for the process, opened before the lock is looked at for the last time.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::own_file;

/// A pid file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    #[error("a server runs already, with pid {pid} (pid file {})", path.display())]
    Running { path: PathBuf, pid: i32 },
    #[error("cannot use the pid file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Ours: locked until we end, then gone.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _locked: File,
}

/// A server that runs in the background, whoever gets its pid after it.
#[derive(Debug)]
pub struct RunningServer {
    pid: i32,
    process: OwnedFd,
}

impl PidFile {
    /// Says that this process is the server. What a dead one left is replaced.
    pub fn claim(path: PathBuf) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.clone(), source };
        for _ in own_file::tries() {
            let mut file =
                own_file::open_or_create(&path, File::options().read(true).write(true)).map_err(failed)?;
            if !lock(&file).map_err(failed)? {
                match server_behind(&file).map_err(failed)? {
                    Some(pid) => return Err(PidFileError::Running { path, pid }),
                    // It has ended meanwhile.
                    None => continue,
                }
            }
            // Whoever had it before may have removed it: then another start finds another file.
            if !own_file::is_named(&file, &path).map_err(failed)? {
                continue;
            }
            // Others may have it open: we lock only what nobody else ever could.
            if own_file::is_open_to_others(&file.metadata().map_err(failed)?) {
                std::fs::remove_file(&path).map_err(failed)?;
                continue;
            }
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
            return Ok(Self { path, _locked: file });
        }
        Err(failed(own_file::comes_and_goes()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // What stays behind is seen to be stale.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The pid of the server that runs; `None`: none does.
pub fn running(path: &Path) -> Result<Option<i32>, PidFileError> {
    let failed = |source| PidFileError::Io { path: path.to_owned(), source };
    match own_file::open(path, File::options().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(file) => server_behind(&file).map_err(failed),
    }
}

impl RunningServer {
    /// The server that runs, if one does.
    pub fn find(path: &Path) -> Result<Option<Self>, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.to_owned(), source };
        for _ in own_file::tries() {
            let Some(pid) = running(path)? else { return Ok(None) };
            let process = match pidfd_open(checked(pid).map_err(failed)?, PidfdFlags::empty()) {
                Ok(process) => process,
                // It has ended since.
                Err(rustix::io::Errno::SRCH) => continue,
                Err(error) => return Err(failed(error.into())),
            };
            // It runs still, so the descriptor stands for it and nobody else.
            if running(path)? == Some(pid) {
                return Ok(Some(Self { pid, process }));
            }
        }
        Err(failed(own_file::comes_and_goes()))
    }

    /// Its pid, for messages.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks it to end.
    pub fn terminate(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.process, Signal::TERM) {
            // It has ended already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end, at most so long; whether it has come.
    pub fn ends_within(&self, bound: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(count) => return Ok(count > 0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether we have the lock; `false`: somebody else has it. It belongs to the open file, so that it
/// lasts until its descriptor is closed, whatever else this process opens and closes.
fn lock(file: &File) -> io::Result<bool> {
    let wanted = byte_range(1 + libc::off_t::from(std::process::id()));
    match fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The pid of the server that has it locked.
fn server_behind(file: &File) -> io::Result<Option<i32>> {
    let mut found = byte_range(1);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    if i32::from(found.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    if own_file::is_open_to_others(&file.metadata()?) {
        return Err(io::Error::other(
            "it is locked, but others may open it, so that need not be a server's lock; \
             remove it if no server runs",
        ));
    }
    // A lock up to the end of the file, however long it grows, has the length 0.
    let pid = i32::try_from(found.l_len - 1).ok().filter(|_| found.l_start == 0);
    checked(pid.unwrap_or_default())?;
    Ok(pid)
}

/// A number that can be a process's; 0 and what is below it mean groups of processes.
fn checked(pid: i32) -> io::Result<Pid> {
    let process = (pid > 0).then(|| Pid::from_raw(pid)).flatten();
    process.ok_or_else(|| io::Error::other("what has it locked is no server; remove it if no server runs"))
}

/// From the start of the file on, for writing.
fn byte_range(len: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: len,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    use super::*;

    fn pid_file(dir: &tempfile::TempDir, text: &str, mode: u32) -> (PathBuf, File) {
        let path = dir.path().join("pid");
        let mut options = File::options();
        let mut file = options.read(true).write(true).create_new(true).mode(mode).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        (path, file)
    }

    #[test]
    fn a_live_servers_file_is_refused_with_its_pid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        assert_eq!(running(&path).unwrap(), None);
        let claimed = PidFile::claim(path.clone()).unwrap();
        let pid = std::process::id() as i32;
        assert_eq!(running(&path).unwrap(), Some(pid));
        let refused = PidFile::claim(path.clone()).unwrap_err();
        assert!(refused.to_string().contains(&format!("with pid {pid}")), "{refused}");
        drop(claimed);
        assert_eq!(running(&path).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_with_a_living_strangers_pid_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = pid_file(&dir, "1\n", 0o600);
        assert_eq!(running(&path).unwrap(), None);
        PidFile::claim(path).unwrap();
    }

    #[test]
    fn a_lock_that_anybody_could_hold_proves_no_server() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = pid_file(&dir, "1\n", 0o644);
        fcntl(&theirs, FcntlArg::F_OFD_SETLK(&byte_range(2))).unwrap();
        let refused = running(&path).unwrap_err().to_string();
        assert!(refused.contains("others may open it") && refused.contains(path.to_str().unwrap()));
        assert!(matches!(PidFile::claim(path), Err(PidFileError::Io { .. })));
    }

    #[test]
    fn a_lock_that_names_no_process_is_refused() {
        for len in [0, 1, 1 << 40] {
            let dir = tempfile::tempdir().unwrap();
            let (path, locked) = pid_file(&dir, "-1\n", 0o600);
            fcntl(&locked, FcntlArg::F_OFD_SETLK(&byte_range(len))).unwrap();
            for refused in [running(&path).map(drop), RunningServer::find(&path).map(drop)] {
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains("no server") && refused.contains(path.to_str().unwrap()));
            }
        }
    }

    #[test]
    fn a_claimed_file_is_one_that_nobody_else_could_ever_open() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = pid_file(&dir, "1\n", 0o666);
        let claimed = PidFile::claim(path.clone()).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert!(own_file::is_named(&claimed._locked, &path).unwrap());
        assert!(!own_file::is_named(&theirs, &path).unwrap());
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("pid"), dir.path().join("target"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(PidFile::claim(path).is_err());
        assert_eq!(std::fs::read_to_string(target).unwrap(), "precious");
    }
}
