//! What the program makes of an engine: exit codes, the command's environment, and that the command
//! doesn't outlive the lock.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::engines::client::{at_once, client, wanted};
use crate::engines::process::{blocking, free_port, soon};
use crate::engines::{Engine, Networked};
use crate::holder::Holder;
use crate::peer::Peer;
use crate::proxy::Proxy;
use crate::suite::{busy, until_queued};

/// Makes the program's tests for one engine.
macro_rules! wrapper {
    ($engine:ty) => {
        $crate::suite::promises! {
            $engine, wrapper:
            the_command_runs_and_is_told_of_its_lock
            a_held_lock_is_exit_75
            a_wait_that_ends_is_exit_75
            other_limits_are_exit_2
            a_lock_deleted_by_hand_ends_the_command_with_79
            an_engine_that_stops_ends_the_command_with_79
            an_engine_that_restarts_in_time_is_not_noticed
            a_wrapper_that_is_terminated_while_waiting_leaves_the_queue
            a_wrapper_that_is_killed_passes_the_lock_on
            a_wrapper_that_is_killed_while_waiting_is_skipped
        }
    };
}
pub(crate) use wrapper;

/// Runs until its input ends; what it started is seen by its own last words.
pub(crate) const HOLD: &[&str] = &["sh", "-c", "echo started; cat; echo ended; exit 3"];

/// `officer-exec --server URL OPTIONS -- WORDS`, with an environment that configures nothing.
pub(crate) fn officer_exec(url: &str, options: &[&str], words: &[&str]) -> Peer {
    officer_exec_with(&[], url, options, words)
}

/// The same with variables.
pub(crate) fn officer_exec_with(
    variables: &[(&str, &Path)],
    url: &str,
    options: &[&str],
    words: &[&str],
) -> Peer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_officer-exec"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OFFICER_") || name == "ZKHOSTS" || name == "SSL_CERT_FILE" {
            command.env_remove(name);
        }
    }
    command.envs(variables.iter().copied());
    command.args(["--server", url]).args(options).arg("--").args(words);
    Peer::start(command, "cargo")
}

pub(crate) async fn the_command_runs_and_is_told_of_its_lock<E: Engine>() {
    let url = E::shared().url();
    let tell =
        ["sh", "-c", "echo told $OFFICER_LIMIT $OFFICER_SERVER ${OFFICER_TOKEN:?} ${OFFICER_SLOT:?}; exit 3"];
    let mut wrapper = officer_exec(&url, &["-i", "told-command"], &tell);
    wrapper.says(&format!("told 1 {url} ")).await;
    assert_eq!(wrapper.exit_code().await, 3);
}

pub(crate) async fn a_held_lock_is_exit_75<E: Engine>() {
    let url = E::shared().url();
    let mut holding = officer_exec(&url, &["-i", "held-command"], HOLD);
    holding.says("started").await;
    let second = officer_exec(&url, &["-n", "-i", "held-command"], &["echo", "never"]);
    assert_eq!(second.exit_code().await, 75);
    holding.let_go();
    holding.says("ended").await;
    assert_eq!(holding.exit_code().await, 3);
    assert_eq!(officer_exec(&url, &["-n", "-i", "held-command"], &["true"]).exit_code().await, 0);
}

pub(crate) async fn a_wait_that_ends_is_exit_75<E: Engine>() {
    let url = E::shared().url();
    let holder =
        Holder::of(client(&url).await.acquire(&at_once("waited")).await.unwrap_or_else(|c| panic!("{c}")));
    let waiter = officer_exec(&url, &["-t", "300ms", "-i", "waited"], &["echo", "never"]);
    assert_eq!(waiter.exit_code().await, 75);
    holder.release().await;
}

pub(crate) async fn an_engine_that_is_not_there_is_exit_69<E: Networked>() {
    let url = E::url_at(free_port());
    let wrapper = officer_exec(&url, &["-T", "300ms", "-R", "2", "-i", "x"], &["echo", "never"]);
    assert_eq!(wrapper.exit_code().await, 69);
}

pub(crate) async fn other_limits_are_exit_2<E: Engine>() {
    let url = E::shared().url();
    let mut holding = officer_exec(&url, &["-c", "2", "-i", "limited-command"], HOLD);
    holding.says("started").await;
    let other = officer_exec(&url, &["-c", "3", "-i", "limited-command"], &["echo", "never"]);
    assert_eq!(other.exit_code().await, 2);
    holding.let_go();
    assert_eq!(holding.exit_code().await, 3);
}

pub(crate) async fn a_lock_deleted_by_hand_ends_the_command_with_79<E: Engine>() {
    let server = E::shared();
    let mut wrapper = officer_exec(&server.url(), &["--ttl", "60s", "-i", "deleted-command"], HOLD);
    wrapper.says("started").await;
    blocking(move || server.delete_by_hand("deleted-command")).await;
    assert_eq!(wrapper.exit_code().await, 79);
}

