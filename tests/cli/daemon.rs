//! `serve start|stop|restart|status`: a server in the background and its pid file.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    Finished, PROGRAM, Running, clean, finish, is_alive, officer_exec, pid_of, spawn_tied, wait_until,
};

const STARTS: usize = 3;
const ROUNDS: usize = 4;

struct Daemon {
    dir: tempfile::TempDir,
}

impl Daemon {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, action: &str) -> Command {
        let mut command = officer_exec();
        command.args(["serve", action, "-o", "UNIX", "-f"]).arg(self.path().join("socket"));
        command.arg("-d").arg(self.path()).arg("--data-dir").arg(self.path().join("data"));
        command
    }

    fn serve(&self, action: &str) -> Finished {
        finish(&mut self.command(action))
    }

    fn pid(&self) -> i32 {
        std::fs::read_to_string(self.path().join("officer.pid")).unwrap().trim().parse().unwrap()
    }

    fn ping(&self) -> Option<i32> {
        let url = format!("unix:{}", self.path().join("socket").display());
        finish(officer_exec().args(["ping", "--server", &url])).code
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serve("stop");
    }
}

#[test]
fn start_comes_back_when_the_server_serves_and_stop_when_it_has_ended() {
    let daemon = Daemon::new();
    let started = daemon.serve("start");
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    assert_eq!(daemon.ping(), Some(0));
    let status = daemon.serve("status");
    assert_eq!((status.code, status.stdout), (Some(0), format!("running with pid {}\n", daemon.pid())));
    let stopped = daemon.serve("stop");
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    assert_eq!(daemon.ping(), Some(69));
    let status = daemon.serve("status");
    assert_eq!((status.code, status.stdout.as_str()), (Some(3), "not running\n"));
    assert!(!daemon.path().join("officer.pid").exists());
    let log = std::fs::read_to_string(daemon.path().join("officer.log")).unwrap();
    assert!(log.contains("listening") && log.contains("ended"), "{log}");
}

#[test]
fn a_second_start_fails_and_names_the_pid() {
    let daemon = Daemon::new();
    daemon.serve("start");
    let second = daemon.serve("start");
    assert_eq!(second.code, Some(70));
    assert!(second.stderr.contains(&format!("with pid {}", daemon.pid())), "{}", second.stderr);
}

#[test]
fn a_stale_pid_file_is_replaced() {
    let daemon = Daemon::new();
    // A living process has this number, but it is no server of ours.
    std::fs::write(daemon.path().join("officer.pid"), "1\n").unwrap();
    assert_eq!(daemon.serve("status").code, Some(3));
    assert_eq!(daemon.serve("start").code, Some(0));
    assert_ne!(daemon.pid(), 1);
}

