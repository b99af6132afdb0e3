//! Where the embedded server of a user is found: the same place whatever the environment looks
//! like, for a cron job, a login shell and a systemd unit of one user must meet at one lock.
//!
//! The socket is an abstract one named after the uid: binding it elects the one server, and nothing
//! stale can stay behind. The state folder depends on the uid alone too; it is only the server's.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};
use nix::unistd::{Pid, Uid, User, geteuid};
use tokio::net::UnixStream;

use crate::client::{Connect, Stream};
use crate::same_program::runs_this_program;
use crate::server::LOG_FILE_NAME;

/// Root's state folder.
const ROOT_STATE: &str = "/var/lib/officer-exec/local";

/// Below the home folder of the user database, never of $HOME.
const HOME_STATE: &str = ".local/state/officer-exec";

/// For users without a home: no private /tmp hides it, and it lives as long as the locks can.
const HOMELESS_STATE: &str = "/dev/shm";

/// The name of this user's abstract socket, without the leading NUL.
pub fn socket_name() -> String {
    name_of(geteuid())
}

fn name_of(uid: Uid) -> String {
    format!("officer-exec/{uid}")
}

/// The address of this user's embedded server.
pub fn socket_address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(socket_name())
}

/// This user's embedded server where it runs already; none is started.
#[derive(Clone, Copy, Debug)]
pub struct Running;

#[async_trait]
impl Connect for Running {
    /// `ConnectionRefused`: nobody listens. `PermissionDenied`: another user does.
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = UnixStream::connect(format!("\0{}", socket_name())).await?;
        let owner = stream.peer_cred()?.uid();
        if owner != geteuid().as_raw() {
            let text = format!(
                "the socket of this user's lock server is held by uid {owner}; name a server with --server"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(Box::new(stream))
    }

    fn server(&self) -> String {
        "local".into()
    }
}

/// Why nobody listens at this user's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// There never was a server, or the last one ended because nobody needed it: nobody holds or waits.
    AtRest,
    /// The last one was killed, or is just ending: who held may hold still.
    Broken,
    /// Someone has the socket and doesn't listen yet.
    Starting,
}

/// Why [`Running`] was refused a connection.
pub fn absence() -> io::Result<Absence> {
    let left_behind = state_path(geteuid()).join(LOG_FILE_NAME).try_exists()?;
    Ok(match (is_bound(&socket_name())?, left_behind) {
        (true, _) => Absence::Starting,
        (false, true) => Absence::Broken,
        (false, false) => Absence::AtRest,
    })
}

/// Whether anyone has an abstract socket of this name, whether or not it listens.
fn is_bound(name: &str) -> io::Result<bool> {
    let address = format!(" @{name}");
    let sockets = fs::read("/proc/net/unix")?;
    Ok(sockets.split(|&byte| byte == b'\n').any(|line| line.ends_with(address.as_bytes())))
}

/// A state folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It can't be made or looked at.
    #[error("cannot use the state folder {}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to someone else, or others may write to it.
    #[error("cannot use the state folder {}: {wrong}; remove it, or name a server with --server", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
}

/// This user's state folder, made if it wasn't there, its owner checked.
pub fn state_folder() -> Result<PathBuf, StateError> {
    let path = state_path(geteuid());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|source| StateError::Io { path: path.clone(), source })?;
    check_owner(&path)?;
    Ok(path)
}

/// Whether a process is the embedded server of its user: who listens at that user's socket, told by the
/// kernel, runs this very program and has no children. It may live in the tree of a command, for the
/// first wrapper that needs it starts it, but it is no part of what the command does. Never waits.
pub fn is_embedded_server(pid: Pid) -> bool {
    // The program first: that is cheap, and hardly any process of a tree passes.
    runs_this_program(pid) && owner_of(pid).and_then(listener_of) == Some(pid) && !has_children(pid)
}

/// Kernels without such lists say nothing.
fn has_children(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok_and(|list| !list.is_empty())
}

fn owner_of(pid: Pid) -> Option<Uid> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|meta| Uid::from_raw(meta.uid()))
}

/// Who listens at the socket of a user, if that is a process of this user.
fn listener_of(uid: Uid) -> Option<Pid> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    let address = UnixAddr::new_abstract(name_of(uid).as_bytes()).ok()?;
    connect(socket.as_raw_fd(), &address).ok()?;
    let peer = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    (peer.uid() == uid.as_raw()).then(|| Pid::from_raw(peer.pid()))
}

fn state_path(uid: Uid) -> PathBuf {
    if uid.is_root() {
        return ROOT_STATE.into();
    }
    match home_of(uid) {
        // One folder a host: a home may be shared by many over the network.
        Some(home) => home.join(HOME_STATE).join(format!("local-{}", host_id())),
        None => Path::new(HOMELESS_STATE).join(format!("officer-exec-{uid}")),
    }
}

fn home_of(uid: Uid) -> Option<PathBuf> {
    let home = User::from_uid(uid).ok()??.dir;
    let owned = fs::metadata(&home).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid.as_raw());
    owned.then_some(home)
}

fn host_id() -> String {
    let machine_id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    match machine_id.trim() {
        "" => nix::unistd::gethostname().unwrap_or_else(|_| "host".into()).to_string_lossy().into_owned(),
        id => id.to_owned(),
    }
}

fn check_owner(path: &Path) -> Result<(), StateError> {
    let not_ours = |wrong| StateError::NotOurs { path: path.to_owned(), wrong };
    let meta =
        fs::symlink_metadata(path).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
    if !meta.is_dir() {
        return Err(not_ours("it is no folder".into()));
    }
    if meta.uid() != geteuid().as_raw() {
        return Err(not_ours(format!("it belongs to uid {}", meta.uid())));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(not_ours(format!("others may write to it (mode {:o})", meta.mode() & 0o777)));
    }
    Ok(())
}

/// The hidden verb by which a wrapper starts the embedded server.
pub const EMBEDDED_VERB: &str = "serve-embedded";

/// Whether [`this_program`] has the hidden verb.
static HAS_THE_VERB: AtomicBool = AtomicBool::new(false);

/// Says that this program serves when it is started with [`EMBEDDED_VERB`] as its first argument; any
/// other program would only be started anew, with an argument that it doesn't know.
pub fn this_program_has_the_verb() {
    HAS_THE_VERB.store(true, Ordering::Relaxed);
}

/// The program that has the hidden verb: the running one, also if its file was replaced meanwhile.
/// `None`: it hasn't.
pub fn this_program() -> Option<&'static OsStr> {
    HAS_THE_VERB.load(Ordering::Relaxed).then_some(OsStr::new("/proc/self/exe"))
}
