//! TCP keep-alive: who waits in silence finds out that the other end is gone. Told by the kernel's list of
//! sockets, where its timer stands.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::{Running, officer_exec, wait_until};

/// In which the kernel counts a second.
const TICKS: u64 = 100;

/// In how many ticks the other end is asked whether it is there; `None`: it isn't going to be.
fn asks_in(ours: SocketAddr, theirs: SocketAddr) -> Option<u64> {
    const KEEP_ALIVE: &str = "02";
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = sockets.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1] == listed(ours) && row[2] == listed(theirs))?;
    let (timer, ticks) = row[5].split_once(':')?;
    (timer == KEEP_ALIVE).then(|| u64::from_str_radix(ticks, 16).unwrap())
}

/// As it stands in the list.
fn listed(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address} is no IPv4 address") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

#[test]
fn a_server_asks_after_a_minute_whether_its_client_is_there() {
    let mut command = officer_exec();
    let mut server = Running::start(command.args(["serve", "--ephemeral", "--port", "0"]));
    let address: SocketAddr =
        server.stderr_until(|line| line.split_once("listening address=")?.1.trim().parse().ok());
    let client = TcpStream::connect(address).unwrap();
    let peer = client.local_addr().unwrap();
    wait_until("the server asks in time", || {
        asks_in(address, peer).is_some_and(|ticks| (1..=60 * TICKS).contains(&ticks))
    });
}

#[cfg(feature = "etcd")]
#[test]
fn a_client_of_etcd_asks_after_a_quarter_of_a_minute_whether_the_engine_is_there() {
    let engine = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = engine.local_addr().unwrap();
    let mut command = officer_exec();
    command.args(["-s", &format!("etcd://{address}"), "-T", "1h", "--", "echo", "never"]);
    let _client = Running::start(&mut command);
    // It answers nothing.
    let (_stream, peer) = engine.accept().unwrap();
    wait_until("the client asks in time", || {
        asks_in(peer, address).is_some_and(|ticks| (1..=15 * TICKS).contains(&ticks))
    });
}
