//! Hot locks and long queues: hand-overs, dying holders, waiters that vanish, timeouts, floods.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::load::percentile;
use crate::process::{ServerProcess, Socket, Transport};

/// A blocking client that talks lines.
pub struct Talker {
    stream: std::io::BufReader<std::net::TcpStream>,
}

impl Talker {
    pub fn new(server: &ServerProcess) -> Self {
        let stream = std::net::TcpStream::connect(server.tcp).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream: std::io::BufReader::new(stream) }
    }

    pub fn send(&mut self, line: &str) {
        std::io::Write::write_all(self.stream.get_mut(), format!("{line}\n").as_bytes()).unwrap();
    }

    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.stream, &mut line).unwrap();
        line
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.hear()
    }

    /// Comes back once everything that was sent before is served.
    pub fn settle(&mut self) {
        while !self.ask(r#"{"command":"ping"}"#).contains("pong") {}
    }
}

pub fn lock(name: &str) -> String {
    format!(r#"{{"command":"lock","name":"{name}"}}"#)
}

pub fn unlock(name: &str) -> String {
    format!(r#"{{"command":"unlock","name":"{name}"}}"#)
}

/// Who got the lock gives it back and asks again, in one packet.
pub fn pass_on(name: &str) -> String {
    unlock(name) + "\n" + &lock(name) + "\n"
}

/// What a hot lock did.
pub struct HandOvers {
    pub per_second: f64,
    pub p50: f64,
    pub p99: f64,
    /// Between the client that got the lock most often and the one that got it least often.
    pub spread: u64,
}

/// Many contenders for one lock: who gets it unlocks and asks again. `spin`: the clients poll.
pub fn hot_lock(server: &ServerProcess, contenders: usize, time: Duration, spin: bool) -> HandOvers {
    let mut poll = Poll::new().unwrap();
    let mut clients: Vec<Socket> = (0..contenders).map(|_| Socket::connect(server, Transport::Tcp)).collect();
    for (number, socket) in clients.iter_mut().enumerate() {
        poll.registry().register(socket.source(), Token(number), Interest::READABLE).unwrap();
    }
    let ask = lock("hot") + "\n";
    let pass_on = pass_on("hot");
    clients.iter_mut().for_each(|socket| socket.write(ask.as_bytes()));
    let mut grants = vec![0_u64; contenders];
    let mut gaps = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    let mut passed_on = Instant::now();
    let started = Instant::now();
    while started.elapsed() < time {
        poll.poll(&mut events, Some(if spin { Duration::ZERO } else { Duration::from_secs(20) })).unwrap();
        for event in events.iter() {
            let number = event.token().0;
            let count = match clients[number].read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            };
            if memchr::memmem::find(&buffer[..count], b"\"acquired\"").is_some() {
                gaps.push(passed_on.elapsed());
                grants[number] += 1;
                passed_on = Instant::now();
                clients[number].write(pass_on.as_bytes());
            }
        }
    }
    let total: u64 = grants.iter().sum();
    let per_second = total as f64 / started.elapsed().as_secs_f64();
    let spread = grants.iter().max().unwrap() - grants.iter().min().unwrap();
    HandOvers { per_second, p50: percentile(&mut gaps, 50), p99: percentile(&mut gaps, 99), spread }
}

/// Clients that wait for one lock, and nothing else.
pub fn waiters(server: &ServerProcess, count: usize, name: &str, extra: &str) -> Vec<Socket> {
    let line = format!("{{\"command\":\"lock\",\"name\":\"{name}\"{extra}}}\n");
    let waiters = (0..count).map(|_| {
        let mut socket = Socket::connect(server, Transport::Tcp);
        socket.write(line.as_bytes());
        socket
    });
    waiters.collect()
}

/// The holder's connection dies, again and again, with a long queue behind it: how soon the next one is
/// granted the lock. The p50 and p99 in microseconds.
pub fn dying_holders(server: &ServerProcess, queue: usize, deaths: usize) -> (f64, f64) {
    let mut holder = Talker::new(server);
    assert!(holder.ask(&lock("dying")).contains("\"acquired\""));
    let mut poll = Poll::new().unwrap();
    let mut waiting: Vec<Option<Socket>> =
        waiters(server, queue, "dying", "").into_iter().map(Some).collect();
    for (number, socket) in waiting.iter_mut().flatten().enumerate() {
        poll.registry().register(socket.source(), Token(number), Interest::READABLE).unwrap();
    }
    holder.settle();
    let mut events = Events::with_capacity(64);
    let mut buffer = [0; 4096];
    let mut gaps = Vec::new();
    drop(holder);
    let mut died = Instant::now();
    for death in 0..=deaths {
        let next = 'granted: loop {
            poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(!events.is_empty(), "nobody was granted the lock");
            for event in events.iter() {
                let number = event.token().0;
                let Some(socket) = &mut waiting[number] else { continue };
                if socket.read(&mut buffer).is_ok() {
                    break 'granted number;
                }
            }
        };
        if death > 0 {
            gaps.push(died.elapsed());
        }
        died = Instant::now();
        waiting[next] = None;
    }
    (percentile(&mut gaps, 50), percentile(&mut gaps, 99))
}

