//! What wrapper and guardian say to each other, over one seqpacket socketpair: a message is a
//! packet, and the end of either process is seen by the other. Neither end ever blocks on it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::command::Stage;
use super::{Exit, KilledBy, Leftover};

/// The largest message: a full list of processes, names escaped.
const MAX_MESSAGE_BYTES: usize = 6 * 1024;

/// How many processes a message names; nobody reads more in one line of a log.
pub(super) const MAX_NAMED: usize = 32;

/// What the wrapper asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// What to do if the wrapper dies before there is a command. Descriptor: the will.
    Bequeath,
    /// Start a command. Descriptors: the letter, and what is to be kept open if there is something.
    Start,
    /// The kill deadline, since boot.
    KillDeadline(Option<Duration>),
    /// A signal for the command.
    Signal(i32),
    Stop,
    Kill,
    Freeze,
    Thaw,
    /// The guardian isn't needed any more.
    Goodbye,
}

/// What the guardian tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The command runs.
    Started {
        pid: i32,
    },
    /// It could not be executed.
    NotStarted {
        stage: Stage,
        errno: i32,
    },
    Ended(Exit),
    Leftovers(Vec<Leftover>),
    /// The first SIGKILLs are about to be sent: with a large tree that takes longer than the wrapper waits
    /// for a sign.
    Killing,
    /// We aren't allowed to kill these.
    Unkillable(Vec<Leftover>),
    /// These were killed, and live.
    StillThere(Vec<Leftover>),
    /// The tree can't be looked at, and counts as alive meanwhile.
    CannotLook(String),
    TreeDead {
        exit: Exit,
        killed_by: Option<KilledBy>,
    },
}

/// One end of the socketpair.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// No room at present.
    Full,
    /// Nobody is there to read it.
    Closed,
}

/// What came.
#[derive(Debug)]
pub(super) enum Received<M> {
    Message(M, Vec<OwnedFd>),
    /// Nothing at present.
    Nothing,
    /// The other end is gone.
    Closed,
}

impl Channel {
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(one), Self(other)))
    }

    pub(super) fn send<M: Serialize>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<Sent> {
        let text = serde_json::to_vec(message)?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&text)], control, flags, None) {
            Ok(_) => Ok(Sent::Yes),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(Sent::Full),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(Sent::Closed),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn receive<M: DeserializeOwned>(&self) -> io::Result<Received<M>> {
        let mut text = [0; MAX_MESSAGE_BYTES];
        let mut control = nix::cmsg_space!([RawFd; 2]);
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut control), flags);
        let (length, descriptors) = match received {
            Ok(received) => (received.bytes, taken(received.cmsgs()?)),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
            Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            Err(errno) => return Err(errno.into()),
        };
        // No message is empty, so this is the end.
        if length == 0 {
            return Ok(Received::Closed);
        }
        Ok(Received::Message(serde_json::from_slice(&text[..length])?, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn taken(control: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    for message in control {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            descriptors.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_of_processes_fits() {
        let (one, other) = Channel::pair().unwrap();
        let worst = Leftover { pid: i32::MAX, name: "\u{1}".repeat(15) };
        let report = Report::Leftovers(vec![worst; MAX_NAMED]);
        assert_eq!(one.send(&report, &[]).unwrap(), Sent::Yes);
        match other.receive::<Report>().unwrap() {
            Received::Message(got, _) => assert_eq!(got, report),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_channel_does_not_block() {
        let (one, _other) = Channel::pair().unwrap();
        while one.send(&Order::Stop, &[]).unwrap() == Sent::Yes {}
        assert_eq!(one.send(&Order::Stop, &[]).unwrap(), Sent::Full);
    }

    #[test]
    fn the_end_of_the_other_side_is_seen() {
        let (one, other) = Channel::pair().unwrap();
        drop(other);
        assert!(matches!(one.receive::<Order>().unwrap(), Received::Closed));
        assert_eq!(one.send(&Order::Stop, &[]).unwrap(), Sent::Closed);
    }

    #[test]
    fn descriptors_travel_with_the_message() {
        let (one, other) = Channel::pair().unwrap();
        let letter = super::super::launch::sealed(b"x").unwrap();
        one.send(&Order::Start, &[letter.as_fd()]).unwrap();
        match other.receive::<Order>().unwrap() {
            Received::Message(Order::Start, descriptors) => assert_eq!(descriptors.len(), 1),
            other => panic!("{other:?}"),
        }
    }
}
