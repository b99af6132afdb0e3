//! What clients may use of the server, each with its reason (P8).

use crate::protocol::MAX_LINE_BYTES;

/// The bounds that an operator may want to change.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Bytes of one line.
    pub line_bytes: usize,
    /// Locks held and waited for by one client.
    pub locks_per_client: u32,
    /// Waiters of one lock. Each reply that lists a queue is as long as this.
    pub waiters_per_lock: u32,
    /// Connections; the number of file descriptors is a bound as well.
    pub connections: usize,
    /// Sessions.
    pub sessions: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            line_bytes: MAX_LINE_BYTES,
            locks_per_client: 100_000,
            waiters_per_lock: 200_000,
            connections: 200_000,
            sessions: 200_000,
        }
    }
}

/// Lines of one client served in one turn of the loop: enough to make a turn's costs small, few
/// enough that one pipelining client doesn't starve the others.
pub(super) const LINES_A_TURN: usize = 256;

/// A client that has so many bytes of replies to read isn't read from until it has.
pub(super) const PAUSE_READING_BYTES: usize = 256 * 1024;

/// A client that has so many bytes of replies to read is closed: it is reached only by replies that
/// were asked for before (one grant or timeout for each lock it waits for).
pub(super) const MAX_UNSENT_BYTES: usize = 64 * 1024 * 1024;

/// A longer reply isn't sent, but an error: half of the bound above, so that one that was asked for closes
/// nobody who reads.
pub(super) const MAX_REPLY_BYTES: usize = MAX_UNSENT_BYTES / 2;

/// Bytes read from a socket at once.
pub(super) const READ_BYTES: usize = 64 * 1024;
