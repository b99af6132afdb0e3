//! What one lock costs on each engine, for the table in the docs:
//! `cargo test --release --test backends cost -- --ignored --nocapture`

use std::time::{Duration, Instant};

use crate::engines::client::{at_once, client};
use crate::engines::{self, Engine};

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

#[tokio::test]
#[ignore = "prints figures, promises nothing"]
async fn cost_of_one_lock_on_each_engine() {
    cost::<engines::Officer>().await;
    #[cfg(feature = "etcd")]
    cost::<engines::Etcd>().await;
    #[cfg(feature = "redis")]
    cost::<engines::Redis>().await;
    #[cfg(feature = "zookeeper")]
    cost::<engines::ZooKeeper>().await;
}
