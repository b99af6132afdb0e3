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
use crate::peer::Peer;
use crate::process::{Process, blocking, free_port, logged, run, soon, until};
use crate::suite::{busy, refused, suite, until_queued};
use crate::wrapper::wrapper;

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
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
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
suite! {
    ZooKeeper:
    a_lock_without_a_lease_is_refused
    names_that_mean_something_to_the_engine_are_refused
}
wrapper!(ZooKeeper);

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
    match refused(&mut *client(&url).await, &at_once("mixed")).await {
        AcquireError::LimitMismatch { .. } => {}
        other => panic!("{other:?}"),
    }
    semaphore.release().await;
    let mutex = hold(&url, &at_once("mixed")).await;
    match refused(&mut *client(&url).await, &one_of(2, "mixed")).await {
        AcquireError::LimitMismatch { in_use, .. } => assert_eq!(in_use, "1"),
        other => panic!("{other:?}"),
    }
    until_queued(&url, "mixed", 1).await;
    mutex.release().await;
}

fn kazoo(path: &str, limit: u32, waits: &str) -> Peer {
    let server = format!("127.0.0.1:{}", ZooKeeper::shared().port());
    Peer::python("kazoo_peer.py", &[&server, &format!("/lockex/{path}"), &limit.to_string(), waits])
}

/// Returns when kazoo's waiter stands in line: `many` contenders are there.
async fn until_contended(node: &str, many: usize) {
    let (port, node) = (ZooKeeper::shared().port(), format!("/lockex/{node}"));
    blocking(move || {
        until("kazoo stands in line", || zk_cli(port, &["ls", &node]).matches("__lock__0").count() == many);
    })
    .await;
}

#[tokio::test]
async fn kazoo_lock_and_ours_exclude_each_other() {
    let url = ZooKeeper::shared().url();
    let mut theirs = kazoo("kazoo-lock", 1, "now");
    theirs.says("asking").await;
    theirs.says("acquired").await;
    let busy = busy(&url, &at_once("kazoo-lock")).await;
    assert_eq!(busy.holders.len(), 1, "{busy}");
    theirs.let_go();
    theirs.says("released").await;
    let ours = hold(&url, &at_once("kazoo-lock")).await;
    let mut theirs = kazoo("kazoo-lock", 1, "now");
    theirs.says("asking").await;
    theirs.says("busy").await;
    ours.release().await;
}

#[tokio::test]
async fn kazoo_and_ours_stand_in_one_line() {
    let url = ZooKeeper::shared().url();
    let first = hold(&url, &at_once("kazoo-line")).await;
    let mut second = kazoo("kazoo-line", 1, "wait");
    second.says("asking").await;
    until_contended("kazoo-line", 2).await;
    let third = tokio::spawn(async move { hold(&url, &wanted("kazoo-line")).await });
    until_contended("kazoo-line", 3).await;
    first.release().await;
    // kazoo shows who contends: itself first, then ours by host and pid.
    let line = second.says("acquired").await;
    assert!(line.ends_with(" test-host:4711"), "{line}");
    assert!(!third.is_finished());
    second.let_go();
    soon("ours follows kazoo", third).await.expect("no panic").release().await;
}

#[tokio::test]
async fn kazoo_semaphore_and_ours_share_its_places() {
    let url = ZooKeeper::shared().url();
    let ours = hold(&url, &one_of(2, "kazoo-places")).await;
    let mut theirs = kazoo("kazoo-places", 2, "now");
    theirs.says("asking").await;
    let holders = theirs.says("acquired").await;
    assert!(holders.contains("test-host:4711"), "{holders}");
    assert_eq!(busy(&url, &one_of(2, "kazoo-places")).await.holders.len(), 2);
    let mut third = kazoo("kazoo-places", 2, "now");
    third.says("asking").await;
    third.says("busy").await;
    // Ours gives its place to a kazoo that waits, and kazoo its own to ours.
    let mut waiting = kazoo("kazoo-places", 2, "wait");
    waiting.says("asking").await;
    until_contended("kazoo-places-__lock__", 1).await;
    assert!(waiting.is_silent());
    ours.release().await;
    waiting.says("acquired").await;
    let waits = Wanted { wait: wanted("").wait, ..one_of(2, "kazoo-places") };
    let next = tokio::spawn(async move { hold(&url, &waits).await });
    until_contended("kazoo-places-__lock__", 1).await;
    theirs.let_go();
    soon("ours follows kazoo", next).await.expect("no panic").release().await;
    waiting.let_go();
    waiting.says("released").await;
}

#[tokio::test]
async fn kazoo_and_ours_refuse_each_others_other_limit() {
    let url = ZooKeeper::shared().url();
    let ours = hold(&url, &one_of(2, "kazoo-limit")).await;
    let mut theirs = kazoo("kazoo-limit", 3, "now");
    theirs.says("asking").await;
    theirs.says("refused").await;
    ours.release().await;
    let mut theirs = kazoo("kazoo-limit-2", 3, "now");
    theirs.says("asking").await;
    theirs.says("acquired").await;
    match refused(&mut *client(&url).await, &one_of(2, "kazoo-limit-2")).await {
        AcquireError::LimitMismatch { in_use, .. } => assert_eq!(in_use, "3"),
        other => panic!("{other:?}"),
    }
    theirs.ends().await;
}

/// As lockex is called: its options, its variable, its places.
fn as_lockex(options: &[&str], words: &[&str]) -> Peer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_officer-exec"));
    command.env_remove("OFFICER_SERVER").env("ZKHOSTS", format!("127.0.0.1:{}", ZooKeeper::shared().port()));
    command.args(options).args(words);
    Peer::start(command, "cargo")
}

#[tokio::test]
async fn a_lockex_and_the_program_exclude_each_other() {
    let mut theirs = kazoo("fleet", 1, "now");
    theirs.says("asking").await;
    theirs.says("acquired").await;
    let options = ["--no-blocking", "--lockid", "fleet", "--lockpath", "lockex", "-T", "30"];
    assert_eq!(as_lockex(&options, &["echo", "never"]).exit_code().await, 75);
    theirs.let_go();
    theirs.says("released").await;
    theirs.ends().await;
    let mut ours = as_lockex(
        &["-i", "fleet", "--locktimeout", "5", "-R", "2", "-r", "2"],
        &["sh", "-c", "echo in; cat"],
    );
    ours.says("in").await;
    let mut theirs = kazoo("fleet", 1, "now");
    theirs.says("asking").await;
    theirs.says("busy").await;
    ours.let_go();
    assert_eq!(ours.exit_code().await, 0);
}

#[tokio::test]
async fn a_lockex_semaphore_and_the_program_share_its_places() {
    let mut theirs = kazoo("fleet-of-2", 2, "now");
    theirs.says("asking").await;
    theirs.says("acquired").await;
    let mut ours = as_lockex(&["-c", "2", "-i", "fleet-of-2"], &["sh", "-c", "echo in; cat"]);
    ours.says("in").await;
    let mut third = kazoo("fleet-of-2", 2, "now");
    third.says("asking").await;
    third.says("busy").await;
    assert_eq!(as_lockex(&["-c", "2", "-n", "-i", "fleet-of-2"], &["echo", "never"]).exit_code().await, 75);
    ours.let_go();
    assert_eq!(ours.exit_code().await, 0);
    theirs.ends().await;
}
