//! `--status-file` says how it went, however it went.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::stat::Mode;
use serde_json::Value;

use crate::support::{Server, sh};

fn status(server: &Server, options: &[&str], words: &[&str]) -> Value {
    let file = server.data_dir().join("status.json");
    let file_option = ["--status-file", file.to_str().unwrap()];
    server.run(&[options, &file_option].concat(), words);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_end_is_told_with_code_and_times() {
    let server = Server::start();
    let line = status(&server, &["-i", "a"], &sh("exit 3"));
    assert_eq!(line["outcome"], "ended");
    assert_eq!((&line["lock"], &line["exit"], &line["code"]), (&"a".into(), &3.into(), &3.into()));
    assert!(line["signal"].is_null());
    assert!(line["token"].as_u64().unwrap() > 0 && line["slot"] == 0);
    assert!(line["waited"].is_number() && line["held"].is_number());
}

#[test]
fn a_signal_is_told() {
    let server = Server::start();
    let line = status(&server, &["-i", "a"], &sh("kill -KILL $$"));
    assert_eq!((&line["exit"], &line["signal"]), (&137.into(), &9.into()));
    assert!(line["code"].is_null());
}

#[test]
fn a_lock_not_acquired_is_told() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a"]);
    let line = status(&server, &["-i", "a", "-n"], &["true"]);
    assert_eq!((&line["outcome"], &line["exit"]), (&"not_acquired".into(), &75.into()));
    assert!(line["held"].is_null() && line["token"].is_null());
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_lock_is_taken() {
    let server = Server::start();
    let finished = server.run(&["--status-file", "/nowhere/status"], &["echo", "never"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""));
    assert!(finished.stderr.contains("/nowhere/status"), "{}", finished.stderr);
}

#[test]
fn a_fifo_is_written_if_somebody_reads_it_and_refused_at_once_if_nobody_does() {
    let server = Server::start();
    let fifo = server.data_dir().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let options = ["-i", "a", "--status-file", fifo.to_str().unwrap()];
    let refused = server.run(&options, &["echo", "never"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    assert!(refused.stderr.contains("that nobody reads"), "{}", refused.stderr);

    let mut reader = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    assert_eq!(server.run(&options, &["true"]).code, Some(0));
    let mut line = String::new();
    reader.read_to_string(&mut line).unwrap();
    assert!(line.contains("\"outcome\":\"ended\"") && line.ends_with('\n'), "{line}");
}
