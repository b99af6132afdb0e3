//! What a command is started with. It reaches the guardian through a memfd: it may be larger than a
//! message, and it carries secrets, which a memfd shows to nobody else.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
    /// dies with it. If the other end closes it the tree has to be [stopped](super::Guardian::stop); a
    /// wrapper that stands still and doesn't loses it at once.
    pub keep_open: Option<OwnedFd>,
}

/// What the guardian becomes once wrapper and tree are dead: this program again.
#[derive(Clone, PartialEq, Eq)]
pub struct LastWill {
    /// The arguments, the program's name first.
    pub argv: Vec<OsString>,
    /// Written to its stdin: arguments can be read by everybody, this can't.
    pub stdin: Vec<u8>,
}

impl LastWill {
    /// For a guardian without a command.
    pub(super) fn seal(self) -> io::Result<OwnedFd> {
        sealed(&serde_json::to_vec(&self.written())?)
    }

    pub(super) fn open(will: OwnedFd) -> io::Result<Self> {
        read(will).map(Self::of)
    }

    fn written(self) -> WrittenWill {
        (self.argv.into_iter().map(Text::from).collect(), Text(self.stdin))
    }

    fn of((argv, Text(stdin)): WrittenWill) -> Self {
        Self { argv: argv.into_iter().map(OsString::from).collect(), stdin }
    }
}

/// Arguments and stdin of a will.
type WrittenWill = (Vec<Text>, Text);

/// Without the secret: this may end in a log.
impl fmt::Debug for LastWill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastWill").field("argv", &self.argv).finish_non_exhaustive()
    }
}

/// The part of a [`Launch`] that is written down; descriptors travel beside it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Letter {
    argv: Vec<Text>,
    env: Vec<(Text, Option<Text>)>,
    pub(super) policy: Policy,
    pub(super) isolate: bool,
    kill_deadline_since_boot: Option<Duration>,
    will: Option<WrittenWill>,
}

/// Bytes that are text but in rare cases, and are written as such: between a grant and its command
/// nothing may take long.
#[derive(Debug)]
struct Text(Vec<u8>);

impl Letter {
    pub(super) fn new(launch: Launch) -> (Self, Option<OwnedFd>) {
        let letter = Self {
            argv: launch.argv.into_iter().map(Text::from).collect(),
            env: launch.env.into_iter().map(|(name, value)| (name.into(), value.map(Text::from))).collect(),
            policy: launch.policy,
            isolate: launch.isolate,
            kill_deadline_since_boot: launch.kill_deadline.map(BootTime::since_boot),
            will: launch.will.map(LastWill::written),
        };
        (letter, launch.keep_open)
    }

    pub(super) fn take_argv(&mut self) -> Vec<OsString> {
        std::mem::take(&mut self.argv).into_iter().map(OsString::from).collect()
    }

    pub(super) fn take_env(&mut self) -> Vec<(OsString, Option<OsString>)> {
        let changes = std::mem::take(&mut self.env).into_iter();
        changes.map(|(name, value)| (name.into(), value.map(OsString::from))).collect()
    }

    pub(super) fn take_will(&mut self) -> Option<LastWill> {
        self.will.take().map(LastWill::of)
    }

    pub(super) fn kill_deadline(&self) -> Option<BootTime> {
        self.kill_deadline_since_boot.map(BootTime::from_since_boot)
    }

    pub(super) fn seal(&self) -> io::Result<OwnedFd> {
        sealed(&serde_json::to_vec(self)?)
    }

    pub(super) fn open(letter: OwnedFd) -> io::Result<Self> {
        read(letter)
    }
}

/// What was written into a memfd.
fn read<T: DeserializeOwned>(memfd: OwnedFd) -> io::Result<T> {
    let mut text = Vec::new();
    File::from(memfd).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

impl From<OsString> for Text {
    fn from(text: OsString) -> Self {
        Self(text.into_vec())
    }
}

impl From<Text> for OsString {
    fn from(Text(bytes): Text) -> Self {
        Self::from_vec(bytes)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or bytes")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Text, A::Error> {
        let mut text = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            text.push(byte);
        }
        Ok(Text(text))
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

    #[test]
    fn a_letter_arrives_as_it_was_written() {
        let launch = Launch {
            argv: vec!["sh".into(), OsString::from_vec(vec![0xff, b'x'])],
            env: vec![("A".into(), Some("b".into())), ("C".into(), None)],
            policy: Policy { grace: Duration::from_millis(1), ..Policy::default() },
            isolate: true,
            kill_deadline: Some(BootTime::from_since_boot(Duration::from_nanos(1_234_567_891))),
            will: Some(LastWill { argv: vec!["officer-exec".into()], stdin: vec![0, 255] }),
            keep_open: None,
        };
        let (argv, will, deadline) = (launch.argv.clone(), launch.will.clone(), launch.kill_deadline);
        let policy = launch.policy;
        let env = launch.env.clone();
        let mut letter = Letter::open(Letter::new(launch).0.seal().unwrap()).unwrap();
        assert_eq!(letter.take_argv(), argv);
        assert_eq!(letter.take_env(), env);
        assert_eq!(letter.policy, policy);
        assert_eq!(letter.take_will(), will);
        assert_eq!(letter.kill_deadline(), deadline);
    }

    #[test]
    fn the_will_keeps_its_secret() {
        let will = LastWill { argv: vec![], stdin: b"hunter2".to_vec() };
        assert!(!format!("{will:?}").contains(&format!("{:?}", will.stdin)));
    }
}
