//! The server without sockets: bytes and the time go in, lines come out.

use std::path::Path;
use std::time::Duration;

use crate::boot_time::BootTime;

use super::connection::{Key, Peer};
use super::service::Service;
use super::{Bounds, Config, StoreConfig};

/// A service whose time is the test's, turned by hand.
struct Turned {
    service: Service,
    now: BootTime,
    peers: u64,
}

impl Turned {
    fn new(config: &Config) -> Self {
        // Far from the boot, so that nothing waits for a reboot to be over.
        let now = BootTime::from_since_boot(Duration::from_secs(1_000_000));
        Self { service: Service::open(config, now).unwrap(), now, peers: 0 }
    }

    fn in_dir(dir: &Path) -> Self {
        Self::new(&Config { store: StoreConfig::Dir(dir.to_owned()), ..Config::default() })
    }

    fn connect(&mut self) -> Key {
        self.peers += 1;
        self.service.connect(Peer::Unix(self.peers), self.now)
    }

    /// One turn in which these bytes come; what this connection is sent in it.
    fn turn(&mut self, key: Key, bytes: &str) -> String {
        self.service.receive(key, bytes.as_bytes(), self.now);
        self.finish();
        self.output(key)
    }

    fn finish(&mut self) {
        self.service.serve_backlog(self.now);
        self.service.run_timers(self.now, self.now);
        self.service.commit(self.now);
        self.service.connections.take_dirty(&mut Vec::new());
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.finish();
    }

    fn output(&mut self, key: Key) -> String {
        let Some(connection) = self.service.connections.get_mut(key) else { return String::new() };
        let text = String::from_utf8(connection.output().to_vec()).unwrap();
        connection.advance(text.len());
        self.service.after_write(key, self.now);
        text
    }
}

const LOCK: &str = "{\"command\":\"lock\",\"name\":\"x\"}\n";
const UNLOCK: &str = "{\"command\":\"unlock\",\"name\":\"x\"}\n";
const RENEW: &str = "{\"command\":\"renew\",\"seq\":1}\n";

/// A lock whose row needs pages of its own.
fn big_lock(letter: char) -> String {
    let name: String = std::iter::repeat_n(letter, 20_000).collect();
    format!("{{\"command\":\"lock\",\"name\":\"{name}\",\"limit\":1}}\n")
}

#[test]
fn a_full_disk_holds_back_grants_of_sessions_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut turned = Turned::in_dir(dir.path());
    let (session, plain) = (turned.connect(), turned.connect());
    assert!(turned.turn(session, "{\"command\":\"open\",\"ttl\":60}\n").contains("opened"));

    turned.service.store.pretend_full(true);
    assert_eq!(turned.turn(session, &big_lock('a')), "");
    assert_eq!(turned.turn(plain, LOCK), "{\"name\":\"x\",\"result\":\"acquired\"}\n");
    assert_eq!(turned.turn(session, LOCK), "");
    assert_eq!(turned.turn(session, RENEW), "{\"seq\":1,\"ttl\":60,\"result\":\"renewed\"}\n");
    turned.pass(Duration::from_secs(2));
    assert_eq!(turned.output(session), "");

    turned.service.store.pretend_full(false);
    turned.pass(Duration::from_secs(2));
    assert!(turned.output(session).contains("\"result\":\"acquired\""));
    // What was granted is stored now.
    assert!(turned.turn(session, &big_lock('a')).contains("already_acquired"));
}

#[test]
fn what_a_full_disk_held_back_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut turned = Turned::in_dir(dir.path());
    let session = turned.connect();
    let opened = turned.turn(session, "{\"command\":\"open\",\"ttl\":60}\n");
    let id = opened.split('"').nth(3).unwrap().to_owned();
    turned.turn(session, LOCK);
    turned.service.store.pretend_full(true);
    turned.turn(session, &big_lock('a'));
    turned.turn(session, UNLOCK);
    turned.turn(session, &big_lock('b'));
    turned.service.store.pretend_full(false);
    turned.pass(Duration::from_secs(2));
    assert_eq!(turned.output(session).lines().count(), 3);
    // As if killed: nothing is written at the end.
    drop(turned);

    let mut turned = Turned::in_dir(dir.path());
    let back = turned.connect();
    let resumed = turned.turn(back, &format!("{{\"command\":\"resume\",\"session\":\"{id}\"}}\n"));
    let resumed: serde_json::Value = serde_json::from_str(&resumed).unwrap();
    let names: Vec<_> = resumed["holds"].as_array().unwrap().iter().map(|hold| &hold["name"]).collect();
    assert_eq!(names, ["a".repeat(20_000).as_str(), "b".repeat(20_000).as_str()]);
}

