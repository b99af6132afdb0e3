//! A server of a test's own: it says what the test wants, when it wants, and hangs up at will.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::DEADLINE;

/// Where it listens, and how it is named on a command line.
pub fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("officer://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// One connection.
pub struct Played(BufReader<TcpStream>);

impl Played {
    pub fn accept(listener: &TcpListener) -> Self {
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Reads up to the first request of this kind.
    pub fn expect(&mut self, command: &str) -> serde_json::Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the end came before {command}");
            let request: serde_json::Value = serde_json::from_str(&line).unwrap();
            if request["command"] == command {
                return request;
            }
        }
    }

    pub fn say(&mut self, lines: &[&str]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Takes an `open` with a `lock` behind it; the session's id.
    pub fn open(&mut self) -> String {
        let id = self.expect("open")["session"].as_str().unwrap().to_owned();
        self.expect("lock");
        self.say(&[&format!(r#"{{"session":"{id}","ttl":10,"result":"opened"}}"#)]);
        id
    }
}
