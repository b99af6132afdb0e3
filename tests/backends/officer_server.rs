//! Our own lock server: the same promises as every engine.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use officer::backend::Loss;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::engine::Engine;
use crate::process::{Process, free_port, logged, until};
use crate::suite::suite;
use crate::wrapper::wrapper;

pub(crate) struct Officer {
    folder: TempDir,
    port: u16,
    server: Process,
}

/// Why an operator takes a lock in these tests.
const REASON: &str = "by hand";

impl Engine for Officer {
    const SHORTEST_TTL: Duration = Duration::from_secs(1);
    const SLOTS: bool = true;

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the data");
        let port = free_port();
        let server = start(&folder, port);
        Self { folder, port, server }
    }

    fn shared() -> &'static Self {
        static SHARED: OnceLock<Officer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn url_at(port: u16) -> String {
        format!("officer://127.0.0.1:{port}")
    }

    fn stop(&mut self) {
        self.server.kill();
    }

    fn restart(&mut self) {
        self.server.kill();
        self.server = start(&self.folder, self.port);
    }

    fn pause(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    fn resume(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    fn delete_by_hand(port: u16, lock: &str) {
        let status = ask(port, &json!({"command": "status", "name": lock}));
        let token = &status["value"][0]["holders"][0]["token"];
        let request = json!({"command": "release", "name": lock, "token": token, "reason": REASON});
        let answer = ask(port, &request);
        assert_eq!(answer["result"], "revoking", "{answer}");
    }

    fn loss_by_hand() -> Loss {
        Loss::Revoked { reason: REASON.into() }
    }
}

fn start(folder: &TempDir, port: u16) -> Process {
    let mut command = logged(env!("CARGO_BIN_EXE_officer-exec"), folder.path());
    command.args(["serve", "--port", &port.to_string(), "--data-dir", "data", "--max-ttl", "2h"]);
    let server = Process::start(command, "cargo");
    until("the server listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    server
}

fn ask(port: u16, request: &Value) -> Value {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server listens");
    writeln!(connection, "{request}").expect("it reads");
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).expect("it answers");
    serde_json::from_str(&answer).expect("JSON")
}

suite!(Officer);
wrapper!(Officer);