/// What a session's request is answered, as JSON.
fn ask(turned: &mut Turned, key: Key, line: &str) -> serde_json::Value {
    serde_json::from_str(&turned.turn(key, line)).unwrap()
}

#[test]
fn a_grant_from_before_a_reboot_that_nobody_used_is_given_anew() {
    const LOCK: &str = "{\"command\":\"lock\",\"name\":\"x\",\"limit\":1}\n";
    let dir = tempfile::tempdir().unwrap();
    let mut turned = Turned::in_dir(dir.path());
    let client = turned.connect();
    let id = ask(&mut turned, client, "{\"command\":\"open\",\"ttl\":60}\n")["session"].clone();
    let before = ask(&mut turned, client, LOCK)["token"].clone();
    drop(turned);
    let store = rusqlite::Connection::open(dir.path().join("officer.db")).unwrap();
    store.execute("UPDATE meta SET value = 'another' WHERE key = 'boot_id'", []).unwrap();
    drop(store);

    let mut turned = Turned::in_dir(dir.path());
    let (client, other) = (turned.connect(), turned.connect());
    let resumed = ask(&mut turned, client, &format!("{{\"command\":\"resume\",\"session\":{id}}}\n"));
    assert_eq!(resumed["holds"][0]["token"], before, "a command that runs under it goes on");
    assert_eq!(turned.turn(other, LOCK), "", "and keeps others away");
    turned.service.end_input(other, turned.now);
    let granted = ask(&mut turned, client, LOCK);
    assert_eq!(granted["result"], "acquired");
    assert!(granted["token"].as_u64() > before.as_u64(), "{granted} after {before}");
    assert_eq!(ask(&mut turned, client, LOCK)["result"], "already_acquired");
}

#[test]
fn the_tokens_of_a_restored_server_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = crate::lock::Token(0);
    for _ in 0..3 {
        let mut turned = Turned::in_dir(dir.path());
        let next = turned.service.table.next_token();
        assert!(next > last);
        let client = turned.connect();
        // Not one commit of a session: the reservation alone must do.
        for _ in 0..1000 {
            turned.turn(client, &format!("{LOCK}{UNLOCK}"));
        }
        last = turned.service.table.next_token();
        assert!(last < turned.service.store.token_mark());
    }
}

#[test]
fn a_turn_serves_a_part_of_many_lines_and_the_next_turns_the_rest() {
    let mut turned = Turned::new(&Config::default());
    let (greedy, other) = (turned.connect(), turned.connect());
    turned.service.receive(greedy, UNLOCK.repeat(1000).as_bytes(), turned.now);
    assert!(turned.service.has_backlog() && !turned.service.wants_input(greedy));
    assert!(turned.turn(other, LOCK).contains("acquired"));
    let mut lines = turned.output(greedy).lines().count();
    assert!(lines < 1000);
    while turned.service.has_backlog() {
        turned.finish();
        lines += turned.output(greedy).lines().count();
    }
    assert_eq!(lines, 1000);
    assert!(turned.service.wants_input(greedy));
}

#[test]
fn a_client_that_does_not_read_is_paused_and_goes_on_when_it_does() {
    let mut turned = Turned::new(&Config::default());
    let slow = turned.connect();
    let mut asked = 0;
    while turned.service.wants_input(slow) {
        turned.service.receive(slow, UNLOCK.repeat(100).as_bytes(), turned.now);
        turned.finish();
        asked += 100;
        assert!(asked < 100_000, "it is read from for ever");
    }
    let mut answered = 0;
    for _ in 0..100 {
        answered += turned.output(slow).lines().count();
        turned.finish();
    }
    assert_eq!(answered, asked);
    assert!(turned.service.wants_input(slow));
}

#[test]
fn lines_sent_before_the_end_are_served_over_as_many_turns_as_it_takes() {
    let mut turned = Turned::new(&Config::default());
    let client = turned.connect();
    turned.service.receive(client, UNLOCK.repeat(1000).as_bytes(), turned.now);
    turned.service.end_input(client, turned.now);
    let mut lines = 0;
    while turned.service.take_ended().is_empty() {
        turned.finish();
        lines += turned.output(client).lines().count();
    }
    assert_eq!(lines, 1000);
}

