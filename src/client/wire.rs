//! A connection as lines: queue lines to send, receive replies. Both are cancel safe: whatever was
//! half sent or half received stays here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::protocol::{Reply, Request};

/// A reply that lists every lock of a busy server is long; an endless one is no reply.
const MAX_REPLY_BYTES: usize = 256 * 1024 * 1024;

/// What a read asks for at a time.
const READ_BYTES: usize = 8 * 1024;

/// A byte stream to a lock server.
pub trait Stream: AsyncRead + AsyncWrite + AsFd + Send + Sync + Unpin {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// How to reach a lock server, again and again.
#[async_trait]
pub trait Connect: Send + Sync {
    /// A new connection. `PermissionDenied` means that the server isn't one to be used.
    async fn connect(&self) -> io::Result<Box<dyn Stream>>;

    /// The server's name for messages.
    fn server(&self) -> String;
}

/// A connection to a lock server that speaks lines.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    unsent: Vec<u8>,
    received: Vec<u8>,
    /// So many bytes of `received` are known to hold no line end.
    searched: usize,
}

impl Wire {
    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, unsent: Vec::new(), received: Vec::new(), searched: 0 }
    }

    /// Puts a request behind what is to be sent; [`Wire::receive`] and [`Wire::flush`] send it.
    pub(crate) fn queue(&mut self, request: &Request<'_>) {
        request.write_line(&mut self.unsent);
    }

    /// Sends what was queued.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let sent = self.stream.write(&self.unsent).await?;
            self.unsent.drain(..sent);
        }
        self.stream.flush().await
    }

    /// Sends what was queued, then the next reply. A closed connection is `UnexpectedEof`.
    pub(crate) async fn receive(&mut self) -> io::Result<Reply> {
        let line = self.receive_line().await?;
        Reply::parse(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// The same, the reply as it came.
    pub(crate) async fn receive_line(&mut self) -> io::Result<String> {
        self.flush().await?;
        loop {
            if let Some(line) = self.take_line()? {
                return Ok(line);
            }
            self.received.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
    }

    fn take_line(&mut self) -> io::Result<Option<String>> {
        let Some(found) = self.received[self.searched..].iter().position(|&byte| byte == b'\n') else {
            self.searched = self.received.len();
            return if self.received.len() > MAX_REPLY_BYTES {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the server sends a line without end"))
            } else {
                Ok(None)
            };
        };
        let rest = self.received.split_off(self.searched + found + 1);
        let mut line = std::mem::replace(&mut self.received, rest);
        self.searched = 0;
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, "the server sends invalid UTF-8");
        String::from_utf8(line).map(Some).map_err(invalid)
    }

    /// Another descriptor of this connection: the server sees it closed when both are.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }
}
