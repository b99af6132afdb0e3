//! Run a command under a distributed lock: the library behind `officer-exec`.
//!
//! # What is promised
//!
//! * **P1 exclusion:** at most N process trees run under a lock of limit N.
//! * **P2 no survivor:** no descendant of the command outlives the lock.
//! * **P3 order:** first come, first served; who has left is skipped.
//! * **P4 fencing:** each grant's token is greater than every earlier one of that lock.
//! * **P5 prompt hand-over:** the next one starts when the last one's tree is dead, not a lease later.
//! * **P6 restarts are free:** the server may be killed and started again while commands run.
//! * **P7 the truth:** exit code and stderr say what happened.
//! * **P8 bounded:** whatever a peer sends, memory is bounded and everyone else is served.
//!
//! They hold under SIGKILL, SIGSTOP or crash of any one process, loss or delay of the network, server
//! restarts, suspended hosts and clock steps, if the clocks of two hosts run alike to 1 %. What is
//! *not* promised is in `docs/safety.md`.
//!
//! # Theory of operation
//!
//! A lock over a network is a lease. The [`server`] grants a *session* a ttl; the session owns locks
//! and places in queues, outlives its connection, and is kept on disk. The client's side is one pure
//! machine, [`lease`]: it counts from when an answered renewal had been *sent*, so it always ends
//! before the server's, by a margin that pays for clock rates and for killing a tree.
//!
//! Who holds the command is the [`supervisor`]: a guardian process, forked before any thread exists,
//! is the tree's parent and dead man's switch. It gets every new kill deadline, and it ends the tree
//! when that passes, when the wrapper dies, or when told to. Only when the kernel says that no
//! descendant is left is the lock given back.
//!
//! ```text
//! program (exec)  ─┬─ backend ── client ── protocol ── lock
//!                  ├─ lease
//!                  └─ supervisor            server ── protocol ── lock
//! ```
//!
//! Dependencies run one way, to the right. `backend` and `supervisor` don't know each other; the
//! program's `exec` is the only place that sees both. [`lock`] and [`lease`] do no IO and take `now` as
//! an argument, so one simulator can run thousands of schedules over the very code that runs in
//! production.
//!
//! # Where to look
//!
//! * [`client`]: talk to a lock server: [`client::Client`] for a plain connection, [`client::Session`] for leases
//! * [`server`]: run one
//! * [`lock`]: who holds what: the lock table and the sessions, pure
//! * [`lease`]: until when is it ours, pure
//! * [`backend`]: one pair of traits, one adapter for each lock engine
//! * [`supervisor`]: run a command and end its whole tree
//! * [`protocol`]: lines and values; the format is in `docs/protocol.md`
//! * [`local`]: where a user's embedded server is
//! * [`boot_time`], [`boot_timer`]: the clock of every deadline

pub mod backend;
pub mod boot_time;
pub mod boot_timer;
pub mod client;
pub mod lease;
pub mod local;
pub mod lock;
pub mod own_thread;
pub mod protocol;
mod same_program;
mod secret;
pub mod server;
pub mod supervisor;

pub use client::Client;
