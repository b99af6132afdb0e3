//! Which engine and where: the value of `--server`.

use std::fmt;
use std::str::FromStr;

use crate::client::Endpoint;

/// A parsed `--server`. `Display` leaves out secrets; [`ServerUrl::with_secrets`] doesn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// `officer://host:port` or `unix:/path`: a lock server.
    Officer(Endpoint),
    /// `local`: the embedded server of this user on this host.
    Local,
    /// `zk://h1:2181,h2:2181[/chroot]`.
    ZooKeeper {
        /// Everything behind `zk://`.
        hosts: String,
    },
    /// `etcd://h1:2379,h2:2379`.
    Etcd {
        /// Everything behind `etcd://`.
        hosts: String,
    },
    /// `redis://`, `rediss://` or `redis+unix://`.
    Redis {
        /// The whole URL.
        url: String,
    },
}

/// A `--server` that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no lock server: {wrong}; use officer://HOST[:PORT], unix:/PATH, zk://HOST[,HOST...][/CHROOT], \
     etcd://HOST[,HOST...], redis://HOST[:PORT][/DB] or local"
)]
pub struct ServerUrlError {
    text: String,
    wrong: &'static str,
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |wrong| ServerUrlError { text: hide_secrets(text), wrong };
        if text == "local" {
            return Ok(Self::Local);
        }
        if let Some(endpoint) = Endpoint::recognise(text) {
            return endpoint.map(Self::Officer).map_err(wrong);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("it has no scheme"));
        };
        if rest.is_empty() {
            return Err(wrong("it names no host"));
        }
        match scheme {
            "zk" => Ok(Self::ZooKeeper { hosts: rest.into() }),
            "etcd" => Ok(Self::Etcd { hosts: rest.into() }),
            "redis" | "rediss" | "redis+unix" => Ok(Self::Redis { url: text.into() }),
            _ => Err(wrong("its scheme is unknown")),
        }
    }
}

/// Cuts `user:password@` out of a URL, and a query (a UNIX socket's URL has its password there).
fn hide_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &url[..scheme + 3], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

impl ServerUrl {
    /// The whole URL, for a connection or a will, never for people.
    pub fn with_secrets(&self) -> String {
        match self {
            Self::Officer(endpoint) => endpoint.to_string(),
            Self::Local => "local".into(),
            Self::ZooKeeper { hosts } => format!("zk://{hosts}"),
            Self::Etcd { hosts } => format!("etcd://{hosts}"),
            Self::Redis { url } => url.clone(),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide_secrets(&self.with_secrets()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (text, wrong) in [
            ("", "scheme"),
            ("host:11500", "scheme"),
            ("ftp://host", "unknown"),
            ("officer://", "no host"),
            ("officer://:7", "port"),
            ("officer://h:0", "port"),
            ("officer://h:99999", "port"),
            ("officer://::1", "brackets"),
            ("officer://h/x", "only a host"),
            ("unix:relative", "absolute"),
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_are_for_connections_only() {
        let url: ServerUrl = "redis://me:pass@h:1/2".parse().unwrap();
        assert_eq!(url.to_string(), "redis://h:1/2");
        assert_eq!(url.with_secrets(), "redis://me:pass@h:1/2");
        let socket: ServerUrl = "redis+unix:///run/r.sock?pass=pass".parse().unwrap();
        assert_eq!(socket.to_string(), "redis+unix:///run/r.sock");
        assert!(!"x://me:pass@h".parse::<ServerUrl>().unwrap_err().to_string().contains("pass"));
    }
}
