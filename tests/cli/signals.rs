//! Signals to the wrapper: what is forwarded, and how a stop goes.

use nix::sys::signal::Signal;

use crate::support::{LONG_TTL, Running, Server, children, guardian_of, is_pending, sh, wait_until};

/// Says which signals it gets, and ends at end of file.
const REPORTER: &str = "for s in HUP INT USR1 USR2 QUIT; do trap \"echo got $s\" $s; done; \
                        echo started; while ! read line; do :; done; exit 0";

#[test]
fn signals_are_forwarded_to_the_command() {
    let server = Server::start();
    let mut running = Running::start(&mut server.exec(&[], &sh(REPORTER)));
    running.expect_line("started");
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGQUIT] {
        running.signal(signal);
        running.expect_line(&format!("got {}", &signal.as_str()[3..]));
    }
    running.signal(Signal::SIGKILL);
}

#[test]
fn term_stops_the_command_and_its_code_is_told() {
    let server = Server::start();
    let script = "trap 'echo stopping; exit 9' TERM; echo started; while :; do sleep 0.01; done";
    let mut running = Running::start(&mut server.exec(&["-i", "a"], &sh(script)));
    running.expect_line("started");
    running.signal(Signal::SIGTERM);
    running.expect_line("stopping");
    assert_eq!(running.finish().code, Some(9));
    assert_eq!(server.queue_len("a"), 0);
}

#[test]
fn the_stop_signal_can_be_chosen() {
    let server = Server::start();
    let script = "trap 'echo quitting; exit 4' QUIT; echo started; while :; do sleep 0.01; done";
    let mut running = Running::start(&mut server.exec(&["--stop-signal", "QUIT"], &sh(script)));
    running.expect_line("started");
    running.signal(Signal::SIGTERM);
    running.expect_line("quitting");
    assert_eq!(running.finish().code, Some(4));
}

#[test]
fn what_ignores_the_stop_signal_is_killed_after_the_grace() {
    let server = Server::start();
    let script = "trap '' TERM; echo started; while :; do sleep 0.01; done";
    let mut running = Running::start(&mut server.exec(&["--grace", "100ms"], &sh(script)));
    running.expect_line("started");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code, Some(137));
}

#[test]
fn a_second_term_kills_at_once() {
    let server = Server::start();
    let script = "trap 'echo refused' TERM; echo started; while :; do sleep 0.01; done";
    let mut running = Running::start(&mut server.exec(&["--ttl", LONG_TTL, "--grace", "20m"], &sh(script)));
    running.expect_line("started");
    running.signal(Signal::SIGTERM);
    running.expect_line("refused");
    // Two that come in quick succession are one.
    wait_until("it has ended", || {
        running.signal(Signal::SIGTERM);
        !running.is_running()
    });
    assert_eq!(running.finish().code, Some(137));
}

#[test]
fn nohup_is_respected() {
    let server = Server::start();
    let script = "trap '' HUP; exec \"$@\"".to_owned();
    let mut command = server.exec(&[], &sh("echo started; read line; echo $line"));
    let mut words = vec![script, "sh".into()];
    words.push(command.get_program().to_str().unwrap().to_owned());
    words.extend(command.get_args().map(|word| word.to_str().unwrap().to_owned()));
    command = crate::support::clean(std::process::Command::new("sh"));
    command.arg("-c").args(words);
    let mut running = Running::start(&mut command);
    running.expect_line("started");
    running.signal(Signal::SIGHUP);
    running.write_line("still here");
    running.expect_line("still here");
    assert_eq!(running.finish().code, Some(0));
}

#[test]
fn a_second_term_kills_what_the_command_left_behind() {
    let server = Server::start();
    let options = ["--leftovers", "wait", "--ttl", "0", "--grace", "1h"];
    let script = "trap '' TERM; setsid sleep 1000 & exit 4";
    let mut running = Running::start(&mut server.exec(&options, &["sh", "-c", script]));
    running.stderr_until(|line| line.contains("left processes behind").then_some(()));
    // Two that come in quick succession are one.
    wait_until("it has ended", || {
        running.signal(Signal::SIGTERM);
        !running.is_running()
    });
    assert_eq!(running.finish().code, Some(4));
}

#[test]
fn whatever_asks_for_the_end_ends_what_the_command_left_behind() {
    let server = Server::start();
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
        let script = ["sh", "-c", "setsid sleep 1000 & exit 4"];
        let mut running = Running::start(&mut server.exec(&["--leftovers", "wait"], &script));
        running.stderr_until(|line| line.contains("left processes behind").then_some(()));
        running.signal(signal);
        assert_eq!(running.finish().code, Some(4), "{signal}");
    }
}

#[test]
fn two_terms_at_once_leave_the_command_its_grace() {
    let server = Server::start();
    let script = "trap 'echo stopping; read line; echo cleaned up; exit 9' TERM; \
                  echo started; while :; do sleep 0.01; done";
    let options = ["--ttl", LONG_TTL, "--grace", "20m"];
    let mut running = Running::start(&mut server.exec(&options, &sh(script)));
    running.expect_line("started");
    running.signal(Signal::SIGTERM);
    wait_until("the first was taken", || !is_pending(running.pid(), Signal::SIGTERM));
    running.signal(Signal::SIGTERM);
    running.expect_line("stopping");
    running.write_line("go on");
    running.expect_line("cleaned up");
    assert_eq!(running.finish().code, Some(9));
}

#[test]
fn a_signal_while_the_lock_is_given_back_keeps_it_from_nobody() {
    let server = Server::start();
    let mut holder = server.hold(&["-i", "a", "--ttl", LONG_TTL]);
    let guardian = guardian_of(holder.pid());
    server.signal(Signal::SIGSTOP);
    holder.let_end();
    wait_until("the command has ended", || children(guardian).is_empty());
    holder.signal(Signal::SIGTERM);
    wait_until("the signal has arrived", || !is_pending(holder.pid(), Signal::SIGTERM));
    server.signal(Signal::SIGCONT);
    let finished = holder.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(3), ""));
    assert_eq!(server.queue_len("a"), 0);
}

#[test]
fn who_leaves_before_the_server_has_answered_leaves_nothing() {
    let server = Server::start();
    server.signal(Signal::SIGSTOP);
    let before = server.sockets();
    let waiter = Running::start(&mut server.exec(&["-i", "a", "--ttl", LONG_TTL], &["echo", "never"]));
    wait_until("it is connected", || server.sockets() > before);
    waiter.signal(Signal::SIGTERM);
    let finished = waiter.finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(143), ""), "{}", finished.stderr);
    server.signal(Signal::SIGCONT);
    assert_eq!(server.run(&["-i", "a"], &["true"]).code, Some(0));
}

#[test]
fn how_long_a_silent_server_was_waited_for_is_told_in_whole_milliseconds() {
    let server = Server::start();
    let holder = server.hold(&["-i", "a", "--ttl", "2", "--grace", "300ms"]);
    server.signal(Signal::SIGSTOP);
    let finished = holder.finish();
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let (_, told) = finished.stderr.split_once("no answer in ").expect("a word on it");
    let (waited, _) = told.split_once(';').expect("and on what ends the lock");
    let duration = humantime::parse_duration(waited).expect("a duration for people");
    assert_eq!(duration.subsec_nanos() % 1_000_000, 0, "{waited}");
}
