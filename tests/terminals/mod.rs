//! A terminal with somebody at it: what is pressed goes in, what is shown can be waited for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// What doesn't come up in so long never does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program, a shell for example, that has a terminal and leads its session.
pub struct Terminal {
    pub leader: Child,
    pub screen: File,
    shown: String,
}

impl Terminal {
    /// Of an interactive shell; `sh`: the program, with its environment.
    pub fn of_shell(mut sh: Command) -> Self {
        sh.arg("-i").env("PS1", "").env_remove("ENV");
        Self::of(sh)
    }

    pub fn of(mut leader: Command) -> Self {
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
        tcsetattr(&slave, SetArg::TCSANOW, &settings).unwrap();
        let [stdin, stdout, stderr] = [(); 3].map(|()| Stdio::from(slave.try_clone().unwrap()));
        leader.stdin(stdin).stdout(stdout).stderr(stderr);
        // SAFETY: three system calls, which may be made between fork and exec.
        unsafe {
            leader.pre_exec(|| {
                set_pdeathsig(Signal::SIGKILL)?;
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            })
        };
        let leader = leader.spawn().unwrap_or_else(|error| panic!("cannot start {leader:?}: {error}"));
        Self { leader, screen: File::from(OwnedFd::from(master)), shown: String::new() }
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.screen.write_all(keys).unwrap();
    }

    pub fn type_line(&mut self, line: &str) {
        self.press(format!("{line}\n").as_bytes());
    }

    /// Has the shell run this, and what follows it on its line.
    #[allow(dead_code, reason = "not every test program has commands to run")]
    pub fn run(&mut self, command: &Command, rest: &str) {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Vec<_> = words.map(|word| format!("'{}'", word.display())).collect();
        self.type_line(&format!("{}{rest}", words.join(" ")));
    }

    /// Waits until this is on the screen, and forgets what came up to it.
    #[allow(dead_code, reason = "not every test program looks at the screen")]
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let give_up = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            let left = PollTimeout::try_from(give_up.saturating_duration_since(Instant::now())).unwrap();
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
