//! The server can be killed and started again while commands run: none is killed, none is doubled.

use crate::support::{Server, wait_until};

#[test]
fn a_command_outlives_a_restart_and_keeps_its_lock() {
    let mut server = Server::start();
    let mut holder = server.hold(&["-i", "a"]);
    for _ in 0..3 {
        server.kill();
        server.start_again();
        assert_eq!(server.run(&["-i", "a", "-n"], &["true"]).code, Some(75));
    }
    assert!(holder.is_running());
    assert_eq!(holder.finish().code, Some(3));
    wait_until("the lock is free", || server.queue_len("a") == 0);
}

#[test]
fn waiters_keep_their_order_over_a_restart() {
    let mut server = Server::start();
    let holder = server.hold(&["-i", "a"]);
    let log = server.data_dir().join("order");
    let waiters: Vec<_> = (0..4)
        .map(|number| {
            let script = format!("echo {number} >> {}", log.display());
            server.wait_for("a", &["-i", "a"], &["sh", "-c", &script])
        })
        .collect();
    server.kill();
    server.start_again();
    // They are all back, and none of them counts twice.
    wait_until("all have resumed", || server.connected_sessions() == 5);
    assert_eq!(server.queue_len("a"), 5);
    assert_eq!(holder.finish().code, Some(3));
    for waiter in waiters {
        assert_eq!(waiter.finish().code, Some(0));
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "0\n1\n2\n3\n");
}

#[test]
fn a_command_that_ends_while_the_server_is_away_gives_its_lock_back_later() {
    let mut server = Server::start();
    let holder = server.hold(&["-i", "a"]);
    server.kill();
    let ended = std::thread::spawn(move || holder.finish());
    server.start_again();
    assert_eq!(ended.join().unwrap().code, Some(3));
    wait_until("the lock is free", || server.queue_len("a") == 0);
}
