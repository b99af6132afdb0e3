//! Files of ours in folders that others can write to, /tmp above all. What somebody else has put in
//! their place is refused: a link, a pipe that keeps whoever opens it waiting, a file that is theirs.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::{Uid, geteuid};

/// Nobody else may read them, nor hold a lock on them.
const MODE: u32 = 0o600;

/// A file that comes and goes so often while it is opened has somebody who plays with it.
const TRIES: u32 = 100;

/// Opens a file that is there.
pub fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let mut options = options.clone();
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link"),
        // A pipe without a reader, or a socket.
        Some(libc::ENXIO) => no_regular_file(),
        _ => error,
    })?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(no_regular_file());
    }
    if meta.nlink() > 1 {
        return Err(io::Error::other("it has another name elsewhere"));
    }
    refuse_strangers(Uid::from_raw(meta.uid()), geteuid())?;
    Ok(file)
}

/// Opens a file, made if need be. Never with O_CREAT for one that is there: in /tmp the kernel
/// refuses that without saying why.
pub fn open_or_create(path: &Path, options: &OpenOptions) -> io::Result<File> {
    for _ in 0..TRIES {
        match open(path, options) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match options.clone().create_new(true).mode(MODE).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created,
        }
    }
    Err(comes_and_goes())
}

/// Whether `path` is still this file's name.
pub fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether others may open it, and so hold a lock on it.
pub fn is_open_to_others(meta: &Metadata) -> bool {
    meta.mode() & 0o077 != 0
}

/// Why a file that is replaced again and again can't be used.
pub fn comes_and_goes() -> io::Error {
    io::Error::other(format!("somebody else has replaced it {TRIES} times meanwhile"))
}

/// How often a file is looked for that was replaced meanwhile.
pub fn tries() -> std::ops::Range<u32> {
    0..TRIES
}

fn no_regular_file() -> io::Error {
    io::Error::other("it is no regular file")
}

/// Root could do to us whatever its file could.
fn refuse_strangers(owner: Uid, us: Uid) -> io::Result<()> {
    if owner == us || owner.is_root() {
        return Ok(());
    }
    let text = format!("it belongs to the user with id {owner}, neither to us (id {us}) nor to root");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roots_files_and_our_own_are_used() {
        let [root, us, other] = [0, 1000, 1001].map(Uid::from_raw);
        assert!(refuse_strangers(us, us).is_ok() && refuse_strangers(root, us).is_ok());
        for user in [root, us] {
            let refused = refuse_strangers(other, user).unwrap_err();
            assert!(refused.to_string().contains("id 1001"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let [pipe, link, second, target] = ["pipe", "link", "second", "target"].map(|n| dir.path().join(n));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for (path, cause) in [(&pipe, "no regular file"), (&link, "symbolic link")] {
            for options in [File::options().read(true), File::options().append(true)] {
                let refused = open_or_create(path, options).unwrap_err();
                assert!(refused.to_string().contains(cause), "{refused}");
            }
        }
        std::fs::hard_link(&target, &second).unwrap();
        let refused = open(&second, File::options().read(true)).unwrap_err();
        assert!(refused.to_string().contains("another name"), "{refused}");
    }
}
