//! A person at a terminal leaves a job stopped for longer than its lease.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::pty::openpty;
use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::scene::{Ending, LONG, Scene, lasting};
use crate::support::{children, clean, pid_of, spawn_tied, state, wait_until};
use crate::table::Proof;

crate::faults![
    a_job_left_stopped_loses_the_lock: "Ctrl-Z, then fg",
];

const CTRL_Z: &[u8] = b"\x1a";

/// An interactive shell on a terminal of its own.
struct Terminal {
    shell: Child,
    keyboard: File,
}

impl Terminal {
    fn open() -> Self {
        let pty = openpty(None, None).expect("a terminal");
        let mut command = clean(Command::new("sh"));
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
        let shell = spawn_tied(&mut command);
        let keyboard = File::from(pty.master);
        // A screen that nobody reads would hold up whoever writes to it.
        let mut screen = keyboard.try_clone().expect("a copy");
        std::thread::spawn(move || while let Ok(1..) = screen.read(&mut [0; 1024]) {});
        Self { shell, keyboard }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("the terminal is there");
    }

    fn type_line(&mut self, line: &str) {
        self.press(format!("{line}\n").as_bytes());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn a_job_left_stopped_loses_the_lock() -> Proof {
    let scene = Scene::new();
    let mut terminal = Terminal::open();
    let command = scene.holding_command(&scene.url(), OnTerm::Ignores);
    let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let words: Vec<_> = words.into_iter().map(|word| format!("'{}'", word.display())).collect();
    terminal.type_line(&words.join(" "));
    scene.wait_for_beats();
    let wrapper = children(pid_of(&terminal.shell))[0];
    let next = scene.next();
    let begun = BootTime::now();
    terminal.press(CTRL_Z);
    wait_until("the job stands still", || state(wrapper) == Some('T'));
    lasting(LONG);
    terminal.type_line("fg");
    wait_until("the job has ended", || state(wrapper).is_none());
    let code_file = scene.path().join("code");
    terminal.type_line(&format!("echo $? > '{}'", code_file.display()));
    let mut code = None;
    wait_until("the shell tells the exit code", || {
        let text = std::fs::read_to_string(&code_file).unwrap_or_default();
        code = text.trim().parse().ok();
        code.is_some()
    });
    assert_eq!(code, Some(79));
    scene.judge(next, Ending::new(code, begun))
}
