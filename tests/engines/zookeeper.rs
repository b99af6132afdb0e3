//! ZooKeeper: one server, or an ensemble of three.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::cluster::{Clustered, Role};
use super::process::{free_port, run};
use super::{Program, Server};

pub(crate) type ZooKeeper = Server<Quorum>;

/// Where Debian's package has it.
const JAR: &str = "/usr/share/java/zookeeper.jar";

/// One of the servers that make a ZooKeeper.
pub(crate) struct Quorum {
    address: SocketAddrV4,
}

impl Program for Quorum {
    const NAME: &'static str = "zookeeper";
    const PACKAGE: &'static str = "default-jre-headless";
    const SHORTEST_TTL: Duration = Duration::from_secs(3);
    const SLOTS: bool = false;

    fn new(address: Ipv4Addr, folder: &Path) -> Self {
        Self::configured(SocketAddrV4::new(address, free_port()), folder, "")
    }

    fn shared() -> &'static OnceLock<ZooKeeper> {
        static SHARED: OnceLock<ZooKeeper> = OnceLock::new();
        &SHARED
    }

    fn command(&self, _: &Path) -> Command {
        let mut command = java("-Xmx96m");
        command.args(["org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"]);
        command
    }

    fn address(&self) -> SocketAddrV4 {
        self.address
    }

    fn answers(&self) -> bool {
        self.ask("ruok").is_ok_and(|answer| answer == "imok")
    }

    fn url_at(address: SocketAddrV4) -> String {
        format!("zk://{address}")
    }

    fn delete_by_hand(&self, lock: &str) {
        self.cli(&["deleteall", &format!("/lockex/{lock}")]);
    }
}

impl Quorum {
    fn configured(address: SocketAddrV4, folder: &Path, more: &str) -> Self {
        let (host, port) = (address.ip(), address.port());
        let settings = format!(
            "tickTime=500\ndataDir={}\nclientPort={port}\nclientPortAddress={host}\nmaxClientCnxns=0\n\
             minSessionTimeout=1000\nmaxSessionTimeout=120000\nadmin.enableServer=false\n\
             4lw.commands.whitelist=ruok,srvr\n{more}",
            folder.join("data").display(),
        );
        std::fs::write(folder.join("zoo.cfg"), settings).expect("the test's folder is writable");
        Self { address }
    }

    /// One of ZooKeeper's words of four letters.
    fn ask(&self, word: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(self.address)?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.write_all(word.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// ZooKeeper's own client, one command.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let mut command = java("-Xmx64m");
        command.args(["org.apache.zookeeper.ZooKeeperMain", "-server", &self.address.to_string()]);
        command.args(arguments);
        run(command, "default-jre-headless")
    }
}

impl Clustered for Quorum {
    fn start_three() -> Vec<ZooKeeper> {
        let place = || SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port());
        let places: Vec<_> = (1..=3).map(|id| (id, place(), [free_port(), free_port()])).collect();
        let mut more = String::from("initLimit=20\nsyncLimit=10\n");
        for (id, _, [quorum, election]) in &places {
            more += &format!("server.{id}=127.0.0.1:{quorum}:{election}\n");
        }
        let start = |(id, address, _): (u32, SocketAddrV4, _)| {
            Server::start_with(|folder| {
                let data = folder.join("data");
                std::fs::create_dir(&data).expect("the test's folder is writable");
                std::fs::write(data.join("myid"), format!("{id}\n")).expect("the test's folder is writable");
                Self::configured(address, folder, &more)
            })
        };
        places.into_iter().map(start).collect()
    }

    fn role(&self) -> Option<Role> {
        let answer = self.ask("srvr").ok()?;
        let role = answer.lines().find_map(|line| line.strip_prefix("Mode: "))?;
        match role {
            "leader" => Some(Role::Leader),
            "follower" => Some(Role::Follower),
            _ => None,
        }
    }
}

fn java(memory: &str) -> Command {
    assert!(Path::new(JAR).exists(), "{JAR} is missing; it is in the Debian package zookeeper");
    let mut command = Command::new("java");
    command.args([memory, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", JAR]);
    command
}
