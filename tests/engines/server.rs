//! A server as a child process: on a free port, with its data in a folder, ready when it answers.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use nix::unistd::Pid;
use officer::backend::Loss;
use tempfile::TempDir;

use super::process::{Process, logged, until};
use super::{Engine, Networked};

/// What is run as a server, and how its users see it.
pub(crate) trait Program: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// The Debian package that has it.
    const PACKAGE: &'static str;
    const SHORTEST_TTL: Duration;
    const SLOTS: bool;

    /// A server that will listen on a free port of `address`, with its data in `folder`.
    fn new(address: Ipv4Addr, folder: &Path) -> Self;

    /// Where [`Engine::shared`] is kept.
    fn shared() -> &'static OnceLock<Server<Self>>;

    /// What starts it, the first time and again.
    fn command(&self, folder: &Path) -> Command;

    /// Where it listens.
    fn address(&self) -> SocketAddrV4;

    /// Whether it serves.
    fn answers(&self) -> bool;

    /// The `--server` for one that listens at `address`.
    fn url_at(address: SocketAddrV4) -> String;

    /// See [`Engine::delete_by_hand`].
    fn delete_by_hand(&self, lock: &str);

    /// See [`Engine::loss_by_hand`].
    fn loss_by_hand() -> Loss {
        Loss::LockGone
    }
}

/// A program that runs.
pub(crate) struct Server<P> {
    pub(crate) program: P,
    // Dropped before the folder, which it writes to.
    process: Process,
    folder: TempDir,
}

impl<P: Program> Server<P> {
    /// Starts what `program` makes of a folder; it may not answer yet.
    pub(crate) fn start_with(program: impl FnOnce(&Path) -> P) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the data");
        let program = program(folder.path());
        let process = spawn(&program, folder.path());
        Self { program, process, folder }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn wait_until_it_answers(&self) {
        until(&format!("{} answers", P::NAME), || self.program.answers());
    }
}

fn spawn<P: Program>(program: &P, folder: &Path) -> Process {
    Process::start(logged(program.command(folder), folder), P::PACKAGE)
}

impl<P: Program> Engine for Server<P> {
    const NAME: &'static str = P::NAME;
    const SHORTEST_TTL: Duration = P::SHORTEST_TTL;
    const SLOTS: bool = P::SLOTS;

    fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST)
    }

    fn shared() -> &'static Self {
        P::shared().get_or_init(Self::start)
    }

    fn url(&self) -> String {
        P::url_at(self.program.address())
    }

    fn pid(&self) -> Pid {
        self.process.pid()
    }

    fn stop(&mut self) {
        self.process.kill();
    }

    fn start_again(&mut self) {
        self.process = spawn(&self.program, self.folder.path());
        self.wait_until_it_answers();
    }

    fn delete_by_hand(&self, lock: &str) {
        self.program.delete_by_hand(lock);
    }

    fn loss_by_hand() -> Loss {
        P::loss_by_hand()
    }
}

impl<P: Program> Networked for Server<P> {
    fn start_on(address: Ipv4Addr) -> Self {
        let server = Self::start_with(|folder| P::new(address, folder));
        server.wait_until_it_answers();
        server
    }

    fn port(&self) -> u16 {
        self.program.address().port()
    }

    fn url_at(port: u16) -> String {
        P::url_at(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    }
}
