//! Redis: a server that writes each change to its disk before it answers.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::process::{free_port, run};
use super::{Program, Server};

pub(crate) type Redis = Server<RedisServer>;

pub(crate) struct RedisServer {
    address: SocketAddrV4,
}

impl Program for RedisServer {
    const NAME: &'static str = "redis";
    const PACKAGE: &'static str = "redis-server";
    const SHORTEST_TTL: Duration = Duration::from_secs(1);
    const SLOTS: bool = true;

    fn new(address: Ipv4Addr, _: &Path) -> Self {
        Self { address: SocketAddrV4::new(address, free_port()) }
    }

    fn shared() -> &'static OnceLock<Redis> {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        &SHARED
    }

    fn command(&self, _: &Path) -> Command {
        let mut command = Command::new("redis-server");
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["--bind", &host, "--port", &port, "--protected-mode", "no", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--unixsocket", "redis.sock"]);
        command
    }

    fn address(&self) -> SocketAddrV4 {
        self.address
    }

    fn answers(&self) -> bool {
        self.cli_command(&["ping"]).output().is_ok_and(|output| output.stdout == b"PONG\n")
    }

    fn url_at(address: SocketAddrV4) -> String {
        format!("redis://{address}")
    }

    fn delete_by_hand(&self, lock: &str) {
        assert_eq!(self.cli(&["del", lock]).trim(), "1");
    }
}

impl RedisServer {
    fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("redis-cli");
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["-h", &host, "-p", &port]).args(arguments);
        command
    }

    /// Redis's own client, one command.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        run(self.cli_command(arguments), "redis-tools")
    }
}
