//! A lock that is lost while the command runs: the tree is ended before anyone else can start.

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::played::{self, Played};
use crate::support::{LONG_TTL, Running, Server, guardian_of, marked, officer_exec, sh, state, wait_until};

const SHORT: [&str; 6] = ["-i", "a", "--ttl", "2", "--grace", "300ms"];

#[test]
fn a_server_that_is_gone_past_the_deadline_stops_the_command() {
    let mut server = Server::start();
    let script = "trap 'echo stopped' TERM; echo started; while :; do sleep 0.01; done";
    let mut running = Running::start(&mut server.exec(&SHORT, &sh(script)));
    running.expect_line("started");
    server.kill();
    running.expect_line("stopped");
    let finished = running.finish();
    assert_eq!(finished.code, Some(79));
    assert!(finished.stderr.contains("has not answered in time"), "{}", finished.stderr);
}

#[test]
fn a_server_that_forgot_the_session_stops_the_command_at_once() {
    let mut server = Server::start();
    let mut running = server.hold(&["-i", "a", "--ttl", LONG_TTL, "--grace", "300ms"]);
    server.kill();
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    server.start_again();
    assert_eq!(running.wait().code(), Some(79));
    let finished = running.finish();
    assert!(finished.stderr.contains("no longer knows the session"), "{}", finished.stderr);
}

#[test]
fn the_whole_tree_is_ended() {
    let mut server = Server::start();
    let mark = format!("OFFICER_TEST_MARK={}-lost", std::process::id());
    let script = "setsid sh -c 'trap \"\" TERM; sleep 1000' & sleep 1000 & echo started; wait";
    let mut command = server.exec(&SHORT, &sh(script));
    let (name, value) = mark.split_once('=').unwrap();
    let mut running = Running::start(command.env(name, value));
    running.expect_line("started");
    wait_until("the tree is there", || marked(&mark).len() >= 4);
    server.kill();
    assert_eq!(running.wait().code(), Some(79));
    assert_eq!(marked(&mark), []);
}

#[test]
fn a_wrapper_that_stood_still_past_the_lease_of_leftovers_says_so_and_runs_its_hook() {
    let server = Server::start();
    let heard = server.data_dir().join("heard");
    let hook = format!("touch {}", heard.display());
    let script = "setsid sleep 1000 >&- 2>&- & echo $!";
    let options = [&SHORT[..], &["--leftovers", "wait", "--on-lost", &hook]].concat();
    let mut running = Running::start(&mut server.exec(&options, &sh(script)));
    let leftover = Pid::from_raw(running.line().parse().unwrap());
    running.stderr_until(|line| line.contains("left processes behind").then_some(()));
    running.signal(Signal::SIGSTOP);
    wait_until("its guardian has ended the tree", || state(leftover).is_none());
    running.signal(Signal::SIGCONT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(0), "the command had ended by itself: {}", finished.stderr);
    assert!(heard.exists(), "{}", finished.stderr);
    assert!(!finished.stderr.contains("held up"), "{}", finished.stderr);
}

#[test]
fn without_a_lease_the_connection_is_the_lock() {
    let mut server = Server::start();
    let mut running = server.hold(&["-i", "a", "--ttl", "0"]);
    server.kill();
    assert_eq!(running.wait().code(), Some(79));
    let finished = running.finish();
    assert!(finished.stderr.contains("the connection that held the lock is gone"), "{}", finished.stderr);
}

#[test]
fn without_a_lease_a_stopped_wrapper_loses_its_tree_with_the_connection() {
    let mut server = Server::start();
    let mark = format!("OFFICER_TEST_MARK={}-stopped", std::process::id());
    let (name, value) = mark.split_once('=').unwrap();
    let script = "setsid sleep 1000 & echo started; sleep 1000";
    let options = ["-i", "a", "--ttl", "0", "--grace", "1h"];
    let mut running = Running::start(server.exec(&options, &sh(script)).env(name, value));
    running.expect_line("started");
    running.signal(Signal::SIGSTOP);
    server.kill();
    wait_until("the tree is dead", || marked(&mark).is_empty());
    running.signal(Signal::SIGCONT);
    assert_eq!(running.wait().code(), Some(79));
    let stderr = running.finish().stderr;
    assert!(stderr.contains("the connection that held the lock is gone"), "{stderr}");
    assert!(!stderr.contains("not answered"), "{stderr}");
}

/// Renewals in more than a ttl, whatever had been sent when they are first looked for.
const RENEWALS_BEYOND_THE_TTL: usize = 5;

/// A command under a lock that is renewed all the while, and whose guardian somebody holds up past the
/// deadline that it knew when that began. The guardian then goes on.
fn with_a_guardian_held_up(script: &str, meanwhile: impl FnOnce(&mut Running, Pid)) -> Running {
    let (listener, url) = played::listen();
    let options = ["-s", &url, "-i", "a", "--ttl", "3", "--grace", "300ms", "--"];
    let mut running = Running::start(officer_exec().args(options).args(sh(script)));
    let mut server = Played::accept(&listener);
    let id = server.expect("open")["session"].clone();
    server.say(&[
        &format!(r#"{{"session":{id},"ttl":3,"result":"opened"}}"#),
        r#"{"name":"a","token":1,"slot":0,"limit":1,"result":"acquired"}"#,
    ]);
    let command = Pid::from_raw(running.line().parse().unwrap());
    let guardian = guardian_of(running.pid());
    ptrace::attach(guardian).expect("it may be traced");
    waitpid(guardian, Some(WaitPidFlag::__WALL)).unwrap();
    meanwhile(&mut running, command);
    for _ in 0..RENEWALS_BEYOND_THE_TTL {
        let seq = &server.expect("renew")["seq"];
        server.say(&[&format!(r#"{{"seq":{seq},"ttl":3,"result":"renewed"}}"#)]);
    }
    ptrace::detach(guardian, None).unwrap();
    server.expect("close");
    server.say(&[r#"{"result":"closed"}"#]);
    running
}

#[test]
fn a_guardian_that_was_held_up_is_not_taken_for_a_silent_server() {
    let running = with_a_guardian_held_up("echo $$; exec sleep 1000", |_, _| {});
    let finished = running.finish();
    assert_eq!(finished.code, Some(79), "{}", finished.stderr);
    assert_eq!(
        finished.stderr,
        "officer-exec: the guardian was held up past the last deadline that it knew, and then killed the command \
         lock=\"a\"\n"
    );
}

#[test]
fn a_guardian_that_was_held_up_is_no_loss_to_a_command_that_had_ended() {
    let running = with_a_guardian_held_up("echo $$; read line; exit 3", |running, command| {
        running.let_end();
        wait_until("the command has ended", || state(command) == Some('Z'));
    });
    let finished = running.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(3), ""));
}