#[test]
fn a_number_that_somebody_else_keeps_locked_is_no_servers() {
    let daemon = Daemon::new();
    let mut bystander = spawn_tied(Command::new("sleep").arg("1000"));
    // As anybody may have left it in /tmp.
    let path = daemon.path().join("officer.pid");
    std::fs::write(&path, format!("{}\n", bystander.id())).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    file.lock_shared().unwrap();
    assert_eq!(daemon.serve("status").code, Some(3));
    assert_eq!(daemon.serve("stop").code, Some(0));
    let whole = nix::libc::flock {
        l_type: nix::libc::F_RDLCK as _,
        l_whence: nix::libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    for action in ["status", "stop", "start", "restart"] {
        let refused = daemon.serve(action);
        assert_eq!(refused.code, Some(70), "{}", refused.stderr);
        assert!(refused.stderr.contains(path.to_str().unwrap()), "{}", refused.stderr);
    }
    assert!(is_alive(pid_of(&bystander)));
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn of_many_starts_at_once_one_serves_and_nobody_who_looks_is_in_its_way() {
    let daemon = Daemon::new();
    for round in 0..ROUNDS {
        let starts: Vec<Finished> = std::thread::scope(|scope| {
            // Twice as many look as start.
            let looks: Vec<_> = (0..2 * STARTS).map(|_| scope.spawn(|| daemon.serve("status"))).collect();
            let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(|| daemon.serve("start"))).collect();
            for look in looks {
                let look = look.join().unwrap();
                assert!(matches!(look.code, Some(0 | 3)), "{}", look.stderr);
            }
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let pid = daemon.pid();
        for start in &starts {
            let is_told = start.stderr.contains(&format!("with pid {pid} "));
            assert!(start.code == Some(0) || is_told, "round {round}: {}", start.stderr);
        }
        assert_eq!(starts.iter().filter(|start| start.code == Some(0)).count(), 1);
        assert_eq!(daemon.serve("status").stdout, format!("running with pid {pid}\n"));
        assert_eq!(daemon.serve("stop").code, Some(0));
    }
}

#[test]
fn restart_is_another_process_with_the_same_sessions() {
    let daemon = Daemon::new();
    daemon.serve("start");
    let first = daemon.pid();
    let url = format!("unix:{}", daemon.path().join("socket").display());
    let mut holder = Running::start(officer_exec().args([
        "--server",
        &url,
        "-i",
        "a",
        "--",
        "sh",
        "-c",
        "echo started; read line; exit 3",
    ]));
    holder.expect_line("started");
    let restarted = daemon.serve("restart");
    assert_eq!(restarted.code, Some(0), "{}", restarted.stderr);
    assert_ne!(daemon.pid(), first);
    let busy = finish(officer_exec().args(["--server", &url, "-i", "a", "-n", "--", "true"]));
    assert_eq!(busy.code, Some(75), "{}", busy.stderr);
    assert_eq!(holder.finish().code, Some(3));
}

#[test]
fn a_start_that_fails_says_why() {
    let daemon = Daemon::new();
    let failed = finish(
        officer_exec()
            .args(["serve", "start", "--ephemeral", "-o", "UNIX", "-f", "/proc/nowhere", "-d"])
            .arg(daemon.path()),
    );
    assert_eq!(failed.code, Some(70));
    assert!(failed.stderr.contains("cannot listen on /proc/nowhere"), "{}", failed.stderr);
    assert_eq!(daemon.serve("status").code, Some(3));
}

#[test]
fn a_hangup_opens_the_log_anew_and_the_server_goes_on() {
    let daemon = Daemon::new();
    daemon.serve("start");
    let pid = daemon.pid();
    let (log, moved) = (daemon.path().join("officer.log"), daemon.path().join("officer.log.1"));
    std::fs::rename(&log, &moved).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until("it logs to a new file", || text().contains("the log goes on in this file"));
    assert_eq!((daemon.ping(), daemon.pid()), (Some(0), pid));
    assert_eq!(daemon.serve("stop").code, Some(0));
    assert!(text().contains("ended"), "{}", text());
    assert!(!std::fs::read_to_string(moved).unwrap().contains("ended"));
}

#[test]
fn statistics_that_the_level_hides_are_warned_of() {
    for (level, is_told) in [("error", true), ("warn", true), ("info", false)] {
        let daemon = Daemon::new();
        let started = finish(daemon.command("start").args(["--stats", "--log-level", level]));
        assert_eq!(started.code, Some(0), "{}", started.stderr);
        let told = format!("the log level is {level}");
        assert_eq!(started.stderr.contains(&told), is_told, "{}", started.stderr);
    }
}

#[test]
fn statistics_name_locks_and_connections_and_count_what_was_acquired() {
    let daemon = Daemon::new();
    let mut server = in_the_foreground(&daemon, "exec \"$@\" --stats");
    let ask = |lock: &str| {
        let mut stream = UnixStream::connect(daemon.path().join("socket")).unwrap();
        writeln!(stream, r#"{{"command":"lock","name":"{lock}"}}"#).unwrap();
        stream
    };
    let mut answer = String::new();
    let holder = ask("a");
    BufReader::new(&holder).read_line(&mut answer).unwrap();
    assert!(answer.contains("acquired"), "{answer}");
    let _waiter = ask("a");
    // One in 5 seconds, told once, be it before the waiter is.
    let mut rates = Vec::new();
    let full = server.stderr_until(|line| {
        let rate = line.split_once("acquired_a_second=\"")?.1.split('"').next()?;
        rates.push(rate.to_owned());
        (line.contains("client 2") && rates.len() > 1).then(|| line.to_owned())
    });
    rates.sort();
    assert_eq!(rates.pop().as_deref(), Some("0.2"));
    assert!(rates.iter().all(|rate| rate == "0.0"), "{rates:?}");
    for part in [
        "INFO statistics ",
        "connected=2 sessions=0 held_or_waited_for=1",
        r#"locks="{\"a\":[\"UNIX socket client 1\",\"UNIX socket client 2\"]}""#,
        r#"connections="{\"UNIX socket client 1\":[\"a\"],\"UNIX socket client 2\":[\"a\"]}""#,
    ] {
        assert!(full.contains(part), "{part}: {full}");
    }
}

#[test]
fn a_pipe_in_place_of_the_log_fails_the_start_at_once() {
    let daemon = Daemon::new();
    nix::unistd::mkfifo(&daemon.path().join("officer.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let failed = daemon.serve("start");
    assert_eq!(failed.code, Some(70));
    assert!(failed.stderr.contains("officer.log: it is no regular file"), "{}", failed.stderr);
}

/// A server in the foreground that clients can reach.
fn in_the_foreground(daemon: &Daemon, shell: &str) -> Running {
    let mut command = clean(Command::new("sh"));
    command.args(["-c", shell, "sh", PROGRAM, "serve", "--ephemeral", "-o", "UNIX", "-f"]);
    let mut server = Running::start(command.arg(daemon.path().join("socket")));
    server.stderr_until(|line| line.contains("listening").then_some(()));
    server
}

#[test]
fn a_closed_terminal_is_a_clean_end() {
    let daemon = Daemon::new();
    let server = in_the_foreground(&daemon, "exec \"$@\"");
    server.signal(Signal::SIGHUP);
    let finished = server.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("ended"), "{}", finished.stderr);
    assert!(!daemon.path().join("socket").exists());
}

#[test]
fn nohup_is_respected() {
    let daemon = Daemon::new();
    let mut server = in_the_foreground(&daemon, "trap '' HUP; exec \"$@\"");
    server.signal(Signal::SIGHUP);
    assert_eq!(daemon.ping(), Some(0));
    assert!(server.is_running());
    server.signal(Signal::SIGTERM);
    assert_eq!(server.finish().code, Some(0));
}

#[test]
fn a_daemon_leaves_the_directory_of_its_starter_and_finds_its_files_all_the_same() {
    let daemon = Daemon::new();
    let relative = |action: &str| {
        let mut command = officer_exec();
        command.args(["serve", action, "-d", ".", "-o", "UNIX", "-f", "socket", "--data-dir", "data"]);
        finish(command.current_dir(daemon.path()))
    };
    let started = relative("start");
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    let directory = std::fs::read_link(format!("/proc/{}/cwd", daemon.pid())).unwrap();
    assert_eq!(directory, Path::new("/"));
    assert_eq!(daemon.ping(), Some(0));
    assert!(daemon.path().join("data/officer.db").exists());
    assert_eq!(relative("status").code, Some(0));
    assert_eq!(relative("stop").code, Some(0));
    assert!(!daemon.path().join("officer.pid").exists() && !daemon.path().join("socket").exists());
}

#[test]
fn variables_of_others_and_those_that_a_flag_overrules_are_in_nobodys_way() {
    let daemon = Daemon::new();
    let mut command = officer_exec();
    command.args(["serve", "start", "--ephemeral", "-o", "UNIX", "-f"]).arg(daemon.path().join("socket"));
    command.arg("-d").arg(daemon.path()).env("OFFICER_DATA_DIR", daemon.path().join("data"));
    // What Kubernetes sets for a service of our name.
    let started = finish(command.env("OFFICER_PORT", "tcp://10.0.0.1:11500"));
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    assert_eq!(daemon.ping(), Some(0));
    assert!(!daemon.path().join("data").exists());
    let refused = finish(officer_exec().args(["serve", "--port", "tcp://10.0.0.1:11500"]));
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious");
    std::fs::write(&file, "data").unwrap();
    let mut command = officer_exec();
    command.args(["serve", "--ephemeral", "-o", "UNIX", "-f"]).arg(&file);
    let refused = finish(&mut command);
    assert_eq!(refused.code, Some(70), "{}", refused.stderr);
    assert!(refused.stderr.contains("no socket"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "data");
}

/// As systemd starts a service: sockets from 3 on, a socket to be told at.
#[test]
fn a_socket_unit_gives_the_sockets_and_is_told_when_clients_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given");
    let given = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let manager = std::os::unix::net::UnixDatagram::bind(folder.path().join("manager")).unwrap();
    manager.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    // $$ stays the same over exec, and LISTEN_PID must name the process that gets the sockets.
    let mut command = clean(Command::new("sh"));
    command.arg("-c").arg("LISTEN_PID=$$ exec \"$0\" serve --ephemeral").arg(PROGRAM);
    command.env("LISTEN_FDS", "1").env("NOTIFY_SOCKET", folder.path().join("manager"));
    // SAFETY: dup2 and fcntl are safe between fork and exec. A copy isn't close-on-exec, but a socket
    // that is 3 already is no copy.
    unsafe {
        use std::os::fd::AsRawFd;
        use std::os::unix::process::CommandExt;
        let fd = given.as_raw_fd();
        command.pre_exec(move || match libc::dup2(fd, 3) == 3 && libc::fcntl(3, libc::F_SETFD, 0) == 0 {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        });
    }
    let server = Running::start(&mut command);
    let mut told = [0; 64];
    let len = manager.recv(&mut told).unwrap();
    assert_eq!(String::from_utf8_lossy(&told[..len]).trim(), "READY=1");
    let url = format!("unix:{}", path.display());
    assert_eq!(finish(officer_exec().args(["ping", "--server", &url])).code, Some(0));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.finish().code, Some(0));
    assert!(path.exists(), "the socket file is the socket unit's");
}
