//! One JSON line <-> one value, and the bounds of what a line may hold. The wire format is written
//! down in `docs/protocol.md`. Knows nothing of sockets, connections or who holds what.

pub(crate) mod answer;
mod fields;
pub(crate) mod json;
mod parse;
#[cfg(test)]
mod parse_test;
mod quick;
mod refusal;
mod reply;
mod request;

pub use answer::{Answer, TurnedAwayBy};
pub use refusal::{ErrorCode, Refusal};
pub use reply::{
    Granted, Held, Holder, HolderStatus, LockStatus, Reply, ReplyError, ServerStatus, TurnedAway,
    WaiterStatus,
};
pub use request::{LockRequest, Request};

pub use crate::lock::Who;

/// The longest line either side accepts: names of 16 KiB are normal for Officer's clients, escaped
/// they take up to six times that.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The port that Officer's clients connect to if not told otherwise.
pub const DEFAULT_PORT: u16 = 11500;

/// The longest name of a lock. Officer's clients use up to 16 KiB; a namespace comes on top.
pub const MAX_NAME_BYTES: usize = 32 * 1024;

/// The largest limit a lock can have.
pub const MAX_LIMIT: u32 = 1_000_000;

/// Each text of a session's description is cut at this length.
pub const MAX_WHO_BYTES: usize = 256;
