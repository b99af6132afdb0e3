//! `status`, `release`, `verify` and `ping` on the wire.

use serde_json::json;

use crate::harness::{TestServer, wait_until};

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
fn a_plain_connections_lock_is_just_taken() {
    let server = TestServer::start();
    let (mut a, mut next, mut operator) = (server.client(), server.client(), server.client());
    let token = a.take("x", 1)["token"].as_u64().unwrap();
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
fn a_session_that_does_not_listen_loses_the_lock_with_its_lease() {
    let server = TestServer::start();
    let (mut a, mut next, mut operator) = (server.client(), server.client(), server.client());
    let session = a.open(1.0);
    let token = a.take("x", 1)["token"].as_u64().unwrap();
    next.send_lock("x");
    next.is_silent();
    assert_eq!(operator.ask_json(&release(token))["result"], "revoking");
    a.hear();
    // Neither renewing nor resuming gives it more time.
    let mut back = server.client();
    assert_eq!(back.resume(&session), json!({"result": "session_unknown"}));
    assert_eq!(a.ask_json(r#"{"command":"renew","seq":1}"#)["error"], "revoked");
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(a.hear(), r#"{"result":"expired"}"#);
}
