//! Descriptors that stand for a process: unlike its id they can't come to mean another one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Whoever has this id now. The descriptor can be read once it has ended.
pub(super) fn open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes and returns plain numbers; what it returns is a new descriptor that we own.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        Ok(OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}

/// Waits until a child of this process has ended; it is still to be reaped. Cancel safe. Must be called
/// inside a tokio runtime that has IO.
pub async fn ended(child: Pid) -> io::Result<()> {
    let pidfd = open(child)?;
    // SAFETY: it owns its descriptor and names the same one until it is dropped.
    let end = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    end.readable().await.map(drop)
}

/// Sends a signal, as `kill` does.
pub(super) fn send_signal(pidfd: &OwnedFd, signal: Signal) -> nix::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null info means the same as `kill`; everything else is plain numbers.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as libc::c_int, none, 0)
    };
    Errno::result(sent).map(drop)
}
