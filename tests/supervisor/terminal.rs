//! Job control on a real terminal: a shell with job control runs the wrapper in a pseudo-terminal,
//! as a person would.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use nix::pty::Winsize;
use serde_json::json;

use crate::driver::{Setting, Wrapper, accept, is_alive, state, wait_until};
use crate::terminals::Terminal;

crate::promises![
    ctrl_c_reaches_the_command_once,
    ctrl_z_stops_wrapper_and_command_and_fg_continues_them,
    a_job_left_stopped_past_its_deadline_is_ended,
    stdin_can_be_a_terminal,
    a_background_job_may_write_to_the_terminal,
    the_window_size_reaches_the_command,
];

const CTRL_C: &[u8] = b"\x03";
const CTRL_Z: &[u8] = b"\x1a";

fn shell() -> Terminal {
    Terminal::of_shell(Command::new("sh"))
}

/// Has the shell run a wrapper in the foreground, or behind `&`.
fn run(terminal: &mut Terminal, setting: Setting, suffix: &str) -> Wrapper {
    let listener = UnixListener::bind(&setting.plan.control).expect("a socket");
    let plan = setting.folder.path().join("plan");
    std::fs::write(&plan, serde_json::to_string(&setting.plan).expect("a plan")).expect("a file");
    let ourselves = std::env::current_exe().expect("this program");
    terminal.type_line(&format!("{} wrapper \"$(cat {})\"{suffix}", ourselves.display(), plan.display()));
    Wrapper::of_a_shell(setting.folder, accept(&listener))
}

fn ctrl_c_reaches_the_command_once() {
    let script = "n=0; trap 'n=$((n+1)); echo hit $n' INT; echo ready; while [ $n -lt 1 ]; do sleep 0.01; done; \
                  read line; echo hits $n";
    let mut terminal = shell();
    let mut wrapper = run(&mut terminal, Setting::script(script), "; echo code $?");
    wrapper.started();
    terminal.wait_for("ready");
    terminal.press(CTRL_C);
    terminal.wait_for("hit 1");
    let told = wrapper.event("signal");
    assert_eq!((&told["signal"], &told["from_terminal"]), (&json!(2), &json!(true)));
    terminal.type_line("go on");
    terminal.wait_for("hits 1");
    terminal.wait_for("code 0");
}

fn ctrl_z_stops_wrapper_and_command_and_fg_continues_them() {
    let mut terminal = shell();
    let mut wrapper = run(&mut terminal, Setting::script("echo ready; read line; echo got $line"), "");
    let command = wrapper.started();
    terminal.wait_for("ready");
    terminal.press(CTRL_Z);
    wait_until("both stand still", || state(command) == Some('T') && state(wrapper.pid) == Some('T'));
    terminal.type_line("echo shell is back");
    terminal.wait_for("shell is back");
    terminal.type_line("fg");
    wait_until("both go on", || state(command) != Some('T') && state(wrapper.pid) != Some('T'));
    terminal.type_line("this");
    terminal.wait_for("got this");
    wrapper.event_at_last("tree_dead");
    terminal.type_line("echo code $?");
    terminal.wait_for("code 0");
}

fn a_job_left_stopped_past_its_deadline_is_ended() {
    let mut terminal = shell();
    let setting = Setting::script("echo ready; read line").deadline(Duration::from_secs(2));
    let mut wrapper = run(&mut terminal, setting, "");
    let command = wrapper.started();
    terminal.wait_for("ready");
    terminal.press(CTRL_Z);
    wait_until("both stand still", || state(command) == Some('T') && state(wrapper.pid) == Some('T'));
    wait_until("the command is ended", || !is_alive(command));
    assert_eq!(state(wrapper.pid), Some('T'), "the wrapper still stands");
    terminal.type_line("fg");
    assert_eq!(wrapper.event_at_last("tree_dead")["killed_by"], json!("Deadline"));
}

fn stdin_can_be_a_terminal() {
    let mut terminal = shell();
    let mut wrapper =
        run(&mut terminal, Setting::script("test -t 0 && test -t 1 && read line && echo got $line"), "");
    wrapper.started();
    terminal.type_line("a line");
    terminal.wait_for("got a line");
    wrapper.event_at_last("tree_dead");
}

fn a_background_job_may_write_to_the_terminal() {
    let mut terminal = shell();
    let mut wrapper = run(&mut terminal, Setting::script("echo from behind; exit 3"), " &");
    wrapper.started();
    terminal.wait_for("from behind");
    assert_eq!(wrapper.event_at_last("tree_dead")["exit"], json!({"Code": 3}));
    terminal.type_line("echo shell is there");
    terminal.wait_for("shell is there");
}

fn the_window_size_reaches_the_command() {
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut terminal = shell();
    let mut wrapper = run(&mut terminal, Setting::script(script), "");
    wrapper.started();
    terminal.wait_for("ready");
    let size = Winsize { ws_row: 33, ws_col: 44, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads a structure of ours.
    let set = unsafe { libc::ioctl(terminal.screen.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(set, 0);
    terminal.wait_for("33 44");
    wrapper.event_at_last("tree_dead");
}
