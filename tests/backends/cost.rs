//! What one lock costs on each engine, for the table in the docs:
//! `cargo test --release --test backends cost -- --ignored --nocapture`

use std::time::{Duration, Instant};

use crate::engines::client::{at_once, client};
use crate::engines::{self, Engine};
use crate::suite::run;

/// Of which the median is told.
const LOCKS: usize = 200;

/// Connect, acquire and release, one after another, as wrappers do it; the server on this host.
async fn cost<E: Engine>() {
    let url = E::shared().url();
    let mut times = Vec::with_capacity(LOCKS);
    for _ in 0..LOCKS {
        let begin = Instant::now();
        let mut client = client(&url).await;
        let guard = client.acquire(&at_once("cost")).await.unwrap_or_else(|cause| panic!("{cause}"));
        guard.release(Duration::from_secs(10)).await.unwrap_or_else(|cause| panic!("{cause}"));
        times.push(begin.elapsed());
    }
    times.sort();
    println!("{}: median {:?}, slowest of {LOCKS} {:?}", E::NAME, times[LOCKS / 2], times[LOCKS - 1]);
}

#[test]
#[ignore = "prints figures, promises nothing"]
fn cost_of_one_lock_on_each_engine() {
    run::<engines::Officer, _>(cost::<engines::Officer>);
    run::<engines::Local, _>(cost::<engines::Local>);
    #[cfg(feature = "zookeeper")]
    run::<engines::ZooKeeper, _>(cost::<engines::ZooKeeper>);
    #[cfg(feature = "etcd")]
    run::<engines::Etcd, _>(cost::<engines::Etcd>);
    #[cfg(feature = "redis")]
    run::<engines::Redis, _>(cost::<engines::Redis>);
}
