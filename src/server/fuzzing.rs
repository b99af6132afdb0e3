//! What the fuzz targets run, and a test with fixed inputs: any bytes as a line, and any bytes as the
//! doings of many clients of a server without sockets. Each panics where a promise is broken. Not for
//! other use.

use std::time::Duration;

use crate::boot_time::BootTime;
use crate::protocol::{Reply, Request};

use super::Config;
use super::bounds::{Bounds, PAUSE_READING_BYTES};
use super::connection::{Key, Peer};
use super::service::Service;

/// Reads one line with both readers; what is understood survives being written and read again.
pub fn line(data: &[u8]) {
    let Ok(request) = Request::parse(data) else { return };
    let text = std::str::from_utf8(data).expect("nothing else is understood");
    assert_eq!(Request::parse_any(text).as_ref(), Ok(&request), "the two readers disagree");
    let written = request.to_line();
    let again = Request::parse(written.trim_end_matches('\n').as_bytes());
    assert!(again.is_ok(), "{request:?} was written as {written:?}");
}

/// Lets the input play clients.
pub fn connections(data: &[u8]) {
    let mut play = Play::new();
    let mut input = Input(data);
    while let Some(choice) = input.byte() {
        play.act(choice, &mut input);
        play.finish_turn();
    }
    play.end();
}

/// More clients would only make it slower.
const MAX_CLIENTS: usize = 12;
/// A reply can be this long beyond the bound at which a client isn't read from.
const LONGEST_REPLY: usize = 64 * 1024;
const BOUNDS: Bounds =
    Bounds { line_bytes: 512, locks_per_client: 5, waiters_per_lock: 4, connections: 100, sessions: 6 };

struct Play {
    service: Service,
    now: BootTime,
    clients: Vec<Key>,
    secrets: Vec<String>,
    /// Of all grants that were told.
    tokens: Vec<u64>,
    peers: u64,
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % bound
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = self.below(most + 1).min(self.0.len());
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes.to_vec()
    }
}

impl Play {
    fn new() -> Self {
        let now = BootTime::from_since_boot(Duration::from_secs(1_000_000));
        let config = Config { bounds: BOUNDS, ..Config::default() };
        let service = Service::open(&config, now).expect("a store in memory opens");
        Self { service, now, clients: Vec::new(), secrets: Vec::new(), tokens: Vec::new(), peers: 0 }
    }

    fn act(&mut self, choice: u8, input: &mut Input<'_>) {
        match choice % 16 {
            0 | 1 => self.connect(),
            2 => self.send(input, |input, _| input.bytes(64)),
            3..=10 => self.send(input, |input, play| command(input, play).into_bytes()),
            11 => self.send(input, |input, play| command(input, play).repeat(40).into_bytes()),
            12 => self.with_client(input, |service, key, now| service.end_input(key, now)),
            13 => self.with_client(input, |service, key, _| service.fail(key)),
            14 => self.now = self.now + Duration::from_millis(100 * input.below(100) as u64),
            _ => self.with_client(input, |service, key, _| service.connections.touch(key)),
        }
    }

    fn connect(&mut self) {
        if self.clients.len() < MAX_CLIENTS {
            self.peers += 1;
            self.clients.push(self.service.connect(Peer::Unix(self.peers), self.now));
        }
    }

    fn with_client(&mut self, input: &mut Input<'_>, act: impl FnOnce(&mut Service, Key, BootTime)) {
        if !self.clients.is_empty() {
            let key = self.clients[input.below(self.clients.len())];
            act(&mut self.service, key, self.now);
        }
    }

