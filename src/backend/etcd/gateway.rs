//! etcd's JSON gateway over HTTP/1.1: one call, or one stream of lines, to whichever member answers.
//! Knows hosts, credentials and the form of answers; nothing of locks.
//!
//! 64-bit integers are decimal strings there, keys and values base64, zero and empty fields absent.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::backend::engine::Failure;

const DEFAULT_PORT: u16 = 2379;

/// No answer to our requests comes near it; a larger one is not from etcd.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Of a member that can't be reached, before the next one is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// gRPC status codes, as far as they make a difference here.
mod code {
    pub(super) const CANCELLED: i64 = 1;
    pub(super) const DEADLINE_EXCEEDED: i64 = 4;
    pub(super) const NOT_FOUND: i64 = 5;
    pub(super) const PERMISSION_DENIED: i64 = 7;
    pub(super) const UNAVAILABLE: i64 = 14;
    pub(super) const UNAUTHENTICATED: i64 = 16;
}

/// User and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}", self.user)
    }
}

/// Where the members are and who we are to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// `host:port` each.
    pub(super) members: Vec<String>,
    pub(super) credentials: Option<Credentials>,
}

impl Address {
    /// Reads `[user:password@]host[:port],host[:port]`.
    pub(super) fn parse(hosts: &str) -> Result<Self, String> {
        let (credentials, hosts) = match hosts.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(Credentials::parse(userinfo)?), hosts),
            None => (None, hosts),
        };
        let members = hosts
            .trim_end_matches('/')
            .split(',')
            .map(|host| member(host.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { members, credentials })
    }
}

impl Credentials {
    /// Reads `user:password`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((user, password)) => Ok(Self { user: user.into(), password: password.into() }),
            None => Err("the user has no password".into()),
        }
    }
}

fn member(host: &str) -> Result<String, String> {
    let host = host.strip_prefix("http://").unwrap_or(host);
    if host.is_empty() || host.contains(['/', '?']) {
        return Err(format!("{host:?} is no HOST[:PORT] of an etcd member"));
    }
    let behind_ip6 = host.rfind(']').map_or(0, |end| end + 1);
    match host[behind_ip6..].split_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(host.to_owned()),
        Some(_) => Err(format!("{host:?} has no valid port")),
        None => Ok(format!("{host}:{DEFAULT_PORT}")),
    }
}

/// The way to one etcd cluster; calls may run at the same time and be dropped at any await.
pub(super) struct Gateway {
    address: Address,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    /// An idle connection, and the member it goes to. A call takes it out and puts it back when the
    /// answer has been read whole, so that a dropped call drops its connection.
    idle: Option<(SendRequest<Full<Bytes>>, usize)>,
    /// The member to try first.
    next_member: usize,
    /// What `Authorization` says.
    auth_token: Option<String>,
}

#[derive(Serialize)]
struct Authenticate<'a> {
    name: &'a str,
    password: &'a str,
}

#[derive(Deserialize)]
struct Authenticated {
    token: String,
}

/// Any error of the gateway; the text is in one field or the other, depending on etcd's version.
#[derive(Deserialize)]
struct GatewayError {
    #[serde(default)]
    error: serde_json::Value,
    #[serde(default)]
    message: String,
    #[serde(default, alias = "grpc_code")]
    code: i64,
}

impl Gateway {
    pub(super) fn new(address: Address) -> Self {
        Self { address, link: Mutex::default() }
    }

    /// One request, one answer.
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<A, Failure> {
        let body = Bytes::from(serde_json::to_vec(request).expect("our requests are plain data"));
        match self.call_authorized(path, body.clone()).await {
            // The token has expired or the member was restarted: once more with a fresh one.
            Err(Failure::Refused(_)) if self.address.credentials.is_some() => {
                self.link.lock().await.auth_token = None;
                self.call_authorized(path, body).await
            }
            answer => answer,
        }
    }

    /// One request, answered by any number of lines.
    pub(super) async fn stream(&self, path: &str, request: &impl Serialize) -> Result<Lines, Failure> {
        let body = Bytes::from(serde_json::to_vec(request).expect("our requests are plain data"));
        let auth_token = self.auth_token().await?;
        let (mut sender, member) = self.open().await?;
        let response = self.send(&mut sender, member, path, body, auth_token.as_deref()).await?;
        if !response.status().is_success() {
            return Err(failure(&read_whole(response.into_body()).await?));
        }
        self.link.lock().await.next_member = member;
        Ok(Lines { body: response.into_body(), read: Vec::new(), _sender: sender })
    }

