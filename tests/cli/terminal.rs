//! At a terminal: keys reach what they are meant for, whatever group it went to.

use std::fs::File;
use std::process::Command;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::support::{Server, clean, guardian_of, sh, wait_until};
use crate::terminals::Terminal;

const CTRL_C: &[u8] = b"\x03";
const CTRL_BACKSLASH: &[u8] = b"\x1c";

/// A shell with job control.
fn shell() -> Terminal {
    Terminal::of_shell(clean(Command::new("sh")))
}

#[test]
fn keys_reach_a_command_that_left_our_group() {
    let server = Server::start();
    keys_reach_who_left_our_group(&server, &[]);
}

#[test]
fn keys_reach_an_isolated_command_that_left_our_group() {
    let server = Server::start();
    let probe = server.run(&["--isolate"], &["true"]);
    match probe.code {
        Some(0) => keys_reach_who_left_our_group(&server, &["--isolate"]),
        _ => println!("skipped: {}", probe.stderr),
    }
}

fn keys_reach_who_left_our_group(server: &Server, options: &[&str]) {
    for (key, name) in [(CTRL_C, "INT"), (CTRL_BACKSLASH, "QUIT")] {
        let mut terminal = shell();
        let script =
            format!("trap \"echo got {name}; exit 5\" {name}; echo ready; while :; do sleep 0.01; done");
        // It puts itself into a group of its own.
        terminal.run(&server.exec(options, &["setsid", "sh", "-c", &script]), "; echo code $?");
        terminal.wait_for("ready");
        terminal.press(key);
        terminal.wait_for(&format!("got {name}"));
        terminal.wait_for("code 5");
    }
}

#[test]
fn keys_reach_a_command_in_our_group_once() {
    let server = Server::start();
    let script = "n=0; trap \"n=\\$((n+1)); echo hit \\$n\" INT; echo ready; \
                  while [ $n -lt 1 ]; do sleep 0.01; done; read line; echo hits $n";
    let mut terminal = shell();
    terminal.run(&server.exec(&[], &sh(script)), "; echo code $?");
    terminal.wait_for("ready");
    terminal.press(CTRL_C);
    terminal.wait_for("hit 1");
    terminal.press(b"go on\n");
    terminal.wait_for("hits 1");
    terminal.wait_for("code 0");
}

/// A guardian that stands still makes the moment before the command last.
#[test]
fn a_key_pressed_between_the_grant_and_the_start_ends_the_command() {
    let server = Server::start();
    for (key, signal) in [(CTRL_C, Signal::SIGINT), (CTRL_BACKSLASH, Signal::SIGQUIT)] {
        let granted = server.data_dir().join(signal.as_str());
        let holder = server.hold(&["-i", "a"]);
        let hook = format!("touch {}", granted.display());
        let options = ["-i", "a", "--on-acquired", &hook];
        let mut terminal = Terminal::of(server.exec(&options, &["sleep", "1000"]));
        wait_until("it waits", || server.queue_len("a") == 2);
        let guardian = guardian_of(Pid::from_raw(terminal.leader.id() as i32));
        ptrace::attach(guardian).unwrap();
        waitpid(guardian, Some(WaitPidFlag::__WALL)).unwrap();
        holder.finish();
        wait_until("it is granted", || granted.exists());
        terminal.press(key);
        wait_until("the key has come", || is_pending(guardian, signal));
        ptrace::detach(guardian, None).unwrap();
        wait_until("the command has ended", || server.queue_len("a") == 0);
        let status = terminal.leader.wait().unwrap();
        assert_eq!(status.code(), Some(128 + signal as i32), "{signal}");
    }
}

fn is_pending(process: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0
}

#[test]
fn a_hang_up_reaches_a_command_whose_wrapper_leads_the_session() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let heard = folder.path().join("heard");
    let script = format!(
        "trap 'echo hup > {}; exit 5' HUP; echo ready; while :; do sleep 0.01; done",
        heard.display()
    );
    let mut terminal = Terminal::of(server.exec(&["-i", "a"], &sh(&script)));
    terminal.wait_for("ready");
    // The other end is gone, as when a connection to the host breaks.
    terminal.screen = File::open("/dev/null").unwrap();
    wait_until("the command has heard it", || heard.exists());
    wait_until("the command has ended", || server.queue_len("a") == 0);
}

#[test]
fn keys_end_what_the_command_left_behind() {
    let server = Server::start();
    for key in [CTRL_C, CTRL_BACKSLASH] {
        let mut terminal = shell();
        let script = "setsid sleep 1000 & exit 4";
        terminal.run(&server.exec(&["--leftovers", "wait"], &sh(script)), "; echo code $?");
        terminal.wait_for("left processes behind");
        terminal.press(key);
        terminal.wait_for("code 4");
    }
}

#[test]
fn our_own_lines_stop_no_background_job() {
    let server = Server::start();
    let mut terminal = shell();
    terminal.type_line("stty tostop");
    terminal.run(&server.exec(&["-i", "a", "--max-hold", "100ms"], &["sleep", "1000"]), " &");
    terminal.wait_for("held for --max-hold");
    wait_until("the job has ended", || server.queue_len("a") == 0);
}

#[test]
fn a_hooks_words_stop_no_hook() {
    let server = Server::start();
    let mut terminal = shell();
    terminal.type_line("stty tostop");
    let hook = "echo heard >&2; echo from the hook >&2";
    terminal.run(&server.exec(&["-i", "a", "--on-acquired", hook], &["true"]), "; echo code $?");
    terminal.wait_for("from the hook");
    terminal.wait_for("code 0");
}
