//! The lock is taken first, and passes on when the command has ended.

use std::process::{Command, Stdio};

use crate::support::{PROGRAM, Running, Server, clean, finish, officer_exec, sh};

#[test]
fn the_command_has_its_own_stdin_stdout_and_code() {
    let server = Server::start();
    let mut running = Running::start(&mut server.exec(&[], &["cat"]));
    running.let_end();
    let finished = running.finish();
    assert_eq!((finished.code, finished.stdout.as_str(), finished.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(server.run(&[], &sh("echo out; echo err >&2; exit 7")).stderr, "err\n");
}

#[test]
fn stdin_reaches_the_command() {
    let server = Server::start();
    let mut command = server.exec(&[], &["cat"]);
    let input = std::fs::File::open(file!()).unwrap();
    let output = command.stdin(input).stdout(Stdio::piped()).output().unwrap();
    assert_eq!(output.stdout, std::fs::read(file!()).unwrap());
}

#[test]
fn the_second_waits_for_the_first() {
    let server = Server::start();
    let first = server.hold(&["-i", "a"]);
    let mut second = server.wait_for("a", &["-i", "a"], &["echo", "second"]);
    assert!(second.is_running());
    assert_eq!(first.finish().code, Some(3));
    second.expect_line("second");
    assert_eq!(second.finish().code, Some(0));
}

#[test]
fn another_name_is_another_lock() {
    let server = Server::start();
    let first = server.hold(&["-i", "a"]);
    assert_eq!(server.run(&["-n", "-i", "b"], &["true"]).code, Some(0));
    assert_eq!(server.run(&["-n", "-i", "a", "-p", "elsewhere"], &["true"]).code, Some(0));
    drop(first);
}

#[test]
fn waiters_are_served_in_order() {
    let server = Server::start();
    let first = server.hold(&["-i", "a"]);
    let log = server.data_dir().join("order");
    let waiters: Vec<Running> = (0..5)
        .map(|number| {
            let script = format!("echo {number} >> {}", log.display());
            server.wait_for("a", &["-i", "a"], &sh(&script))
        })
        .collect();
    first.finish();
    for waiter in waiters {
        assert_eq!(waiter.finish().code, Some(0));
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "0\n1\n2\n3\n4\n");
}

#[test]
fn a_waiter_that_is_killed_is_skipped() {
    let server = Server::start();
    let first = server.hold(&["-i", "a"]);
    let mut killed = server.wait_for("a", &["-i", "a"], &["echo", "never"]);
    let mut last = server.wait_for("a", &["-i", "a"], &["echo", "last"]);
    killed.signal(nix::sys::signal::Signal::SIGKILL);
    killed.wait();
    first.finish();
    last.expect_line("last");
    assert_eq!(killed.finish().stdout, "");
}

#[test]
fn tcp_works_like_the_socket() {
    let mut serve = officer_exec();
    serve.args(["serve", "--port", "0", "--ephemeral", "-l", "info"]);
    let mut serve = Running::start(&mut serve);
    let address = serve.stderr_until(|line| line.split("127.0.0.1:").nth(1).map(str::to_owned));
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    let mut command = officer_exec();
    command.args(["-s", &format!("officer://127.0.0.1:{port}"), "echo", "over tcp"]);
    assert_eq!(finish(&mut command).stdout, "over tcp\n");
    serve.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(serve.finish().code, Some(0));
}

#[test]
fn shell_joins_the_words() {
    let server = Server::start();
    let finished = server.run(&["--shell"], &["echo a;", "echo b | tr b c"]);
    assert_eq!(finished.stdout, "a\nc\n");
}

#[test]
fn a_user_database_that_does_not_answer_is_not_waited_for() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: needs root, for a mount of its own");
    }
    let server = Server::start();
    let fifo = server.data_dir().join("passwd");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Whoever opens the list of users waits for a writer that never comes.
    let script = format!(
        "mount --bind {} /etc/passwd && exec {PROGRAM} --server {} -i a -- echo done",
        fifo.display(),
        server.url()
    );
    let finished = finish(clean(Command::new("unshare")).args(["--mount", "sh", "-c", &script]));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "done\n"), "{finished:?}");
}
