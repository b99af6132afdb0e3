//! etcd: one member, or a cluster of three.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::cluster::{Clustered, Role};
use super::process::{free_port, run};
use super::{Program, Server};

pub(crate) type Etcd = Server<Member>;

pub(crate) struct Member {
    name: String,
    client: SocketAddrV4,
    peer: SocketAddrV4,
    /// All members, as etcd's option has them.
    cluster: String,
}

impl Program for Member {
    const NAME: &'static str = "etcd";
    const PACKAGE: &'static str = "etcd-server";
    const SHORTEST_TTL: Duration = Duration::from_secs(2);
    const SLOTS: bool = false;

    fn new(address: Ipv4Addr, _: &Path) -> Self {
        Self::cluster(address, 1).remove(0)
    }

    fn shared() -> &'static OnceLock<Etcd> {
        static SHARED: OnceLock<Etcd> = OnceLock::new();
        &SHARED
    }

    fn command(&self, _: &Path) -> Command {
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let mut command = Command::new("etcd");
        command.args(["--name", &self.name, "--data-dir", "data"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.cluster]);
        command
    }

    fn address(&self) -> SocketAddrV4 {
        self.client
    }

    fn answers(&self) -> bool {
        self.ctl_command(&["endpoint", "health"]).output().is_ok_and(|output| output.status.success())
    }

    fn url_at(address: SocketAddrV4) -> String {
        format!("etcd://{address}")
    }

    fn delete_by_hand(&self, lock: &str) {
        assert_eq!(self.ctl(&["del", "--prefix", &format!("{lock}/")]).trim(), "1");
    }
}

impl Member {
    /// As many members of one cluster.
    fn cluster(address: Ipv4Addr, many: usize) -> Vec<Self> {
        let place = || SocketAddrV4::new(address, free_port());
        let mut members: Vec<_> = (0..many)
            .map(|number| Self {
                name: format!("member-{number}"),
                client: place(),
                peer: place(),
                cluster: String::new(),
            })
            .collect();
        let all: Vec<_> =
            members.iter().map(|member| format!("{}=http://{}", member.name, member.peer)).collect();
        for member in &mut members {
            member.cluster = all.join(",");
        }
        members
    }

    pub(crate) fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.client)).args(arguments);
        command
    }

    /// etcd's own client, one command.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        run(self.ctl_command(arguments), "etcd-client")
    }
}

impl Clustered for Member {
    fn start_three() -> Vec<Etcd> {
        let members = Self::cluster(Ipv4Addr::LOCALHOST, 3);
        members.into_iter().map(|member| Server::start_with(|_| member)).collect()
    }

    fn role(&self) -> Option<Role> {
        let output = self.ctl_command(&["endpoint", "status", "-w", "json"]).output().ok()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let status = &status[0]["Status"];
        let leader = status["leader"].as_u64().filter(|&leader| leader != 0)?;
        let leads = status["header"]["member_id"].as_u64() == Some(leader);
        Some(if leads { Role::Leader } else { Role::Follower })
    }
}