    fn send(&mut self, input: &mut Input<'_>, bytes: impl FnOnce(&mut Input<'_>, &Self) -> Vec<u8>) {
        if self.clients.is_empty() {
            return;
        }
        let key = self.clients[input.below(self.clients.len())];
        let bytes = bytes(input, self);
        if self.service.wants_input(key) {
            self.service.receive(key, &bytes, self.now);
        }
    }

    /// What the loop does at the end of a turn; one client in four doesn't read.
    fn finish_turn(&mut self) {
        self.service.serve_backlog(self.now);
        self.service.run_timers(self.now, self.now);
        loop {
            self.service.commit(self.now);
            let mut dirty = Vec::new();
            self.service.connections.take_dirty(&mut dirty);
            dirty.into_iter().for_each(|key| self.write(key));
            let ended = self.service.take_ended();
            if ended.is_empty() {
                break;
            }
            for key in ended {
                self.service.disconnect(key, self.now);
                self.clients.retain(|&client| client != key);
            }
        }
        self.check_memory();
    }

    fn write(&mut self, key: Key) {
        let Some(connection) = self.service.connections.get_mut(key) else { return };
        if matches!(connection.peer, Peer::Unix(number) if number % 4 == 3) {
            return;
        }
        let text = std::str::from_utf8(connection.output()).expect("replies are UTF-8").to_owned();
        connection.advance(text.len());
        self.service.after_write(key, self.now);
        for line in text.split_terminator('\n') {
            let reply = Reply::parse(line).unwrap_or_else(|error| panic!("{error}"));
            match reply {
                Reply::Opened { session, .. } => self.secrets.push(session),
                Reply::Acquired(granted) => self.tokens.extend(granted.token.map(|token| token.0)),
                _ => {}
            }
        }
    }

    fn check_memory(&self) {
        for (_, connection) in self.service.connections.iter() {
            assert!(connection.unread.len() <= super::bounds::READ_BYTES + BOUNDS.line_bytes);
            assert!(connection.unsent_len() <= PAUSE_READING_BYTES + LONGEST_REPLY);
        }
    }

    /// When everybody is gone and every lease is over nothing is left.
    fn end(mut self) {
        for key in std::mem::take(&mut self.clients) {
            self.service.disconnect(key, self.now);
        }
        self.now = self.now + Duration::from_secs(3600);
        self.finish_turn();
        assert!(self.service.is_empty(), "a connection or session stayed");
        assert_eq!(self.service.table.lock_count(), 0, "a lock stayed");
        assert!(self.service.revocations.is_empty(), "a revocation stayed");
        assert_eq!(self.service.table.next_deadline(), None, "a deadline stayed");
    }
}

/// A well-formed command with fields from a small choice, so that clients meet.
fn command(input: &mut Input<'_>, play: &Play) -> String {
    let name = ["a", "b", "\u{e4}", "d d", "\\u0061", "f"][input.below(6)];
    let session = match play.secrets.len() {
        0 => "00000000000000000000000000000000",
        count => &play.secrets[input.below(count)],
    };
    let token = play.tokens.iter().rev().nth(input.below(4)).copied().unwrap_or(0);
    let number = input.below(7);
    let body = match input.below(20) {
        0..=2 => format!(r#""lock","name":"{name}""#),
        3 | 4 => format!(r#""lock","name":"{name}","limit":{number}"#),
        5 => format!(r#""lock","name":"{name}","timeout":{number}.5"#),
        6 => format!(r#""lock","name":"{name}","limit":2,"timeout":{number},"queue_max":{number}"#),
        7 | 8 => format!(r#""unlock","name":"{name}""#),
        9 => r#""reset""#.to_owned(),
        10 => ["\"locks\"", "\"connections\"", "\"my_locks\"", "\"status\""][number % 4].to_owned(),
        11 | 12 => format!(r#""open","ttl":{number},"who":{{"host":"{name}","pid":{number}}}"#),
        13 | 14 => format!(r#""resume","session":"{session}""#),
        15 => format!(r#""renew","seq":{number}"#),
        16 => format!(r#""close","session":"{session}""#),
        17 => format!(r#""open","session":"{number:032x}","ttl":5"#),
        18 => format!(r#""verify","name":"{name}","token":{token}"#),
        _ => format!(r#""release","name":"{name}","token":{token},"reason":"r""#),
    };
    format!("{{\"command\":{body}}}\n")
}
