//! A TCP proxy whose cable can be pulled: connections stay open and carry nothing, as after a
//! network's failure, until it is healed, when they are gone.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

pub(crate) struct Proxy {
    port: u16,
    cable: Arc<Cable>,
}

#[derive(Default)]
struct Cable {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cut: bool,
    ends: Vec<TcpStream>,
}

impl Proxy {
    /// A way to `port` on loopback.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback works");
        let own_port = listener.local_addr().expect("it is bound").port();
        let cable = Arc::new(Cable::default());
        let accepting = cable.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let cable = accepting.clone();
                std::thread::spawn(move || carry(client, port, &cable));
            }
        });
        Self { port: own_port, cable }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing arrives, and nobody is told.
    pub(crate) fn cut(&self) {
        self.cable.state.lock().expect("no panic").cut = true;
    }

    /// New connections work again; the old ones are reset.
    pub(crate) fn heal(&self) {
        let mut state = self.cable.state.lock().expect("no panic");
        state.cut = false;
        for end in state.ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
        self.cable.changed.notify_all();
    }
}

impl Cable {
    fn wait_while_cut(&self) {
        let state = self.state.lock().expect("no panic");
        drop(self.changed.wait_while(state, |state| state.cut).expect("no panic"));
    }
}

fn carry(client: TcpStream, port: u16, cable: &Arc<Cable>) {
    cable.wait_while_cut();
    let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) else { return };
    let ends = [client.try_clone().expect("a socket"), server.try_clone().expect("a socket")];
    cable.state.lock().expect("no panic").ends.extend(ends);
    let (back_from, back_to) = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
    let back_cable = cable.clone();
    std::thread::spawn(move || copy(back_from, back_to, &back_cable));
    copy(client, server, cable);
}

fn copy(mut from: TcpStream, mut to: TcpStream, cable: &Cable) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        cable.wait_while_cut();
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
