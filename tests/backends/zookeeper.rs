//! ZooKeeper: the suite, and what only ZooKeeper has.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use officer::backend::{AcquireError, Loss, Wanted};
use tempfile::TempDir;

use crate::engine::{Engine, at_once, client, client_with, one_of, wanted};
use crate::holder::Holder;
use crate::process::{Process, blocking, free_port, logged, run, soon, until};
use crate::suite::{suite, until_queued};

/// Where Debian's package has it.
const JAR: &str = "/usr/share/java/zookeeper.jar";

pub(crate) struct ZooKeeper {
    folder: TempDir,
    port: u16,
    server: Process,
}

impl Engine for ZooKeeper {
    const SHORTEST_TTL: Duration = Duration::from_secs(3);
    const SLOTS: bool = false;

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the data");
        let port = free_port();
        let settings = format!(
            "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n\
             minSessionTimeout=1000\nmaxSessionTimeout=120000\nadmin.enableServer=false\n\
             4lw.commands.whitelist=ruok\n",
            folder.path().join("data").display(),
        );
        std::fs::write(folder.path().join("zoo.cfg"), settings).expect("the test's folder is writable");
        let server = start(&folder, port);
        Self { folder, port, server }
    }

    fn shared() -> &'static Self {
        static SHARED: OnceLock<ZooKeeper> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn url_at(port: u16) -> String {
        format!("zk://127.0.0.1:{port}")
    }

    fn stop(&mut self) {
        self.server.kill();
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server = start(&self.folder, self.port);
    }

    fn pause(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    fn resume(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    fn delete_by_hand(port: u16, lock: &str) {
        zk_cli(port, &["deleteall", &format!("/lockex/{lock}")]);
    }
}

fn start(folder: &TempDir, port: u16) -> Process {
    assert!(Path::new(JAR).exists(), "{JAR} is missing; it is in the Debian package zookeeper");
    let mut command = logged("java", folder.path());
    command.args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", JAR]);
    command.args(["org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"]);
    let server = Process::start(command, "default-jre-headless");
    until("ZooKeeper answers", || is_ok(port).is_ok_and(|ok| ok));
    server
}

fn is_ok(port: u16) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.write_all(b"ruok")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer == "imok")
}

/// ZooKeeper's own client, one command.
pub(crate) fn zk_cli(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new("java");
    command.args(["-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", JAR]);
    command.args(["org.apache.zookeeper.ZooKeeperMain", "-server", &format!("127.0.0.1:{port}")]);
    command.args(arguments);
    run(command, "default-jre-headless")
}

suite!(ZooKeeper);

async fn hold(url: &str, wanted: &Wanted) -> Holder {
    let guard = client(url).await.acquire(wanted).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard)
}

#[tokio::test]
async fn a_lease_deleted_by_hand_is_lost() {
    let (url, port) = (ZooKeeper::shared().url(), ZooKeeper::shared().port());
    let mut holder = hold(&url, &one_of(2, "lease-deleted")).await;
    blocking(move || zk_cli(port, &["deleteall", "/lockex/lease-deleted"])).await;
    assert_eq!(holder.is_lost().await, Loss::LockGone);
}

#[tokio::test]
async fn a_chroot_is_made_and_used() {
    let (url, port) = (ZooKeeper::shared().url(), ZooKeeper::shared().port());
    let holder = hold(&format!("{url}/apps/one"), &at_once("rooted")).await;
    assert_eq!(holder.grant.name, "/lockex/rooted");
    let found = blocking(move || zk_cli(port, &["ls", "/apps/one/lockex/rooted"])).await;
    assert!(found.contains("__lock__0000000000"), "{found}");
    holder.release().await;
}

#[tokio::test]
async fn the_lease_is_shorter_than_the_session() {
    let asked = Duration::from_secs(9);
    let mut client = client_with(&ZooKeeper::shared().url(), asked).await;
    let guard = client.acquire(&at_once("lease")).await.unwrap_or_else(|cause| panic!("{cause}"));
    assert_eq!(guard.grant().ttl, asked);
    // The server's longest session is 120 s, of which three quarters are claimed.
    let mut client = client_with(&ZooKeeper::shared().url(), Duration::from_secs(1000)).await;
    let long = client.acquire(&at_once("long-lease")).await.unwrap_or_else(|cause| panic!("{cause}"));
    assert_eq!(long.grant().ttl, Duration::from_secs(90));
    Holder::of(guard).release().await;
    Holder::of(long).release().await;
}

#[tokio::test]
async fn a_waiter_whose_place_is_deleted_by_hand_stands_in_line_again() {
    let (url, port) = (ZooKeeper::shared().url(), ZooKeeper::shared().port());
    let holder = hold(&url, &one_of(2, "place")).await;
    let second = hold(&url, &one_of(2, "place")).await;
    let mut waiter = client(&url).await;
    let waits = Wanted { wait: wanted("").wait, ..one_of(2, "place") };
    let mut standing = waiter.acquire(&waits);
    let inner = "/lockex/place-__lock__";
    let deleted = blocking(move || {
        until("the waiter stands in line", || zk_cli(port, &["ls", inner]).contains("__lock__0000000002"));
        zk_cli(port, &["deleteall", inner]);
    });
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = deleted => {}
    }
    let release = tokio::spawn(holder.release());
    let guard = soon("the waiter is let in", standing).await.unwrap_or_else(|cause| panic!("{cause}"));
    release.await.expect("no panic");
    Holder::of(guard).release().await;
    second.release().await;
}

#[tokio::test]
async fn the_mix_of_both_kinds_is_seen_where_the_data_says_nothing() {
    let url = ZooKeeper::shared().url();
    // It leaves a node without data.
    hold(&url, &at_once("mixed")).await.release().await;
    let semaphore = hold(&url, &one_of(2, "mixed")).await;
    match client(&url).await.acquire(&at_once("mixed")).await.map(drop) {
        Err(AcquireError::LimitMismatch { .. }) => {}
        other => panic!("{other:?}"),
    }
    semaphore.release().await;
    let mutex = hold(&url, &at_once("mixed")).await;
    match client(&url).await.acquire(&one_of(2, "mixed")).await.map(drop) {
        Err(AcquireError::LimitMismatch { in_use, .. }) => assert_eq!(in_use, "1"),
        other => panic!("{other:?}"),
    }
    until_queued(&url, "mixed", 1).await;
    mutex.release().await;
}