/// A whole queue goes away at once: for how long a fresh client isn't served.
pub fn vanishing_waiters(server: &ServerProcess, queue: usize) -> Duration {
    let mut holder = Talker::new(server);
    holder.ask(&lock("vanishing"));
    let gone = waiters(server, queue, "vanishing", "");
    holder.settle();
    drop(gone);
    let started = Instant::now();
    let mut fresh = Talker::new(server);
    fresh.ask(&lock("fresh"));
    started.elapsed()
}

/// Many waits that end at about one time: how late the p99 of the answers is, and the memory it took.
pub fn timeouts(server: &ServerProcess, count: usize) -> (Duration, u64) {
    const WAIT: Duration = Duration::from_secs(2);
    let mut holder = Talker::new(server);
    holder.ask(&lock("late"));
    let mut poll = Poll::new().unwrap();
    let line = format!("{{\"command\":\"lock\",\"name\":\"late\",\"timeout\":{}}}\n", WAIT.as_secs());
    let mut clients: Vec<Socket> = (0..count).map(|_| Socket::connect(server, Transport::Tcp)).collect();
    for (number, socket) in clients.iter_mut().enumerate() {
        poll.registry().register(socket.source(), Token(number), Interest::READABLE).unwrap();
    }
    let mut due = HashMap::new();
    for (number, socket) in clients.iter_mut().enumerate() {
        due.insert(number, Instant::now() + WAIT);
        socket.write(line.as_bytes());
    }
    holder.settle();
    let before = server.memory_kib();
    let mut peak = before;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 1 << 20];
    let mut lateness = Vec::new();
    while !due.is_empty() {
        poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
        assert!(!events.is_empty(), "{} timeouts never came", due.len());
        for event in events.iter() {
            let number = event.token().0;
            while let Ok(count) = clients[number].read(&mut buffer) {
                if memchr::memchr(b'\n', &buffer[..count]).is_some() {
                    let due = due.remove(&number).expect("one answer each");
                    lateness.push(Instant::now().saturating_duration_since(due));
                }
            }
        }
        peak = peak.max(server.memory_kib());
    }
    (Duration::from_secs_f64(percentile(&mut lateness, 99) / 1e6), peak - before)
}

/// A client that sends without end and never reads.
pub struct Flood {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    pub fn start(server: &ServerProcess) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut stream = std::net::TcpStream::connect(server.tcp).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
        let lines = (lock("flood") + "\n" + &unlock("flood") + "\n").repeat(500);
        let thread = std::thread::spawn({
            let stop = std::sync::Arc::clone(&stop);
            move || {
                let mut at = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match std::io::Write::write(&mut stream, &lines.as_bytes()[at..]) {
                        Ok(count) => at = (at + count) % lines.len(),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        // Also an answer: the server has closed it.
                        Err(_) => return,
                    }
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}
