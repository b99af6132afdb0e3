//! One question to a lock server, for the operators' verbs: which server, the exchange, and why there
//! is no answer. The server is found, and believed or not, as a command's is; none is started.

use std::io::{self, ErrorKind};
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use officer::backend::{ConnectError, ServerUrl};
use officer::client::{self, Connect, Stream};
use officer::local::{self, Absence};
use officer::protocol::{Answer, Reply, Request};

use crate::exit_status::ExitStatus;
use crate::server_args::ServerArgs;

/// A server that says nothing for so long isn't there for an operator.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom to ask, and how the answer is shown.
#[derive(Args, Clone, Debug)]
pub struct Asking {
    #[command(flatten)]
    server: ServerArgs,

    /// Print the server's answer as one JSON line
    #[arg(long)]
    pub json: bool,
}

/// An answer that is no error.
pub struct Answered {
    /// As it came.
    pub line: String,
    /// Understood.
    pub reply: Reply,
    /// No server said this: the embedded one is at rest.
    pub at_rest: bool,
    server: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot ask {server}: only an Officer server (officer://, unix: or local) answers this verb")]
    NotOfficer { server: String },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{server} refused: {message}")]
    Refused { server: String, message: String },
    #[error("cannot understand {server}: {cause}")]
    Strange { server: String, cause: String },
    #[error("cannot make a runtime: {0}")]
    Runtime(io::Error),
}

impl AskError {
    /// Whether it may be answered later.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Unreachable { .. }))
    }

    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Usage(_) | Self::NotOfficer { .. } => ExitStatus::Usage,
            Self::Connect(error) => error.into(),
            Self::Refused { .. } => ExitStatus::Refused,
            Self::Strange { .. } | Self::Runtime(_) => ExitStatus::Internal,
        }
    }
}

impl Asking {
    /// Asks and waits for the answer. `at_rest`: what is true while the embedded server isn't needed and
    /// so doesn't run; `None`: that is no answer.
    pub fn exchange(
        &self,
        request: &Request<'_>,
        at_rest: Option<&Answer<'_>>,
    ) -> Result<Answered, AskError> {
        let url = self.server.named().map_err(AskError::Usage)?.unwrap_or(ServerUrl::Local);
        let server = url.to_string();
        let (line, at_rest) = match (ask(connector(&url)?, request)?, at_rest) {
            (Ok(line), _) => (line, false),
            (Err(error), Some(answer)) if url == ServerUrl::Local && error.kind() == AT_REST => {
                (line_of(answer), true)
            }
            (Err(error), _) => return Err(ConnectError::new(server, &error).into()),
        };
        match Reply::parse(&line) {
            Err(error) => Err(AskError::Strange { server, cause: error.to_string() }),
            Ok(Reply::Error { message, .. }) => Err(AskError::Refused { server, message }),
            Ok(reply) => Ok(Answered { line, reply, at_rest, server }),
        }
    }
}

impl Answered {
    /// As an answer to another question.
    pub fn strange(self) -> AskError {
        AskError::Strange { server: self.server, cause: self.line }
    }
}

/// The embedded server, or why there is none.
struct Embedded;

/// The error for a server that nobody needs.
const AT_REST: ErrorKind = ErrorKind::NotFound;

#[async_trait]
impl Connect for Embedded {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match local::Running.connect().await {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                // Not to know it isn't to be at rest, whatever the kind of the error.
                let unknown = |error| io::Error::other(format!("cannot tell why nobody listens: {error}"));
                Err(match local::absence().map_err(unknown)? {
                    Absence::AtRest => io::Error::new(
                        AT_REST,
                        "no embedded server runs; the first `officer-exec -s local` starts one",
                    ),
                    Absence::Broken => io::Error::new(
                        ErrorKind::ConnectionRefused,
                        "the embedded server was killed or is just ending; an officer-exec that holds or waits \
                         starts it again, and so does the next `officer-exec -s local`",
                    ),
                    // It is tried again, as one whose queue of new connections is full.
                    Absence::Starting => ErrorKind::WouldBlock.into(),
                })
            }
            connected => connected,
        }
    }

    fn server(&self) -> String {
        local::Running.server()
    }
}

fn line_of(answer: &Answer<'_>) -> String {
    let mut line = Vec::new();
    answer.write_line(&mut line);
    String::from_utf8_lossy(line.trim_ascii_end()).into_owned()
}

fn connector(server: &ServerUrl) -> Result<&dyn Connect, AskError> {
    match server {
        ServerUrl::Officer(endpoint) => Ok(endpoint),
        ServerUrl::Local => Ok(&Embedded),
        ServerUrl::ZooKeeper { .. } | ServerUrl::Etcd { .. } | ServerUrl::Redis { .. } => {
            Err(AskError::NotOfficer { server: server.to_string() })
        }
    }
}

fn ask(server: &dyn Connect, request: &Request<'_>) -> Result<io::Result<String>, AskError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AskError::Runtime)?;
    let answer = runtime.block_on(client::ask(server, request, PATIENCE));
    // A name lookup that hangs in its thread must not keep us.
    runtime.shutdown_background();
    Ok(answer)
}