    async fn call_authorized<A: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<A, Failure> {
        let auth_token = self.auth_token().await?;
        self.call_once(path, body, auth_token.as_deref()).await
    }

    async fn auth_token(&self) -> Result<Option<String>, Failure> {
        let Some(Credentials { user, password }) = &self.address.credentials else { return Ok(None) };
        if let Some(token) = &self.link.lock().await.auth_token {
            return Ok(Some(token.clone()));
        }
        let request = serde_json::to_vec(&Authenticate { name: user, password }).expect("plain data");
        let answer = self.call_once::<Authenticated>("/v3/auth/authenticate", request.into(), None).await;
        let token = match answer {
            Ok(Authenticated { token }) => token,
            Err(Failure::Answer(cause)) => return Err(Failure::Refused(cause)),
            Err(failure) => return Err(failure),
        };
        self.link.lock().await.auth_token = Some(token.clone());
        Ok(Some(token))
    }

    async fn call_once<A: DeserializeOwned>(
        &self,
        path: &str,
        body: Bytes,
        auth_token: Option<&str>,
    ) -> Result<A, Failure> {
        let idle = self.link.lock().await.idle.take().filter(|(sender, _)| !sender.is_closed());
        let (mut sender, member) = match idle {
            Some(idle) => idle,
            None => self.open().await?,
        };
        let response = self.send(&mut sender, member, path, body, auth_token).await?;
        let status = response.status();
        let answer = read_whole(response.into_body()).await?;
        let mut link = self.link.lock().await;
        link.idle = Some((sender, member));
        link.next_member = member;
        drop(link);
        if !status.is_success() {
            return Err(failure(&answer));
        }
        serde_json::from_slice(&answer).map_err(|cause| Failure::Answer(format!("{path}: {cause}")))
    }

    async fn send(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        member: usize,
        path: &str,
        body: Bytes,
        auth_token: Option<&str>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::post(path)
            .header(HOST, &self.address.members[member])
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = auth_token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(body)).map_err(|cause| Failure::Answer(cause.to_string()))?;
        sender.ready().await.map_err(|cause| self.unanswered(member, &cause))?;
        sender.send_request(request).await.map_err(|cause| self.unanswered(member, &cause))
    }

    /// Connects to the first member that takes the connection. Until a call succeeds there, the next
    /// attempt starts at the next member: a member that hangs is not asked twice in a row.
    async fn open(&self) -> Result<(SendRequest<Full<Bytes>>, usize), Failure> {
        let members = self.address.members.len();
        let first = {
            let mut link = self.link.lock().await;
            let first = link.next_member;
            link.next_member = (first + 1) % members;
            first
        };
        let mut last_failure = Failure::Unanswered("it has no members".into());
        for member in (0..members).map(|offset| (first + offset) % members) {
            match self.open_member(member).await {
                Ok(sender) => return Ok((sender, member)),
                Err(failure) => last_failure = failure,
            }
        }
        Err(last_failure)
    }

    async fn open_member(&self, member: usize) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let connect = TcpStream::connect(&self.address.members[member]);
        let stream = match tokio::time::timeout(CONNECT_LIMIT, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return Err(self.unanswered(member, &cause)),
            Err(_) => return Err(self.unanswered(member, &"no answer to connecting")),
        };
        stream.set_nodelay(true).map_err(|cause| self.unanswered(member, &cause))?;
        keep_alive(&stream).map_err(|cause| self.unanswered(member, &cause))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|cause| self.unanswered(member, &cause))?;
        // It ends with its sender; what goes wrong on it, the sender is told.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn unanswered(&self, member: usize, cause: &dyn fmt::Display) -> Failure {
        Failure::Unanswered(format!("{}: {cause}", self.address.members[member]))
    }
}

/// A watch says nothing for hours, and must still notice when a firewall has forgotten its connection.
fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    const IDLE_SECONDS: u32 = 15;
    const INTERVAL_SECONDS: u32 = 5;
    const PROBES: u32 = 3;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &IDLE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &INTERVAL_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)
}

