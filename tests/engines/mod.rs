//! One real server of each engine, started by the test that needs it. Whatever the engine, a test knows
//! it by its URL and by what can happen to its process; [`Networked`] adds what is so only over a network.

pub(crate) mod client;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) mod cluster;
pub(crate) mod local;
pub(crate) mod officer;
pub(crate) mod process;
pub(crate) mod server;

#[cfg(feature = "etcd")]
pub(crate) mod etcd;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "zookeeper")]
pub(crate) mod zookeeper;

use std::net::Ipv4Addr;
use std::time::Duration;

use ::officer::backend::Loss;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) use local::Local;
pub(crate) use officer::Officer;
pub(crate) use server::{Program, Server};

#[cfg(feature = "etcd")]
pub(crate) use etcd::Etcd;
#[cfg(feature = "redis")]
pub(crate) use redis::Redis;
#[cfg(feature = "zookeeper")]
pub(crate) use zookeeper::ZooKeeper;

/// One real server of an engine, with its data in a place of its own.
pub(crate) trait Engine: Send + Sync + Sized + 'static {
    /// As tables show it.
    const NAME: &'static str;

    /// The shortest lease that the server grants.
    const SHORTEST_TTL: Duration;

    /// Whether each holder of a semaphore has a number.
    const SLOTS: bool;

    /// Runs a test where its servers are in nobody's way; returns `None` if that isn't allowed here.
    fn apart<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        Some(test())
    }

    /// Starts a server and waits until it answers.
    fn start() -> Self;

    /// A server that tests share, because all they do is done with locks of their own names.
    fn shared() -> &'static Self;

    /// Its `--server`.
    fn url(&self) -> String;

    /// Its process.
    fn pid(&self) -> Pid;

    /// Kills the server (SIGKILL) and leaves it so.
    fn stop(&mut self);

    /// Starts it again with the same data, at the same place.
    fn start_again(&mut self);

    /// What an operator would do to take a lock of limit 1 away: deletes it with the engine's own tool.
    fn delete_by_hand(&self, lock: &str);

    /// How the holder is told of that.
    fn loss_by_hand() -> Loss {
        Loss::LockGone
    }

    /// Kills the server and starts it again.
    fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Stops the server (SIGSTOP): connections stay, nothing is answered.
    fn pause(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("the server runs");
    }

    /// Lets it go on.
    fn resume(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("the server runs");
    }
}

/// An engine that is reached over TCP.
pub(crate) trait Networked: Engine {
    /// Starts a server on an address of this host, loopback or not.
    fn start_on(address: Ipv4Addr) -> Self;

    /// The port that it listens on.
    fn port(&self) -> u16;

    /// The `--server` for one that listens on `port` of loopback.
    fn url_at(port: u16) -> String;
}
