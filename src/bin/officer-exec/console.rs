//! What is said on stdout and stderr apart from the log. Both may be closed, full or gone: that is
//! no reason to panic.

use std::fmt::Display;
use std::io::{self, Write};

use crate::exit_status::ExitStatus;

/// An answer on stdout; it is the whole purpose of who prints it, so a failure is told.
pub fn print(text: &[u8]) -> ExitStatus {
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => ExitStatus::Success,
        Err(error) => {
            complain(&format_args!("cannot write to stdout: {error}"));
            ExitStatus::Internal
        }
    }
}

/// The one line on stderr that says what went wrong.
pub fn complain(error: &dyn Display) {
    // A stderr that is closed can't be told.
    let _ = writeln!(io::stderr(), "officer-exec: {error}");
}