#[test]
fn an_unfinished_line_costs_its_length_and_is_dropped_at_the_end() {
    let config = Config { bounds: Bounds { line_bytes: 100, ..Bounds::default() }, ..Config::default() };
    let mut turned = Turned::new(&config);
    let client = turned.connect();
    assert_eq!(turned.turn(client, "{\"command\":\"unl"), "");
    assert!(turned.turn(client, "ock\",\"name\":\"x\"}\n{\"comm").contains("release_failed"));
    assert!(turned.service.connections.get(client).unwrap().unread.capacity() <= 64);
    turned.service.end_input(client, turned.now);
    turned.finish();
    assert_eq!(turned.output(client), "");
    assert_eq!(turned.service.take_ended(), [client]);
}

#[test]
fn a_session_with_unserved_lines_is_not_expired_before_they_are() {
    let mut turned = Turned::new(&Config::default());
    let (client, other) = (turned.connect(), turned.connect());
    turned.turn(client, "{\"command\":\"open\",\"ttl\":10}\n");
    turned.turn(client, LOCK);
    let flood = "{\"command\":\"unlock\",\"name\":\"y\"}\n".repeat(1000) + RENEW;
    turned.service.receive(client, flood.as_bytes(), turned.now);
    turned.now = turned.now + Duration::from_secs(11);
    turned.service.run_timers(turned.now, turned.now);
    while turned.service.has_backlog() {
        turned.finish();
    }
    let heard = turned.output(client);
    assert!(heard.contains("renewed") && !heard.contains("expired"));
    assert_eq!(turned.turn(other, LOCK), "");
    turned.pass(Duration::from_secs(10));
    assert_eq!(turned.output(client), "{\"result\":\"expired\"}\n");
    assert_eq!(turned.output(other), "{\"name\":\"x\",\"result\":\"acquired\"}\n");
}

#[test]
fn released_is_written_before_the_next_holders_acquired() {
    let mut turned = Turned::new(&Config::default());
    let (a, b) = (turned.connect(), turned.connect());
    turned.turn(a, LOCK);
    turned.turn(b, LOCK);
    turned.service.receive(a, UNLOCK.as_bytes(), turned.now);
    let mut dirty = Vec::new();
    turned.service.connections.take_dirty(&mut dirty);
    assert_eq!(dirty, [a, b]);
}

#[test]
fn a_thousand_timeouts_are_told_in_portions_and_before_anything_later() {
    let mut turned = Turned::new(&Config::default());
    let holder = turned.connect();
    turned.turn(holder, LOCK);
    let stays: Vec<_> = (0..3000).map(|_| turned.connect()).collect();
    for &key in &stays {
        turned.turn(key, LOCK);
    }
    let leaves: Vec<_> = (0..200).map(|_| turned.connect()).collect();
    for &key in &leaves {
        turned.turn(key, "{\"command\":\"lock\",\"name\":\"x\",\"timeout\":1}\n");
    }
    turned.now = turned.now + Duration::from_secs(1);
    turned.service.run_timers(turned.now, turned.now);
    let unsent = |turned: &Turned| -> usize {
        leaves.iter().map(|&key| turned.service.connections.get(key).unwrap().unsent_len()).sum()
    };
    assert!(turned.service.has_backlog() && unsent(&turned) < 6 << 20, "{}", unsent(&turned));
    // One that isn't told yet says something new: the old answer comes first.
    let last = *leaves.last().unwrap();
    let heard = turned.turn(last, "{\"command\":\"reset\"}\n");
    let lines: Vec<_> = heard.lines().collect();
    assert!(lines[0].ends_with("\"timed_out\"}") && lines[1].contains("reset_succeeded"), "{}", lines.len());
    // One that is gone is told nothing, nor is who gets its number.
    let gone = leaves[leaves.len() - 2];
    turned.service.disconnect(gone, turned.now);
    let new = turned.connect();
    assert_eq!(new, gone);
    let mut told = 0;
    while turned.service.has_backlog() {
        turned.finish();
    }
    for &key in leaves.iter().filter(|&&key| key != gone && key != last) {
        told += turned.output(key).matches("timed_out").count();
    }
    assert_eq!((told, turned.output(new).as_str()), (leaves.len() - 2, ""));
}
