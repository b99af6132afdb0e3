//! The socket files of real servers.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::socket::{getsockopt, sockopt};

use crate::harness::DEADLINE;

const SERVERS: usize = 6;
const ROUNDS: usize = 8;

/// A server that ends with the test.
struct Tied(Child);

impl Drop for Tied {
    fn drop(&mut self) {
        // It is gone already unless a test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(socket: &Path) -> Tied {
    let mut command = Command::new(env!("CARGO_BIN_EXE_officer-exec"));
    command.args(["serve", "--ephemeral", "-o", "UNIX", "-f"]).arg(socket).stderr(Stdio::null());
    Tied(command.spawn().unwrap())
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
}

/// Who listens there, told by the kernel.
fn listener(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).ok()?;
    getsockopt(&stream, sockopt::PeerCredentials).ok().map(|peer| peer.pid() as u32)
}

#[test]
fn of_many_servers_that_find_a_stale_socket_one_serves_and_the_others_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    for round in 0..ROUNDS {
        let mut servers: Vec<Tied> = (0..SERVERS).map(|_| start(&socket)).collect();
        let mut ended = Vec::new();
        wait_until(|| {
            servers.retain_mut(|server| match server.0.try_wait().unwrap() {
                None => true,
                Some(status) => {
                    ended.push(status.code());
                    false
                }
            });
            servers.len() <= 1
        });
        assert!(ended.iter().all(|&code| code != Some(0)), "round {round}: {ended:?}");
        // The one that is left wasn't robbed of its file.
        let [last] = &mut servers[..] else { panic!("round {round}: all have ended, {ended:?}") };
        wait_until(|| listener(&socket) == Some(last.0.id()));
        // What it leaves is stale for the next round.
        last.0.kill().unwrap();
    }
}

/// Whether a process waits for a file lock.
fn waits_for_a_lock(pid: u32) -> bool {
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let waits = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip_while(|&word| word != "->");
        words.next().is_some() && words.nth(3).is_some_and(|word| word == pid.to_string())
    };
    locks.lines().any(waits)
}

#[test]
fn servers_look_at_a_stale_socket_and_replace_it_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    let inode = || std::fs::symlink_metadata(&socket).unwrap().ino();
    let stale = inode();
    let turn = std::fs::File::create(dir.path().join("socket.lock")).unwrap();
    turn.lock().unwrap();
    let mut servers = [start(&socket), start(&socket)];
    // Both have come as far as they may while somebody else has the turn.
    wait_until(|| servers.iter().all(|server| waits_for_a_lock(server.0.id())));
    assert_eq!((inode(), listener(&socket)), (stale, None));
    drop(turn);
    wait_until(|| servers.iter_mut().any(|server| server.0.try_wait().unwrap().is_some()));
    let pids = servers.each_ref().map(|server| server.0.id());
    wait_until(|| listener(&socket).is_some_and(|pid| pids.contains(&pid)));
}

#[test]
fn a_clean_end_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut server = start(&socket);
    wait_until(|| listener(&socket).is_some());
    let pid = nix::unistd::Pid::from_raw(server.0.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
