//! Job control on a real terminal: a shell with job control runs the wrapper in a pseudo-terminal,
//! as a person would.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios;
use serde_json::json;

use crate::driver::{PATIENCE, Setting, Wrapper, accept, is_alive, state, wait_for_input, wait_until};

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

/// An interactive shell on a terminal of its own.
struct Terminal {
    shell: Child,
    screen: File,
    shown: String,
}

impl Terminal {
    fn open() -> Self {
        let pty = openpty(None, None).expect("a terminal");
        // What we type needn't come back at us.
        let mut quiet = termios::tcgetattr(&pty.slave).expect("a terminal has attributes");
        quiet.local_flags.remove(termios::LocalFlags::ECHO);
        termios::tcsetattr(&pty.slave, termios::SetArg::TCSANOW, &quiet).expect("they can be set");
        let mut command = Command::new("sh");
        command.args(["-i"]).env("PS1", "").env_remove("ENV");
        let [stdin, stdout, stderr] = [(); 3].map(|()| Stdio::from(pty.slave.try_clone().expect("a copy")));
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        // SAFETY: two system calls, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            })
        };
        let shell = command.spawn().expect("a shell");
        Self { shell, screen: File::from(pty.master), shown: String::new() }
    }

    fn press(&mut self, keys: &[u8]) {
        self.screen.write_all(keys).expect("the terminal is there");
    }

    fn type_line(&mut self, line: &str) {
        self.press(format!("{line}\n").as_bytes());
    }

    /// Waits until this is on the screen, and forgets what came up to it.
    fn wait_for(&mut self, text: &str) {
        let give_up = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            assert!(Instant::now() < give_up, "no {text:?} in {:?}", self.shown);
            wait_for_input(self.screen.as_fd());
            let mut part = [0; 1024];
            let length = self.screen.read(&mut part).expect("the terminal is there");
            self.shown += &String::from_utf8_lossy(&part[..length]);
        }
        let end = self.shown.find(text).expect("it is there") + text.len();
        self.shown.drain(..end);
    }

    /// Has the shell run a wrapper in the foreground, or behind `&`.
    fn run(&mut self, setting: Setting, suffix: &str) -> Wrapper {
        let listener = UnixListener::bind(&setting.plan.control).expect("a socket");
        let plan = setting.folder.path().join("plan");
        std::fs::write(&plan, serde_json::to_string(&setting.plan).expect("a plan")).expect("a file");
        let ourselves = std::env::current_exe().expect("this program");
        self.type_line(&format!("{} wrapper \"$(cat {})\"{suffix}", ourselves.display(), plan.display()));
        Wrapper::of_a_shell(setting.folder, accept(&listener))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn ctrl_c_reaches_the_command_once() {
    let script = "n=0; trap 'n=$((n+1)); echo hit $n' INT; echo ready; while [ $n -lt 1 ]; do sleep 0.01; done; \
                  read line; echo hits $n";
    let mut terminal = Terminal::open();
    let mut wrapper = terminal.run(Setting::script(script), "; echo code $?");
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
    let mut terminal = Terminal::open();
    let mut wrapper = terminal.run(Setting::script("echo ready; read line; echo got $line"), "");
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
    let mut terminal = Terminal::open();
    let setting = Setting::script("echo ready; read line").deadline(Duration::from_secs(2));
    let mut wrapper = terminal.run(setting, "");
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
    let mut terminal = Terminal::open();
    let mut wrapper =
        terminal.run(Setting::script("test -t 0 && test -t 1 && read line && echo got $line"), "");
    wrapper.started();
    terminal.type_line("a line");
    terminal.wait_for("got a line");
    wrapper.event_at_last("tree_dead");
}

fn a_background_job_may_write_to_the_terminal() {
    let mut terminal = Terminal::open();
    let mut wrapper = terminal.run(Setting::script("echo from behind; exit 3"), " &");
    wrapper.started();
    terminal.wait_for("from behind");
    assert_eq!(wrapper.event_at_last("tree_dead")["exit"], json!({"Code": 3}));
    terminal.type_line("echo shell is there");
    terminal.wait_for("shell is there");
}

fn the_window_size_reaches_the_command() {
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut terminal = Terminal::open();
    let mut wrapper = terminal.run(Setting::script(script), "");
    wrapper.started();
    terminal.wait_for("ready");
    let size = Winsize { ws_row: 33, ws_col: 44, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads a structure of ours.
    let set = unsafe { libc::ioctl(terminal.screen.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(set, 0);
    terminal.wait_for("33 44");
    wrapper.event_at_last("tree_dead");
}
