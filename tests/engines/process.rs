//! Servers and tools as child processes that don't outlive the test, whatever becomes of it.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Everything that is waited for is bounded by it: generous, because the machine may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// A child that is killed with its owner.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program; if it isn't installed, names the Debian package that has it.
    pub(crate) fn start(mut command: Command, package: &str) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent's.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let (started, answer) = mpsc::channel();
        // The death signal follows the thread that forked: this one stays as long as the process.
        std::thread::spawn(move || {
            let _ = started.send(command.spawn());
            loop {
                std::thread::park();
            }
        });
        match answer.recv().expect("the thread sends its answer") {
            Ok(child) => Self { child },
            Err(cause) => panic!("cannot start {program}: {cause}; it is in the Debian package {package}"),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the child is ours");
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for its end: how it ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "a child doesn't end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that is free on loopback. Below those that the kernel gives to outgoing connections: one of
/// them could take it before the server does, even the very connection that asks whether it is up.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test runs at the same time begin at different places.
    let begin = u16::try_from(std::process::id() * 97 % u32::from(PORTS)).expect("below the number of ports");
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = FIRST + (begin + step) % PORTS;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A command that works in `folder`, its output in a file there.
pub(crate) fn logged(mut command: Command, folder: &Path) -> Command {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("the test's folder is writable");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log).current_dir(folder);
    command
}

/// Runs a tool to its end; its standard output. A tool that fails fails the test.
pub(crate) fn run(mut command: Command, package: &str) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(cause) => panic!("cannot start {program}: {cause}; it is in the Debian package {package}"),
    };
    assert!(
        output.status.success(),
        "{program} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks until it is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs what blocks without stopping the test's other tasks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

/// Waits for an event with the one deadline.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(event) => event,
        Err(_) => panic!("never: {what}"),
    }
}
