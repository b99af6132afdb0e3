//! Sessions: opened, renewed, resumed, superseded, expired, closed.

use std::time::Duration;

use officer::server::Config;
use serde_json::json;

use crate::harness::{TestServer, wait_until};

const LOCKS: &str = r#"{"command":"locks"}"#;
const CLOSE: &str = r#"{"command":"close"}"#;

#[test]
fn open_gives_a_secret_and_the_ttl() {
    let server = TestServer::start();
    let mut a = server.client();
    let line = a.ask(r#"{"command":"open","ttl":10}"#);
    let opened: serde_json::Value = serde_json::from_str(&line).unwrap();
    let session = opened["session"].as_str().unwrap();
    assert_eq!(line, format!(r#"{{"session":"{session}","ttl":10,"result":"opened"}}"#));
    assert!(session.len() == 32 && session.bytes().all(|b| b.is_ascii_hexdigit()));
    let mut b = server.client();
    assert_ne!(b.open(10.0), session);
}

#[test]
fn an_open_whose_answer_was_lost_can_be_repeated() {
    const ID: &str = "00112233445566778899aabbccddeeff";
    let server = TestServer::start();
    let open = format!(r#"{{"command":"open","session":"{ID}","ttl":30}}"#);
    let opened = format!(r#"{{"session":"{ID}","ttl":30,"result":"opened"}}"#);
    let (mut first, mut second) = (server.client(), server.client());
    first.send(&format!("{open}\n{}", r#"{"command":"lock","name":"x","limit":1}"#));
    assert_eq!(first.hear(), opened);
    let grant: serde_json::Value = serde_json::from_str(&first.hear()).unwrap();
    assert_eq!(second.ask(&open), opened);
    assert_eq!(first.hear(), r#"{"result":"superseded"}"#);
    let again = second.take("x", 1);
    assert_eq!((&again["result"], &again["token"]), (&json!("already_acquired"), &grant["token"]));
    assert_eq!(second.ask(CLOSE), r#"{"result":"closed"}"#);
    let mut third = server.client();
    assert_eq!(third.ask(&open), opened);
    assert_eq!(third.take("x", 1)["result"], "acquired");
}

#[test]
fn renew_is_answered_with_its_number() {
    let server = TestServer::start();
    let mut a = server.client();
    a.open(2.5);
    assert_eq!(a.ask(r#"{"command":"renew","seq":41}"#), r#"{"seq":41,"ttl":2.5,"result":"renewed"}"#);
}

#[test]
fn a_session_survives_its_connection() {
    let server = TestServer::start();
    let (mut a, mut other) = (server.client(), server.client());
    let session = a.open(30.0);
    let grant = a.take("x", 1);
    other.send_lock("x");
    other.is_silent();
    drop(a);
    wait_until(&mut other, LOCKS, |locks| locks["value"]["x"][0] == "session 0");
    let mut b = server.client();
    let resumed = b.resume(&session);
    let hold = json!({"name": "x", "token": grant["token"], "slot": 0, "limit": 1});
    assert_eq!(resumed, json!({"ttl": 30, "holds": [hold], "waits": [], "result": "resumed"}));
    let again = b.take("x", 1);
    assert_eq!((&again["result"], &again["token"]), (&json!("already_acquired"), &grant["token"]));
    b.unlock("x");
    assert_eq!(other.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn a_suspended_waiter_keeps_its_place_and_is_passed_over() {
    let server = TestServer::start();
    let (mut holder, mut a, mut late) = (server.client(), server.client(), server.client());
    holder.lock("x");
    let session = a.open(30.0);
    a.send_lock("x");
    a.is_silent();
    late.send_lock("x");
    late.is_silent();
    drop(a);
    wait_until(&mut late, LOCKS, |locks| locks["value"]["x"][1] == "session 0");
    holder.unlock("x");
    assert_eq!(late.hear(), r#"{"name":"x","result":"acquired"}"#);
    holder.send_lock("x");
    holder.is_silent();
    let mut back = server.client();
    assert_eq!(back.resume(&session)["waits"], json!(["x"]));
    late.unlock("x");
    assert_eq!(back.hear(), r#"{"name":"x","result":"acquired"}"#);
    back.unlock("x");
    assert_eq!(holder.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn a_resumed_waiter_is_considered_at_once() {
    let server = TestServer::start();
    let (mut holder, mut a) = (server.client(), server.client());
    holder.lock("x");
    let session = a.open(30.0);
    a.send(r#"{"command":"lock","name":"x","limit":1}"#);
    a.is_silent();
    drop(a);
    wait_until(&mut holder, LOCKS, |locks| locks["value"]["x"][1] == "session 0");
    holder.unlock("x");
    let mut back = server.client();
    assert_eq!(back.resume(&session)["waits"], json!(["x"]));
    assert_eq!(back.hear_json()["result"], "acquired");
}

#[test]
fn the_newer_connection_of_a_session_wins() {
    let server = TestServer::start();
    let (mut older, mut newer) = (server.client(), server.client());
    let session = older.open(30.0);
    older.take("x", 1);
    assert_eq!(newer.resume(&session)["holds"][0]["name"], "x");
    assert_eq!(older.hear(), r#"{"result":"superseded"}"#);
    older.hears_the_end();
    assert_eq!(newer.unlock("x"), r#"{"name":"x","result":"released"}"#);
}

#[test]
fn a_session_expires_with_its_connection_open() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    let session = a.open(0.2);
    a.take("x", 1);
    assert_eq!(b.lock("x"), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(a.hear(), r#"{"result":"expired"}"#);
    a.hears_the_end();
    let mut c = server.client();
    assert_eq!(c.resume(&session), json!({"result": "session_unknown"}));
}

#[test]
fn a_session_expires_while_suspended() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.open(0.2);
    a.take("x", 1);
    a.send_lock("y");
    a.hear();
    drop(a);
    assert_eq!(b.lock("x"), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(b.lock("y"), r#"{"name":"y","result":"acquired"}"#);
}

#[test]
fn renewals_keep_a_session_alive() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.open(0.5);
    a.take("x", 1);
    // Renewed for three ttls, the lock isn't given to the one who waits.
    b.send(r#"{"command":"lock","name":"x","timeout":1.5}"#);
    let timed_out = std::thread::spawn(move || b.hear());
    let mut seq = 0;
    while !timed_out.is_finished() {
        seq += 1;
        let answer = a.ask(&format!(r#"{{"command":"renew","seq":{seq}}}"#));
        assert!(answer.contains("renewed"), "{answer}");
    }
    assert!(timed_out.join().unwrap().contains("timed_out"));
}

#[test]
fn close_ends_the_session_and_frees_its_locks() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    let session = a.open(30.0);
    a.take("x", 1);
    b.send_lock("x");
    b.is_silent();
    assert_eq!(a.ask(CLOSE), r#"{"result":"closed"}"#);
    assert_eq!(b.hear(), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(a.resume(&session), json!({"result": "session_unknown"}));
    // The connection is as good as new.
    a.open(30.0);
}

#[test]
fn the_last_will_closes_a_session_from_another_connection() {
    let server = TestServer::start();
    let (mut a, mut will, mut next) = (server.client(), server.client(), server.client());
    let session = a.open(30.0);
    a.take("x", 1);
    next.send_lock("x");
    next.is_silent();
    let close = format!(r#"{{"command":"close","session":"{session}"}}"#);
    assert_eq!(will.ask(&close), r#"{"result":"closed"}"#);
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(a.hear(), r#"{"result":"closed"}"#);
    a.hears_the_end();
    assert_eq!(will.ask(&close), r#"{"result":"session_unknown"}"#);
}

#[test]
fn reset_releases_a_sessions_locks_and_keeps_the_session() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.open(30.0);
    a.take("x", 1);
    b.lock("y");
    a.send_lock("y");
    assert_eq!(a.ask(r#"{"command":"reset"}"#), r#"{"result":"reset_succeeded"}"#);
    a.is_silent();
    assert_eq!(b.lock("x"), r#"{"name":"x","result":"acquired"}"#);
    assert!(a.ask(r#"{"command":"renew","seq":1}"#).contains("renewed"));
}

#[test]
fn a_session_comes_before_the_first_lock_and_only_once() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    assert_eq!(a.ask_json(r#"{"command":"open","ttl":1}"#)["error"], "bad_state");
    let session = b.open(10.0);
    assert_eq!(b.ask_json(r#"{"command":"open","ttl":1}"#)["error"], "bad_state");
    assert_eq!(b.resume(&session)["error"], "bad_state");
    assert_eq!(a.ask_json(r#"{"command":"renew","seq":1}"#)["error"], "no_session");
    assert_eq!(a.ask_json(CLOSE)["error"], "no_session");
}

#[test]
fn the_ttl_has_bounds() {
    let server = TestServer::with(Config { max_ttl: Duration::from_secs(20), ..Config::default() });
    let mut a = server.client();
    for ttl in ["0", "0.05", "20.5", "-1", "\"1\"", "null"] {
        let refused = a.ask_json(&format!(r#"{{"command":"open","ttl":{ttl}}}"#));
        assert_eq!(refused["error"], "bad_field", "{refused}");
        assert!(refused["message"].as_str().unwrap().starts_with("ttl must be"), "{refused}");
    }
    a.open(20.0);
}

#[test]
fn a_session_outlasts_max_idle() {
    let server = TestServer::with(Config { max_idle: Duration::from_millis(100), ..Config::default() });
    let mut a = server.client();
    a.open(3.0);
    a.take("x", 1);
    // A plain connection that is as silent as the session is closed first.
    server.client().hears_the_end();
    assert!(a.ask(r#"{"command":"renew","seq":1}"#).contains("renewed"));
}

#[test]
fn many_locks_of_one_session_come_back() {
    let server = TestServer::start();
    let mut a = server.client();
    let session = a.open(30.0);
    for number in 0..200 {
        a.take(&format!("lock {number}"), 1);
    }
    drop(a);
    let mut b = server.client();
    let resumed = b.resume(&session);
    assert_eq!(resumed["holds"].as_array().unwrap().len(), 200);
    assert_eq!(b.ask(r#"{"command":"reset"}"#), r#"{"result":"reset_succeeded"}"#);
    assert_eq!(b.ask_json(LOCKS)["value"], json!({}));
}
