//! A bare echo server: the least that a server on one thread and one epoll can cost.

use std::io::ErrorKind;

use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token};

use crate::process::Socket;

const TCP: Token = Token(usize::MAX);
const UNIX: Token = Token(usize::MAX - 1);

pub fn serve(tcp: &str, unix: &str) -> ! {
    let mut poll = Poll::new().unwrap();
    let mut tcp = TcpListener::bind(tcp.parse().unwrap()).unwrap();
    let mut unix = UnixListener::bind(unix).unwrap();
    poll.registry().register(&mut tcp, TCP, Interest::READABLE).unwrap();
    poll.registry().register(&mut unix, UNIX, Interest::READABLE).unwrap();
    let mut clients: Vec<Option<Socket>> = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None).unwrap();
        for event in events.iter() {
            match event.token() {
                TCP => {
                    while let Ok((stream, _)) = tcp.accept() {
                        stream.set_nodelay(true).unwrap();
                        add(&poll, &mut clients, Socket::Tcp(stream));
                    }
                }
                UNIX => {
                    while let Ok((stream, _)) = unix.accept() {
                        add(&poll, &mut clients, Socket::Unix(stream));
                    }
                }
                Token(key) => echo(&mut clients[key], &mut buffer),
            }
        }
    }
}

fn add(poll: &Poll, clients: &mut Vec<Option<Socket>>, mut socket: Socket) {
    poll.registry().register(socket.source(), Token(clients.len()), Interest::READABLE).unwrap();
    clients.push(Some(socket));
}

fn echo(slot: &mut Option<Socket>, buffer: &mut [u8]) {
    let Some(socket) = slot else { return };
    match socket.read(buffer) {
        Ok(0) => *slot = None,
        Ok(count) => socket.write(&buffer[..count]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(_) => *slot = None,
    }
}
