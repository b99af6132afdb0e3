//! Real processes: the program, a server of its own, commands that say what they do.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// One deadline for every event: far beyond what a loaded machine needs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A lease that outlasts every test: whatever passes on, passes on before its end.
pub const LONG_TTL: &str = "1h";

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_officer-exec");

/// The program, with an environment that configures nothing.
pub fn officer_exec() -> Command {
    clean(Command::new(PROGRAM))
}

/// `command` without the variables that the program looks at.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OFFICER_") || name == "ZKHOSTS" {
            command.env_remove(name);
        }
    }
    command
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A lock server on a socket of its own, with its data in a folder of its own.
pub struct Server {
    folder: TempDir,
    child: Option<Child>,
    options: Vec<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server =
            Self { folder, child: None, options: options.iter().map(|&option| option.to_owned()).collect() };
        server.start_again();
        server
    }

    pub fn start_again(&mut self) {
        let mut command = officer_exec();
        command.args(["serve", "-o", "UNIX", "-f"]).arg(self.socket());
        command.arg("--data-dir").arg(self.data_dir()).args(["--max-ttl", "2h"]).args(&self.options);
        self.child = Some(spawn_tied(command.stdout(Stdio::null())));
        wait_until("the server listens", || UnixStream::connect(self.socket()).is_ok());
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub fn signal(&self, signal: Signal) {
        kill(pid_of(self.child.as_ref().expect("the server runs")), signal).unwrap();
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `officer-exec --server URL OPTIONS... -- COMMAND...`
    pub fn exec(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = officer_exec();
        command.arg("--server").arg(self.url()).args(options).arg("--").args(words);
        command
    }

    /// Runs to the end.
    pub fn run(&self, options: &[&str], words: &[&str]) -> Finished {
        finish(&mut self.exec(options, words))
    }

    /// Starts a command that holds the lock until it is told to end.
    pub fn hold(&self, options: &[&str]) -> Running {
        let mut running =
            Running::start(&mut self.exec(options, &["sh", "-c", "echo started; read line; exit 3"]));
        running.expect_line("started");
        running
    }

    /// Starts a wrapper that has to wait; returns once it stands in the queue of `lock`.
    pub fn wait_for(&self, lock: &str, options: &[&str], words: &[&str]) -> Running {
        let before = self.queue_len(lock);
        let running = Running::start(&mut self.exec(options, words));
        wait_until("it stands in the queue", || self.queue_len(lock) > before);
        running
    }

    /// How many connections hold or wait.
    pub fn connected_sessions(&self) -> usize {
        self.ask("connections")["value"].as_object().map_or(0, serde_json::Map::len)
    }

    /// How many sockets the kernel knows by the server's address: the listening one, and one for each
    /// connection, accepted or not.
    pub fn sockets(&self) -> usize {
        let path = self.socket().display().to_string();
        let all = std::fs::read_to_string("/proc/net/unix").unwrap();
        all.lines().filter(|line| line.ends_with(&path)).count()
    }

    /// Holders and waiters of a lock.
    pub fn queue_len(&self, lock: &str) -> usize {
        self.ask("locks")["value"][lock].as_array().map_or(0, Vec::len)
    }

    fn ask(&self, command: &str) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        writeln!(stream, "{{\"command\":\"{command}\"}}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// What a process that has ended left.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let child = spawn_tied(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code(),

        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A process under way, with its three streams.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn_tied(command);
        Self {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            stderr: child.stderr.take().unwrap(),
            child,
        }
    }

    pub fn pid(&self) -> Pid {
        pid_of(&self.child)
    }

    /// The next line on stdout.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn expect_line(&mut self, expected: &str) {
        let line = self.line();
        if line != expected {
            let mut stderr = String::new();
            if line.is_empty() {
                let _ = self.stderr.read_to_string(&mut stderr);
            }
            panic!("expected {expected:?}, got {line:?}; stderr: {stderr}");
        }
    }

    /// Reads stderr up to the first line in which `find` finds something.
    pub fn stderr_until<T>(&mut self, mut find: impl FnMut(&str) -> Option<T>) -> T {
        loop {
            let mut line = Vec::new();
            let mut byte = [0];
            while self.stderr.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
                line.push(byte[0]);
            }
            assert!(!line.is_empty(), "stderr ended without what was looked for");
            if let Some(found) = find(&String::from_utf8_lossy(&line)) {
                return found;
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn write_line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("stdin is open"), "{line}").unwrap();
    }

    /// Closes the command's stdin, which ends one that reads it.
    pub fn let_end(&mut self) {
        drop(self.stdin.take());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end of the wrapper alone.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits for an end that doesn't come from the command's stdin.
    pub fn wait_with_stdin_open(mut self) -> Finished {
        self.wait();
        self.finish()
    }

    /// Waits for the end, and for the end of everything that has its streams.
    pub fn finish(mut self) -> Finished {
        drop(self.stdin.take());
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        Finished { code: status.code(), stdout, stderr }
    }
}

/// Ended with the thread that started it: a test that fails leaves nothing behind.
pub fn spawn_tied(command: &mut Command) -> Child {
    // SAFETY: prctl is safe between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

pub fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

/// Whether a process lives; a zombie doesn't.
pub fn is_alive(pid: Pid) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// The state letter in /proc/PID/stat.
pub fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether a signal was sent to a process and not taken by it yet.
pub fn is_pending(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0
}

/// The children of a process.
pub fn children(pid: Pid) -> Vec<Pid> {
    let is_child = |candidate: &Pid| parent(*candidate) == Some(pid);
    processes().into_iter().filter(is_child).collect()
}

/// The child that is the guardian of a wrapper.
pub fn guardian_of(wrapper: Pid) -> Pid {
    let found = children(wrapper);
    assert_eq!(found.len(), 1, "children of the wrapper: {found:?}");
    found[0]
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some(Pid::from_raw(parent))
}

/// Every process.
pub fn processes() -> Vec<Pid> {
    let number = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    std::fs::read_dir("/proc").unwrap().filter_map(number).map(Pid::from_raw).collect()
}

/// Processes whose environment has this text: what a test has marked, whatever became of it. Without
/// our own, which may still be on their way out when the tree is dead.
pub fn marked(mark: &str) -> Vec<Pid> {
    let is_ours = |pid: &Pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.starts_with("officer-")
    };
    let has_mark = |pid: &Pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        is_alive(*pid) && environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    processes().into_iter().filter(|pid| has_mark(pid) && !is_ours(pid)).collect()
}

/// A shell script as a command.
pub fn sh(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}
