//! Policies of one run: how long the lock is kept, what runs beside, what stands still.

use std::os::unix::process::CommandExt;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{LONG_TTL, Running, Server, children, guardian_of, is_pending, sh, state, wait_until};

#[test]
fn min_hold_keeps_the_lock_after_a_short_command() {
    let server = Server::start();
    let mut running =
        Running::start(&mut server.exec(&["-i", "a", "--min-hold", "1h"], &sh("echo ran; exit 4")));
    running.expect_line("ran");
    wait_until("the command is gone", || children(running.pid()).len() <= 1);
    assert_eq!(server.run(&["-i", "a", "-n"], &["true"]).code, Some(75));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code, Some(4), "the command's own code");
    assert_eq!(server.queue_len("a"), 0);
}

#[test]
fn a_loss_that_ends_min_hold_is_told() {
    let mut server = Server::start();
    let options = ["-i", "a", "--min-hold", "1h", "--ttl", "2", "--grace", "200ms"];
    let mut running = Running::start(&mut server.exec(&options, &sh("echo ran; exit 4")));
    running.expect_line("ran");
    let guardian = guardian_of(running.pid());
    wait_until("the command is gone", || children(guardian).is_empty());
    server.kill();
    let finished = running.finish();
    assert_eq!(finished.code, Some(4), "{}", finished.stderr);
    let told = "the lock was lost before --min-hold was over: the lock server has not answered in time";
    assert!(finished.stderr.contains(told), "{}", finished.stderr);
}

#[test]
fn min_hold_is_ended_by_who_asks_for_the_end_alone() {
    let server = Server::start();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut running =
            Running::start(&mut server.exec(&["-i", "a", "--min-hold", "1h"], &sh("echo ran; exit 4")));
        running.expect_line("ran");
        let guardian = guardian_of(running.pid());
        wait_until("the command is gone", || children(guardian).is_empty());
        for other in [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGUSR1] {
            running.signal(other);
        }
        assert_eq!(server.run(&["-i", "a", "-n"], &["true"]).code, Some(75));
        assert!(running.is_running());
        running.signal(signal);
        assert_eq!(running.finish().code, Some(4), "{signal}");
    }
}

#[test]
fn a_term_ends_min_hold_also_if_the_command_still_runs() {
    let server = Server::start();
    let mut running =
        Running::start(&mut server.exec(&["-i", "a", "--min-hold", "1h"], &sh("echo ran; sleep 1000")));
    running.expect_line("ran");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code, Some(128 + Signal::SIGTERM as i32));
    assert_eq!(server.queue_len("a"), 0);
}

#[test]
fn max_hold_stops_with_grace() {
    let server = Server::start();
    let script = "trap 'echo stopping; exit 0' TERM; echo started; while :; do sleep 0.01; done";
    let mut running = Running::start(&mut server.exec(&["--max-hold", "200ms"], &sh(script)));
    running.expect_line("started");
    running.expect_line("stopping");
    assert_eq!(running.finish().code, Some(124));
}

#[test]
fn hooks_run_when_the_lock_comes_and_goes() {
    let server = Server::start();
    let log = server.data_dir().join("hooks");
    let hook = format!("echo $OFFICER_HOOK $OFFICER_LOCK >> {}", log.display());
    let options = ["-i", "a", "--on-acquired", &hook, "--on-released", &hook, "--on-lost", &hook];
    assert_eq!(server.run(&options, &["true"]).code, Some(0));
    let mut lines: Vec<String> = std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["acquired a", "released a"]);
}

#[test]
fn the_loss_hook_runs_and_release_is_not_claimed() {
    let mut server = Server::start();
    std::fs::create_dir_all(server.data_dir()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("hooks");
    let hook = format!("echo $OFFICER_HOOK >> {}", log.display());
    let options = ["-i", "a", "--ttl", "2", "--grace", "200ms", "--on-released", &hook, "--on-lost", &hook];
    let mut holder = server.hold(&options);
    server.kill();
    assert_eq!(holder.wait().code(), Some(79));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "lost\n");
}

#[test]
fn the_loss_hook_runs_once_at_the_kill_deadline_too() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("hooks");
    let hook = format!("echo $OFFICER_HOOK >> {}", log.display());
    let mut holder = server.hold(&["-i", "a", "--ttl", "2", "--grace", "0", "--on-lost", &hook]);
    server.signal(Signal::SIGSTOP);
    assert_eq!(holder.wait().code(), Some(79));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "lost\n");
    let finished = holder.finish();
    assert!(finished.stderr.contains("the lock server has not answered in time"), "{}", finished.stderr);
}

