//! Every row of the table of exit codes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::support::{LONG_TTL, Running, Server, clean, finish, is_alive, officer_exec, sh, wait_until};

#[test]
fn the_commands_own() {
    let server = Server::start();
    for code in [0, 1, 2, 3, 69, 75, 79, 127, 128, 255] {
        assert_eq!(server.run(&[], &sh(&format!("exit {code}"))).code, Some(code));
    }
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    let server = Server::start();
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("INT", 130), ("SEGV", 139)] {
        assert_eq!(
            server.run(&[], &sh(&format!("ulimit -c 0; kill -{signal} $$"))).code,
            Some(code),
            "{signal}"
        );
    }
}

#[test]
fn not_acquired_is_75() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a"]);
    assert_eq!(server.run(&["-i", "a", "-n"], &["true"]).code, Some(75));
}

#[test]
fn a_server_that_cannot_be_reached_is_69() {
    for url in ["officer://127.0.0.1:1", "unix:/nowhere/socket"] {
        let mut command = officer_exec();
        command.args(["-s", url, "-T", "200ms", "-R", "2", "echo", "never"]);
        let finished = finish(&mut command);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""));
        assert!(finished.stderr.contains(&format!("cannot reach {url}")), "{}", finished.stderr);
    }
}

#[test]
fn something_else_that_answers_is_69_too() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    let mut command = officer_exec();
    command.args(["-s", &format!("officer://{address}"), "-T", "300ms", "echo", "never"]);
    let finished = finish(&mut command);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""));
    assert!(finished.stderr.contains("SSH-2.0"), "{}", finished.stderr);
}

#[test]
fn a_lost_lock_is_79() {
    let mut server = Server::start();
    let holder = server.hold(&["-i", "a", "--ttl", "2", "--grace", "200ms"]);
    server.kill();
    let finished = holder.wait_with_stdin_open();
    assert_eq!(finished.code, Some(79), "{}", finished.stderr);
}

#[test]
fn max_hold_is_124() {
    let server = Server::start();
    let finished = server.run(&["--max-hold", "100ms"], &["sleep", "1000"]);
    assert_eq!(finished.code, Some(124), "{}", finished.stderr);
}

#[test]
fn a_command_that_cannot_be_run_is_126() {
    let server = Server::start();
    let finished = server.run(&[], &["/etc/passwd"]);
    assert_eq!(finished.code, Some(126));
    assert!(finished.stderr.contains("/etc/passwd"), "{}", finished.stderr);
    assert_eq!(server.run(&[], &["/"]).code, Some(126));
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let server = Server::start();
    let finished = server.run(&["-i", "a"], &["no-such-command"]);
    assert_eq!(finished.code, Some(127));
    assert!(finished.stderr.contains("no-such-command"), "{}", finished.stderr);
    assert_eq!(server.queue_len("a"), 0);
}

#[test]
fn an_empty_word_is_no_command_127_and_told_so() {
    let server = Server::start();
    let finished = server.run(&["-i", "a"], &["", "argument"]);
    let told = "officer-exec: cannot run \"\": the command is an empty word\n";
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(127), told));
}

#[test]
fn a_script_without_its_interpreter_is_127_and_told_so() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let by_path = server.run(&[], &[script.to_str().unwrap()]);
    let by_name = finish(server.exec(&[], &["script"]).env("PATH", folder.path()));
    for finished in [by_path, by_name] {
        assert_eq!(finished.code, Some(127), "{}", finished.stderr);
        assert!(finished.stderr.ends_with("its interpreter is missing\n"), "{}", finished.stderr);
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_told() {
    let server = Server::start();
    let mut limited = clean(Command::new("sh"));
    limited.args(["-c", "ulimit -f 0; exec \"$@\"", "sh"]);
    let command = server.exec(&[], &["true"]);
    limited.arg(command.get_program()).args(command.get_args());
    let finished = finish(&mut limited);
    assert_eq!(finished.code, Some(70), "{}", finished.stderr);
    assert!(finished.stderr.contains("File too large"), "{}", finished.stderr);
}

#[test]
fn a_ttl_beyond_what_the_server_allows_is_2_and_named() {
    let server = Server::start();
    let finished = server.run(&["--ttl", "3h"], &["echo", "never"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""));
    assert_eq!(
        finished.stderr,
        format!("officer-exec: cannot use --ttl 3h at {}: it must be 0.1 to 7200 seconds\n", server.url())
    );
    let absurd = server.run(&["--ttl", "18446744073709551615s"], &["echo", "never"]);
    assert_eq!((absurd.code, absurd.stdout.as_str()), (Some(2), ""));
    assert!(absurd.stderr.contains("--ttl") && absurd.stderr.contains("3650 days"), "{}", absurd.stderr);
}

#[test]
fn wrong_options_are_2() {
    for (words, named) in [
        (&["--no-such-option", "true"][..], "--no-such-option"),
        (&["--timeout", "5", "true"][..], "--connect-timeout"),
        (&["--ttl", "3", "--grace", "3", "true"][..], "margin"),
        (&["-s", "gopher://x", "true"][..], "gopher://x"),
        (&[][..], "COMMAND"),
    ] {
        let finished = finish(officer_exec().args(words));
        assert_eq!(finished.code, Some(2), "{words:?}");
        assert!(finished.stderr.contains(named), "{words:?}: {}", finished.stderr);
    }
}

#[test]
fn a_guardian_that_is_killed_is_our_own_failure_70() {
    let server = Server::start();
    let holder = server.hold(&["-i", "a"]);
    nix::sys::signal::kill(crate::support::guardian_of(holder.pid()), Signal::SIGKILL).unwrap();
    let finished = holder.wait_with_stdin_open();
    assert_eq!(finished.code, Some(70), "{}", finished.stderr);
    wait_until("the lock is free", || server.queue_len("a") == 0);
}

/// Lets the wrapper find its own pipe of signals broken, as soon as one comes: its reads of 64 bytes at
/// once fail, which nobody else makes here.
fn deaf_to_signals(mut command: Command) -> Command {
    const LOW_HALF: u32 = if cfg!(target_endian = "big") { 4 } else { 0 };
    const THIRD_ARGUMENT: u32 = 32 + LOW_HALF;
    let step =
        |code: u32, k: u32, otherwise: u8| libc::sock_filter { code: code as u16, jt: 0, jf: otherwise, k };
    let (load, skip_unless) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ);
    let mut filter = [
        step(load, 0, 0),
        step(skip_unless, libc::SYS_recvfrom as u32, 3),
        step(load, THIRD_ARGUMENT, 0),
        step(skip_unless, 64, 1),
        step(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EIO as u32, 0),
        step(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0),
    ];
    // SAFETY: two system calls, which may be made between fork and exec; the filter is the closure's.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            nix::sys::prctl::set_no_new_privs()?;
            let (mode, program) = (libc::SECCOMP_MODE_FILTER, &raw const program);
            Errno::result(libc::prctl(libc::PR_SET_SECCOMP, mode, program))?;
            Ok(())
        })
    };
    command
}