/// The lines of a stream, each a JSON object.
pub(super) struct Lines {
    body: Incoming,
    read: Vec<u8>,
    /// The connection lives as long as its sender.
    _sender: SendRequest<Full<Bytes>>,
}

#[derive(Deserialize)]
struct StreamLine<A> {
    result: Option<A>,
    error: Option<GatewayError>,
}

impl Lines {
    /// The next line. May be dropped at any await without losing one.
    pub(super) async fn next<A: DeserializeOwned>(&mut self) -> Result<A, Failure> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return parse_line(&line);
            }
            if self.read.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Answer("a line of a stream never ends".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.read.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d)),
                Some(Err(cause)) => return Err(Failure::Unanswered(cause.to_string())),
                None => return Err(Failure::Unanswered("the stream ended".into())),
            }
        }
    }
}

fn parse_line<A: DeserializeOwned>(line: &[u8]) -> Result<A, Failure> {
    match serde_json::from_slice::<StreamLine<A>>(line) {
        Ok(StreamLine { error: Some(error), .. }) => Err(error.into()),
        Ok(StreamLine { result: Some(result), .. }) => Ok(result),
        Ok(StreamLine { result: None, error: None }) => Err(Failure::Answer("an empty line".into())),
        Err(cause) => Err(Failure::Answer(cause.to_string())),
    }
}

async fn read_whole(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cause| Failure::Unanswered(cause.to_string()))?;
        whole.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        if whole.len() > MAX_ANSWER_BYTES {
            return Err(Failure::Answer(format!("more than {MAX_ANSWER_BYTES} bytes")));
        }
    }
    Ok(whole)
}

fn failure(answer: &[u8]) -> Failure {
    match serde_json::from_slice::<GatewayError>(answer) {
        Ok(error) => error.into(),
        Err(_) => {
            Failure::Answer(String::from_utf8_lossy(&answer[..answer.len().min(200)]).trim().to_owned())
        }
    }
}

impl From<GatewayError> for Failure {
    fn from(GatewayError { error, message, code }: GatewayError) -> Self {
        let text = match error {
            _ if !message.is_empty() => message,
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        // Servers with users tell a stranger so in several ways, some as a plain bad argument.
        let stranger = ["user name is empty", "invalid auth token", "authentication failed"];
        match code {
            code::CANCELLED | code::DEADLINE_EXCEEDED | code::UNAVAILABLE => Self::Unanswered(text),
            code::NOT_FOUND => Self::Gone(text),
            code::PERMISSION_DENIED | code::UNAUTHENTICATED => Self::Refused(text),
            _ if stranger.iter().any(|sign| text.contains(sign)) => Self::Refused(text),
            _ => Self::Answer(text),
        }
    }
}

/// Bytes that travel as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blob(pub(super) Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A 64-bit integer, which travels as a decimal string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Int(pub(super) i64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_users_are_read() {
        let address = Address::parse("me:se@cret@h1,[::1]:7,h3:9").unwrap();
        assert_eq!(address.members, ["h1:2379", "[::1]:7", "h3:9"]);
        assert_eq!(address.credentials.unwrap().password, "se@cret");
        for wrong in ["", "h:0", "h:x", "me@h", "h,,i", "h/x"] {
            assert!(Address::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn errors_of_both_forms_are_told_apart() {
        let old = br#"{"error":"etcdserver: requested lease not found","message":"etcdserver: requested lease not found","code":5}"#;
        let new = br#"{"code":16,"message":"etcdserver: invalid auth token","details":[]}"#;
        assert!(matches!(failure(old), Failure::Gone(text) if text.contains("lease not found")));
        assert!(matches!(failure(new), Failure::Refused(text) if text.contains("invalid auth token")));
        assert!(matches!(failure(b"<html>"), Failure::Answer(text) if text == "<html>"));
    }

    #[test]
    fn numbers_and_bytes_travel_as_text() {
        assert_eq!(serde_json::to_string(&Int(-1)).unwrap(), r#""-1""#);
        assert_eq!(serde_json::from_str::<Int>(r#""9007199254740993""#).unwrap(), Int(9_007_199_254_740_993));
        assert_eq!(serde_json::from_str::<Blob>(r#""YS9i""#).unwrap(), Blob(b"a/b".to_vec()));
    }
}
