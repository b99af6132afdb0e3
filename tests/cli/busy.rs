//! A lock that is held: fail at once, wait for a time, leave a long queue; say who has it.

use crate::played::{self, Played};
use crate::support::{Running, Server, officer_exec};

#[test]
fn no_blocking_fails_at_once_and_names_the_holder() {
    let server = Server::start();
    let holder = server.hold(&["-i", "a"]);
    let busy = server.run(&["-i", "a", "-n"], &["echo", "never"]);
    assert_eq!((busy.code, busy.stdout.as_str()), (Some(75), ""));
    let expected = format!("pid {} (sh -c echo started; read line; exit 3) since ", holder.pid());
    assert!(busy.stderr.starts_with("officer-exec: not acquired: the lock a is held by "), "{}", busy.stderr);
    assert!(busy.stderr.contains(&expected), "{}", busy.stderr);
    assert_eq!(busy.stderr.lines().count(), 1);
}

#[test]
fn the_wait_limit_ends_the_wait() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a"]);
    for spelling in ["-t", "-w", "--lock-timeout", "--locktimeout", "--wait"] {
        let busy = server.run(&["-i", "a", spelling, "100ms"], &["true"]);
        assert_eq!(busy.code, Some(75), "{spelling}: {}", busy.stderr);
        assert!(busy.stderr.contains("waited 100ms"), "{}", busy.stderr);
    }
    assert_eq!(server.queue_len("a"), 1);
}

#[test]
fn a_question_whose_answer_was_lost_is_asked_again_for_the_rest_of_the_wait_limit() {
    let (listener, url) = played::listen();
    let options = ["-s", &url, "-i", "a", "-t", "1min"];
    let waiter = Running::start(officer_exec().args(options).args(["--", "echo", "never"]));
    let asked = || {
        let mut question = Played::accept(&listener);
        (question.expect("lock")["timeout"].as_f64().unwrap(), question)
    };
    let (whole, lost) = asked();
    drop(lost);
    let (rest, mut heard) = asked();
    assert!(whole == 60.0 && rest < whole, "{whole} s, then {rest} s");
    heard.say(&[
        r#"{"session":"00000000000000000000000000000001","ttl":10,"result":"opened"}"#,
        r#"{"name":"a","queue":[],"holders":[],"result":"timed_out"}"#,
    ]);
    let finished = waiter.finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(75), ""), "{finished:?}");
}

#[test]
fn within_the_wait_limit_it_is_granted() {
    let server = Server::start();
    let holder = server.hold(&["-i", "a"]);
    let waiter = server.wait_for("a", &["-i", "a", "-t", "1h"], &["echo", "granted"]);
    holder.finish();
    assert_eq!(waiter.finish().stdout, "granted\n");
}

#[test]
fn a_long_queue_is_left() {
    let server = Server::start();
    let holder = server.hold(&["-i", "a"]);
    let waiter = server.wait_for("a", &["-i", "a", "--queue-max", "2"], &["true"]);
    let away = server.run(&["-i", "a", "--queue-max", "2"], &["true"]);
    assert_eq!(away.code, Some(75));
    assert!(away.stderr.contains("the queue has 2 or more already"), "{}", away.stderr);
    holder.finish();
    assert_eq!(waiter.finish().code, Some(0));
}

#[test]
fn the_code_for_busy_can_be_chosen() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a"]);
    assert_eq!(server.run(&["-i", "a", "-n", "-E", "0"], &["true"]).code, Some(0));
    assert_eq!(server.run(&["-i", "a", "-n", "-E", "200"], &["true"]).code, Some(200));
}

#[test]
fn it_is_told_in_one_line_whatever_the_names_are() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a\nofficer-exec: b"]);
    let busy = server.run(&["-i", "a\nofficer-exec: b", "-n"], &["true"]);
    assert_eq!(busy.stderr.lines().count(), 1, "{}", busy.stderr);
    assert!(busy.stderr.contains("the lock a\\nofficer-exec: b is held"), "{}", busy.stderr);
}
