//! The program as its users see it: real processes, one file a promise.

mod acquire;
mod busy;
mod cron;
mod daemon;
mod embedded;
mod environment;
mod exit_codes;
mod generated;
mod keep_alive;
mod lock_id;
mod lost_lock;
mod operators;
mod played;
mod policies;
mod restart;
mod semaphore;
mod signals;
mod standby;
mod status_file;
mod support;
mod terminal;
#[path = "../terminals/mod.rs"]
mod terminals;
mod tree;
