//! etcd: the suite, and what only etcd has.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use officer::backend::{AcquireError, ConnectError, Event, Loss};

use crate::certificates::Certificates;
use crate::cluster::cluster;
use crate::engines::client::{LONG_TTL, at_once, client, connect, one_of, options, wanted};
use crate::engines::etcd::Member;
use crate::engines::process::{Process, blocking, free_port, logged, soon, until};
use crate::engines::{Engine, Etcd, Networked};
use crate::holder::Holder;
use crate::peer::Peer;
use crate::proxy::Proxy;
use crate::suite::{busy, over_a_network, promises, refused, suite};
use crate::wrapper::{officer_exec, officer_exec_with, wrapper};

suite!(Etcd);
over_a_network!(Etcd);
promises! {
    Etcd, suite:
    a_lock_without_a_lease_is_refused
    names_that_mean_something_to_the_engine_are_refused
}
wrapper!(Etcd);
cluster!(Member);

async fn hold(url: &str, name: &str) -> Holder {
    let guard = client(url).await.acquire(&at_once(name)).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard)
}

#[tokio::test]
async fn a_lease_revoked_by_an_operator_is_lost() {
    let (url, member) = (Etcd::shared().url(), &Etcd::shared().program);
    let mut holder = hold(&url, "revoked").await;
    blocking(move || {
        let key = member.ctl(&["get", "--prefix", "--keys-only", "revoked/"]);
        let lease = key.trim().rsplit_once('/').expect("our key").1.to_owned();
        member.ctl(&["lease", "revoke", &lease]);
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
        server.program.ctl(&["user", "add", "root:right"]);
        server.program.ctl(&["user", "grant-role", "root", "root"]);
        server.program.ctl(&["auth", "enable"]);
        server
    })
    .await;
    let wrong = format!("etcd://root:wrong@127.0.0.1:{}", server.port());
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
    hold(&format!("etcd://root:right@127.0.0.1:{}", server.port()), "with-user").await.release().await;
    // As etcdctl is told of the user.
    let variables: [&[(&str, &Path)]; 2] = [
        &[("ETCDCTL_USER", Path::new("root:right"))],
        &[("ETCDCTL_USER", Path::new("root")), ("ETCDCTL_PASSWORD", Path::new("right"))],
    ];
    for variables in variables {
        let wrapper = officer_exec_with(variables, &server.url(), &["-i", "with-variables"], &["true"]);
        assert_eq!(wrapper.exit_code().await, 0);
    }
}

#[tokio::test]
async fn the_command_is_told_what_etcdctl_tells() {
    let (url, member) = (Etcd::shared().url(), &Etcd::shared().program);
    let holder = hold(&url, "told").await;
    let value = |name: &str| {
        let found = holder.grant.env.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone()).expect("the variable is there")
    };
    let key = blocking(move || member.ctl(&["get", "--prefix", "--keys-only", "told/"])).await;
    assert_eq!(value("ETCD_LOCK_KEY"), key.trim());
    let token = holder.grant.token.expect("a token").0;
    assert!(value("ETCD_LOCK_REV").parse::<u64>().expect("a revision") >= token);
    holder.release().await;
}

/// etcd's own lock; says its key when it has it.
fn etcdctl_lock(name: &str) -> Peer {
    Peer::start(Etcd::shared().program.ctl_command(&["lock", name]), "etcd-client")
}

/// Returns when `many` keys stand under a lock's name.
async fn until_contended(name: &str, many: usize) {
    let (member, prefix) = (&Etcd::shared().program, format!("{name}/"));
    blocking(move || {
        until("etcdctl stands in line", || {
            let keys = member.ctl(&["get", "--prefix", "--keys-only", &prefix]);
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
    let member = &server.program;
    blocking(move || {
        member.ctl(&["put", "other", "1"]);
        let written = member.ctl(&["put", "other", "2", "-w", "json"]);
        let revision: serde_json::Value = serde_json::from_str(&written).expect("JSON");
        member.ctl(&["compact", &revision["header"]["revision"].to_string()]);
    })
    .await;
    // The watch is broken, and set again from a revision that is still there.
    proxy.cut();
    proxy.heal();
    soon("renewed over a new connection", async {
        while !matches!(guard.event().await, Event::Renewed { .. }) {}
    })
    .await;
    blocking(move || server.delete_by_hand("compacted")).await;
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

#[tokio::test]
async fn a_member_is_spoken_to_by_tls_with_a_certificate_on_both_sides() {
    let files = Certificates::make();
    let (ca, certificate, key) = (files.ca(), files.certificate(), files.key());
    let (port, peer_port) = (free_port(), free_port());
    let folder = tempfile::tempdir().expect("a folder for the data");
    let (client, peer) = (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new("etcd");
    command.args(["--data-dir", "data", "--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--client-cert-auth"]);
    command
        .arg("--cert-file")
        .arg(&certificate)
        .arg("--key-file")
        .arg(&key)
        .arg("--trusted-ca-file")
        .arg(&ca);
    let _server = Process::start(logged(command, folder.path()), "etcd-server");
    let url = Etcd::url_at(port);
    let all = [
        ("ETCDCTL_CACERT", ca.as_path()),
        ("ETCDCTL_CERT", certificate.as_path()),
        ("ETCDCTL_KEY", key.as_path()),
    ];
    let mut trusted = officer_exec_with(&all, &url, &["-i", "encrypted"], &["sh", "-c", "echo in; cat"]);
    trusted.says("in").await;
    let second = officer_exec_with(&all, &url, &["-n", "-i", "encrypted"], &["true"]);
    assert_eq!(second.exit_code().await, 75);
    trusted.let_go();
    assert_eq!(trusted.exit_code().await, 0);
    // Signed by an authority that isn't ours; its folder is gone at once.
    let missing = Certificates::make().ca();
    let others = Certificates::make();
    let refused =
        officer_exec_with(&[("ETCDCTL_CACERT", &others.ca())], &url, &["-i", "encrypted"], &["true"]);
    assert_eq!(refused.exit_code().await, 77);
    let unreadable =
        officer_exec_with(&[("ETCDCTL_CACERT", &missing)], &url, &["-i", "encrypted"], &["true"]);
    assert_eq!(unreadable.exit_code().await, 2);
}
