//! What a server knows after it was killed, ended or its host restarted.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, ServerProcess, wait_until};

/// A session that holds x at a server with a folder of its own.
struct Holding {
    dir: tempfile::TempDir,
    server: ServerProcess,
    a: Client,
    /// Its secret.
    session: String,
    /// Its grant.
    held: Value,
}

impl Holding {
    fn x() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerProcess::start(&[], dir.path());
        let mut a = server.client();
        let session = a.open(30.0);
        let held = a.take("x", 1);
        Self { dir, server, a, session, held }
    }
}

const LOCKS: &str = r#"{"command":"locks"}"#;

#[test]
fn a_killed_server_knows_every_session_holder_and_token() {
    let Holding { dir, server, mut a, session, held: x } = Holding::x();
    let s = a.take("s", 3);
    a.take("left", 1);
    a.unlock("left");
    server.kill();

    let server = ServerProcess::start(&[], dir.path());
    let mut other = server.client();
    let blocked = other.ask_json(r#"{"command":"lock","name":"x","limit":1,"timeout":0}"#);
    assert_eq!(blocked["result"], "timed_out");
    assert_eq!(blocked["holders"][0]["token"], x["token"]);
    assert_eq!(blocked["holders"][0]["run"], "x");
    assert_eq!(other.take("s", 3)["slot"], 1);
    let left = other.take("left", 1);
    assert_eq!(left["result"], "acquired");
    assert!(left["token"].as_u64() > s["token"].as_u64());

    let mut b = server.client();
    let resumed = b.resume(&session);
    let hold = |name: &str, grant: &Value| json!({"name": name, "token": grant["token"], "slot": 0, "limit": grant["limit"]});
    assert_eq!(resumed["holds"], json!([hold("x", &x), hold("s", &s)]));
    b.unlock("x");
    let next = other.take("x", 1);
    assert!(next["token"].as_u64() > x["token"].as_u64(), "{next} after {x}");
}

#[test]
fn a_killed_server_knows_what_was_revoked() {
    let Holding { dir, server, session, held, .. } = Holding::x();
    let token = &held["token"];
    let release = format!(r#"{{"command":"release","name":"x","token":{token},"reason":"by hand"}}"#);
    assert_eq!(server.client().ask_json(&release)["result"], "revoking");
    server.kill();

    let server = ServerProcess::start(&[], dir.path());
    let mut next = server.client();
    next.send_lock("x");
    next.is_silent();
    let mut a = server.client();
    let resumed = a.resume(&session);
    assert_eq!(&resumed["holds"][0]["token"], token, "{resumed}");
    let told = format!(r#"{{"name":"x","token":{token},"reason":"by hand","result":"revoked"}}"#);
    assert_eq!(a.hear(), told);
    assert_eq!(a.ask_json(r#"{"command":"renew","seq":1}"#)["error"], "revoked");
    next.is_silent();
    assert_eq!(a.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert_eq!(next.hear(), r#"{"name":"x","result":"acquired"}"#);
    assert!(a.ask(r#"{"command":"renew","seq":2}"#).contains("renewed"));

    // What was given back isn't taken for ever: also not by the next start.
    next.unlock("x");
    let held = a.take("x", 1);
    server.kill();
    let server = ServerProcess::start(&[], dir.path());
    let mut a = server.client();
    assert_eq!(a.resume(&session)["holds"][0]["token"], held["token"]);
    assert!(a.ask(r#"{"command":"renew","seq":1}"#).contains("renewed"));
}

#[test]
fn tokens_grow_over_every_kind_of_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..6 {
        let server = ServerProcess::start(&[], dir.path());
        let mut a = server.client();
        for _ in 0..10 {
            let token = a.take("x", 1)["token"].as_u64().unwrap();
            assert!(token > last, "{token} after {last} in round {round}");
            last = token;
            a.unlock("x");
        }
        match round % 2 {
            0 => server.kill(),
            _ => {
                let (code, log) = server.terminate();
                assert_eq!(code, Some(0), "{log}");
            }
        }
    }
}

#[test]
fn a_clean_end_skips_no_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&[], dir.path());
    let first = server.client().take("x", 1)["token"].as_u64().unwrap();
    server.terminate();
    let server = ServerProcess::start(&[], dir.path());
    assert_eq!(server.client().take("x", 1)["token"].as_u64().unwrap(), first + 1);
}

#[test]
fn the_order_of_waiters_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&[], dir.path());
    let mut holder = server.client();
    let holder_session = holder.open(30.0);
    holder.take("x", 1);
    let mut sessions = Vec::new();
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut waiter = server.client();
        sessions.push(waiter.open(30.0));
        waiter.send(r#"{"command":"lock","name":"x","limit":1}"#);
        waiter.is_silent();
        waiting.push(waiter);
    }
    server.kill();

    let server = ServerProcess::start(&[], dir.path());
    let mut holder = server.client();
    holder.resume(&holder_session);
    // They come back in another order than they stood in.
    let mut back: Vec<_> = [3, 0, 4, 2, 1]
        .into_iter()
        .map(|number| {
            let mut waiter = server.client();
            assert_eq!(waiter.resume(&sessions[number])["waits"], json!(["x"]));
            waiter.send(r#"{"command":"lock","name":"x","limit":1}"#);
            waiter.is_silent();
            (number, waiter)
        })
        .collect();
    back.sort_by_key(|&(number, _)| number);
    holder.unlock("x");
    for (_, waiter) in &mut back {
        assert_eq!(waiter.hear_json()["result"], "acquired");
        waiter.unlock("x");
    }
}

#[test]
fn new_waiters_stand_behind_restored_ones_over_two_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let server = ServerProcess::start(&[], dir.path());
        let mut client = server.client();
        sessions.push(client.open(30.0));
        client.send(r#"{"command":"lock","name":"x","limit":1}"#);
        wait_until(&mut client, LOCKS, |answer| {
            answer["result"] == "acquired"
                || answer["value"]["x"].as_array().is_some_and(|q| q.len() == sessions.len())
        });
        server.kill();
    }
    let server = ServerProcess::start(&[], dir.path());
    for session in &sessions {
        let mut client = server.client();
        let resumed = client.resume(session);
        if resumed["holds"] == json!([]) {
            assert_eq!(resumed["waits"], json!(["x"]));
            assert_eq!(client.hear_json()["result"], "acquired");
        }
        client.ask(r#"{"command":"close"}"#);
    }
}

#[test]
fn a_restored_session_expires_a_full_ttl_after_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&[], dir.path());
    let mut a = server.client();
    let session = a.open(0.5);
    a.take("x", 1);
    server.kill();
    let server = ServerProcess::start(&[], dir.path());
    let mut b = server.client();
    assert!(b.ask(r#"{"command":"lock","name":"x","timeout":0}"#).contains("timed_out"));
    assert_eq!(b.lock("x"), r#"{"name":"x","result":"acquired"}"#);
    assert_eq!(b.resume(&session)["error"], "bad_state");
    assert_eq!(server.client().resume(&session), json!({"result": "session_unknown"}));
}

#[test]
fn closed_and_expired_sessions_stay_gone() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&[], dir.path());
    let (mut a, mut b) = (server.client(), server.client());
    let closed = a.open(30.0);
    a.take("x", 1);
    a.ask(r#"{"command":"close"}"#);
    let expired = b.open(0.1);
    assert_eq!(b.hear(), r#"{"result":"expired"}"#);
    server.kill();
    let server = ServerProcess::start(&[], dir.path());
    for session in [closed, expired] {
        assert_eq!(server.client().resume(&session), json!({"result": "session_unknown"}));
    }
    assert_eq!(server.client().ask_json(LOCKS)["value"], json!({}));
}

#[test]
fn a_paused_server_hears_renewals_before_it_expires_anyone() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&[], dir.path());
    let (mut a, mut observer) = (server.client(), server.client());
    a.open(0.5);
    a.take("x", 1);
    observer.ask(LOCKS);
    server.signal(Signal::SIGSTOP);
    a.send(r#"{"command":"renew","seq":1}"#);
    // Longer than the ttl: what is tested is time that passes while the server can't see it.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    server.signal(Signal::SIGCONT);
    assert!(a.hear().contains("renewed"));
    assert!(a.ask(r#"{"command":"renew","seq":2}"#).contains("renewed"));
    assert_eq!(observer.ask_json(LOCKS)["value"]["x"], json!([a.label]));
}

#[test]
fn after_a_reboot_sessions_wait_and_plain_connections_do_not() {
    let Holding { dir, server, session, held, .. } = Holding::x();
    server.terminate();
    pretend_another_boot(dir.path());

    // No host is up for so long: the wait after the reboot is still on.
    let server = ServerProcess::start(&["--max-ttl", "3650d"], dir.path());
    let (mut back, mut new, mut plain) = (server.client(), server.client(), server.client());
    assert_eq!(back.resume(&session)["holds"][0]["token"], held["token"]);
    new.open(30.0);
    let refused = new.ask_json(r#"{"command":"lock","name":"free","limit":1,"timeout":0}"#);
    assert_eq!(refused["error"], "not_ready", "{refused}");
    new.send(r#"{"command":"lock","name":"free","limit":1}"#);
    new.is_silent();
    assert_eq!(plain.lock("free"), r#"{"name":"free","result":"acquired"}"#);
    assert_eq!(back.unlock("x"), r#"{"name":"x","result":"released"}"#);
    assert!(new.ask(r#"{"command":"renew","seq":1}"#).contains("renewed"));
    let (_, log) = server.terminate();
    assert!(log.contains("the host was restarted"), "{log}");

    // It is still the same reboot for a server that is started once more.
    let server = ServerProcess::start(&["--max-ttl", "3650d"], dir.path());
    let mut new = server.client();
    new.open(30.0);
    let refused = new.ask_json(r#"{"command":"lock","name":"x","limit":1,"timeout":0}"#);
    assert_eq!(refused["error"], "not_ready", "{refused}");
}

#[test]
fn a_store_is_used_by_one_server_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&[], dir.path());
    let error = ServerProcess::try_start(&[], dir.path()).err().expect("the second one is refused");
    assert!(error.contains(&format!("pid {}", server.pid())), "{error}");
    assert!(error.contains("--data-dir"), "{error}");
}

#[test]
fn a_store_that_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("officer.db")).unwrap();
    let error = ServerProcess::try_start(&[], dir.path()).err().expect("it is refused");
    assert!(error.contains("cannot open the store") && error.contains("--data-dir"), "{error}");
}

#[test]
fn a_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("officer.db"), "not a database, by far not one ".repeat(100)).unwrap();
    let error = ServerProcess::try_start(&[], dir.path()).err().expect("it is refused");
    assert!(error.contains("was not made by officer-exec") && error.contains("--data-dir"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(dir.path().join("officer.db")).unwrap();
    db.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(db);
    let error = ServerProcess::try_start(&[], dir.path()).err().expect("it is refused");
    assert!(error.contains("was not made by officer-exec"), "{error}");
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ServerProcess::start(&[], dir.path()).terminate();
    let db = rusqlite::Connection::open(dir.path().join("officer.db")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let error = ServerProcess::try_start(&[], dir.path()).err().expect("it is refused");
    assert!(error.contains("version 99"), "{error}");
}

#[test]
fn a_store_of_the_first_version_is_migrated() {
    let Holding { dir, server, session, held, .. } = Holding::x();
    server.terminate();
    let db = rusqlite::Connection::open(dir.path().join("officer.db")).unwrap();
    db.execute_batch("ALTER TABLE claims DROP COLUMN revoked; PRAGMA user_version = 1").unwrap();
    drop(db);
    // Twice: the first start migrates, the second finds what it made.
    for _ in 0..2 {
        let server = ServerProcess::start(&[], dir.path());
        let mut a = server.client();
        assert_eq!(a.resume(&session)["holds"][0]["token"], held["token"]);
        let release = format!(r#"{{"command":"release","name":"x","token":{},"reason":"r"}}"#, held["token"]);
        assert_eq!(server.client().ask_json(&release)["result"], "revoking");
        server.terminate();
    }
}

#[test]
fn a_damaged_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&[], dir.path());
    let mut a = server.client();
    a.open(30.0);
    for number in 0..200 {
        a.take(&format!("a lock with a name of some length {number}"), 1);
    }
    server.terminate();
    let path = dir.path().join("officer.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = ServerProcess::try_start(&[], dir.path()).err().expect("it is refused");
    assert!(error.contains("is damaged") && error.contains("move the file away"), "{error}");
}

#[test]
fn a_store_that_has_lost_changes_is_refused_until_it_is_moved_away() {
    let damages: [fn(&std::path::Path); 4] = [
        |dir| std::fs::write(dir.join("officer.db"), "").unwrap(),
        |dir| std::fs::remove_file(dir.join("officer.db-wal")).unwrap(),
        |dir| {
            let path = dir.join("officer.db-wal");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[5000] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        },
        |dir| {
            let log = std::fs::OpenOptions::new().write(true).open(dir.join("officer.db-wal")).unwrap();
            log.set_len(log.metadata().unwrap().len() - 1).unwrap();
        },
    ];
    for damage in damages {
        let Holding { dir, server, .. } = Holding::x();
        server.kill();
        damage(dir.path());
        // Also the second time: the first start must not have made it good.
        for _ in 0..2 {
            let error = ServerProcess::try_start(&[], dir.path()).err().expect("it is refused");
            assert!(error.contains("is damaged (it has"), "{error}");
        }
        std::fs::rename(dir.path().join("officer.db"), dir.path().join("away")).unwrap();
        let server = ServerProcess::start(&[], dir.path());
        let mut a = server.client();
        a.open(30.0);
        a.take("x", 1);
        server.kill();
        ServerProcess::start(&[], dir.path()).terminate();
    }
}

#[test]
fn a_store_whose_log_was_taken_over_by_another_program_is_complete() {
    let Holding { dir, server, session, .. } = Holding::x();
    server.kill();
    let db = rusqlite::Connection::open(dir.path().join("officer.db")).unwrap();
    let holds: i64 = db.query_row("SELECT count(*) FROM claims", [], |row| row.get(0)).unwrap();
    assert_eq!(holds, 1);
    drop(db);
    assert!(!dir.path().join("officer.db-wal").exists());
    let server = ServerProcess::start(&[], dir.path());
    assert_eq!(server.client().resume(&session)["holds"][0]["name"], "x");
}

#[test]
fn a_store_that_contradicts_itself_is_refused() {
    let Holding { dir, server, .. } = Holding::x();
    server.terminate();
    let db = rusqlite::Connection::open(dir.path().join("officer.db")).unwrap();
    db.execute_batch("CREATE TABLE copy AS SELECT * FROM claims; UPDATE copy SET session = 77; INSERT INTO claims SELECT * FROM copy; DROP TABLE copy")
        .unwrap();
    drop(db);
    let error = ServerProcess::try_start(&[], dir.path()).err().expect("it is refused");
    assert!(error.contains("is damaged"), "{error}");
}

fn pretend_another_boot(dir: &std::path::Path) {
    let db = rusqlite::Connection::open(dir.join("officer.db")).unwrap();
    let changed = db.execute("UPDATE meta SET value = 'another boot' WHERE key = 'boot_id'", []).unwrap();
    assert_eq!(changed, 1);
}
