//! What systemd gives a service, and what it wants to hear: sockets that it has opened, and when the
//! service is ready.

use std::os::fd::{AsFd, OwnedFd};

use listenfd::ListenFd;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use officer::server::Listener;
use sd_notify::NotifyState;

/// The sockets of a socket unit, if we were started by one; they take the place of --host,
/// --port and --socket-file.
pub fn listeners() -> Result<Vec<Listener>, String> {
    let mut given = ListenFd::from_env();
    (0..given.len()).map(|index| listener(&mut given, index)).collect()
}

fn listener(given: &mut ListenFd, index: usize) -> Result<Listener, String> {
    let failed = |cause: &dyn std::fmt::Display| format!("cannot use socket {index} of LISTEN_FDS: {cause}");
    let fd = given.take_raw_fd(index).map_err(|e| failed(&e))?.ok_or_else(|| failed(&"it is taken"))?;
    // SAFETY: systemd passed this descriptor to us, and `take_raw_fd` hands it out once.
    let socket = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let listener = match family(&socket).map_err(|e| failed(&e))? {
        Some(AddressFamily::Unix) => Listener::from_std_unix(socket.into()),
        Some(AddressFamily::Inet | AddressFamily::Inet6) => Listener::from_std_tcp(socket.into()),
        Some(_) | None => return Err(failed(&"it is neither TCP nor UNIX")),
    };
    listener.map_err(|e| failed(&e))
}

fn family(socket: &impl AsFd) -> nix::Result<Option<AddressFamily>> {
    use std::os::fd::AsRawFd;
    Ok(getsockname::<SockaddrStorage>(socket.as_fd().as_raw_fd())?.family())
}

/// Tells a service manager that clients are served; nothing if there is none.
pub fn tell_ready() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("cannot tell the service manager that we are ready: {error}");
    }
}
