//! What a command is started with. It reaches the guardian through a memfd: it may be larger than a
//! message, and it carries secrets, which a memfd shows to nobody else.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::boot_time::BootTime;

use super::policy::Policy;

/// What to start, and what to do when it is over.
#[derive(Debug, Default)]
pub struct Launch {
    /// The program, looked up in PATH, and its arguments.
    pub argv: Vec<OsString>,
    /// Changes to the environment that we have; `None` takes a variable out.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// How its tree is ended.
    pub policy: Policy,
    /// In a PID namespace of its own, where the kernel allows it: then nothing survives even SIGKILL
    /// of wrapper and guardian at once.
    pub isolate: bool,
    /// The first kill deadline; `None`: none yet.
    pub kill_deadline: Option<BootTime>,
    /// What the guardian does if the wrapper dies, once the tree is dead.
    pub will: Option<LastWill>,
    /// Kept open by the guardian until the tree is dead: the connection of a lock that lives and
    /// dies with it.
    pub keep_open: Option<OwnedFd>,
}

/// What the guardian becomes once wrapper and tree are dead: this program again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWill {
    /// The arguments, the program's name first.
    pub argv: Vec<OsString>,
    /// Written to its stdin: arguments can be read by everybody, this can't.
    pub stdin: Vec<u8>,
}

/// Without the secret: this may end in a log.
impl std::fmt::Debug for LastWill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LastWill").field("argv", &self.argv).finish_non_exhaustive()
    }
}

/// The part of a [`Launch`] that is written down; descriptors travel beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, Option<OsString>)>,
    pub(super) policy: Policy,
    pub(super) isolate: bool,
    kill_deadline_since_boot: Option<Duration>,
    pub(super) will: Option<LastWill>,
}

impl Letter {
    pub(super) fn new(launch: Launch) -> (Self, Option<OwnedFd>) {
        let letter = Self {
            argv: launch.argv,
            env: launch.env,
            policy: launch.policy,
            isolate: launch.isolate,
            kill_deadline_since_boot: launch.kill_deadline.map(BootTime::since_boot),
            will: launch.will,
        };
        (letter, launch.keep_open)
    }

    pub(super) fn kill_deadline(&self) -> Option<BootTime> {
        self.kill_deadline_since_boot.map(BootTime::from_since_boot)
    }

    pub(super) fn seal(&self) -> io::Result<OwnedFd> {
        sealed(&serde_json::to_vec(self)?)
    }

    pub(super) fn open(letter: OwnedFd) -> io::Result<Self> {
        let mut text = Vec::new();
        File::from(letter).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// A memfd with these bytes, at its start.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"officer", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_letter_arrives_as_it_was_written() {
        let launch = Launch {
            argv: vec!["sh".into(), OsString::from_vec(vec![0xff, b'x'])],
            env: vec![("A".into(), Some("b".into()))],
            policy: Policy { grace: Duration::from_millis(1), ..Policy::default() },
            isolate: true,
            kill_deadline: Some(BootTime::from_since_boot(Duration::from_nanos(1_234_567_891))),
            will: Some(LastWill { argv: vec!["officer-exec".into()], stdin: vec![0, 255] }),
            keep_open: None,
        };
        let (argv, will, deadline) = (launch.argv.clone(), launch.will.clone(), launch.kill_deadline);
        let policy = launch.policy;
        let letter = Letter::open(Letter::new(launch).0.seal().unwrap()).unwrap();
        assert_eq!(letter.argv, argv);
        assert_eq!(letter.policy, policy);
        assert_eq!(letter.will, will);
        assert_eq!(letter.kill_deadline(), deadline);
    }

    #[test]
    fn the_will_keeps_its_secret() {
        let will = LastWill { argv: vec![], stdin: b"hunter2".to_vec() };
        assert!(!format!("{will:?}").contains(&format!("{:?}", will.stdin)));
    }
}
