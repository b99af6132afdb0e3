//! Lets go of streams that are the command's: whoever reads its output must see the end of it when
//! the command closes it, whoever writes to it must notice when nobody reads.

use std::fs::OpenOptions;
use std::io;

use nix::unistd::{dup2_stdin, dup2_stdout};

/// Puts the null device in place of this process's stdin and stdout. Stderr stays: it is ours too.
pub fn let_go_of_stdio() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(())
}
