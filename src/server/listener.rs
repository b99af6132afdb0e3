//! Where clients come in: TCP and UNIX sockets, bound and accepting. Serving them is others' matter.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net as std_unix;
use std::path::PathBuf;

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::{RecvFlags, SendFlags};

use super::ServeError;
use super::connection::Peer;
use super::socket_file::SocketFile;

/// A peer that is gone without a word is found after 60 s + 3 × 15 s.
const KEEP_ALIVE_IDLE_SECONDS: u32 = 60;
const KEEP_ALIVE_INTERVAL_SECONDS: u32 = 15;
const KEEP_ALIVE_TRIES: u32 = 3;

/// A socket that listens.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Ours to remove, unless the socket came from elsewhere.
        file: Option<SocketFile>,
    },
}

/// Where a server can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address, the port as it was really bound.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
    /// A UNIX socket without a file.
    Unnamed,
}

/// A connected client's socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// As a client names it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "officer://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Unnamed => f.write_str("a UNIX socket without a name"),
        }
    }
}

impl Listener {
    /// Listens on `host:port`; port 0 lets the kernel choose.
    pub fn tcp(address: impl ToSocketAddrs + std::fmt::Display) -> Result<Self, ServeError> {
        let bind = || {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for candidate in address.to_socket_addrs()? {
                match TcpListener::bind(candidate) {
                    Ok(listener) => return Ok(Self(Kind::Tcp(listener))),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        bind().map_err(|source| ServeError::Listen { address: address.to_string(), source })
    }

    /// Listens on a socket file. One that is left behind by a dead server is replaced.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, ServeError> {
        let path = path.into();
        let address = path.display().to_string();
        let (listener, file) =
            SocketFile::bind(path).map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self(Kind::Unix { listener, file: Some(file) }))
    }

    /// Listens on a UNIX socket that the caller has bound, an abstract one for example.
    pub fn from_std_unix(listener: std_unix::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self(Kind::Unix { listener: UnixListener::from_std(listener), file: None }))
    }

    /// Listens on a TCP socket that the caller has bound.
    pub fn from_std_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self(Kind::Tcp(TcpListener::from_std(listener))))
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match &self.0 {
            Kind::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Kind::Unix { file: Some(file), .. } => Address::Unix(file.path().to_owned()),
            Kind::Unix { listener, file: None } => match listener.local_addr()?.as_pathname() {
                Some(path) => Address::Unix(path.to_owned()),
                None => Address::Unnamed,
            },
        })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.0 {
            Kind::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            Kind::Unix { listener, .. } => registry.register(listener, token, Interest::READABLE),
        }
    }

    /// The next client, if there is one. `unix_number` names it if it has no address.
    pub(super) fn accept(&self, unix_number: u64) -> io::Result<(Socket, Peer)> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                // A socket option that fails costs speed or a late notice, not the connection.
                let _ = stream.set_nodelay(true);
                let _ = keep_alive(&stream);
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                Ok((Socket::Tcp(stream), Peer::Tcp(address)))
            }
            Kind::Unix { listener, .. } => Ok((Socket::Unix(listener.accept()?.0), Peer::Unix(unix_number))),
        }
    }
}

impl Socket {
    pub(super) fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    // Straight to the kernel: in a process with more threads libc makes each of its calls a point
    // where the thread could be cancelled, which is a tenth of what a small request costs us.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = rustix::net::recv(self.as_fd(), buffer, RecvFlags::empty())?;
        Ok(count)
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.as_fd(), bytes, SendFlags::NOSIGNAL)?)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }

    /// Ends our sending side.
    pub(super) fn end_output(&self) {
        // The peer may be gone already; then there is nothing to end.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }

    /// The user at the other end; `None` on TCP.
    pub(super) fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => {
                Some(getsockopt(stream, sockopt::PeerCredentials).map_or(u32::MAX, |c| c.uid()))
            }
        }
    }
}

fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_IDLE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_INTERVAL_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVE_TRIES)?;
    setsockopt(stream, sockopt::KeepAlive, &true)
}
