//! The lock server under test: it can be killed, stopped, replaced, and put into a world of its own
//! (a disk, few descriptors).

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::scene::Site;
use crate::support::{PROGRAM, clean, pid_of, spawn_tied, wait_until};

/// What is done in the server's process before it becomes one.
pub(crate) type Prepare = std::sync::Arc<dyn Fn() -> std::io::Result<()> + Send + Sync>;

pub(crate) struct Server {
    folder: PathBuf,
    program: PathBuf,
    prepare: Option<Prepare>,
    environment: Vec<(&'static str, OsString)>,
    child: Option<Child>,
}

impl Server {
    /// A server with everything in `folder`; not started yet.
    pub(crate) fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { folder, program: PROGRAM.into(), prepare: None, environment: vec![], child: None }
    }

    /// Changes the world of the next server that is started.
    pub(crate) fn prepare(&mut self, prepare: Option<Prepare>) {
        self.prepare = prepare;
    }

    pub(crate) fn set_environment(&mut self, environment: Vec<(&'static str, OsString)>) {
        self.environment = environment;
    }

    /// From the next start on it is another copy of the program.
    pub(crate) fn replace_program(&mut self) {
        self.program = self.folder.join("officer-exec-of-tomorrow");
        std::fs::copy(PROGRAM, &self.program).expect("there is room for a copy");
    }

    fn command(&self) -> Command {
        let mut command = clean(Command::new(&self.program));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("serve").arg("-f").arg(self.socket()).arg("--data-dir").arg(self.data_dir());
        command.args(["-o", "UNIX"]);
        if let Some(prepare) = self.prepare.clone() {
            // SAFETY: what is prepared are system calls on values made before the fork.
            unsafe { command.pre_exec(move || prepare()) };
        }
        let log = File::options().append(true).create(true).open(self.log_file()).expect("there is room");
        command.stdout(Stdio::null()).stderr(log);
        command
    }

    pub(crate) fn start(&mut self) {
        self.child = Some(spawn_tied(&mut self.command()));
        wait_until("the server listens", || UnixStream::connect(self.socket()).is_ok());
    }

    /// Starts a server that can't serve; returns its code.
    pub(crate) fn start_in_vain(&self) -> Option<i32> {
        spawn_tied(&mut self.command()).wait().expect("it is our child").code()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn pid(&self) -> Pid {
        pid_of(self.child.as_ref().expect("the server runs"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is our child");
    }

    /// Ends it with a signal, and waits until it has ended.
    pub(crate) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.take().expect("the server runs").wait().expect("it is our child");
    }

    /// All that it and its forerunners have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).expect("it has a log")
    }

    /// Waits for a line with this text in the log.
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(text, || self.log().contains(text));
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// An operator takes a lock from its holder.
    pub(crate) fn release(&self, lock: &str) {
        let status = self.ask(&json!({"command": "status", "name": lock}));
        let token = &status["value"][0]["holders"][0]["token"];
        let release = json!({"command": "release", "name": lock, "token": token, "reason": "a test"});
        let reply = self.ask(&release);
        assert_eq!(reply["result"], "revoking", "{reply}");
    }

    fn ask(&self, request: &Value) -> Value {
        let mut stream = UnixStream::connect(self.socket()).expect("the server listens");
        writeln!(stream, "{request}").expect("the server listens");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("the server answers");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Site for Server {
    fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn queue_len(&self, lock: &str) -> usize {
        let reply = self.ask(&json!({"command": "locks"}));
        reply["value"][lock].as_array().map_or(0, Vec::len)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may be gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
