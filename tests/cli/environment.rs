//! What the command is told, and what it must not be told.

use std::process::Command;

use crate::support::{Server, finish, sh};

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
fn no_descriptor_of_ours_reaches_the_command() {
    let server = Server::start();
    let words = ["ls", "-v", "/proc/self/fd"];
    let bare = finish(Command::new(words[0]).args(&words[1..]));
    assert_eq!(server.run(&[], &words).stdout, bare.stdout);
}
