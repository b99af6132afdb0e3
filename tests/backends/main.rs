//! One suite of promises over every engine, each a real server that the test starts itself, and the
//! engines' own lock commands beside ours.

mod cost;
mod engine;
mod holder;
mod officer_server;
mod peer;
mod process;
mod proxy;
mod suite;
mod wrapper;

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "zookeeper")]
mod zookeeper;
