//! One JSON line <-> one value, and the bounds of what a line may hold. The wire format is written
//! down in `docs/protocol.md`. Knows nothing of sockets, connections or who holds what.

mod json;
mod reply;
mod request;

pub use reply::{Granted, Held, Holder, Reply, ReplyError, TurnedAway};
pub use request::{LockRequest, Request, Who};

/// The longest line either side accepts: names of 16 KiB are normal for Officer's clients, escaped
/// they take up to six times that.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The port that Officer's clients connect to if not told otherwise.
pub const DEFAULT_PORT: u16 = 11500;
