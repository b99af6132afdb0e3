//! A cable inside the test, for what a network namespace isn't allowed or able to do: bytes are held
//! back in one way or both, or come late. Connections stay open and know nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::scene::{Ending, Holder, LONG, Scene, lasting};
use crate::table::Proof;

crate::faults![
    a_cable_that_holds_all_back_loses_the_lock: "bytes held back both ways, then delivered",
    a_cable_that_holds_answers_back_loses_the_lock: "bytes held back towards the wrapper, then delivered",
    a_cable_that_holds_requests_back_loses_the_lock: "bytes held back from the wrapper, then delivered",
    a_slow_network_costs_nothing: "every byte 150 ms late, each way",
    a_network_slower_than_the_lease_loses_the_lock: "every byte 3 s late, each way",
];

/// What the cable does to bytes of one way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    Now,
    Later(Duration),
    Nothing,
}

/// Which way, as an index.
const TO_SERVER: usize = 0;
const TO_HOLDER: usize = 1;

pub(crate) struct Cable {
    address: SocketAddr,
    ways: Arc<Ways>,
}

struct Ways {
    carries: Mutex<[Carries; 2]>,
    changed: Condvar,
}

impl Cable {
    fn to(socket: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback works");
        let address = listener.local_addr().expect("it is bound");
        let ways = Arc::new(Ways { carries: Mutex::new([Carries::Now; 2]), changed: Condvar::new() });
        let (socket, carrying) = (socket.to_owned(), ways.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                join(client, &socket, &carrying);
            }
        });
        Self { address, ways }
    }

    /// Carries nothing from here on.
    pub(crate) fn cut(&self) {
        self.set(&[TO_SERVER, TO_HOLDER], Carries::Nothing);
    }

    /// Carries everything again, also what it has held back.
    pub(crate) fn mend(&self) {
        self.set(&[TO_SERVER, TO_HOLDER], Carries::Now);
    }

    fn set(&self, ways: &[usize], carries: Carries) {
        let mut current = self.ways.carries.lock().expect("no panic in here");
        for &way in ways {
            current[way] = carries;
        }
        self.ways.changed.notify_all();
    }
}

/// Carries a client's bytes to the server's socket and back, on two threads that end with it.
fn join(client: TcpStream, socket: &PathBuf, ways: &Arc<Ways>) {
    let Ok(server) = UnixStream::connect(socket) else { return };
    let (client_end, server_end) = (client.try_clone().expect("a copy"), server.try_clone().expect("a copy"));
    let (there, back) = (ways.clone(), ways.clone());
    std::thread::spawn(move || {
        copy(&client, &server, &there, TO_SERVER);
        let _ = server.shutdown(Shutdown::Both);
    });
    std::thread::spawn(move || {
        copy(&server_end, &client_end, &back, TO_HOLDER);
        let _ = client_end.shutdown(Shutdown::Both);
    });
}

fn copy(mut from: impl Read, mut to: impl Write, ways: &Ways, way: usize) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        ways.delay(way);
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    // The end of a connection is as late as its bytes.
    ways.delay(way);
}

impl Ways {
    /// Comes back when what has just arrived may be handed on.
    fn delay(&self, way: usize) {
        let arrived = Instant::now();
        let mut carries = self.carries.lock().expect("no panic in here");
        loop {
            let wait = match carries[way] {
                Carries::Now => return,
                Carries::Later(by) => match by.checked_sub(arrived.elapsed()) {
                    None | Some(Duration::ZERO) => return,
                    Some(left) => left,
                },
                Carries::Nothing => Duration::MAX,
            };
            carries = self.changed.wait_timeout(carries, wait).expect("no panic in here").0;
        }
    }
}

pub(crate) fn scene_with_cable() -> (Scene, Cable, Holder) {
    let scene = Scene::new();
    let cable = Cable::to(&scene.server.socket());
    let url = format!("officer://{}", cable.address);
    let holder = scene.hold_by(&mut scene.holding_command(&url, OnTerm::Ignores));
    (scene, cable, holder)
}

fn loses_the_lock(ways: &[usize], carries: Carries) -> Proof {
    let (scene, cable, holder) = scene_with_cable();
    let next = scene.next();
    let begun = BootTime::now();
    cable.set(ways, carries);
    lasting(LONG);
    cable.set(ways, Carries::Now);
    let code = holder.ends_with(79);
    scene.judge(next, Ending::new(code, begun))
}

fn a_cable_that_holds_all_back_loses_the_lock() -> Proof {
    loses_the_lock(&[TO_SERVER, TO_HOLDER], Carries::Nothing)
}

fn a_cable_that_holds_answers_back_loses_the_lock() -> Proof {
    loses_the_lock(&[TO_HOLDER], Carries::Nothing)
}

fn a_cable_that_holds_requests_back_loses_the_lock() -> Proof {
    loses_the_lock(&[TO_SERVER], Carries::Nothing)
}

fn a_network_slower_than_the_lease_loses_the_lock() -> Proof {
    loses_the_lock(&[TO_SERVER, TO_HOLDER], Carries::Later(LONG))
}

fn a_slow_network_costs_nothing() -> Proof {
    let (scene, cable, holder) = scene_with_cable();
    let next = scene.next();
    cable.set(&[TO_SERVER, TO_HOLDER], Carries::Later(Duration::from_millis(150)));
    lasting(LONG);
    scene.judge_unharmed(holder, next)
}
