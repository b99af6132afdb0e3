//! Whether another process runs the program file that we run, by the same path. Never waits: the file of
//! a process of somebody's command may be on a file system that doesn't answer, and so may ours.

use std::ffi::CString;
use std::fmt::Display;
use std::fs;

use nix::unistd::Pid;

/// No if that can't be found out.
pub(crate) fn runs_this_program(pid: Pid) -> bool {
    // A link's text asks no file system. Only a path that is our own is looked at.
    let path = |process: &dyn Display| fs::read_link(format!("/proc/{process}/exe")).ok();
    path(&pid).is_some_and(|theirs| path(&"self") == Some(theirs))
        && program(&pid).is_some_and(|theirs| program(&"self") == Some(theirs))
}

/// The file that a process runs, by device and number, as the kernel remembers it.
fn program(process: &dyn Display) -> Option<(u32, u32, u64)> {
    let link = CString::new(format!("/proc/{process}/exe")).ok()?;
    // SAFETY: all zeros are such a value.
    let mut file: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero, and the call writes one such value to where we say.
    let outcome = unsafe {
        libc::statx(libc::AT_FDCWD, link.as_ptr(), libc::AT_STATX_DONT_SYNC, libc::STATX_INO, &mut file)
    };
    (outcome == 0).then_some((file.stx_dev_major, file.stx_dev_minor, file.stx_ino))
}
