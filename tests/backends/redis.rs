//! Redis: the suite, and what only Redis has.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use officer::backend::{AcquireError, ConnectError, Loss, WaitEnd};
use officer::lock::Slot;
use tempfile::TempDir;

use crate::engine::{Engine, LONG_TTL, at_once, client, client_with, connect, one_of, options, wanted};
use crate::holder::Holder;
use crate::peer::Peer;
use crate::process::{DEADLINE, Process, blocking, free_port, logged, run, soon, until};
use crate::suite::{busy, refused, suite, until_queued};
use crate::wrapper::{officer_exec, wrapper};

pub(crate) struct Redis {
    folder: TempDir,
    port: u16,
    server: Process,
}

impl Engine for Redis {
    const SHORTEST_TTL: Duration = Duration::from_secs(1);
    const SLOTS: bool = true;

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the data");
        let port = free_port();
        let server = start(&folder, port);
        Self { folder, port, server }
    }

    fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn url_at(port: u16) -> String {
        format!("redis://127.0.0.1:{port}")
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
        assert_eq!(redis_cli(port, &["del", lock]).trim(), "1");
    }
}

fn start(folder: &TempDir, port: u16) -> Process {
    let mut command = logged("redis-server", folder.path());
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    command.args(["--unixsocket", "redis.sock"]);
    let server = Process::start(command, "redis-server");
    until("redis answers", || {
        redis_cli_command(port, &["ping"]).output().is_ok_and(|output| output.stdout == b"PONG\n")
    });
    server
}

fn redis_cli_command(port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
    command
}

fn redis_cli(port: u16, arguments: &[&str]) -> String {
    run(redis_cli_command(port, arguments), "redis-tools")
}

suite!(Redis);
suite! {
    Redis:
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
    let (url, port) = (Redis::shared().url(), Redis::shared().port());
    let mut holder = hold(&url, "overwritten").await;
    blocking(move || redis_cli(port, &["set", "overwritten", "me", "px", "60000"])).await;
    assert_eq!(holder.is_lost().await, Loss::LockGone);
    // The release leaves what isn't ours.
    holder.release().await;
    assert_eq!(blocking(move || redis_cli(port, &["get", "overwritten"])).await.trim(), "me");
}

#[tokio::test]
async fn a_place_of_a_semaphore_deleted_by_hand_is_lost_at_once() {
    let (url, port) = (Redis::shared().url(), Redis::shared().port());
    let guard =
        client(&url).await.acquire(&one_of(2, "place")).await.unwrap_or_else(|cause| panic!("{cause}"));
    let mut guard = guard;
    blocking(move || redis_cli(port, &["del", "{place}:holders"])).await;
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
    let (url, port) = (Redis::shared().url(), Redis::shared().port());
    let first = hold(&url, "forgotten").await;
    blocking(move || redis_cli(port, &["del", "forgotten", "{forgotten}:fence", "{forgotten}:tickets"]))
        .await;
    let second = hold(&url, "forgotten").await;
    assert!(second.grant.token > first.grant.token);
    second.release().await;
}

#[tokio::test]
async fn a_unix_socket_and_a_database_are_used() {
    let server = Redis::shared();
    let url = format!("redis+unix://{}/redis.sock?db=3", server.folder.path().display());
    let holder = hold(&url, "in-db-3").await;
    let port = server.port();
    let found = blocking(move || redis_cli(port, &["-n", "3", "exists", "in-db-3"])).await;
    assert_eq!(found.trim(), "1");
    let tcp = format!("{}/3", server.url());
    assert_eq!(busy(&tcp, &at_once("in-db-3")).await.ended_by, WaitEnd::NotWaiting);
    holder.release().await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_the_right_one_let_in() {
    let server = blocking(|| {
        let server = Redis::start();
        redis_cli(server.port, &["config", "set", "requirepass", "right"]);
        server
    })
    .await;
    for password in ["", ":wrong@"] {
        let url = format!("redis://{password}127.0.0.1:{}", server.port);
        let mut options = options(LONG_TTL);
        options.connect_timeout = DEADLINE;
        match connect(&url, &options).await.map(drop) {
            Err(ConnectError::Refused { server, .. }) => assert!(!server.contains("wrong")),
            other => panic!("{password}: {other:?}"),
        }
    }
    let wrong = format!("redis://:wrong@127.0.0.1:{}", server.port);
    let wrapper = officer_exec(&wrong, &["-i", "stranger"], &["echo", "never"]);
    assert_eq!(wrapper.exit_code().await, 77);
    hold(&format!("redis://:right@127.0.0.1:{}", server.port), "with-password").await.release().await;
}

#[tokio::test]
async fn bookkeeping_goes_when_nobody_uses_the_lock() {
    let (url, port) = (Redis::shared().url(), Redis::shared().port());
    let mut client = client_with(&url, Redis::SHORTEST_TTL).await;
    let guard = client.acquire(&at_once("short-lived")).await.unwrap_or_else(|cause| panic!("{cause}"));
    Holder::of(guard).release().await;
    blocking(move || {
        until("only the counters are left", || {
            let mut keys: Vec<_> =
                redis_cli(port, &["keys", "*short-lived*"]).lines().map(str::to_owned).collect();
            keys.sort();
            keys == ["{short-lived}:fence", "{short-lived}:tickets"]
        });
    })
    .await;
}

fn redis_py(name: &str, waits: &str) -> Peer {
    Peer::python("redis_peer.py", &[&Redis::shared().port().to_string(), name, waits])
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
    ours.release().await;
    theirs.says("acquired").await;
    theirs.ends().await;
}