pub(crate) async fn an_engine_that_stops_ends_the_command_with_79<E: Engine>() {
    let server = blocking(E::start).await;
    let mut wrapper =
        officer_exec(&server.url(), &["--ttl", "6s", "-k", "1s", "-i", "stopped-command"], HOLD);
    wrapper.says("started").await;
    server.pause();
    assert_eq!(wrapper.exit_code().await, 79);
    server.resume();
}

pub(crate) async fn an_engine_that_restarts_in_time_is_not_noticed<E: Engine>() {
    let mut server = blocking(E::start).await;
    let url = server.url();
    let mut wrapper = officer_exec(&url, &["--ttl", "60s", "-i", "restarted-command"], HOLD);
    wrapper.says("started").await;
    let server = blocking(move || {
        server.restart();
        server
    })
    .await;
    // Once it has heard of us again: a lock that is still ours.
    assert_eq!(busy(&url, &at_once("restarted-command")).await.holders.len(), 1);
    wrapper.let_go();
    wrapper.says("ended").await;
    assert_eq!(wrapper.exit_code().await, 3);
    let next = officer_exec(&url, &["-i", "restarted-command"], &["true"]);
    assert_eq!(next.exit_code().await, 0);
    drop(server);
}

pub(crate) async fn a_wrapper_that_is_terminated_while_waiting_leaves_the_queue<E: Engine>() {
    let url = E::shared().url();
    let holder =
        Holder::of(client(&url).await.acquire(&at_once("left")).await.unwrap_or_else(|c| panic!("{c}")));
    let waiting = officer_exec(&url, &["--ttl", "60s", "-i", "left"], &["echo", "never"]);
    until_queued(&url, "left", 2).await;
    waiting.terminate();
    assert_eq!(waiting.exit_code().await, 143);
    holder.release().await;
    let next = officer_exec(&url, &["-n", "-i", "left"], &["true"]);
    assert_eq!(next.exit_code().await, 0);
}

pub(crate) async fn a_wrapper_that_is_killed_passes_the_lock_on<E: Engine>() {
    let url = E::shared().url();
    let mut wrapper = officer_exec(&url, &["--ttl", "60s", "-i", "killed"], HOLD);
    wrapper.says("started").await;
    let mut next = client(&url).await;
    let next_wants = wanted("killed");
    let mut standing = next.acquire(&next_wants);
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = until_queued(&url, "killed", 2) => {}
    }
    wrapper.signal(Signal::SIGKILL);
    // The deadline of `soon` is far before the end of the lease.
    let guard = soon("the last will passes it on", standing).await.unwrap_or_else(|cause| panic!("{cause}"));
    wrapper.ends().await;
    Holder::of(guard).release().await;
}

pub(crate) async fn a_wrapper_that_is_killed_while_waiting_is_skipped<E: Engine>() {
    let url = E::shared().url();
    let guard = client(&url).await.acquire(&at_once("dead-in-line")).await;
    let holder = Holder::of(guard.unwrap_or_else(|cause| panic!("{cause}")));
    let waiting = officer_exec(&url, &["--ttl", "60s", "-i", "dead-in-line"], &["echo", "never"]);
    until_queued(&url, "dead-in-line", 2).await;
    let mut next = officer_exec(&url, &["--ttl", "60s", "-i", "dead-in-line"], HOLD);
    until_queued(&url, "dead-in-line", 3).await;
    waiting.signal(Signal::SIGKILL);
    holder.release().await;
    // Far before the end of the dead one's lease.
    next.says("started").await;
    next.let_go();
    assert_eq!(next.exit_code().await, 3);
    waiting.ends().await;
}

pub(crate) async fn a_command_that_is_cut_off_ends_before_the_next_begins<E: Networked>() {
    let server = E::shared();
    let proxy = Proxy::to(server.port());
    let folder = tempfile::tempdir().expect("a folder for the traces");
    let traces = folder.path().join("traces");
    // Deaf to the stop signal, and with a child that is a daemon.
    let first = format!(
        "trap '' TERM; (setsid sh -c 'while :; do echo first >>{0}; sleep 0.01; done' &) ; echo started; \
         while :; do echo first >>{0}; sleep 0.01; done",
        traces.display()
    );
    let second = format!("echo second >>{}; echo started; cat", traces.display());
    let options = ["--ttl", "6s", "-k", "1s", "-i", "cut-off"];
    let mut cut_off = officer_exec(&E::url_at(proxy.port()), &options, &["sh", "-c", &first]);
    cut_off.says("started").await;
    let mut next = officer_exec(&server.url(), &options, &["sh", "-c", &second]);
    until_queued(&server.url(), "cut-off", 2).await;
    proxy.cut();
    next.says("started").await;
    assert_eq!(cut_off.exit_code().await, 79);
    next.let_go();
    assert_eq!(next.exit_code().await, 0);
    let traces = std::fs::read_to_string(&traces).expect("both have written");
    let (before, after) = traces.split_once("second").expect("the second has run");
    assert!(before.contains("first"));
    assert_eq!(after.trim(), "", "the first ran on beside the second");
}
