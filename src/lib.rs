//! Run a command under a distributed lock: the library behind `officer-exec`.

pub mod backend;
pub mod boot_time;
pub mod boot_timer;
pub mod client;
pub mod lease;
pub mod local;
pub mod lock;
pub mod protocol;
pub mod server;
pub mod supervisor;
