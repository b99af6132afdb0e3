//! Limits, slots and tokens.

use crate::harness::TestServer;

#[test]
fn a_limit_gets_token_slot_and_limit_back() {
    let server = TestServer::start();
    let mut a = server.client();
    let line = a.ask(r#"{"command":"lock","name":"x","limit":1}"#);
    let grant: serde_json::Value = serde_json::from_str(&line).unwrap();
    let token = grant["token"].as_u64().unwrap();
    assert_eq!(line, format!(r#"{{"name":"x","token":{token},"slot":0,"limit":1,"result":"acquired"}}"#));
    assert_eq!(
        a.ask(r#"{"command":"lock","name":"x","limit":1}"#),
        format!(r#"{{"name":"x","token":{token},"slot":0,"limit":1,"result":"already_acquired"}}"#)
    );
    assert!(token < 1 << 53);
}

#[test]
fn tokens_only_grow_whoever_asks() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    let first = a.take("x", 1)["token"].as_u64().unwrap();
    a.unlock("x");
    b.lock("x");
    b.unlock("x");
    let second = a.take("x", 1)["token"].as_u64().unwrap();
    b.send(r#"{"command":"lock","name":"x","limit":1}"#);
    b.is_silent();
    a.unlock("x");
    let third = b.hear_json()["token"].as_u64().unwrap();
    assert!(first < second && second < third, "{first} {second} {third}");
}

#[test]
fn as_many_hold_as_the_limit_allows_each_with_its_slot() {
    let server = TestServer::start();
    let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
    for (slot, client) in clients.iter_mut().take(3).enumerate() {
        assert_eq!(client.take("s", 3)["slot"], slot);
    }
    clients[3].send(r#"{"command":"lock","name":"s","limit":3}"#);
    clients[3].is_silent();
    clients[1].unlock("s");
    assert_eq!(clients[3].hear_json()["slot"], 1);
    clients[0].unlock("s");
    clients[3].unlock("s");
    assert_eq!(clients[3].take("s", 3)["slot"], 0);
}

#[test]
fn another_limit_is_refused_with_both_numbers() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.take("s", 3);
    assert_eq!(
        b.ask(r#"{"command":"lock","name":"s","limit":2}"#),
        r#"{"name":"s","limit":3,"asked":2,"result":"limit_mismatch"}"#
    );
    assert_eq!(b.lock("s"), r#"{"name":"s","limit":3,"asked":1,"result":"limit_mismatch"}"#);
    a.unlock("s");
    assert_eq!(b.lock("s"), r#"{"name":"s","result":"acquired"}"#);
}

#[test]
fn one_who_is_turned_away_is_told_of_the_holders() {
    let server = TestServer::start();
    let (mut plain, mut session, mut asker) = (server.client(), server.client(), server.client());
    session.open(10.0);
    let held = session.take("s", 2);
    plain.take("s", 2);
    for (request, result) in [
        (r#"{"command":"lock","name":"s","limit":2,"timeout":0}"#, "timed_out"),
        (r#"{"command":"lock","name":"s","limit":2,"timeout":0.05}"#, "timed_out"),
        (r#"{"command":"lock","name":"s","limit":2,"queue_max":1}"#, "queue_maxed"),
    ] {
        let away = asker.ask_json(request);
        assert_eq!(away["result"], result);
        assert_eq!(away["queue"], serde_json::json!([session.label, plain.label]));
        let holders = away["holders"].as_array().unwrap();
        assert_eq!(holders[0]["host"], "h");
        assert_eq!(holders[0]["pid"], 7);
        assert_eq!(holders[0]["user"], "u");
        assert_eq!(holders[0]["run"], "x");
        assert_eq!(holders[0]["token"], held["token"]);
        assert_eq!(holders[0]["slot"], 0);
        assert!(holders[0]["held"].as_f64().unwrap() >= 0.0);
        assert_eq!(holders[1]["peer"], plain.label.as_str());
        assert_eq!(holders[1]["slot"], 1);
    }
}

#[test]
fn an_old_client_never_sees_the_extension() {
    let server = TestServer::start();
    let (mut new, mut old) = (server.client(), server.client());
    new.take("x", 1);
    let expected = format!(r#"{{"name":"x","queue":["{}"],"result":"timed_out"}}"#, new.label);
    assert_eq!(old.ask(r#"{"command":"lock","name":"x","timeout":0}"#), expected);
    old.send_lock("x");
    old.is_silent();
    new.unlock("x");
    assert_eq!(old.hear(), r#"{"name":"x","result":"acquired"}"#);
}
