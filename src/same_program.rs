//! Whether another process runs the program file that we run. Never waits: the file of a process of
//! somebody's command may be on a file system that doesn't answer.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::Pid;

/// No if that can't be found out.
pub(crate) fn runs_this_program(pid: Pid) -> bool {
    // A link's text asks no file system. Only a path that is our own is looked at.
    let path = |process: &dyn Display| fs::read_link(format!("/proc/{process}/exe")).ok();
    let file = |process: &dyn Display| {
        fs::metadata(format!("/proc/{process}/exe")).map(|meta| (meta.dev(), meta.ino())).ok()
    };
    path(&pid).is_some_and(|theirs| path(&"self") == Some(theirs))
        && file(&pid).is_some_and(|theirs| file(&"self") == Some(theirs))
}
