//! What the command is told, and what it must not be told.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::support::{Server, finish, officer_exec, sh};

#[test]
fn the_command_knows_its_lock() {
    let server = Server::start();
    let script = "echo $OFFICER_LOCK $OFFICER_SLOT $OFFICER_LIMIT $OFFICER_SERVER";
    let finished = server.run(&["-i", "a", "-p", "team"], &sh(script));
    assert_eq!(finished.stdout, format!("team:a 0 1 {}\n", server.url()));
}

#[test]
fn tokens_grow() {
    let mut server = Server::start();
    let token = |server: &Server| -> u64 {
        server.run(&["-i", "a"], &sh("echo $OFFICER_TOKEN")).stdout.trim().parse().unwrap()
    };
    let mut last = 0;
    for round in 0..6 {
        let next = token(&server);
        assert!(next > last, "{next} after {last}");
        last = next;
        if round % 2 == 1 {
            server.kill();
            server.start_again();
        }
    }
}

#[test]
fn options_come_from_variables_too() {
    let server = Server::start();
    let mut command = server.exec(&[], &sh("echo $OFFICER_LOCK"));
    command.env("OFFICER_LOCK_ID", "from-the-environment");
    assert_eq!(finish(&mut command).stdout, "from-the-environment\n");
}

#[test]
fn a_variable_that_cannot_be_read_is_no_reason_to_take_another_server() {
    for name in ["OFFICER_SERVER", "ZKHOSTS"] {
        let mut command = officer_exec();
        command.env(name, OsStr::from_bytes(b"officer://\xff")).arg("true");
        let refused = finish(&mut command);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
    }
}

#[test]
fn no_descriptor_of_ours_reaches_the_command() {
    let server = Server::start();
    let words = ["ls", "-v", "/proc/self/fd"];
    let bare = finish(Command::new(words[0]).args(&words[1..]));
    assert_eq!(server.run(&[], &words).stdout, bare.stdout);
}

#[test]
fn a_lock_without_a_token_hides_the_token_of_the_lock_around_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("officer://{}", listener.local_addr().unwrap());
    // An original Officer server, as far as one command needs it.
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        for line in BufReader::new(&stream).lines().map_while(Result::ok) {
            let result = if line.contains("unlock") { "released" } else { "acquired" };
            writeln!(&stream, r#"{{"result":"{result}","name":"a"}}"#).unwrap();
        }
    });
    let mut command = officer_exec();
    command.envs([("OFFICER_TOKEN", "7"), ("OFFICER_SLOT", "3")]);
    command.args(["-s", &url, "--ttl", "0", "-i", "a", "--"]);
    command.args(["sh", "-c", "echo ${OFFICER_LOCK} ${OFFICER_TOKEN-none} ${OFFICER_SLOT-none}"]);
    let finished = finish(&mut command);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "a none none\n"), "{}", finished.stderr);
}