#[test]
fn a_panic_of_ours_is_70_and_leaves_neither_command_nor_lock() {
    let server = Server::start();
    let options = ["-i", "a", "--ttl", LONG_TTL];
    let mut holder = deaf_to_signals(server.exec(&options, &sh("echo $$; exec sleep 1000")));
    let mut holder = Running::start(&mut holder);
    let command = Pid::from_raw(holder.line().parse().unwrap());
    let waiter = Running::start(&mut deaf_to_signals(server.exec(&options, &["echo", "never"])));
    wait_until("it waits", || server.queue_len("a") == 2);
    for (running, left) in [(waiter, 1), (holder, 0)] {
        running.signal(Signal::SIGUSR1);
        let finished = running.finish();
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(70), ""), "{}", finished.stderr);
        assert!(finished.stderr.contains("our own pipe can be read"), "{}", finished.stderr);
        wait_until("the lock is free of it", || server.queue_len("a") == left);
    }
    assert!(!is_alive(command));
}

#[test]
fn nobody_waits_on_without_a_guardian() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a"]);
    let waiter = server.wait_for("a", &["-i", "a"], &["echo", "never"]);
    nix::sys::signal::kill(crate::support::guardian_of(waiter.pid()), Signal::SIGKILL).unwrap();
    let finished = waiter.finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(70), ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("guardian"), "{}", finished.stderr);
    assert_eq!(server.queue_len("a"), 1);
}

#[test]
fn a_signal_while_waiting_is_128_and_its_number() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a"]);
    for (signal, code) in
        [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGQUIT, 131)]
    {
        let waiter: Running = server.wait_for("a", &["-i", "a"], &["echo", "never"]);
        waiter.signal(signal);
        let finished = waiter.finish();
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(code), ""), "{signal}");
        wait_until("it has left the queue", || server.queue_len("a") == 1);
    }
}

#[test]
fn help_is_0_and_on_stdout() {
    let help = finish(officer_exec().arg("--help"));
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("--lock-timeout") && help.stderr.is_empty());
}

#[test]
fn a_server_that_hangs_up_at_once_is_69_and_is_not_asked_all_the_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || listener.incoming().for_each(|stream| drop((stream, tell.send(())))));
    let mut command = officer_exec();
    command.args(["-s", &format!("officer://{address}"), "--ttl", "0", "-T", "300ms", "echo", "never"]);
    let finished = finish(&mut command);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""), "{}", finished.stderr);
    assert!(finished.stderr.lines().count() <= 2, "{}", finished.stderr);
    let connections = told.try_iter().count();
    assert!(connections < 20, "{connections} connections");
}

#[test]
fn a_request_that_the_server_refuses_is_77() {
    let server = Server::start();
    let finished = server.run(&["-i", "a", "-c", "2000000"], &["echo", "never"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(77), ""));
    assert!(finished.stderr.contains("limit must be"), "{}", finished.stderr);
}

#[test]
fn an_answer_that_nobody_can_read_is_70_and_no_panic() {
    let server = Server::start();
    let url = server.url();
    for words in [
        &["--print-lock-id", "true"][..],
        &["generate", "man"][..],
        &["status", "-s", &url][..],
        &["status", "-s", &url, "--watch"][..],
    ] {
        let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = officer_exec();
        let child = crate::support::spawn_tied(command.args(words).stdout(full()).stderr(Stdio::piped()));
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(70), "{words:?}: {stderr}");
        assert!(stderr.starts_with("officer-exec: cannot write to stdout: "), "{words:?}: {stderr}");
        let mut mute = officer_exec();
        mute.args(["status", "-s", "unix:/nowhere/socket"]).stderr(full());
        assert_eq!(mute.status().unwrap().code(), Some(69));
    }
}
