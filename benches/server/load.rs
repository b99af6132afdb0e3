//! The load: many connections on one thread and one epoll, each with a cycle of messages to send and
//! lines to wait for.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::process::{ServerProcess, Socket, Transport};

/// One message and how many lines answer it.
#[derive(Clone)]
pub struct Step {
    pub bytes: Vec<u8>,
    pub lines: usize,
}

/// What a run measured. An operation is what a whole cycle does, times `operations_a_cycle`.
pub struct Measured {
    pub operations: u64,
    pub elapsed: Duration,
    pub cpu: Duration,
    pub latencies: Vec<Duration>,
}

impl Measured {
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Server CPU of one operation in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.operations as f64
    }

    /// A percentile of the time of one cycle, in microseconds.
    pub fn percentile(&mut self, percent: usize) -> f64 {
        percentile(&mut self.latencies, percent)
    }
}

pub fn percentile(latencies: &mut [Duration], percent: usize) -> f64 {
    latencies.sort_unstable();
    let at = (latencies.len() * percent / 100).min(latencies.len() - 1);
    latencies[at].as_secs_f64() * 1e6
}

struct Client {
    socket: Socket,
    cycle: Vec<Step>,
    at: usize,
    missing: usize,
    started: Instant,
}

/// Connections that go through their cycles for as long as they are run.
pub struct Load {
    poll: Poll,
    clients: Vec<Client>,
    operations_a_cycle: u64,
}

impl Load {
    /// `cycle` of each connection by its number.
    pub fn new(
        server: &ServerProcess,
        transport: Transport,
        connections: usize,
        operations_a_cycle: u64,
        cycle: impl Fn(usize) -> Vec<Step>,
    ) -> Self {
        let poll = Poll::new().unwrap();
        let mut clients: Vec<Client> = (0..connections)
            .map(|number| Client {
                socket: Socket::connect(server, transport),
                cycle: cycle(number),
                at: 0,
                missing: 0,
                started: Instant::now(),
            })
            .collect();
        for (number, client) in clients.iter_mut().enumerate() {
            poll.registry().register(client.socket.source(), Token(number), Interest::READABLE).unwrap();
        }
        Self { poll, clients, operations_a_cycle }
    }

    /// Runs for `time`, then until every cycle is whole.
    pub fn run(&mut self, server: &ServerProcess, time: Duration) -> Measured {
        let started = Instant::now();
        let cpu = server.cpu();
        let mut latencies = Vec::new();
        for client in &mut self.clients {
            client.started = Instant::now();
            client.send();
        }
        let mut running = self.clients.len();
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 * 1024];
        while running > 0 {
            self.poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(!events.is_empty(), "the server has stopped answering");
            for event in events.iter() {
                let client = &mut self.clients[event.token().0];
                if !client.receive(&mut buffer) {
                    continue;
                }
                client.at = (client.at + 1) % client.cycle.len();
                if client.at == 0 {
                    let now = Instant::now();
                    latencies.push(now - client.started);
                    client.started = now;
                    if now - started >= time {
                        running -= 1;
                        continue;
                    }
                }
                client.send();
            }
        }
        Measured {
            operations: latencies.len() as u64 * self.operations_a_cycle,
            elapsed: started.elapsed(),
            cpu: server.cpu() - cpu,
            latencies,
        }
    }
}

impl Client {
    fn send(&mut self) {
        let step = &self.cycle[self.at];
        self.missing = step.lines;
        self.socket.write(&step.bytes);
    }

    /// Reads what is there; whether the step's last line has come.
    fn receive(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => panic!("the server has closed a connection"),
                Ok(count) => {
                    self.missing -= memchr::memchr_iter(b'\n', &buffer[..count]).count();
                    if count < buffer.len() {
                        return self.missing == 0;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Load {
    /// Has each client do one step that isn't measured.
    pub fn prepare(&mut self, step: &Step) {
        for client in &mut self.clients {
            client.missing = step.lines;
            client.socket.write(&step.bytes);
        }
        let mut missing = self.clients.len();
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 * 1024];
        while missing > 0 {
            self.poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(!events.is_empty(), "the server has stopped answering");
            for event in events.iter() {
                missing -= usize::from(self.clients[event.token().0].receive(&mut buffer));
            }
        }
    }
}
