//! The words of locking as types, and the lock table. PURE: std and `BootTime` values only, no
//! sockets, no clock, no randomness, so one simulator can run thousands of schedules a second.

mod types;

pub use types::{Limit, SessionId, Slot, Token};
