//! One client's connection without its socket: bytes that came and aren't served yet, lines that
//! wait to be sent, and whom it acts for. What a line means is the service's matter.

use std::fmt;
use std::net::SocketAddr;

use slab::Slab;

use crate::boot_time::BootTime;
use crate::lock::{OwnerId, SessionKey};

/// The number of a connection; used again after its end.
pub(super) type Key = usize;

/// Who is at the other end, as others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A UNIX client; they are numbered, for they have no addresses.
    Unix(u64),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(number) => write!(f, "UNIX socket client {number}"),
        }
    }
}

/// Whom a connection acts for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Itself; it owns nothing before it first asks for a lock.
    Plain(Option<OwnerId>),
    Session(SessionKey),
}

/// How far a connection's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Lines are served.
    Open,
    /// The client has ended its side; what it sent before is still served.
    InputEnded,
    /// Nothing more is served; it is closed once everything is sent. `linger`: what still comes is
    /// read over for a while, for closing a socket with unread input would destroy our last line.
    Closing { linger: bool },
    /// Our side of the socket is ended; what comes is read over until the client ends its own.
    Lingering,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) role: Role,
    pub(super) stage: Stage,
    /// An unfinished line, or lines that are left for the next turn.
    pub(super) unread: Vec<u8>,
    /// `unread` has lines that must be served before more is read.
    pub(super) has_backlog: bool,
    /// It stands in the list of those whose backlog is served next turn.
    pub(super) is_queued: bool,
    /// When bytes last came; when the lingering began.
    pub(super) heard_at: BootTime,
    out: Vec<u8>,
    sent: u32,
    /// Where in `out` the first answer of this turn starts that needs the store's commit.
    unstored_from: u32,
    /// Answers held back while the store can't be written.
    withheld: Option<Box<Withheld>>,
    is_dirty: bool,
}

/// Boxed, because hardly a connection ever has it.
#[derive(Debug, Default)]
struct Withheld {
    lines: Vec<u8>,
}

const NOWHERE: u32 = u32::MAX;

impl Connection {
    fn new(peer: Peer, now: BootTime) -> Self {
        Self {
            peer,
            role: Role::Plain(None),
            stage: Stage::Open,
            unread: Vec::new(),
            has_backlog: false,
            is_queued: false,
            heard_at: now,
            out: Vec::new(),
            sent: 0,
            unstored_from: NOWHERE,
            withheld: None,
            is_dirty: false,
        }
    }

    /// What waits to be sent, the answers held back included.
    pub(super) fn unsent_len(&self) -> usize {
        self.out.len() - self.sent as usize + self.withheld.as_ref().map_or(0, |held| held.lines.len())
    }

    /// The bytes to write now.
    pub(super) fn output(&self) -> &[u8] {
        &self.out[self.sent as usize..]
    }

    /// So many bytes of the output are written.
    pub(super) fn advance(&mut self, written: usize) {
        self.sent += written as u32;
        if self.sent as usize == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// Everything is sent and nothing is held back.
    pub(super) fn is_drained(&self) -> bool {
        self.out.is_empty() && self.withheld.is_none()
    }

    /// Moves this turn's answers that aren't stored out of the way of the next write.
    fn withhold_unstored(&mut self) {
        if self.unstored_from == NOWHERE {
            return;
        }
        let tail = self.out.split_off(self.unstored_from as usize);
        self.withheld.get_or_insert_default().lines.extend_from_slice(&tail);
        self.unstored_from = NOWHERE;
    }
}

/// What an answer needs before it may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// That the store's changes so far are committed.
    Commit,
}

/// All connections, and which of them have something to send.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: Slab<Connection>,
    dirty: Vec<Key>,
    /// Empty output buffers: a connection has one only while it has something to send.
    spare: Vec<Vec<u8>>,
}

/// Spare output buffers, and how large one may be to be kept: as many as a busy turn needs.
const MAX_SPARE: usize = 512;
const MAX_SPARE_BYTES: usize = 4096;
/// A new output buffer: some replies fit without growing it.
const NEW_BUFFER_BYTES: usize = 512;

impl Connections {
    pub(super) fn add(&mut self, peer: Peer, now: BootTime) -> Key {
        self.all.insert(Connection::new(peer, now))
    }

