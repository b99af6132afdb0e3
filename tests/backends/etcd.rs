//! etcd: the suite, and what only etcd has.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use officer::backend::{AcquireError, ConnectError, Event, Loss};
use tempfile::TempDir;

use crate::engine::{Engine, LONG_TTL, at_once, client, connect, one_of, options, wanted};
use crate::holder::Holder;
use crate::peer::Peer;
use crate::process::{Process, blocking, free_port, logged, run, soon, until};
use crate::proxy::Proxy;
use crate::suite::{busy, refused, suite};
use crate::wrapper::{officer_exec, wrapper};

pub(crate) struct Etcd {
    folder: TempDir,
    port: u16,
    peer_port: u16,
    server: Process,
}

impl Engine for Etcd {
    const SHORTEST_TTL: Duration = Duration::from_secs(2);
    const SLOTS: bool = false;

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the data");
        let (port, peer_port) = (free_port(), free_port());
        let server = start(&folder, port, peer_port);
        Self { folder, port, peer_port, server }
    }

    fn shared() -> &'static Self {
        static SHARED: OnceLock<Etcd> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn url_at(port: u16) -> String {
        format!("etcd://127.0.0.1:{port}")
    }

    fn stop(&mut self) {
        self.server.kill();
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server = start(&self.folder, self.port, self.peer_port);
    }

    fn pause(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    fn resume(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    fn delete_by_hand(port: u16, lock: &str) {
        let deleted = etcdctl(port, &["del", "--prefix", &format!("{lock}/")]);
        assert_eq!(deleted.trim(), "1");
    }
}

fn start(folder: &TempDir, port: u16, peer_port: u16) -> Process {
    let mut command = logged("etcd", folder.path());
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    command.args(["--data-dir", "data", "--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    let server = Process::start(command, "etcd-server");
    until("etcd answers", || {
        etcdctl_command(port, &["endpoint", "health"]).output().is_ok_and(|o| o.status.success())
    });
    server
}

pub(crate) fn etcdctl_command(port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints=127.0.0.1:{port}")).args(arguments);
    command
}

pub(crate) fn etcdctl(port: u16, arguments: &[&str]) -> String {
    run(etcdctl_command(port, arguments), "etcd-client")
}

suite!(Etcd);
suite! {
    Etcd:
    a_lock_without_a_lease_is_refused
    names_that_mean_something_to_the_engine_are_refused
}
wrapper!(Etcd);

async fn hold(url: &str, name: &str) -> Holder {
    let guard = client(url).await.acquire(&at_once(name)).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard)
}

#[tokio::test]
async fn a_lease_revoked_by_an_operator_is_lost() {
    let (url, port) = (Etcd::shared().url(), Etcd::shared().port());
    let mut holder = hold(&url, "revoked").await;
    blocking(move || {
        let key = etcdctl(port, &["get", "--prefix", "--keys-only", "revoked/"]);
        let lease = key.trim().rsplit_once('/').expect("our key").1.to_owned();
        etcdctl(port, &["lease", "revoke", &lease]);
    })
    .await;
    assert_eq!(holder.is_lost().await, Loss::SessionGone);
}

#[tokio::test]
async fn a_short_ttl_is_lengthened_to_what_the_server_grants() {
    let mut backend = connect(&Etcd::shared().url(), &options(Duration::from_millis(300))).await.unwrap();
    let guard = backend.acquire(&at_once("short")).await.unwrap_or_else(|cause| panic!("{cause}"));
    assert_eq!(guard.grant().ttl, Etcd::SHORTEST_TTL);
    Holder::of(guard).release().await;
}

#[tokio::test]
async fn a_member_that_is_down_is_passed_over() {
    let url = format!("etcd://127.0.0.1:{},127.0.0.1:{}", free_port(), Etcd::shared().port());
    hold(&url, "other-member").await.release().await;
}

#[tokio::test]
async fn a_stranger_is_refused_and_a_user_let_in() {
    let server = blocking(|| {
        let server = Etcd::start();
        etcdctl(server.port, &["user", "add", "root:right"]);
        etcdctl(server.port, &["user", "grant-role", "root", "root"]);
        etcdctl(server.port, &["auth", "enable"]);
        server
    })
    .await;
    let wrong = format!("etcd://root:wrong@127.0.0.1:{}", server.port);
    match connect(&wrong, &options(LONG_TTL)).await.map(drop) {
        Err(ConnectError::Refused { server, .. }) => assert!(!server.contains("wrong")),
        other => panic!("{other:?}"),
    }
    match client(&server.url()).await.acquire(&at_once("stranger")).await.map(drop) {
        Err(AcquireError::Connection(ConnectError::Refused { .. })) => {}
        other => panic!("{other:?}"),
    }
    let wrapper = officer_exec(&wrong, &["-i", "stranger"], &["echo", "never"]);
    assert_eq!(wrapper.exit_code().await, 77);
    hold(&format!("etcd://root:right@127.0.0.1:{}", server.port), "with-user").await.release().await;
}

#[tokio::test]
async fn the_command_is_told_what_etcdctl_tells() {
    let (url, port) = (Etcd::shared().url(), Etcd::shared().port());
    let holder = hold(&url, "told").await;
    let value = |name: &str| {
        let found = holder.grant.env.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone()).expect("the variable is there")
    };
    let key = blocking(move || etcdctl(port, &["get", "--prefix", "--keys-only", "told/"])).await;
    assert_eq!(value("ETCD_LOCK_KEY"), key.trim());
    let token = holder.grant.token.expect("a token").0;
    assert!(value("ETCD_LOCK_REV").parse::<u64>().expect("a revision") >= token);
    holder.release().await;
}

/// etcd's own lock; says its key when it has it.
fn etcdctl_lock(name: &str) -> Peer {
    Peer::start(etcdctl_command(Etcd::shared().port(), &["lock", name]), "etcd-client")
}

/// Returns when `many` keys stand under a lock's name.
async fn until_contended(name: &str, many: usize) {
    let (port, prefix) = (Etcd::shared().port(), format!("{name}/"));
    blocking(move || {
        until("etcdctl stands in line", || {
            let keys = etcdctl(port, &["get", "--prefix", "--keys-only", &prefix]);
            keys.lines().filter(|line| !line.is_empty()).count() == many
        });
    })
    .await;
}

#[tokio::test]
async fn etcdctl_lock_and_ours_exclude_each_other() {
    let url = Etcd::shared().url();
    let mut theirs = etcdctl_lock("ctl");
    theirs.says("ctl/").await;
    assert_eq!(busy(&url, &at_once("ctl")).await.holders.len(), 1);
    match refused(&mut *client(&url).await, &one_of(2, "ctl")).await {
        AcquireError::LimitMismatch { in_use, .. } => assert_eq!(in_use, "1"),
        other => panic!("{other:?}"),
    }
    theirs.terminate();
    theirs.ends().await;
    let mut client = client(&url).await;
    let ours =
        soon("ours follows", client.acquire(&wanted("ctl"))).await.unwrap_or_else(|cause| panic!("{cause}"));
    let ours = Holder::of(ours);
    let mut theirs = etcdctl_lock("ctl");
    until_contended("ctl", 2).await;
    assert!(theirs.is_silent());
    ours.release().await;
    theirs.says("ctl/").await;
    theirs.terminate();
    theirs.ends().await;
}

#[tokio::test]
async fn etcdctl_and_ours_stand_in_one_line() {
    let url = Etcd::shared().url();
    let first = hold(&url, "ctl-line").await;
    let mut second = etcdctl_lock("ctl-line");
    until_contended("ctl-line", 2).await;
    let mut third = client(&url).await;
    let third_wants = wanted("ctl-line");
    let mut standing = third.acquire(&third_wants);
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = until_contended("ctl-line", 3) => {}
    }
    let released = tokio::spawn(first.release());
    tokio::select! {
        _ = &mut standing => panic!("granted out of turn"),
        _ = second.says("ctl-line/") => {}
    }
    released.await.expect("no panic");
    second.terminate();
    let ours = soon("ours follows", standing).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(ours).release().await;
}

