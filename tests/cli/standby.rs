//! A cold standby, for real: two wrappers around a redis-server on one port and one data directory.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;

use crate::support::{LONG_TTL, Running, Server, wait_until};

fn ask(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    writeln!(stream, "{command}\r").ok()?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    if first.starts_with('$') { lines.next()?.ok() } else { Some(first) }
}

/// Another one for each redis-server process.
fn run_id(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    writeln!(stream, "INFO server\r").ok()?;
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.find_map(|line| line.strip_prefix("run_id:").map(str::to_owned))
}

#[test]
fn the_standby_serves_the_same_data_after_the_first_is_killed() {
    let server = Server::start();
    let data = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port_text = port.to_string();
    let redis = [
        "redis-server",
        "--port",
        &port_text,
        "--dir",
        data.path().to_str().unwrap(),
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
    ];
    let options = ["--ttl", LONG_TTL];
    let mut first = Running::start(&mut server.exec(&options, &redis));
    wait_until("the first serves (Debian package redis-server)", || {
        assert!(first.is_running(), "redis-server ended");
        ask(port, "PING").as_deref() == Some("+PONG")
    });
    assert_eq!(ask(port, "SET kept yes").as_deref(), Some("+OK"));
    let first_id = run_id(port).unwrap();

    let id =
        crate::support::finish(crate::support::officer_exec().arg("--print-lock-id").arg("--").args(redis));
    let second = server.wait_for(id.stdout.trim_end(), &options, &redis);
    first.signal(Signal::SIGKILL);
    first.wait();
    wait_until("the second serves", || run_id(port).is_some_and(|id| id != first_id));
    wait_until("it has loaded what the first had", || ask(port, "GET kept").as_deref() == Some("yes"));

    second.signal(Signal::SIGTERM);
    assert_eq!(second.finish().code, Some(0), "redis ends cleanly on the stop signal");
}
