//! One suite of promises over every engine, each a real server that the test starts itself, and the
//! engines' own lock commands beside ours.

#[cfg(any(feature = "etcd", feature = "redis"))]
mod certificates;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
mod cluster;
mod cost;
#[path = "../engines/mod.rs"]
mod engines;
mod holder;
mod own;
mod peer;
mod proxy;
#[cfg(any(feature = "zookeeper", feature = "redis"))]
mod python;
mod suite;
mod wrapper;

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "zookeeper")]
mod zookeeper;
