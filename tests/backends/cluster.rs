//! Three servers, of which one leads: that one is killed.

use std::time::Duration;

use officer::boot_time::BootTime;

use crate::engines::client::{at_once, client_with};
use crate::engines::cluster::{Cluster, Clustered};
use crate::engines::process::blocking;
use crate::holder::Holder;
use crate::suite::until_queued;
use crate::wrapper::{HOLD, officer_exec};

/// Far longer than an election, and renewed soon.
const TTL: Duration = Duration::from_secs(15);

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
    };
}
pub(crate) use cluster;