#[tokio::test]
async fn a_deletion_is_noticed_although_history_was_compacted() {
    let server = Etcd::shared();
    let proxy = Proxy::to(server.port());
    let mut cut_off = client(&Etcd::url_at(proxy.port())).await;
    let mut guard = cut_off.acquire(&at_once("compacted")).await.unwrap_or_else(|cause| panic!("{cause}"));
    let port = server.port();
    blocking(move || {
        etcdctl(port, &["put", "other", "1"]);
        let written = etcdctl(port, &["put", "other", "2", "-w", "json"]);
        let revision: serde_json::Value = serde_json::from_str(&written).expect("JSON");
        etcdctl(port, &["compact", &revision["header"]["revision"].to_string()]);
    })
    .await;
    // The watch is broken, and set again from a revision that is still there.
    proxy.cut();
    proxy.heal();
    soon("renewed over a new connection", async {
        while !matches!(guard.event().await, Event::Renewed { .. }) {}
    })
    .await;
    blocking(move || Etcd::delete_by_hand(port, "compacted")).await;
    let lost = async { while !matches!(guard.event().await, Event::Lost(Loss::LockGone)) {} };
    soon("the loss is noticed without a renewal", lost).await;
}

#[tokio::test]
async fn etcdctl_lock_and_the_program_exclude_each_other() {
    let url = Etcd::shared().url();
    let tell = ["sh", "-c", "echo key $ETCD_LOCK_KEY; cat"];
    let mut ours = officer_exec(&url, &["-i", "ctl-program"], &tell);
    ours.says("key ctl-program/").await;
    let mut theirs = etcdctl_lock("ctl-program");
    until_contended("ctl-program", 2).await;
    assert!(theirs.is_silent());
    ours.let_go();
    theirs.says("ctl-program/").await;
    let second = officer_exec(&url, &["-n", "-i", "ctl-program"], &["echo", "never"]);
    assert_eq!(second.exit_code().await, 75);
    theirs.terminate();
    theirs.ends().await;
    let third = officer_exec(&url, &["-i", "ctl-program"], &["true"]);
    assert_eq!(third.exit_code().await, 0);
}
