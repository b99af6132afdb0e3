//! Redis: the suite, and what only Redis has.

use std::process::Command;

use officer::backend::{AcquireError, ConnectError, Loss, WaitEnd};
use officer::lock::Slot;

use crate::certificates::Certificates;
use crate::engines::client::{LONG_TTL, at_once, client, client_with, connect, one_of, options, wanted};
use crate::engines::process::{DEADLINE, Process, blocking, free_port, logged, soon, until};
use crate::engines::{Engine, Networked, Redis};
use crate::holder::Holder;
use crate::peer::Peer;
use crate::python;
use crate::suite::{busy, over_a_network, promises, refused, suite, until_queued};
use crate::wrapper::{officer_exec, officer_exec_with, wrapper};

suite!(Redis);
over_a_network!(Redis);
promises! {
    Redis, suite:
    a_lock_without_a_lease_is_refused
    names_that_mean_something_to_the_engine_are_refused
}
wrapper!(Redis);

async fn hold(url: &str, name: &str) -> Holder {
    let guard = client(url).await.acquire(&at_once(name)).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard)
}

#[tokio::test]
async fn a_lock_given_to_another_by_hand_is_lost() {
    let (url, server) = (Redis::shared().url(), &Redis::shared().program);
    let mut holder = hold(&url, "overwritten").await;
    blocking(move || server.cli(&["set", "overwritten", "me", "px", "60000"])).await;
    assert_eq!(holder.is_lost().await, Loss::LockGone);
    // The release leaves what isn't ours.
    holder.release().await;
    assert_eq!(blocking(move || server.cli(&["get", "overwritten"])).await.trim(), "me");
}

#[tokio::test]
async fn a_place_of_a_semaphore_deleted_by_hand_is_lost_at_once() {
    let (url, server) = (Redis::shared().url(), &Redis::shared().program);
    let guard =
        client(&url).await.acquire(&one_of(2, "place")).await.unwrap_or_else(|cause| panic!("{cause}"));
    let mut guard = guard;
    blocking(move || server.cli(&["del", "{place}:holders"])).await;
    let event = soon("the loss is noticed", guard.event()).await;
    assert_eq!(event, officer::backend::Event::Lost(Loss::LockGone));
}

#[tokio::test]
async fn a_dead_holder_is_followed_when_its_lease_ends() {
    let url = Redis::shared().url();
    let mut dying = client_with(&url, Redis::SHORTEST_TTL).await;
    let guard = dying.acquire(&one_of(2, "dead")).await.unwrap_or_else(|cause| panic!("{cause}"));
    let alive =
        Holder::of(client(&url).await.acquire(&one_of(2, "dead")).await.unwrap_or_else(|c| panic!("{c}")));
    std::mem::forget(guard);
    let mut next = client(&url).await;
    let next_wants = officer::backend::Wanted { wait: officer::backend::Wait::Forever, ..one_of(2, "dead") };
    let next =
        soon("the lease ends", next.acquire(&next_wants)).await.unwrap_or_else(|cause| panic!("{cause}"));
    assert_eq!(next.grant().slot, Some(Slot(0)));
    Holder::of(next).release().await;
    alive.release().await;
}

#[tokio::test]
async fn a_dead_waiter_is_skipped_when_its_place_expires() {
    let url = Redis::shared().url();
    let holder = hold(&url, "dead-waiter").await;
    let mut dying = client_with(&url, Redis::SHORTEST_TTL).await;
    let wants = wanted("dead-waiter");
    {
        let mut standing = dying.acquire(&wants);
        tokio::select! {
            _ = &mut standing => panic!("granted"),
            () = until_queued(&url, "dead-waiter", 2) => {}
        }
    }
    std::mem::forget(dying);
    let mut next = client(&url).await;
    let mut standing = next.acquire(&wants);
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = until_queued(&url, "dead-waiter", 3) => {}
    }
    holder.release().await;
    let guard = soon("the next is served", standing).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard).release().await;
}

#[tokio::test]
async fn tokens_rise_also_when_the_server_has_forgotten_all() {
    let (url, server) = (Redis::shared().url(), &Redis::shared().program);
    let first = hold(&url, "forgotten").await;
    blocking(move || server.cli(&["del", "forgotten", "{forgotten}:fence", "{forgotten}:tickets"])).await;
    let second = hold(&url, "forgotten").await;
    assert!(second.grant.token > first.grant.token);
    second.release().await;
}

