//! The engines' own lock commands and libraries, run beside ours.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, Command, Stdio};

use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::engines::process::{Process, blocking, soon};

/// A foreign client that takes a lock and says so.
pub(crate) struct Peer {
    process: Process,
    input: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Peer {
    pub(crate) fn start(mut command: Command, package: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command, package);
        let input = process.child().stdin.take();
        let output = process.child().stdout.take().expect("it is a pipe");
        let (tell, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        Self { process, input, lines }
    }

    /// Its next line, which must begin so.
    pub(crate) async fn says(&mut self, begin: &str) -> String {
        let line =
            soon(begin, self.lines.recv()).await.unwrap_or_else(|| panic!("it ended without: {begin}"));
        assert!(line.starts_with(begin), "{line} instead of: {begin}");
        line
    }

    /// Whether it has said nothing more so far.
    #[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
    pub(crate) fn is_silent(&mut self) -> bool {
        self.lines.try_recv().is_err()
    }

    /// Ends its input, the sign to release.
    pub(crate) fn let_go(&mut self) {
        self.input = None;
    }

    /// Ends it as an operator would.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Its exit code, as a shell would tell it.
    pub(crate) async fn exit_code(self) -> i32 {
        let Self { mut process, input, .. } = self;
        let status = blocking(move || process.wait()).await;
        drop(input);
        status.code().unwrap_or_else(|| 128 + status.signal().expect("a code or a signal"))
    }

    /// Waits until it has said all it says.
    pub(crate) async fn ends(mut self) {
        self.input = None;
        while soon("its end", self.lines.recv()).await.is_some() {}
    }
}
