//! ZooKeeper: the suite, and what only ZooKeeper has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use officer::backend::{AcquireError, Loss, Wanted};
use tempfile::TempDir;

use crate::cluster::cluster;
use crate::engines::client::{at_once, client, client_with, one_of, wanted};
use crate::engines::process::{blocking, soon, until};
use crate::engines::zookeeper::Quorum;
use crate::engines::{Engine, Networked, ZooKeeper};
use crate::holder::Holder;
use crate::peer::Peer;
use crate::proxy::Proxy;
use crate::python;
use crate::suite::{busy, over_a_network, promises, refused, suite, until_queued};
use crate::wrapper::wrapper;

suite!(ZooKeeper);
over_a_network!(ZooKeeper);
promises! {
    ZooKeeper, suite:
    a_lock_without_a_lease_is_refused
    names_that_mean_something_to_the_engine_are_refused
}
wrapper!(ZooKeeper);
cluster!(Quorum);

async fn hold(url: &str, wanted: &Wanted) -> Holder {
    let guard = client(url).await.acquire(wanted).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard)
}

#[tokio::test]
async fn a_lease_deleted_by_hand_is_lost() {
    let (url, server) = (ZooKeeper::shared().url(), &ZooKeeper::shared().program);
    let mut holder = hold(&url, &one_of(2, "lease-deleted")).await;
    blocking(move || server.cli(&["deleteall", "/lockex/lease-deleted"])).await;
    assert_eq!(holder.is_lost().await, Loss::LockGone);
}

#[tokio::test]
async fn a_chroot_is_made_and_used() {
    let (url, server) = (ZooKeeper::shared().url(), &ZooKeeper::shared().program);
    let holder = hold(&format!("{url}/apps/one"), &at_once("rooted")).await;
    assert_eq!(holder.grant.name, "/lockex/rooted");
    let found = blocking(move || server.cli(&["ls", "/apps/one/lockex/rooted"])).await;
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
    let (url, server) = (ZooKeeper::shared().url(), &ZooKeeper::shared().program);
    let holder = hold(&url, &one_of(2, "place")).await;
    let second = hold(&url, &one_of(2, "place")).await;
    let mut waiter = client(&url).await;
    let waits = Wanted { wait: wanted("").wait, ..one_of(2, "place") };
    let mut standing = waiter.acquire(&waits);
    let inner = "/lockex/place-__lock__";
    let deleted = blocking(move || {
        until("the waiter stands in line", || server.cli(&["ls", inner]).contains("__lock__0000000002"));
        server.cli(&["deleteall", inner]);
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
    python::script("kazoo_peer.py", &[&server, &format!("/lockex/{path}"), &limit.to_string(), waits])
}

/// Returns when kazoo's waiter stands in line: `many` contenders are there.
async fn until_contended(node: &str, many: usize) {
    let (server, node) = (&ZooKeeper::shared().program, format!("/lockex/{node}"));
    blocking(move || {
        until("kazoo stands in line", || server.cli(&["ls", &node]).matches("__lock__0").count() == many);
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
fn like_lockex(mut program: Command, options: &[&str], words: &[&str]) -> Peer {
    let hosts = format!("127.0.0.1:{}", ZooKeeper::shared().port());
    program.env_remove("OFFICER_SERVER").env("ZKHOSTS", hosts).args(options).args(words);
    Peer::start(program, "cargo")
}

fn as_lockex(options: &[&str], words: &[&str]) -> Peer {
    like_lockex(Command::new(env!("CARGO_BIN_EXE_officer-exec")), options, words)
}

/// lockex itself. Its command must not read from it, so it runs until `end` is there.
fn lockex(options: &[&str], end: &Path) -> Peer {
    let script = format!("echo in; while [ ! -e {} ]; do sleep 0.01; done; echo out", end.display());
    let mut program = python::module("lockex.execute");
    // What it says about its connections.
    program.stderr(Stdio::null());
    like_lockex(program, options, &[&script])
}

/// Whose existence tells a command of lockex to end.
struct Sign(TempDir);

impl Sign {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for a sign"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("end")
    }

    fn give(&self) {
        std::fs::write(self.path(), "").expect("the folder is writable");
    }
}

#[tokio::test]
async fn lockex_and_the_program_exclude_each_other() {
    let sign = Sign::new();
    let mut theirs = lockex(&["-i", "fleet"], &sign.path());
    theirs.says("in").await;
    let options = ["--no-blocking", "--lockid", "fleet", "--lockpath", "lockex", "-T", "30"];
    assert_eq!(as_lockex(&options, &["echo", "never"]).exit_code().await, 75);
    // Ours waits behind lockex, another lockex behind ours.
    let options = ["-i", "fleet", "--locktimeout", "35", "-R", "2", "-r", "2"];
    let mut ours = as_lockex(&options, &["sh", "-c", "echo in; cat"]);
    until_contended("fleet", 2).await;
    let mut next = lockex(&["-i", "fleet"], &sign.path());
    until_contended("fleet", 3).await;
    assert!(ours.is_silent() && next.is_silent());
    sign.give();
    theirs.says("out").await;
    ours.says("in").await;
    assert!(next.is_silent());
    ours.let_go();
    assert_eq!(ours.exit_code().await, 0);
    next.says("in").await;
    next.says("out").await;
    assert_eq!(next.exit_code().await, 0);
}

#[tokio::test]
async fn a_lockex_that_does_not_wait_is_kept_out() {
    let mut ours = as_lockex(&["-i", "kept-out"], &["sh", "-c", "echo in; cat"]);
    ours.says("in").await;
    let sign = Sign::new();
    let theirs = lockex(&["--no-blocking", "-i", "kept-out"], &sign.path());
    // Its way to say that it has not run the command.
    assert_eq!(theirs.exit_code().await, 0);
    ours.let_go();
    assert_eq!(ours.exit_code().await, 0);
}

#[tokio::test]
async fn lockex_and_the_program_share_the_places_of_a_semaphore() {
    let sign = Sign::new();
    let mut theirs = lockex(&["-c", "2", "-i", "fleet-of-2"], &sign.path());
    theirs.says("in").await;
    let mut ours = as_lockex(&["-c", "2", "-i", "fleet-of-2"], &["sh", "-c", "echo in; cat"]);
    ours.says("in").await;
    assert_eq!(as_lockex(&["-c", "2", "-n", "-i", "fleet-of-2"], &["echo", "never"]).exit_code().await, 75);
    let mut third = lockex(&["-c", "2", "-i", "fleet-of-2"], &sign.path());
    until_contended("fleet-of-2-__lock__", 1).await;
    assert!(third.is_silent());
    ours.let_go();
    assert_eq!(ours.exit_code().await, 0);
    third.says("in").await;
    sign.give();
    for mut lockex in [theirs, third] {
        lockex.says("out").await;
        assert_eq!(lockex.exit_code().await, 0);
    }
}

#[tokio::test]
async fn what_the_client_library_says_is_not_logged() {
    let proxy = Proxy::to(ZooKeeper::shared().port());
    proxy.cut();
    let mut command = Command::new(env!("CARGO_BIN_EXE_officer-exec"));
    command.args([
        "--server",
        &ZooKeeper::url_at(proxy.port()),
        "-T",
        "3s",
        "--ttl",
        "2s",
        "-k",
        "100ms",
        "true",
    ]);
    let output = blocking(move || command.output().expect("the program runs")).await;
    assert_eq!(output.status.code(), Some(69));
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("officer-exec: cannot reach zk://"), "{log}");
}
