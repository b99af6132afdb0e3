//! At a terminal: keys reach what they are meant for, whatever group it went to.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::support::{DEADLINE, Server, clean, sh, spawn_tied, wait_until};

const CTRL_C: &[u8] = b"\x03";
const CTRL_BACKSLASH: &[u8] = b"\x1c";

/// A program, a shell for example, that has a terminal and leads its session.
struct Terminal {
    leader: Child,
    screen: File,
    shown: String,
}

impl Terminal {
    /// Of an interactive shell. `flags`: beside those that a terminal has.
    fn open(flags: LocalFlags) -> Self {
        let mut shell = clean(Command::new("sh"));
        shell.arg("-i").env("PS1", "").env_remove("ENV");
        Self::of(shell, flags)
    }

    fn of(mut leader: Command, flags: LocalFlags) -> Self {
        // Close-on-exec from the start: whoever has the other end keeps the terminal from hanging up.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let mut options = File::options();
        let slave = options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let slave = slave.open(ptsname_r(&master).unwrap()).unwrap();
        let mut settings = tcgetattr(&slave).unwrap();
        // What we type needn't come back at us.
        settings.local_flags.remove(LocalFlags::ECHO);
        settings.local_flags.insert(flags);
        tcsetattr(&slave, SetArg::TCSANOW, &settings).unwrap();
        let [stdin, stdout, stderr] = [(); 3].map(|()| Stdio::from(slave.try_clone().unwrap()));
        leader.stdin(stdin).stdout(stdout).stderr(stderr);
        // SAFETY: two system calls, which may be made between fork and exec.
        unsafe {
            leader.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            })
        };
        Self {
            leader: spawn_tied(&mut leader),
            screen: File::from(OwnedFd::from(master)),
            shown: String::new(),
        }
    }

    /// The other end is gone, as when a connection to the host breaks.
    fn hang_up(&mut self) {
        self.screen = File::open("/dev/null").unwrap();
    }

    fn press(&mut self, keys: &[u8]) {
        self.screen.write_all(keys).unwrap();
    }

    /// Has the shell run this, and what follows it on its line.
    fn run(&mut self, command: &Command, rest: &str) {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Vec<_> = words.map(|word| format!("'{}'", word.display())).collect();
        self.press(format!("{}{rest}\n", words.join(" ")).as_bytes());
    }

    /// Waits until this is on the screen, and forgets what came up to it.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let give_up = Instant::now() + DEADLINE;
        while !self.shown.contains(text) {
            let left = give_up.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap();
            let mut screen = [PollFd::new(self.screen.as_fd(), PollFlags::POLLIN)];
            assert!(poll(&mut screen, left).unwrap() > 0, "no {text:?} in {:?}", self.shown);
            let mut part = [0; 1024];
            let length = self.screen.read(&mut part).unwrap();
            self.shown += &String::from_utf8_lossy(&part[..length]);
        }
        let end = self.shown.find(text).unwrap() + text.len();
        self.shown.drain(..end);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}

#[test]
fn keys_reach_a_command_that_left_our_group() {
    let server = Server::start();
    for (key, name) in [(CTRL_C, "INT"), (CTRL_BACKSLASH, "QUIT")] {
        let mut terminal = Terminal::open(LocalFlags::empty());
        let script =
            format!("trap \"echo got {name}; exit 5\" {name}; echo ready; while :; do sleep 0.01; done");
        // It puts itself into a group of its own.
        terminal.run(&server.exec(&[], &["setsid", "sh", "-c", &script]), "; echo code $?");
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
    let mut terminal = Terminal::open(LocalFlags::empty());
    terminal.run(&server.exec(&[], &sh(script)), "; echo code $?");
    terminal.wait_for("ready");
    terminal.press(CTRL_C);
    terminal.wait_for("hit 1");
    terminal.press(b"go on\n");
    terminal.wait_for("hits 1");
    terminal.wait_for("code 0");
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
    let mut terminal = Terminal::of(server.exec(&["-i", "a"], &sh(&script)), LocalFlags::empty());
    terminal.wait_for("ready");
    terminal.hang_up();
    wait_until("the command has heard it", || heard.exists());
    wait_until("the command has ended", || server.queue_len("a") == 0);
}

#[test]
fn keys_end_what_the_command_left_behind() {
    let server = Server::start();
    for key in [CTRL_C, CTRL_BACKSLASH] {
        let mut terminal = Terminal::open(LocalFlags::empty());
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
    let mut terminal = Terminal::open(LocalFlags::TOSTOP);
    terminal.run(&server.exec(&["-i", "a", "--max-hold", "100ms"], &["sleep", "1000"]), " &");
    terminal.wait_for("held for --max-hold");
    wait_until("the job has ended", || server.queue_len("a") == 0);
}