#[tokio::test]
async fn a_unix_socket_and_a_database_are_used() {
    let server = Redis::shared();
    let url = format!("redis+unix://{}/redis.sock?db=3", server.folder().display());
    let holder = hold(&url, "in-db-3").await;
    let found = blocking(move || server.program.cli(&["-n", "3", "exists", "in-db-3"])).await;
    assert_eq!(found.trim(), "1");
    let tcp = format!("{}/3", server.url());
    assert_eq!(busy(&tcp, &at_once("in-db-3")).await.ended_by, WaitEnd::NotWaiting);
    holder.release().await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_the_right_one_let_in() {
    let server = blocking(|| {
        let server = Redis::start();
        server.program.cli(&["config", "set", "requirepass", "right"]);
        server
    })
    .await;
    for password in ["", ":wrong@"] {
        let url = format!("redis://{password}127.0.0.1:{}", server.port());
        let mut options = options(LONG_TTL);
        options.connect_timeout = DEADLINE;
        match connect(&url, &options).await.map(drop) {
            Err(ConnectError::Refused { server, .. }) => assert!(!server.contains("wrong")),
            other => panic!("{password}: {other:?}"),
        }
    }
    let wrong = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let wrapper = officer_exec(&wrong, &["-i", "stranger"], &["echo", "never"]);
    assert_eq!(wrapper.exit_code().await, 77);
    hold(&format!("redis://:right@127.0.0.1:{}", server.port()), "with-password").await.release().await;
}

#[tokio::test]
async fn bookkeeping_goes_when_nobody_uses_the_lock() {
    let (url, server) = (Redis::shared().url(), &Redis::shared().program);
    let mut client = client_with(&url, Redis::SHORTEST_TTL).await;
    let guard = client.acquire(&at_once("short-lived")).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard).release().await;
    blocking(move || {
        until("only the counters are left", || {
            let mut keys: Vec<_> =
                server.cli(&["keys", "*short-lived*"]).lines().map(str::to_owned).collect();
            keys.sort();
            keys == ["{short-lived}:fence", "{short-lived}:tickets"]
        });
    })
    .await;
}

fn redis_py(name: &str, waits: &str) -> Peer {
    python::script("redis_peer.py", &[&Redis::shared().port().to_string(), name, waits])
}

#[tokio::test]
async fn redis_py_lock_and_ours_exclude_each_other() {
    let url = Redis::shared().url();
    let mut theirs = redis_py("py-lock", "now");
    theirs.says("asking").await;
    theirs.says("acquired").await;
    assert_eq!(busy(&url, &at_once("py-lock")).await.holders.len(), 1);
    match refused(&mut *client(&url).await, &one_of(2, "py-lock")).await {
        AcquireError::LimitMismatch { in_use, .. } => assert_eq!(in_use, "1"),
        other => panic!("{other:?}"),
    }
    // It doesn't tell when it releases; ours finds out by looking.
    let mut waiting = client(&url).await;
    let waits = wanted("py-lock");
    let mut standing = waiting.acquire(&waits);
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = until_queued(&url, "py-lock", 2) => {}
    }
    theirs.let_go();
    let ours = soon("ours follows", standing).await.unwrap_or_else(|cause| panic!("{cause}"));
    let ours = Holder::of(ours);
    let mut theirs = redis_py("py-lock", "now");
    theirs.says("asking").await;
    theirs.says("busy").await;
    let mut theirs = redis_py("py-lock", "wait");
    theirs.says("asking").await;
    assert!(theirs.is_silent());
    ours.release().await;
    theirs.says("acquired").await;
    theirs.ends().await;
}

#[tokio::test]
async fn a_server_is_spoken_to_by_tls() {
    let files = Certificates::make();
    let port = free_port();
    let folder = tempfile::tempdir().expect("a folder for the data");
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", "0", "--save", "", "--tls-port", &port.to_string()]);
    command.arg("--tls-cert-file").arg(files.certificate()).arg("--tls-key-file").arg(files.key());
    command.arg("--tls-ca-cert-file").arg(files.ca()).args(["--tls-auth-clients", "no"]);
    let _server = Process::start(logged(command, folder.path()), "redis-server");
    let url = format!("rediss://127.0.0.1:{port}");
    // The system's certificates, as OpenSSL's programs are told of others.
    let trust = [("SSL_CERT_FILE", files.ca())];
    let trust = trust.each_ref().map(|(name, file)| (*name, file.as_path()));
    let mut trusting = officer_exec_with(&trust, &url, &["-i", "encrypted"], &["sh", "-c", "echo in; cat"]);
    trusting.says("in").await;
    let second = officer_exec_with(&trust, &url, &["-n", "-i", "encrypted"], &["true"]);
    assert_eq!(second.exit_code().await, 75);
    // The system's authorities don't know this server's.
    let untrusting = officer_exec(&url, &["-i", "encrypted"], &["true"]);
    assert_eq!(untrusting.exit_code().await, 77);
    // A server that isn't spoken to as it expects is no refusal.
    let plain =
        officer_exec(&format!("redis://127.0.0.1:{port}"), &["-T", "1s", "-i", "encrypted"], &["true"]);
    assert_eq!(plain.exit_code().await, 69);
    trusting.let_go();
    assert_eq!(trusting.exit_code().await, 0);
}
