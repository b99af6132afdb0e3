//! Which server runs in the background. The server keeps its pid file locked for as long as it lives,
//! so a file that a dead one left is told from a live one's without trusting its number: a pid that
//! was given to another process since is nobody's.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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

impl PidFile {
    /// Says that this process is the server. What a dead one left is replaced.
    pub fn claim(path: PathBuf) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.clone(), source };
        let mut file = open(&path, true).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&mut file).map_err(failed)?;
                return Err(PidFileError::Running { path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(failed)?;
        Ok(Self { path, _locked: file })
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
    let mut file = match open(path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => read_pid(&mut file).map(Some).map_err(failed),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Pid files are in folders that others can write to: a link there isn't followed.
fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(create)
        .create(create)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn read_pid(file: &mut File) -> io::Result<i32> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it holds no pid"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let path = dir.path().join("pid");
        std::fs::write(&path, "1\n").unwrap();
        assert_eq!(running(&path).unwrap(), None);
        PidFile::claim(path).unwrap();
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
