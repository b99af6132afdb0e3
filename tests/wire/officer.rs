//! Officer's commands, as its existing clients know them.

use std::time::Duration;

use officer::server::Config;

use crate::harness::{TestServer, wait_until};

const LOCKS: &str = r#"{"command":"locks"}"#;
const CONNECTIONS: &str = r#"{"command":"connections"}"#;
const MY_LOCKS: &str = r#"{"command":"my_locks"}"#;
const RESET: &str = r#"{"command":"reset"}"#;

#[test]
fn a_free_lock_is_acquired_and_released() {
    let server = TestServer::start();
    let mut a = server.client();
    assert_eq!(a.lock("x"), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(a.lock("x"), r#"{"name":"x","result":"already_acquired"}"#);
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"release_failed"}"#);
}

#[test]
fn second_acquire_waits() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send_lock("x");
    b.is_silent();
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert_eq!(b.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn the_first_in_line_is_served_first() {
    let server = TestServer::start();
    let mut holder = server.client();
    holder.lock("x");
    let mut waiters: Vec<_> = (0..20).map(|_| server.client()).collect();
    for waiter in &mut waiters {
        waiter.send_lock("x");
        waiter.is_silent();
    }
    holder.unlock("x");
    for waiter in &mut waiters {
        assert_eq!(waiter.hear(), r#"{"name":"x","result":"acquired"}"#);
        assert_eq!(waiter.unlock("x"), r#"{"name":"x","result":"released"}"#);
    }
}

#[test]
fn unlock_then_lock_goes_to_the_back() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send_lock("x");
    b.is_silent();
    a.unlock("x");
    a.send_lock("x");
    b.hear();
    a.is_silent();
    b.unlock("x");
    assert_eq!(a.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn asking_again_while_queued_takes_no_second_place() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send_lock("x");
    b.send_lock("x");
    b.is_silent();
    let locks = a.ask_json(LOCKS);
    assert_eq!(locks["value"]["x"].as_array().unwrap().len(), 2);
    a.unlock("x");
    b.hear();
    b.is_silent();
}

#[test]
fn a_waiter_that_unlocks_leaves_without_another_reply() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send(r#"{"command":"lock","name":"x","timeout":0.05}"#);
    assert_eq!(b.unlock("x"), r#"{"name":"x","result":"released"}"#);
    a.unlock("x");
    // Its timeout went with its place: the next line it hears is of a wait that was asked for later.
    a.lock("x");
    assert!(b.ask(r#"{"command":"lock","name":"x","timeout":0.2}"#).contains("timed_out"));
    b.is_silent();
}

#[test]
fn a_wait_without_time_is_over_at_once() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    let now_or_never = r#"{"command":"lock","name":"x","timeout":0}"#;
    assert_eq!(a.ask(now_or_never), r#"{"name":"x","result":"acquired"}"#);
    let expected = format!(r#"{{"name":"x","queue":["{}"],"result":"timed_out"}}"#, a.label);
    assert_eq!(b.ask(now_or_never), expected);
    assert_eq!(b.ask(r#"{"command":"lock","name":"x","timeout":-3}"#), expected);
    assert_eq!(a.ask(now_or_never), r#"{"name":"x","result":"already_acquired"}"#);
}

#[test]
fn a_timeout_tells_who_is_in_the_way() {
    let server = TestServer::start();
    let (mut a, mut b, mut c) = (server.client(), server.client(), server.client());
    a.lock("x");
    b.send_lock("x");
    b.is_silent();
    let expected = format!(r#"{{"name":"x","queue":["{}","{}"],"result":"timed_out"}}"#, a.label, b.label);
    assert_eq!(c.ask(r#"{"command":"lock","name":"x","timeout":0.05}"#), expected);
    c.is_silent();
}

#[test]
fn a_timeout_given_later_counts_once() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send_lock("x");
    b.send(r#"{"command":"lock","name":"x","timeout":0.2}"#);
    b.send(r#"{"command":"lock","name":"x","timeout":0.1}"#);
    assert!(b.hear().contains("timed_out"));
    assert!(b.ask(r#"{"command":"lock","name":"x","timeout":0.3}"#).contains("timed_out"));
    b.is_silent();
    a.unlock("x");
    b.is_silent();
}

#[test]
fn a_timeout_does_not_fire_after_the_grant() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send(r#"{"command":"lock","name":"x","timeout":0.1}"#);
    a.unlock("x");
    assert!(b.hear().contains("\"acquired\""));
    // A later timeout of another lock comes, the earlier one doesn't.
    a.lock("y");
    assert!(b.ask(r#"{"command":"lock","name":"y","timeout":0.3}"#).contains("\"y\""));
    b.is_silent();
}

#[test]
fn queue_max_counts_the_holder() {
    let server = TestServer::start();
    let (mut a, mut b, mut c) = (server.client(), server.client(), server.client());
    let at_most = |places| format!(r#"{{"command":"lock","name":"x","queue_max":{places},"timeout":0}}"#);
    assert_eq!(a.ask(&at_most(1)), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(a.ask(&at_most(1)), r#"{"name":"x","result":"already_acquired"}"#);
    let expected = format!(r#"{{"name":"x","queue":["{}"],"result":"queue_maxed"}}"#, a.label);
    assert_eq!(b.ask(&at_most(1)), expected);
    b.send(r#"{"command":"lock","name":"x","queue_max":2}"#);
    b.is_silent();
    b.send(r#"{"command":"lock","name":"x","queue_max":1}"#);
    b.is_silent();
    assert!(c.ask(&at_most(2)).contains("queue_maxed"));
    assert!(c.ask(&at_most(3)).contains("timed_out"));
}

#[test]
fn a_disconnect_frees_holds_and_places() {
    let server = TestServer::start();
    let (mut a, mut b, mut c) = (server.client(), server.client(), server.client());
    a.lock("x");
    a.lock("y");
    b.send_lock("x");
    b.is_silent();
    c.send_lock("x");
    c.is_silent();
    drop(b);
    wait_until(&mut c, LOCKS, |locks| locks["value"]["x"].as_array().unwrap().len() == 2);
    drop(a);
    assert_eq!(c.hear(), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(c.lock("y"), r#"{"name":"y","result":"acquired"}"#);
}

#[test]
fn commands_before_a_half_close_are_answered() {
    let server = TestServer::start();
    let mut a = server.client();
    a.send_bytes(
        b"{\"command\":\"lock\",\"name\":\"x\"}\n{\"command\":\"unlock\",\"name\":\"x\"}\n{\"command\":\"res",
    );
    a.end_sending();
    assert_eq!(
        a.hear_all(),
        "{\"name\":\"x\",\"result\":\"acquired\"}\n{\"name\":\"x\",\"result\":\"released\"}\n"
    );
}

#[test]
fn a_half_close_frees_what_is_held() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send_lock("x");
    a.end_sending();
    assert_eq!(b.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn reset_releases_everything_with_one_reply() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    b.lock("theirs");
    a.lock("mine");
    a.send(r#"{"command":"lock","name":"theirs","timeout":0.1}"#);
    assert_eq!(a.ask(RESET), r#"{"result":"reset_succeeded"}"#);
    assert_eq!(a.ask(MY_LOCKS), r#"{"value":[],"result":"my_locks"}"#);
    assert_eq!(b.lock("mine"), r#"{"name":"mine","result":"acquired"}"#);
    assert!(a.ask(r#"{"command":"lock","name":"theirs","timeout":0.2}"#).contains("timed_out"));
    a.is_silent();
}

#[test]
fn reset_passes_locks_on() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    a.lock("x");
    b.send_lock("x");
    b.is_silent();
    a.ask(RESET);
    assert_eq!(b.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn locks_lists_queues_in_order_and_no_free_locks() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    assert_eq!(a.ask(LOCKS), r#"{"value":{},"result":"locks"}"#);
    a.lock("x");
    a.lock("free");
    a.unlock("free");
    b.send_lock("x");
    b.is_silent();
    let expected = format!(r#"{{"value":{{"x":["{}","{}"]}},"result":"locks"}}"#, a.label, b.label);
    assert_eq!(b.ask(LOCKS), expected);
}

#[test]
fn connections_lists_those_that_ever_asked() {
    let server = TestServer::start();
    let (mut a, mut b, mut c) = (server.client(), server.client(), server.client());
    a.lock("x");
    b.lock("y");
    b.unlock("y");
    let value = c.ask_json(CONNECTIONS)["value"].clone();
    let expected = serde_json::json!({ a.label.clone(): ["x"], b.label.clone(): [] });
    assert_eq!(value, expected);
}

#[test]
fn my_locks_lists_in_the_order_of_asking() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    assert_eq!(a.ask(MY_LOCKS), r#"{"value":[],"result":"my_locks"}"#);
    b.lock("m");
    a.lock("z");
    a.send_lock("m");
    a.lock("a");
    assert_eq!(a.ask(MY_LOCKS), r#"{"value":["z","m","a"],"result":"my_locks"}"#);
}

#[test]
fn unix_clients_have_distinct_names() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.unix_client(), server.unix_client());
    a.lock("x");
    b.lock("y");
    let value = a.ask_json(CONNECTIONS)["value"].clone();
    let expected = serde_json::json!({ "UNIX socket client 1": ["x"], "UNIX socket client 2": ["y"] });
    assert_eq!(value, expected);
}

#[test]
fn tcp_and_unix_clients_meet_the_same_locks() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.unix_client());
    a.lock("x");
    b.send_lock("x");
    b.is_silent();
    a.unlock("x");
    assert_eq!(b.hear(), r#"{"name":"x","result":"acquired"}"#);
}

#[test]
fn keep_alive_is_not_answered() {
    let server = TestServer::start();
    let mut a = server.client();
    a.send(r#"{"command":"keep_alive"}"#);
    a.is_silent();
}

#[test]
fn names_are_what_they_say_however_they_are_written() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    assert_eq!(a.lock("\\u00e4\\u0020b"), "{\"name\":\"ä b\",\"result\":\"acquired\"}");
    b.send_lock("ä b");
    b.is_silent();
    assert_eq!(b.lock("Ä b"), "{\"name\":\"Ä b\",\"result\":\"acquired\"}");
    let long = "n".repeat(16 * 1024);
    assert_eq!(a.lock(&long), format!("{{\"name\":\"{long}\",\"result\":\"acquired\"}}"));
    assert_eq!(
        a.lock("tab\\tquote\\\"\\u0000"),
        "{\"name\":\"tab\\tquote\\\"\\u0000\",\"result\":\"acquired\"}"
    );
}

#[test]
fn commands_come_in_any_pieces() {
    let server = TestServer::start();
    let mut a = server.client();
    let lines = "\r\n{ \"x\":[1,{}], \"name\" : \"p\" ,\"command\":\"lock\"}\r\n\n{\"command\":\"unlock\",\"name\":\"p\"}\n";
    for byte in lines.bytes() {
        a.send_bytes(&[byte]);
    }
    assert_eq!(a.hear(), r#"{"name":"p","result":"acquired"}"#);
    assert_eq!(a.hear(), r#"{"name":"p","result":"released"}"#);
    a.send_bytes(lines.repeat(1000).as_bytes());
    for _ in 0..1000 {
        assert_eq!(a.hear(), r#"{"name":"p","result":"acquired"}"#);
        assert_eq!(a.hear(), r#"{"name":"p","result":"released"}"#);
    }
}

#[test]
fn replies_of_different_names_come_as_they_happen() {
    let server = TestServer::start();
    let (mut a, mut b) = (server.client(), server.client());
    for name in ["1", "2", "3"] {
        a.lock(name);
        b.send_lock(name);
    }
    b.is_silent();
    for name in ["2", "3", "1"] {
        a.unlock(name);
        assert_eq!(b.hear(), format!(r#"{{"name":"{name}","result":"acquired"}}"#));
    }
}

#[test]
fn idle_connections_are_closed_and_free_their_locks() {
    let config = Config { max_idle: Duration::from_secs(1), ..Config::default() };
    let server = TestServer::with(config);
    let (mut holder, mut never_asked, mut busy) = (server.client(), server.client(), server.client());
    holder.lock("x");
    busy.send_lock("x");
    wait_until(&mut busy, LOCKS, |locks| locks["result"] == "acquired");
    holder.hears_the_end();
    never_asked.hears_the_end();
}
