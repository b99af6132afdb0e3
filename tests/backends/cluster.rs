//! Three servers, of which one leads: that one is killed.

use std::time::Duration;

use officer::boot_time::BootTime;

use crate::engines::client::{at_once, client_with, wanted};
use crate::engines::cluster::{Cluster, Clustered, Role};
use crate::engines::process::{blocking, soon};
use crate::holder::Holder;
use crate::suite::until_queued;
use crate::wrapper::{HOLD, officer_exec};

/// Far longer than an election, and renewed soon.
const TTL: Duration = Duration::from_secs(15);

/// Two fifths of a ZooKeeper session for it are longer than a test waits.
const LONGEST_TTL: Duration = Duration::from_secs(90);

/// Whichever member the holders are connected to: one begins with each.
pub(crate) async fn locks_stay_ours_when_the_leader_is_killed<P: Clustered>() {
    let mut cluster = blocking(Cluster::<P>::start).await;
    let mut line = Vec::new();
    for (member, url) in cluster.urls().into_iter().enumerate() {
        let name = format!("elected-{member}");
        let guard = client_with(&url, TTL).await.acquire(&at_once(&name)).await;
        let holder = Holder::of(guard.unwrap_or_else(|cause| panic!("{cause}")));
        let next = officer_exec(&url, &["--ttl", "15s", "-i", &name], HOLD);
        until_queued(&url, &name, 2).await;
        line.push((holder, next));
    }
    let cluster = blocking(move || {
        cluster.kill_leader();
        cluster
    })
    .await;
    let elected_at = BootTime::now();
    for (mut holder, mut next) in line {
        holder.is_renewed_after(elected_at).await;
        assert!(next.is_silent(), "it runs beside the holder");
        holder.release().await;
        next.says("started").await;
        next.let_go();
        assert_eq!(next.exit_code().await, 3);
    }
    drop(cluster);
}

/// The same of the program: the command runs on, and the next one's follows it.
pub(crate) async fn commands_run_on_when_the_leader_is_killed<P: Clustered>() {
    let mut cluster = blocking(Cluster::<P>::start).await;
    let mut line = Vec::new();
    for (member, url) in cluster.urls().into_iter().enumerate() {
        let name = format!("running-{member}");
        let options = ["--ttl", "15s", "-i", &name];
        let mut command = officer_exec(&url, &options, HOLD);
        command.says("started").await;
        let next = officer_exec(&url, &options, HOLD);
        until_queued(&url, &name, 2).await;
        line.push((command, next));
    }
    let cluster = blocking(move || {
        cluster.kill_leader();
        cluster
    })
    .await;
    for (mut command, mut next) in line {
        assert!(next.is_silent(), "it runs beside the holder");
        command.let_go();
        command.says("ended").await;
        assert_eq!(command.exit_code().await, 3);
        next.says("started").await;
        next.let_go();
        assert_eq!(next.exit_code().await, 3);
    }
    drop(cluster);
}

/// A member that is silent is left for another one, however long the lease is.
pub(crate) async fn a_waiter_leaves_a_member_that_is_stopped<P: Clustered>() {
    let cluster = blocking(Cluster::<P>::start).await;
    let urls = cluster.urls();
    // One of the first two follows.
    let stopped = usize::from(cluster.role_of(0) == Some(Role::Leader));
    let guard = client_with(&urls[2], LONGEST_TTL).await.acquire(&at_once("stopped-member")).await;
    let holder = Holder::of(guard.unwrap_or_else(|cause| panic!("{cause}")));
    let mut line = Vec::new();
    // Some clients choose a member by chance.
    for place in 2..6 {
        let url = urls[stopped].clone();
        line.push(tokio::spawn(async move {
            let mut client = client_with(&url, LONGEST_TTL).await;
            client.acquire(&wanted("stopped-member")).await.map(Holder::of).map_err(|cause| cause.to_string())
        }));
        until_queued(&urls[2], "stopped-member", place).await;
    }
    cluster.pause(stopped);
    holder.release().await;
    for next in line {
        let next = soon("the next one is served", next).await.expect("no panic");
        next.unwrap_or_else(|cause| panic!("{cause}")).release().await;
    }
    drop(cluster);
}

/// Makes the tests of one program's cluster.
macro_rules! cluster {
    ($program:ty) => {
        #[tokio::test]
        async fn locks_stay_ours_when_the_leader_is_killed() {
            $crate::cluster::locks_stay_ours_when_the_leader_is_killed::<$program>().await;
        }

        #[tokio::test]
        async fn commands_run_on_when_the_leader_is_killed() {
            $crate::cluster::commands_run_on_when_the_leader_is_killed::<$program>().await;
        }

        #[tokio::test]
        async fn a_waiter_leaves_a_member_that_is_stopped() {
            $crate::cluster::a_waiter_leaves_a_member_that_is_stopped::<$program>().await;
        }
    };
}
pub(crate) use cluster;
