//! What no client should send, and that nobody else notices.

use std::io::Write;
use std::time::Duration;

use officer::server::{Bounds, Config};
use serde_json::json;

use crate::harness::{Client, TestServer};

/// Asks something of everybody's server and expects the usual answer.
fn is_well(client: &mut Client) {
    assert_eq!(client.lock("well"), r#"{"name":"well","result":"acquired"}"#);
    assert_eq!(client.unlock("well"), r#"{"name":"well","result":"released"}"#);
}

#[test]
fn a_malformed_line_costs_nothing_but_an_error_line() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    let deep = "[".repeat(5000);
    for (line, code) in [
        ("x", "bad_json"),
        ("[]", "bad_json"),
        ("\"lock\"", "bad_json"),
        ("{\"command\":\"reset\"", "bad_json"),
        (r#"{"command":"lock","name":"\ud800"}"#, "bad_json"),
        (deep.as_str(), "bad_json"),
        ("{}", "bad_command"),
        (r#"{"command":"explode"}"#, "bad_command"),
        (r#"{"command":["lock"]}"#, "bad_command"),
        (r#"{"command":"lock"}"#, "bad_field"),
        (r#"{"command":"unlock","name":null}"#, "bad_field"),
        (r#"{"command":"lock","name":""}"#, "bad_field"),
        (r#"{"command":"lock","name":"x","timeout":"soon"}"#, "bad_field"),
        (r#"{"command":"lock","name":"x","queue_max":0}"#, "bad_field"),
    ] {
        let error = a.ask_json(line);
        assert_eq!((&error["result"], &error["error"]), (&json!("error"), &json!(code)), "{line}");
    }
    a.send_bytes(b"{\"command\":\"unlock\",\"name\":\"\xff\"}\n");
    assert_eq!(a.hear_json()["error"], "bad_json");
    b.send_lock("x");
    b.is_silent();
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert_eq!(b.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn good_commands_around_a_bad_line_are_answered_in_order() {
    let server = TestServer::start();
    let mut a = server.client();
    a.send_bytes(b"{\"command\":\"lock\",\"name\":\"x\"}\nbad\n{\"command\":\"unlock\",\"name\":\"x\"}\n");
    assert!(a.hear().contains("acquired"));
    assert_eq!(a.hear_json()["error"], "bad_json");
    assert!(a.hear().contains("released"));
}

#[test]
fn unlocking_somebody_elses_lock_fails() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    assert_eq!(b.unlock("x"), r#"{"name":"x","result":"release_failed"}"#);
    assert_eq!(b.unlock("unknown"), r#"{"name":"unknown","result":"release_failed"}"#);
    assert_eq!(a.lock("x"), r#"{"name":"x","result":"already_acquired"}"#);
}

#[test]
fn a_line_over_the_bound_is_refused_and_closed() {
    let server = TestServer::start();
    for has_end in [false, true] {
        let (mut holder, mut a) = (server.client(), server.client());
        holder.lock("x");
        holder.send_bytes(&vec![b'x'; 64 * 1024 + 1]);
        if has_end {
            holder.send("");
        }
        let error = holder.hear_json();
        assert_eq!(error["error"], "line_too_long");
        assert!(error["message"].as_str().unwrap().contains("65536"), "{error}");
        holder.hears_the_end();
        assert_eq!(a.lock("x"), r#"{"name":"x","result":"acquired"}"#);
        is_well(&mut a);
    }
}

#[test]
fn an_endless_line_ends_with_an_error_that_arrives() {
    let server = TestServer::start();
    let mut a = server.client();
    let chunk = vec![b'x'; 64 * 1024];
    // The server stops reading at some point; what was sent until then must not cost the error line.
    for _ in 0..32 {
        if a.stream.write_all(&chunk).is_err() {
            break;
        }
    }
    assert_eq!(a.hear_json()["error"], "line_too_long");
    is_well(&mut server.client());
}

#[test]
fn a_client_that_floods_and_never_reads_is_not_read_from() {
    let server = TestServer::start();
    let mut flooder = server.client();
    let crate::harness::Stream::Tcp(stream) = &flooder.stream else { panic!() };
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let chunk = "{\"command\":\"unlock\",\"name\":\"nothing\"}\n".repeat(10_000);
    let mut accepted = 0;
    // Both sockets' buffers and the server's bound fill up; then nothing is taken any more.
    while let Ok(count) = flooder.stream.write(chunk.as_bytes()) {
        accepted += count;
        assert!(accepted < 256 << 20, "the server takes everything from one who never reads");
    }
    is_well(&mut server.client());
    // Once it reads, it is served again: every line it sent, and the end of it.
    flooder.end_sending();
    let answers = flooder.hear_all();
    let expected = accepted / chunk.len() * 10_000;
    let lines = answers.lines().count();
    assert!(lines >= expected, "{lines} answers to at least {expected} lines");
}

#[test]
fn a_pipelining_client_does_not_starve_the_others() {
    let server = TestServer::start();
    let mut greedy = server.client();
    let lines = 200_000;
    let chunk = "{\"command\":\"unlock\",\"name\":\"nothing\"}\n".repeat(1000);
    let mut writer = match &greedy.stream {
        crate::harness::Stream::Tcp(stream) => stream.try_clone().unwrap(),
        crate::harness::Stream::Unix(_) => panic!(),
    };
    let writing = std::thread::spawn(move || {
        (0..lines / 1000).for_each(|_| writer.write_all(chunk.as_bytes()).unwrap())
    });
    let mut other = server.client();
    for _ in 0..100 {
        is_well(&mut other);
    }
    for _ in 0..lines {
        assert_eq!(greedy.hear(), r#"{"name":"nothing","result":"release_failed"}"#);
    }
    writing.join().unwrap();
}

#[test]
fn a_reply_over_the_bound_is_an_error_and_the_connection_goes_on() {
    // 1100 names of 32,000 bytes are more than 32 MiB.
    let server = TestServer::start();
    let (mut holder, mut other) = (server.client(), server.client());
    for number in 0..1100 {
        assert!(holder.lock(&format!("{number:032000}")).contains("acquired"));
    }
    for command in ["locks", "connections", "status"] {
        let refused = other.ask_json(&format!(r#"{{"command":"{command}"}}"#));
        assert_eq!(refused["error"], "reply_too_long", "{command}");
        assert!(refused["message"].as_str().unwrap().contains("at most 33554432 are sent"), "{refused}");
    }
    assert!(other.lock("a").contains("acquired"));
}

#[test]
fn bounds_are_errors_that_name_them() {
    let bounds =
        Bounds { locks_per_client: 2, waiters_per_lock: 1, connections: 6, sessions: 1, ..Bounds::default() };
    let server = TestServer::with(Config { bounds, ..Config::default() });
    let (mut a, mut b, mut c) = (server.client(), server.client(), server.client());
    a.lock("1");
    a.lock("2");
    let error = a.ask_json(r#"{"command":"lock","name":"3"}"#);
    assert_eq!(error["error"], "too_many_locks");
    assert!(error["message"].as_str().unwrap().contains("at most 2"), "{error}");
    assert!(a.lock("1").contains("already_acquired"));
    b.send_lock("1");
    b.is_silent();
    let error = c.ask_json(r#"{"command":"lock","name":"1"}"#);
    assert_eq!(error["error"], "too_many_waiters");
    assert!(error["message"].as_str().unwrap().contains("at most 1"), "{error}");

    let (mut d, mut e, mut f) = (server.client(), server.client(), server.client());
    d.open(10.0);
    let error = e.ask_json(r#"{"command":"open","ttl":10}"#);
    assert_eq!(error["error"], "too_many_sessions");
    is_well(&mut f);
    let mut seventh = server.client();
    assert_eq!(seventh.hear_json()["error"], "too_many_connections");
    seventh.hears_the_end();
}

#[test]
fn another_users_connection_is_refused() {
    let config = Config { only_uid: Some(nix::unistd::getuid().as_raw() + 1), ..Config::default() };
    let server = TestServer::with(config);
    let mut stranger = server.unix_client();
    assert_eq!(stranger.hear_json()["error"], "wrong_user");
    stranger.hears_the_end();

    let server =
        TestServer::with(Config { only_uid: Some(nix::unistd::getuid().as_raw()), ..Config::default() });
    is_well(&mut server.unix_client());
}

#[test]
fn thousands_of_clients_that_vanish_leave_nothing() {
    let server = TestServer::start();
    let mut holder = server.client();
    holder.lock("x");
    let waiters: Vec<_> = (0..1000)
        .map(|_| {
            let mut waiter = server.client();
            waiter.send_lock("x");
            waiter
        })
        .collect();
    drop(waiters);
    let mut next = server.client();
    crate::harness::wait_until(&mut next, r#"{"command":"locks"}"#, |locks| {
        locks["value"]["x"].as_array().unwrap().len() == 1
    });
    next.send_lock("x");
    next.is_silent();
    holder.unlock("x");
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
}
