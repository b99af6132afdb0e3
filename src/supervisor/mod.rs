//! Runs a command and ends its whole process tree. Knows nothing of locks.
//!
//! Three processes:
//!
//! ```text
//! wrapper (the program; holds a Guardian)  ->  guardian (parent of the tree)  ->  command
//! ```
//!
//! The wrapper may be killed or stopped at any time, so it doesn't hold the command alone. The
//! guardian is a process of its own, forked before any thread exists: plain blocking code over one
//! `poll`, child subreaper and parent of the tree. It ends the tree when told to, when the kill
//! deadline on the boot clock passes, and when the wrapper is gone; then it carries out the
//! [`LastWill`]. Before there is a command it carries out what was bequeathed, if the wrapper dies. If
//! the guardian is killed, the command dies with it (PR_SET_PDEATHSIG) and the wrapper, a subreaper
//! too, ends the rest.
//!
//! A tree counts as dead only when `wait` says that no child is left: for a subreaper that means
//! that no descendant is, whatever it did to hide (daemons, process groups and sessions included).
//! While /proc can't be read, nothing less than that counts.
//! The only processes that may be left are those of which the caller says that they serve others as
//! well ([`Outlives`]).
//!
//! * [`Guardian`]: the wrapper's end: start, stop, kill, deadlines, events
//! * `policy`: PURE: what to do when; `guardian`: the loop that does it
//! * `vigil`: PURE: the wrapper's watch over its guardian; `orphans`: what it does without one
//! * `tree`, `descendants`: finding, signalling and reaping; `command`: fork and exec;
//!   `isolate`: the same in a PID namespace; `missed`: what both were too late to hear
//! * [`Signals`]: the wrapper's own signals, as events

mod command;
mod descendants;
mod error;
mod event;
mod guardian;
mod handle;
mod inherited;
mod isolate;
mod launch;
mod line;
mod messages;
mod missed;
mod orphans;
mod pidfd;
pub mod policy;
mod signals;
mod stdio;
mod tree;
pub mod vigil;
mod will;

use serde::{Deserialize, Serialize};

pub use error::{StartError, SupervisorError};
pub use event::Event;
pub use handle::Guardian;
pub use launch::{LastWill, Launch};
pub use nix::sys::signal::Signal;
pub use nix::unistd::Pid;
pub use pidfd::ended;
pub use policy::{Leftovers, Policy};
pub use signals::{Received, Signals};
pub use stdio::let_go_of_stdio;
pub use tree::Outlives;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code by which a shell tells of it: 128 + n for signal n.
    pub fn shell_code(self) -> i32 {
        const KILLED_BY_SIGNAL: i32 = 128;
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => KILLED_BY_SIGNAL + signal,
        }
    }
}

/// What made us send SIGKILL to the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KilledBy {
    /// It was still there when the grace after the stop signal was over.
    Grace,
    /// [`Guardian::kill`].
    Request,
    /// The kill deadline passed, or what was [kept open](Launch::keep_open) was gone and the wrapper did
    /// nothing about it.
    Deadline,
    /// The wrapper was gone.
    WrapperGone,
    /// The guardian was gone.
    GuardianGone,
}

/// A process of the tree, as people know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Its id.
    pub pid: i32,
    /// Its name as the kernel has it (at most 15 bytes); empty if it couldn't be read.
    pub name: String,
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}
