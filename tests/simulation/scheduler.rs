//! Everything that happens, one thing after the other, in the order of true time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use officer::protocol::{Reply, Request};

use crate::clock::Time;
use crate::network::ConnId;

/// Which client: wrapper, guardian, tree and host of one `officer-exec`.
pub(crate) type ClientId = usize;

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A wrapper is started.
    Start(ClientId),
    /// Something arrives at the server's host.
    ToServer { conn: ConnId, what: Uplink },
    /// Something arrives at a client's host.
    ToClient { conn: ConnId, what: Downlink },
    /// The server does what has come up.
    ServerTurn { generation: u64 },
    /// The server is started again.
    ServerStart,
    /// One of the wrapper's timers.
    WrapperWake { client: ClientId, generation: u64 },
    /// The guardian's timer.
    GuardianTimer { client: ClientId, generation: u64 },
    /// Something else wakes the guardian: an order, a child's end, the wrapper's end.
    GuardianRuns { client: ClientId, run: u64 },
    /// The command ends by itself or because it was told to.
    CommandEnds { client: ClientId, run: u64 },
    /// The last process of the tree has ended.
    TreeDead { client: ClientId, run: u64 },
    /// SIGKILL has ended it, unless that was interrupted.
    TreeKilled { client: ClientId, run: u64 },
    /// A report is there for the wrapper.
    WrapperHears { client: ClientId, run: u64 },
    /// The wrapper sees that the guardian is dead.
    GuardianGone { client: ClientId, run: u64 },
    /// The last will is tried again, or given up.
    WillWake { client: ClientId, generation: u64 },
    /// The host of a client is thawed.
    Thaw(ClientId),
    /// A fault of the plan, by its number.
    Fault(usize),
}

/// What a client sends.
#[derive(Clone, Debug)]
pub(crate) enum Uplink {
    Request(Request<'static>),
    /// The client has closed the connection.
    Closed,
    /// The server's kernel takes the connection for dead.
    Broken,
}

/// What a server sends.
#[derive(Clone, Debug)]
pub(crate) enum Downlink {
    Reply(Reply),
    /// The server has closed the connection, or its host refuses it.
    Closed,
    /// The client's kernel takes the connection for dead.
    Broken,
}

struct Entry {
    at: Time,
    seq: u64,
    event: Event,
}

/// The queue of events. Those of one instant keep the order in which they were put in.
#[derive(Default)]
pub(crate) struct Scheduler {
    now: Time,
    seq: u64,
    /// Of the event that happens now.
    current_seq: u64,
    queue: BinaryHeap<Reverse<Entry>>,
}

impl Scheduler {
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), seq: self.seq, event }));
    }

    pub(crate) fn after(&mut self, delay: Time, event: Event) {
        self.at(self.now.saturating_add(delay), event);
    }

    /// Puts the event that was to happen now off; what was to come after it still does.
    pub(crate) fn put_off(&mut self, until: Time, event: Event) {
        self.queue.push(Reverse(Entry { at: until, seq: self.current_seq, event }));
    }

    /// Before everything else of its instant.
    pub(crate) fn first_at(&mut self, at: Time, event: Event) {
        self.queue.push(Reverse(Entry { at, seq: 0, event }));
    }

    /// Goes on to the next event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse(entry) = self.queue.pop()?;
        self.now = entry.at;
        self.current_seq = entry.seq;
        Some(entry.event)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Entry {}