    pub(super) fn remove(&mut self, key: Key) -> Connection {
        self.all.remove(key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Connection> {
        self.all.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.all.get_mut(key)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Connection)> {
        self.all.iter()
    }

    /// Appends a line to what a connection is sent; nothing if the connection is gone.
    pub(super) fn write(&mut self, key: Key, needs: Needs, line: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.all.get_mut(key) else { return };
        if needs == Needs::Commit
            && let Some(withheld) = &mut connection.withheld
        {
            return line(&mut withheld.lines);
        }
        if connection.out.capacity() == 0 {
            connection.out = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(NEW_BUFFER_BYTES));
        }
        if needs == Needs::Commit && connection.unstored_from == NOWHERE {
            connection.unstored_from = connection.out.len() as u32;
        }
        line(&mut connection.out);
        Self::mark(&mut self.dirty, key, connection);
    }

    /// Takes a connection's output buffer back once it is empty.
    pub(super) fn recycle(&mut self, key: Key) {
        let Some(connection) = self.all.get_mut(key) else { return };
        if connection.out.is_empty() && connection.out.capacity() > 0 {
            let buffer = std::mem::take(&mut connection.out);
            if self.spare.len() < MAX_SPARE && buffer.capacity() <= MAX_SPARE_BYTES {
                self.spare.push(buffer);
            }
        }
    }

    /// Has the connection looked at when output is written, also if there is none.
    pub(super) fn touch(&mut self, key: Key) {
        if let Some(connection) = self.all.get_mut(key) {
            Self::mark(&mut self.dirty, key, connection);
        }
    }

    fn mark(dirty: &mut Vec<Key>, key: Key, connection: &mut Connection) {
        if !connection.is_dirty {
            connection.is_dirty = true;
            dirty.push(key);
        }
    }

    /// The connections with new output, in the order in which they got it.
    pub(super) fn take_dirty(&mut self, into: &mut Vec<Key>) {
        into.clear();
        std::mem::swap(&mut self.dirty, into);
        for &key in into.iter() {
            if let Some(connection) = self.all.get_mut(key) {
                connection.is_dirty = false;
            }
        }
    }

    /// The commit succeeded: nothing has to be held back any more.
    pub(super) fn release_withheld(&mut self, was_failing: bool) {
        for &key in &self.dirty {
            if let Some(connection) = self.all.get_mut(key) {
                connection.unstored_from = NOWHERE;
            }
        }
        if !was_failing {
            return;
        }
        for (key, connection) in &mut self.all {
            if let Some(withheld) = connection.withheld.take() {
                connection.out.extend_from_slice(&withheld.lines);
                Self::mark(&mut self.dirty, key, connection);
            }
        }
    }

    /// The commit failed: holds back what depends on it.
    pub(super) fn withhold_unstored(&mut self) {
        for &key in &self.dirty {
            if let Some(connection) = self.all.get_mut(key) {
                connection.withhold_unstored();
            }
        }
    }

    /// Ends a connection's life after what is to be sent to it; it is served no more.
    pub(super) fn close(&mut self, key: Key, linger: bool) {
        if let Some(connection) = self.all.get_mut(key) {
            connection.stage = Stage::Closing { linger };
            connection.unread = Vec::new();
            connection.has_backlog = false;
            connection.withheld = None;
            Self::mark(&mut self.dirty, key, connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn one() -> (Connections, Key) {
        let mut connections = Connections::default();
        let key = connections.add(Peer::Unix(1), BootTime::from_since_boot(Duration::ZERO));
        (connections, key)
    }

    fn say(connections: &mut Connections, key: Key, needs: Needs, text: &str) {
        connections.write(key, needs, |out| out.extend_from_slice(text.as_bytes()));
    }

    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection>() <= 152, "{}", size_of::<Connection>());
    }

    #[test]
    fn what_is_not_stored_is_held_back_until_it_is() {
        let (mut connections, key) = one();
        say(&mut connections, key, Needs::Nothing, "a");
        say(&mut connections, key, Needs::Commit, "b");
        connections.withhold_unstored();
        say(&mut connections, key, Needs::Commit, "c");
        say(&mut connections, key, Needs::Nothing, "renewed");
        assert_eq!(connections.get(key).unwrap().output(), b"arenewed");
        connections.release_withheld(true);
        assert_eq!(connections.get(key).unwrap().output(), b"arenewedbc");
    }

    #[test]
    fn output_goes_in_the_order_of_the_first_line() {
        let (mut connections, first) = one();
        let second = connections.add(Peer::Unix(2), BootTime::from_since_boot(Duration::ZERO));
        say(&mut connections, second, Needs::Nothing, "x");
        say(&mut connections, first, Needs::Nothing, "y");
        say(&mut connections, second, Needs::Nothing, "z");
        let mut dirty = Vec::new();
        connections.take_dirty(&mut dirty);
        assert_eq!(dirty, [second, first]);
    }
}
