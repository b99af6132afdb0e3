//! The operators' verbs against a server with real wrappers.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::socket::{Backlog, listen};

use crate::played::{self, Played};
use crate::support::{Finished, LONG_TTL, Running, Server, finish, officer_exec, sh, wait_until};

fn ask(server: &Server, words: &[&str]) -> Finished {
    finish(officer_exec().args(words).args(["--server", &server.url()]))
}

/// The token of the one who holds `lock`.
fn token(server: &Server, lock: &str) -> String {
    let status = ask(server, &["status", lock, "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    status["value"][0]["holders"][0]["token"].to_string()
}

#[test]
fn status_shows_who_holds_and_who_waits() {
    let server = Server::start();
    let idle = ask(&server, &["status"]);
    assert_eq!(idle.code, Some(0));
    assert!(idle.stdout.starts_with("nobody holds or waits"), "{}", idle.stdout);
    let holder = server.hold(&["-i", "a"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "next"]);
    let status = ask(&server, &["status"]);
    let lines: Vec<_> = status.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", status.stdout);
    assert!(lines[0].starts_with("LOCK"), "{}", lines[0]);
    assert!(lines[1].starts_with("a     0/1"), "{}", lines[1]);
    assert!(lines[1].contains(&format!("[{}]: sh -c echo started", holder.pid())), "{}", lines[1]);
    assert!(
        lines[2].contains("waits") && lines[2].contains(&format!("[{}]: echo next", waiter.pid())),
        "{}",
        lines[2]
    );
    holder.finish();
    assert_eq!(waiter.finish().stdout, "next\n");
}

#[test]
fn status_of_one_lock_says_nothing_of_others() {
    let server = Server::start();
    let _holders = ["a", "b", "c"].map(|lock| server.hold(&["-i", lock]));
    let one = ask(&server, &["status", "b"]).stdout;
    let lines: Vec<_> = one.lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("b "), "{one}");
    assert!(ask(&server, &["status", "d"]).stdout.starts_with("nobody holds or waits"));
}

#[test]
fn release_ends_the_holders_tree_and_then_the_lock_passes_on() {
    let server = Server::start();
    let mut holder = server.hold(&["-i", "a"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "next"]);
    let token = token(&server, "a");
    let released = ask(&server, &["release", "a", "--token", &token, "--reason", "it hangs"]);
    assert_eq!(released.code, Some(0), "{}", released.stderr);
    assert!(released.stdout.starts_with("told the holder"), "{}", released.stdout);
    assert_eq!(waiter.finish().stdout, "next\n");
    let ended = holder.wait();
    assert_eq!(ended.code(), Some(79));
    let again = ask(&server, &["release", "a", "--token", &token, "--reason", "it hangs"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(79), "not held by this token\n"));
}

/// A holder whose command doesn't end when it is told to, but when the file is there.
fn hold_until_there(server: &Server, file: &Path, options: &[&str]) -> Running {
    let script = format!(
        "trap 'echo stopping' TERM; echo started; until [ -e {} ]; do sleep 0.02; done; exit 3",
        file.display()
    );
    let mut holder = Running::start(&mut server.exec(&[options, &["-i", "a"]].concat(), &sh(&script)));
    holder.expect_line("started");
    holder
}

fn release(server: &Server) {
    let token = token(server, "a");
    let released = ask(server, &["release", "a", "--token", &token, "--reason", "it hangs"]);
    assert!(released.stdout.starts_with("told the holder"), "{released:?}");
}

/// The command is told to stop and takes its time; the lock passes on when it is dead, and not before.
fn passes_on_when_dead(server: &Server, file: &Path, mut holder: Running, waiter: Running) {
    holder.expect_line("stopping");
    assert_eq!(server.queue_len("a"), 2);
    std::fs::write(file, "").unwrap();
    assert_eq!(waiter.finish().stdout, "next\n");
    let ended = holder.wait_with_stdin_open();
    assert_eq!(ended.code, Some(79), "{ended:?}");
    assert!(ended.stderr.contains("revoked by an operator: it hangs"), "{ended:?}");
}

#[test]
fn a_lock_without_a_lease_passes_on_when_its_holders_tree_is_dead() {
    let server = Server::start();
    let end = server.data_dir().join("end");
    let holder = hold_until_there(&server, &end, &["--ttl", "0", "--grace", "20m"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "next"]);
    release(&server);
    passes_on_when_dead(&server, &end, holder, waiter);
}

#[test]
fn a_holder_that_has_not_heard_of_it_is_told_after_the_server_was_killed() {
    let mut server = Server::start();
    let end = server.data_dir().join("end");
    let holder = hold_until_there(&server, &end, &["--ttl", LONG_TTL, "--grace", "20m"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "next"]);
    // Its wrapper stands still while the server is killed, an operator takes the lock, and the server
    // is killed again: what the operator said is known by nothing but the store.
    holder.signal(Signal::SIGSTOP);
    server.kill();
    server.start_again();
    release(&server);
    server.kill();
    server.start_again();
    wait_until("the waiter is back", || server.connected_sessions() == 1);
    assert_eq!(server.queue_len("a"), 2);
    holder.signal(Signal::SIGCONT);
    passes_on_when_dead(&server, &end, holder, waiter);
}

#[test]
fn a_holder_that_is_stopping_keeps_the_next_one_away_over_a_kill_of_the_server() {
    let mut server = Server::start();
    let end = server.data_dir().join("end");
    let mut holder = hold_until_there(&server, &end, &["--ttl", LONG_TTL, "--grace", "20m"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "next"]);
    release(&server);
    holder.expect_line("stopping");
    server.kill();
    server.start_again();
    wait_until("the waiter is back", || server.connected_sessions() == 1);
    assert_eq!(server.queue_len("a"), 2);
    std::fs::write(&end, "").unwrap();
    assert_eq!(waiter.finish().stdout, "next\n");
    assert_eq!(holder.wait().code(), Some(79));
}

#[test]
fn a_waiter_whose_lost_grant_was_taken_gives_it_back_and_asks_again() {
    let (listener, url) = played::listen();
    let waiter = Running::start(officer_exec().args(["-s", &url, "-i", "a", "--", "echo", "started"]));
    let mut first = Played::accept(&listener);
    let id = first.open();
    drop(first);
    let mut second = Played::accept(&listener);
    assert_eq!(second.expect("resume")["session"], id.as_str());
    second.say(&[
        r#"{"ttl":9,"holds":[{"name":"a","token":7,"slot":0,"limit":1}],"waits":[],"result":"resumed"}"#,
        r#"{"name":"a","token":7,"reason":"by hand","result":"revoked"}"#,
    ]);
    second.expect("close");
    second.say(&[r#"{"result":"closed"}"#]);
    let mut third = Played::accept(&listener);
    assert_ne!(third.open(), id);
    third.say(&[r#"{"name":"a","token":8,"slot":0,"limit":1,"result":"acquired"}"#]);
    third.expect("close");
    third.say(&[r#"{"result":"closed"}"#]);
    let finished = waiter.finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "started\n"), "{finished:?}");
}

#[test]
fn verify_within_the_command_takes_lock_and_token_from_the_environment() {
    let server = Server::start();
    let verify = format!("{} verify", crate::support::PROGRAM);
    let held = server.run(&["-i", "a"], &["sh", "-c", &verify]);
    assert_eq!((held.code, held.stdout.as_str()), (Some(0), "held\n"), "{}", held.stderr);
    let not_held = ask(&server, &["verify", "a", "1"]);
    assert_eq!((not_held.code, not_held.stdout.as_str()), (Some(79), "not held\n"));
}

#[test]
fn ping_says_whether_the_server_serves() {
    let mut server = Server::start();
    let pong = ask(&server, &["ping"]);
    assert_eq!((pong.code, pong.stdout.trim()), (Some(0), env!("CARGO_PKG_VERSION")));
    server.kill();
    let silence = ask(&server, &["ping"]);
    assert_eq!(silence.code, Some(69));
    assert!(silence.stderr.starts_with("officer-exec: cannot reach unix:"), "{}", silence.stderr);
}

#[test]
fn nobody_waits_for_ever_for_a_server_that_does_not_answer() {
    let stopped = Server::start();
    stopped.signal(Signal::SIGSTOP);
    // And one that accepts nobody, its queue of new connections full.
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("socket");
    let listener = UnixListener::bind(&full).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _queued = UnixStream::connect(&full).unwrap();
    let asked = [stopped.url(), format!("unix:{}", full.display())]
        .map(|url| (Running::start(officer_exec().args(["status", "-s", &url])), url));
    for (running, url) in asked {
        let finished = running.finish();
        let expected = format!("officer-exec: cannot reach {url}: no answer in 10 s\n");
        assert_eq!((finished.code, finished.stderr), (Some(69), expected));
    }
}

#[test]
fn operators_find_the_server_that_a_command_would_find() {
    let server = Server::start();
    let from = |hosts: &str, url: &str| {
        let mut command = officer_exec();
        finish(command.arg("ping").env("ZKHOSTS", hosts).env("OFFICER_SERVER", url))
    };
    assert_eq!(from("zk.invalid", &server.url()).code, Some(0));
    for url in ["", "etcd://other.invalid"] {
        let asked = if url.is_empty() { "zk://zk.invalid" } else { url };
        let refused = from("zk.invalid", url);
        let expected = format!("officer-exec: cannot ask {asked}: only an Officer server");
        assert!(refused.code == Some(2) && refused.stderr.starts_with(&expected), "{refused:?}");
    }
    let wrong = from("", "gopher://x");
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("OFFICER_SERVER: \"gopher://x\" is no lock server"), "{wrong:?}");
}

#[test]
fn who_watches_is_told_once_that_the_server_is_away_and_sees_it_come_back() {
    let (listener, url) = played::listen();
    let mut watcher = Running::start(officer_exec().args(["status", "--watch", "-s", &url]));
    let answer = |sessions: u32| {
        let mut look = Played::accept(&listener);
        look.expect("status");
        let server = format!(r#"{{"version":"1","up":1,"connections":1,"sessions":{sessions},"locks":0}}"#);
        look.say(&[&format!(r#"{{"server":{server},"value":[],"result":"status"}}"#)]);
    };
    answer(1);
    watcher.expect_line("nobody holds or waits (1 connection, 1 session)");
    for _ in 0..2 {
        drop(Played::accept(&listener));
    }
    answer(2);
    watcher.expect_line("nobody holds or waits (1 connection, 2 sessions)");
    watcher.signal(Signal::SIGTERM);
    let stderr = watcher.finish().stderr;
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with(&format!("officer-exec: cannot reach {url}: ")), "{stderr}");
}

#[test]
fn a_verbs_usage_line_can_be_typed() {
    for verb in ["serve", "status", "release", "verify", "ping", "generate"] {
        let usage = format!("Usage: officer-exec {verb} ");
        let help = finish(officer_exec().args([verb, "--help"]));
        assert!(help.code == Some(0) && help.stdout.contains(&usage), "{help:?}");
        let wrong = finish(officer_exec().args([verb, "--no-such-option"]));
        assert!(wrong.code == Some(2) && wrong.stderr.contains(&usage), "{wrong:?}");
    }
}

#[test]
fn an_empty_variable_names_no_server() {
    let asked = finish(officer_exec().arg("ping").env("OFFICER_SERVER", ""));
    // Whether this user's own server runs is not the matter.
    assert!(matches!(asked.code, Some(0 | 69)), "{asked:?}");
}
