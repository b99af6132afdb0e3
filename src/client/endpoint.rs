//! Where a lock server listens.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use tokio::net::{TcpStream, UnixStream};

use crate::protocol::DEFAULT_PORT;

use super::wire::{Connect, Stream};

/// A lock server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`.
    Tcp(String),
    /// A socket file.
    Unix(PathBuf),
}

#[async_trait]
impl Connect for Endpoint {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        }
    }

    fn server(&self) -> String {
        self.to_string()
    }
}

/// A text that names no lock server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no lock server: {wrong}; use officer://HOST[:PORT] or unix:/PATH")]
pub struct EndpointError {
    text: String,
    wrong: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |wrong| EndpointError { text: text.to_owned(), wrong };
        Self::recognise(text).unwrap_or(Err("its scheme is neither officer nor unix")).map_err(error)
    }
}

impl Endpoint {
    /// The endpoint that `text` means, or what is wrong with it; `None` if its scheme isn't ours.
    pub(crate) fn recognise(text: &str) -> Option<Result<Self, &'static str>> {
        if let Some(rest) = text.strip_prefix("officer://") {
            return Some(tcp_address(rest).map(Self::Tcp));
        }
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"))?;
        if !path.starts_with('/') {
            return Some(Err("the socket's path must be absolute"));
        }
        Some(Ok(Self::Unix(path.into())))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "officer://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `host[:port]` with the port filled in; `[::1]:port` for IPv6.
fn tcp_address(rest: &str) -> Result<String, &'static str> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() {
        return Err("it names no host");
    }
    if rest.contains(['/', '@', '?']) {
        return Err("behind officer:// there is only a host and a port");
    }
    let after_ip6 = rest.rfind(']').map_or(0, |end| end + 1);
    match rest[after_ip6..].rsplit_once(':') {
        Some((host, _)) if after_ip6 == 0 && host.contains(':') => Err("an IPv6 address stands in brackets"),
        Some((_, port)) => match port.parse::<u16>() {
            Ok(1..) if !rest.starts_with(':') => Ok(rest.into()),
            _ => Err("the port must be 1 to 65535, behind a host"),
        },
        None => Ok(format!("{rest}:{DEFAULT_PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_filled_in() {
        for (text, address) in [
            ("officer://h", "h:11500"),
            ("officer://h/", "h:11500"),
            ("officer://h:1", "h:1"),
            ("officer://[::1]", "[::1]:11500"),
            ("officer://[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(text.parse(), Ok(Endpoint::Tcp(address.into())), "{text}");
        }
    }

    #[test]
    fn another_scheme_is_named() {
        let error = "redis://h".parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("redis://h") && error.contains("officer://HOST"), "{error}");
    }
}
