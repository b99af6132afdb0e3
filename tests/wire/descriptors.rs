//! The limit of file descriptors, as a bound of connections.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A server that ends with the test.
struct Tied(Child);

impl Drop for Tied {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What a server logs until it listens, started by a shell that sets the limits.
fn log_of_start(limits: &str, options: &[&str]) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limits} && exec \"$@\""), "sh", env!("CARGO_BIN_EXE_officer-exec")]);
    command.args(["serve", "--ephemeral", "--port", "0"]).args(options).stderr(Stdio::piped());
    let mut server = Tied(command.spawn().unwrap());
    let mut stderr = BufReader::new(server.0.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains("listening") {
        assert_ne!(stderr.read_line(&mut log).unwrap(), 0, "{log}");
    }
    log
}

#[test]
fn a_bound_that_the_descriptors_do_not_allow_is_told() {
    let log = log_of_start("ulimit -n 100", &["--max-connections", "5000"]);
    assert!(log.contains("at most 36 connections are served, not 5000"), "{log}");
    assert!(log.contains("WARN") && log.contains("fd_limit=100"), "{log}");
}

#[test]
fn a_bound_that_the_descriptors_allow_is_not_worth_a_word() {
    let log = log_of_start("ulimit -n 100", &["--max-connections", "36"]);
    assert!(!log.contains("connections are served"), "{log}");
}

#[test]
fn a_raised_limit_is_told_once() {
    let log = log_of_start("ulimit -Sn 100 && ulimit -Hn 300", &["--max-connections", "36"]);
    assert_eq!(log.matches("raised the limit of file descriptors from=100 to=300").count(), 1, "{log}");
}
