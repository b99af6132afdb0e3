//! The words of locking as types, and the lock table. PURE: std and `BootTime` values only, no
//! sockets, no clock, no randomness, so one simulator can run thousands of schedules a second.

mod asking;
mod claim;
mod sessions;
mod slots;
mod table;
#[cfg(test)]
mod table_test;
mod types;
mod view;

pub use asking::{
    Ask, Effect, Grant, Outcome, OwnerId, Party, RestoreError, Restored, TableBounds, Unlocked,
};
pub use sessions::{Session, SessionKey, Sessions};
pub use table::Table;
pub use types::{Limit, SessionId, Slot, Token, Who};
pub use view::{ClaimState, ClaimView, LockView};
