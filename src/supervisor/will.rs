//! The last will: the guardian becomes this program anew, with a secret on its stdin.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::{dup2_stdin, execv};

use super::inherited::{Inherited, discard_pending};
use super::launch::{LastWill, sealed};

/// This binary, also if its file was replaced or deleted since.
const OURSELVES: &std::ffi::CStr = c"/proc/self/exe";

/// Returns only if it could not be done. All descriptors but the standard ones are close-on-exec.
pub(super) fn execute(will: &LastWill, inherited: &Inherited) -> Errno {
    match become_program(will, inherited) {
        Ok(never) => match never {},
        Err(error) => Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL)),
    }
}

fn become_program(will: &LastWill, inherited: &Inherited) -> std::io::Result<std::convert::Infallible> {
    dup2_stdin(sealed(&will.stdin)?)?;
    let argv = will.argv.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    discard_pending();
    inherited.restore()?;
    Ok(execv(OURSELVES, &argv)?)
}
