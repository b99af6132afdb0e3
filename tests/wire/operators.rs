//! `status`, `release`, `verify` and `ping` on the wire.

use std::time::{Duration, Instant};

use officer::server::Config;
use serde_json::json;

use crate::harness::{Client, DEADLINE, TestServer, wait_until};

#[test]
fn ping_is_answered_with_the_version() {
    let server = TestServer::start();
    let expected = format!(r#"{{"version":"{}","result":"pong"}}"#, env!("CARGO_PKG_VERSION"));
    assert_eq!(server.client().ask(r#"{"command":"ping"}"#), expected);
}

#[test]
fn status_tells_of_holders_and_waiters() {
    let server = TestServer::start();
    let (mut session, mut plain, mut operator) = (server.client(), server.client(), server.client());
    session.open(10.0);
    let grant = session.take("x", 1);
    plain.send_lock("x");
    plain.is_silent();
    let status = operator.ask_json(r#"{"command":"status"}"#);
    assert_eq!(status["result"], "status");
    assert_eq!(
        (&status["server"]["connections"], &status["server"]["sessions"], &status["server"]["locks"]),
        (&json!(3), &json!(1), &json!(1))
    );
    let lock = &status["value"][0];
    assert_eq!((&lock["name"], &lock["limit"]), (&json!("x"), &json!(1)));
    let holder = &lock["holders"][0];
    assert_eq!((&holder["host"], &holder["run"]), (&json!("h"), &json!("x")));
    assert_eq!((&holder["token"], &holder["slot"]), (&grant["token"], &json!(0)));
    assert_eq!((&holder["suspended"], &holder["revoked"]), (&json!(false), &json!(false)));
    assert!(holder["held"].as_f64() >= holder["seen"].as_f64().map(|_| 0.0));
    let waiter = &lock["queue"][0];
    assert_eq!(waiter["peer"], plain.label.as_str());
    assert!(waiter["waited"].is_number() && waiter["seen"].is_number());
    drop(session);
    wait_until(&mut operator, r#"{"command":"status","name":"x"}"#, |status| {
        status["value"][0]["holders"][0]["suspended"] == true
    });
    let none = operator.ask_json(r#"{"command":"status","name":"free"}"#);
    assert_eq!(none["value"], json!([]));
}

#[test]
fn a_session_that_told_nothing_of_itself_can_be_found() {
    let server = TestServer::start();
    let (mut session, mut operator) = (server.client(), server.client());
    session.ask(r#"{"command":"open","ttl":10}"#);
    session.take("x", 1);
    let status = r#"{"command":"status","name":"x"}"#;
    assert_eq!(operator.ask_json(status)["value"][0]["holders"][0]["peer"], session.label.as_str());
    drop(session);
    wait_until(&mut operator, status, |status| {
        let peer = &status["value"][0]["holders"][0]["peer"];
        peer.as_str().is_some_and(|name| name.starts_with("session "))
    });
}

#[test]
fn verify_knows_the_token_that_holds() {
    let server = TestServer::start();
    let (mut a, mut operator) = (server.client(), server.client());
    let token = a.take("x", 1)["token"].as_u64().unwrap();
    let verify = |token| format!(r#"{{"command":"verify","name":"x","token":{token}}}"#);
    let answer = |token, held| format!(r#"{{"name":"x","token":{token},"held":{held},"result":"verified"}}"#);
    assert_eq!(operator.ask(&verify(token)), answer(token, true));
    assert_eq!(operator.ask(&verify(token + 1)), answer(token + 1, false));
    a.unlock("x");
    assert_eq!(operator.ask(&verify(token)), answer(token, false));
    a.take("x", 1);
    assert_eq!(operator.ask(&verify(token)), answer(token, false));
}

fn release(token: u64) -> String {
    format!(r#"{{"command":"release","name":"x","token":{token},"reason":"it hangs"}}"#)
}

#[test]
fn the_lock_of_officers_clients_is_taken_at_once_and_they_are_not_told() {
    let server = TestServer::start();
    let (mut a, mut next, mut operator) = (server.client(), server.client(), server.client());
    a.lock("x");
    let token = held_token(&mut operator);
    next.send_lock("x");
    next.is_silent();
    assert_eq!(
        operator.ask(&release(token - 1)),
        format!(r#"{{"name":"x","token":{},"result":"not_held"}}"#, token - 1)
    );
    assert_eq!(operator.ask(&release(token)), format!(r#"{{"name":"x","token":{token},"result":"taken"}}"#));
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    a.is_silent();
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"release_failed"}"#);
}

/// A connection without a session that holds x, one that waits for it, and an operator who has taken it.
fn plain_holder_is_revoked(server: &TestServer) -> [Client; 3] {
    let (mut a, mut next, mut operator) = (server.client(), server.client(), server.client());
    let token = a.take("x", 1)["token"].as_u64().unwrap();
    next.send_lock("x");
    next.is_silent();
    let answer = operator.ask_json(&release(token));
    assert_eq!(answer["result"], "revoking", "{answer}");
    assert!(answer["ends_in"].as_f64().unwrap() <= 60.0);
    let told = format!(r#"{{"name":"x","token":{token},"reason":"it hangs","result":"revoked"}}"#);
    assert_eq!(a.hear(), told);
    next.is_silent();
    let status = operator.ask_json(r#"{"command":"status","name":"x"}"#);
    assert_eq!(status["value"][0]["holders"][0]["revoked"], true);
    [a, next, operator]
}

#[test]
fn a_plain_connection_that_asks_again_with_a_limit_is_told_too() {
    let server = TestServer::start();
    let (mut a, mut operator) = (server.client(), server.client());
    a.lock("x");
    let again = a.take("x", 1);
    assert_eq!(again["result"], "already_acquired");
    let token = again["token"].as_u64().unwrap();
    assert_eq!(operator.ask_json(&release(token))["result"], "revoking");
    assert_eq!(a.hear_json()["result"], "revoked");
}

#[test]
fn a_plain_connection_that_asked_with_a_limit_is_told_and_waited_for() {
    let server = TestServer::start();
    let [mut a, mut next, mut operator] = plain_holder_is_revoked(&server);
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    let status = operator.ask_json(r#"{"command":"status","name":"x"}"#);
    assert_eq!(status["value"][0]["holders"][0]["revoked"], false);
}

#[test]
fn whatever_ends_a_revoked_hold_passes_the_lock_on() {
    for end in [|a: &mut Client| drop(a.ask(r#"{"command":"reset"}"#)), Client::end_sending] {
        let server = TestServer::start();
        let [mut a, mut next, _operator] = plain_holder_is_revoked(&server);
        end(&mut a);
        assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    }
}

#[test]
fn a_plain_connection_that_does_not_listen_is_waited_for_as_long_as_for_an_idle_one() {
    let max_idle = Duration::from_secs(1);
    let server = TestServer::with(Config { max_idle, ..Config::default() });
    let [mut a, mut next, _operator] = plain_holder_is_revoked(&server);
    // The others live on signs of life; the holder is silent and isn't closed before its time.
    let revoked_at = Instant::now();
    next.set_patience(Duration::from_millis(200));
    while next.try_hear().is_none() {
        assert!(revoked_at.elapsed() < DEADLINE);
        next.send(r#"{"command":"keep_alive"}"#);
    }
    assert!(revoked_at.elapsed() >= max_idle - Duration::from_millis(100), "{:?}", revoked_at.elapsed());
    a.hears_the_end();
}

fn held_token(operator: &mut Client) -> u64 {
    let status = operator.ask_json(r#"{"command":"status","name":"x"}"#);
    status["value"][0]["holders"][0]["token"].as_u64().unwrap()
}

#[test]
fn a_sessions_lock_passes_on_when_it_is_given_back() {
    let server = TestServer::start();
    let (mut a, mut next, mut operator) = (server.client(), server.client(), server.client());
    a.open(30.0);
    let token = a.take("x", 1)["token"].as_u64().unwrap();
    next.send_lock("x");
    next.is_silent();
    let answer = operator.ask_json(&release(token));
    assert_eq!(answer["result"], "revoking");
    assert!(answer["ends_in"].as_f64().unwrap() <= 30.0);
    let told = format!(r#"{{"name":"x","token":{token},"reason":"it hangs","result":"revoked"}}"#);
    assert_eq!(a.hear(), told);
    next.is_silent();
    assert_eq!(a.ask_json(r#"{"command":"renew","seq":1}"#)["error"], "revoked");
    let status = operator.ask_json(r#"{"command":"status","name":"x"}"#);
    assert_eq!(status["value"][0]["holders"][0]["revoked"], true);
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    // It has nothing any more that was taken from it.
    assert!(a.ask(r#"{"command":"renew","seq":2}"#).contains("renewed"));
}

#[test]
fn who_opens_again_is_told_what_was_taken_and_not_renewed() {
    let server = TestServer::start();
    let (mut next, mut operator) = (server.client(), server.client());
    let open = r#"{"command":"open","session":"000102030405060708090a0b0c0d0e0f","ttl":30}"#;
    let mut a = server.client();
    assert_eq!(a.ask_json(open)["result"], "opened");
    let token = a.take("x", 1)["token"].as_u64().unwrap();
    next.send_lock("x");
    next.is_silent();
    assert_eq!(operator.ask_json(&release(token))["result"], "revoking");
    // Maybe an old packet of one whose command runs: the lock stays its own.
    let mut again = server.client();
    let opened = again.ask_json(open);
    assert_eq!(opened["result"], "opened");
    assert!(opened["ttl"].as_f64().unwrap() < 30.0, "{opened}");
    assert_eq!(again.hear_json()["result"], "revoked");
    next.is_silent();
    assert_eq!(again.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn a_session_that_does_not_listen_loses_the_lock_with_its_lease() {
    let server = TestServer::start();
    let (mut a, mut next, mut operator) = (server.client(), server.client(), server.client());
    let session = a.open(1.0);
    let token = a.take("x", 1)["token"].as_u64().unwrap();
    next.send_lock("x");
    next.is_silent();
    assert_eq!(operator.ask_json(&release(token))["result"], "revoking");
    a.hear();
    // Neither renewing nor resuming gives it more time, but it is told again.
    let mut back = server.client();
    let resumed = back.resume(&session);
    assert_eq!(resumed["result"], "resumed");
    assert!(resumed["ttl"].as_f64().unwrap() < 1.0, "{resumed}");
    assert_eq!(back.hear_json()["result"], "revoked");
    assert_eq!(back.ask_json(r#"{"command":"renew","seq":1}"#)["error"], "revoked");
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(back.hear(), r#"{"result":"expired"}"#);
}
