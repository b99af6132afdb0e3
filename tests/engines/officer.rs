//! Our own lock server, and what it understands besides locks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use officer::backend::Loss;
use serde_json::{Value, json};

use super::process::free_port;
use super::{Program, Server};

pub(crate) type Officer = Server<LockServer>;

pub(crate) struct LockServer {
    address: SocketAddrV4,
}

/// Why an operator takes a lock in these tests.
const REASON: &str = "by hand";

impl Program for LockServer {
    const NAME: &'static str = "officer";
    const PACKAGE: &'static str = "cargo";
    const SHORTEST_TTL: Duration = Duration::from_secs(1);
    const SLOTS: bool = true;

    fn new(address: Ipv4Addr, _: &Path) -> Self {
        Self { address: SocketAddrV4::new(address, free_port()) }
    }

    fn shared() -> &'static OnceLock<Officer> {
        static SHARED: OnceLock<Officer> = OnceLock::new();
        &SHARED
    }

    fn command(&self, _: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_officer-exec"));
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["serve", "--host", &host, "--port", &port, "--data-dir", "data", "--max-ttl", "2h"]);
        command
    }

    fn address(&self) -> SocketAddrV4 {
        self.address
    }

    fn answers(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }

    fn url_at(address: SocketAddrV4) -> String {
        format!("officer://{address}")
    }

    fn delete_by_hand(&self, lock: &str) {
        revoke(lock, || TcpStream::connect(self.address));
    }

    fn loss_by_hand() -> Loss {
        revoked()
    }
}

/// Takes a lock of limit 1 away, as an operator does.
pub(super) fn revoke<S: Read + Write>(lock: &str, connect: impl Fn() -> std::io::Result<S>) {
    let ask = |request: &Value| ask(connect().expect("the server listens"), request);
    let status = ask(&json!({"command": "status", "name": lock}));
    let token = &status["value"][0]["holders"][0]["token"];
    let answer = ask(&json!({"command": "release", "name": lock, "token": token, "reason": REASON}));
    assert_eq!(answer["result"], "revoking", "{answer}");
}

/// What the holder is told then.
pub(super) fn revoked() -> Loss {
    Loss::Revoked { reason: REASON.into() }
}

fn ask<S: Read + Write>(mut connection: S, request: &Value) -> Value {
    writeln!(connection, "{request}").expect("it reads");
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).expect("it answers");
    serde_json::from_str(&answer).expect("JSON")
}
