//! The operators' verbs against a server with real wrappers.

use crate::support::{Finished, Server, finish, officer_exec};

fn ask(server: &Server, words: &[&str]) -> Finished {
    finish(officer_exec().args(words).args(["--server", &server.url()]))
}

/// The token of the one who holds `lock`.
fn token(server: &Server, lock: &str) -> String {
    let status = ask(server, &["status", lock, "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    status["value"][0]["holders"][0]["token"].to_string()
}

#[test]
fn status_shows_who_holds_and_who_waits() {
    let server = Server::start();
    let idle = ask(&server, &["status"]);
    assert_eq!(idle.code, Some(0));
    assert!(idle.stdout.starts_with("nobody holds or waits"), "{}", idle.stdout);
    let holder = server.hold(&["-i", "a"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "next"]);
    let status = ask(&server, &["status"]);
    let lines: Vec<_> = status.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", status.stdout);
    assert!(lines[0].starts_with("LOCK"), "{}", lines[0]);
    assert!(lines[1].starts_with("a     0/1"), "{}", lines[1]);
    assert!(lines[1].contains(&format!("[{}]: sh -c echo started", holder.pid())), "{}", lines[1]);
    assert!(
        lines[2].contains("waits") && lines[2].contains(&format!("[{}]: echo next", waiter.pid())),
        "{}",
        lines[2]
    );
    holder.finish();
    assert_eq!(waiter.finish().stdout, "next\n");
}

#[test]
fn release_ends_the_holders_tree_and_then_the_lock_passes_on() {
    let server = Server::start();
    let mut holder = server.hold(&["-i", "a"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "next"]);
    let token = token(&server, "a");
    let released = ask(&server, &["release", "a", "--token", &token, "--reason", "it hangs"]);
    assert_eq!(released.code, Some(0), "{}", released.stderr);
    assert!(released.stdout.starts_with("told the holder"), "{}", released.stdout);
    assert_eq!(waiter.finish().stdout, "next\n");
    let ended = holder.wait();
    assert_eq!(ended.code(), Some(79));
    let again = ask(&server, &["release", "a", "--token", &token, "--reason", "it hangs"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(79), "not held by this token\n"));
}

#[test]
fn verify_within_the_command_takes_lock_and_token_from_the_environment() {
    let server = Server::start();
    let verify = format!("{} verify", crate::support::PROGRAM);
    let held = server.run(&["-i", "a"], &["sh", "-c", &verify]);
    assert_eq!((held.code, held.stdout.as_str()), (Some(0), "held\n"), "{}", held.stderr);
    let not_held = ask(&server, &["verify", "a", "1"]);
    assert_eq!((not_held.code, not_held.stdout.as_str()), (Some(79), "not held\n"));
}

#[test]
fn ping_says_whether_the_server_serves() {
    let mut server = Server::start();
    let pong = ask(&server, &["ping"]);
    assert_eq!((pong.code, pong.stdout.trim()), (Some(0), env!("CARGO_PKG_VERSION")));
    server.kill();
    let silence = ask(&server, &["ping"]);
    assert_eq!(silence.code, Some(69));
    assert!(silence.stderr.starts_with("officer-exec: cannot reach unix:"), "{}", silence.stderr);
}

#[test]
fn an_empty_variable_names_no_server() {
    let asked = finish(officer_exec().arg("ping").env("OFFICER_SERVER", ""));
    // Whether this user's own server runs is not the matter.
    assert!(matches!(asked.code, Some(0 | 69)), "{asked:?}");
}
