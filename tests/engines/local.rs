//! The embedded server of this user. It is found by the user's id alone, so each test has it in a
//! network of its own (for its socket) and with a state folder of its own (a file system in memory in
//! front of it). Both are a thread's, and inherited by the threads and processes that this one starts.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use officer::backend::Loss;

use super::Engine;
use super::officer::{revoke, revoked};
use super::process::{run, until};

/// Root's state folder is below.
const STATE: &str = "/var/lib";

/// Whatever embedded server there is in this thread's network.
pub(crate) struct Local;

impl Engine for Local {
    const NAME: &'static str = "local";
    const SHORTEST_TTL: Duration = Duration::from_secs(1);
    const SLOTS: bool = true;

    fn apart<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let apart = std::thread::spawn(|| {
            if let Err(errno) = set_apart() {
                eprintln!("skipped: a network and a state folder of its own: {errno}");
                return None;
            }
            let _server = KilledAtTheEnd;
            Some(test())
        });
        apart.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn start() -> Self {
        let mut local = Self;
        local.start_again();
        local
    }

    fn shared() -> &'static Self {
        Self::start();
        &Self
    }

    fn url(&self) -> String {
        "local".into()
    }

    fn pid(&self) -> Pid {
        pid().expect("the embedded server runs")
    }

    fn stop(&mut self) {
        let server = self.pid();
        kill(server, Signal::SIGKILL).expect("the server runs");
        // A client may have started the next one by then.
        until("the embedded server is dead", || pid() != Some(server));
    }

    /// Unless a client has done so already.
    fn start_again(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_officer-exec"));
        command.arg("serve-embedded").current_dir("/");
        run(command, "cargo");
    }

    fn delete_by_hand(&self, lock: &str) {
        revoke(lock, connect);
    }

    fn loss_by_hand() -> Loss {
        revoked()
    }
}

fn set_apart() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    // What is mounted from here on is ours alone.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("tmpfs"), STATE, Some("tmpfs"), MsFlags::empty(), none)
}

fn connect() -> std::io::Result<UnixStream> {
    let address = SocketAddr::from_abstract_name(officer::local::socket_name())?;
    UnixStream::connect_addr(&address)
}

/// The server's process, told by the kernel.
fn pid() -> Option<Pid> {
    let stream = connect().ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).expect("the kernel knows");
    Some(Pid::from_raw(peer.pid()))
}

/// It would end itself, but only after a minute.
struct KilledAtTheEnd;

impl Drop for KilledAtTheEnd {
    fn drop(&mut self) {
        if let Some(server) = pid() {
            // It may have ended.
            let _ = kill(server, Signal::SIGKILL);
        }
    }
}