#[test]
fn the_loss_hook_runs_once_after_a_pause_of_ours_too() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("hooks");
    let hook = format!("echo $OFFICER_HOOK >> {}", log.display());
    let mut holder = server.hold(&["-i", "a", "--ttl", "2", "--grace", "300ms", "--on-lost", &hook]);
    let guardian = guardian_of(holder.pid());
    holder.signal(Signal::SIGSTOP);
    wait_until("the command is dead", || children(guardian).is_empty());
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.wait().code(), Some(79));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "lost\n");
    let finished = holder.finish();
    assert!(finished.stderr.contains("was stopped, or the host suspended"), "{}", finished.stderr);
}

#[test]
fn a_hook_that_fails_is_told_and_changes_nothing() {
    let server = Server::start();
    let finished = server.run(&["--on-acquired", "exit 3"], &sh("exit 5"));
    assert_eq!(finished.code, Some(5));
    assert!(finished.stderr.contains("--on-acquired failed"), "{}", finished.stderr);
}

#[test]
fn whatever_asks_for_the_end_ends_the_hooks_too() {
    let server = Server::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let folder = tempfile::tempdir().unwrap();
        let hook = format!("> {}/$OFFICER_HOOK; sleep 1000", folder.path().display());
        let options = ["--on-acquired", &hook, "--on-released", &hook];
        let running = Running::start(&mut server.exec(&options, &sh("exit 4")));
        let runs = |hook: &str| folder.path().join(hook).exists();
        wait_until("both hooks run", || runs("acquired") && runs("released"));
        running.signal(signal);
        // To the end of stderr, which the hooks have as well.
        let finished = running.finish();
        assert_eq!(finished.code, Some(4), "{signal}: {}", finished.stderr);
        for hook in ["acquired", "released"] {
            let told = format!("the hook --on-{hook} was killed: we were asked to end\n");
            assert!(finished.stderr.contains(&told), "{signal}: {}", finished.stderr);
        }
        assert_eq!(finished.stderr.lines().count(), 2, "{signal}: {}", finished.stderr);
    }
}

#[test]
fn freeze_lets_the_tree_stand_still_while_the_server_is_away() {
    let mut server = Server::start();
    let script = "echo $$; read line; echo went on";
    let mut running =
        Running::start(&mut server.exec(&["--on-suspend", "freeze", "--ttl", LONG_TTL], &sh(script)));
    let command = Pid::from_raw(running.line().parse().unwrap());
    server.kill();
    wait_until("it stands still", || state(command) == Some('T'));
    server.start_again();
    wait_until("it goes on", || state(command) != Some('T'));
    running.write_line("");
    running.expect_line("went on");
    assert_eq!(running.finish().code, Some(0));
}

#[test]
fn what_stands_still_is_not_continued_by_a_signal_to_us() {
    let mut server = Server::start();
    let options = ["--on-suspend", "freeze", "--ttl", LONG_TTL];
    let script = "trap 'echo told' USR1; echo $$; while ! read line; do :; done; echo went on";
    let mut running = Running::start(&mut server.exec(&options, &sh(script)));
    let command = Pid::from_raw(running.line().parse().unwrap());
    server.kill();
    wait_until("it stands still", || state(command) == Some('T'));
    running.signal(Signal::SIGCONT);
    // Forwarded after it, and pending for as long as the command stands.
    running.signal(Signal::SIGUSR1);
    wait_until("the later one has arrived", || is_pending(command, Signal::SIGUSR1));
    assert_eq!(state(command), Some('T'));
    server.start_again();
    running.expect_line("told");
    running.write_line("");
    running.expect_line("went on");
    assert_eq!(running.finish().code, Some(0));
}

#[test]
fn what_stands_still_is_not_continued_by_a_signal_to_our_group() {
    let mut server = Server::start();
    let options = ["--on-suspend", "freeze", "--ttl", LONG_TTL];
    let script = "setsid sh -c 'echo $$; exec sleep 1000' & echo $$; read line; echo went on";
    let mut running = Running::start(server.exec(&options, &sh(script)).process_group(0));
    let tree = [(); 2].map(|()| Pid::from_raw(running.line().parse().unwrap()));
    let stands = |pid: &Pid| state(*pid) == Some('T');
    server.kill();
    wait_until("it stands still", || tree.iter().all(stands));
    // As `fg` does: the command, which is in that group, runs at once.
    killpg(running.pid(), Signal::SIGCONT).unwrap();
    wait_until("it stands still again", || tree.iter().all(stands));
    server.start_again();
    wait_until("it goes on", || !tree.iter().any(stands));
    running.write_line("");
    running.expect_line("went on");
    assert_eq!(running.finish().code, Some(0));
}

#[test]
fn max_hold_ends_what_the_command_left_behind() {
    let server = Server::start();
    let options = ["--leftovers", "wait", "--max-hold", "300ms"];
    let finished = server.run(&options, &["sh", "-c", "setsid sleep 1000 & exit 4"]);
    assert_eq!(finished.code, Some(4), "{}", finished.stderr);
    let told = "held for --max-hold, stopping what the command left behind";
    assert!(finished.stderr.contains(told), "{}", finished.stderr);
}
