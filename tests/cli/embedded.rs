//! With nothing configured: an embedded server, one for each user, whatever the environment. What it
//! promises as every engine does is in `tests/backends`.
//!
//! Each test is a user of its own (a uid that nobody has), so it needs root.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Pid, geteuid};

use crate::support::{PROGRAM, Running, Server, clean, finish, guardian_of, is_alive, sh, wait_until};

/// A uid with an embedded server of its own.
struct User(u32);

impl User {
    fn new() -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("skipped: needs root, to be a user of its own");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        const NOBODYS: u32 = 1_000_000_000;
        Some(Self(NOBODYS + std::process::id() * 100 + NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = clean(Command::new(program));
        command.uid(self.0).gid(self.0).current_dir("/");
        command
    }

    fn exec(&self, words: &[&str]) -> Command {
        let mut command = self.command(program());
        command.args(words);
        command
    }

    fn hold(&self, options: &[&str]) -> Running {
        let script = ["--", "sh", "-c", "echo started; read line; exit 3"];
        let mut running = Running::start(&mut self.exec(&[options, &script].concat()));
        running.expect_line("started");
        running
    }

    /// The embedded server's process, told by the kernel.
    fn server(&self) -> Option<Pid> {
        let address = SocketAddr::from_abstract_name(format!("officer-exec/{}", self.0)).unwrap();
        let stream = UnixStream::connect_addr(&address).ok()?;
        Some(Pid::from_raw(getsockopt(&stream, sockopt::PeerCredentials).unwrap().pid()))
    }

    fn kill_server(&self) {
        let server = self.server().expect("the embedded server runs");
        kill(server, Signal::SIGKILL).unwrap();
        wait_until("the embedded server is dead", || !is_alive(server));
    }

    fn state(&self) -> PathBuf {
        format!("/dev/shm/officer-exec-{}", self.0).into()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(server) = self.server() {
            let _ = kill(server, Signal::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(self.state());
    }
}

/// The program, where every user can run it.
fn program() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("officer-test-").tempdir_in("/tmp").unwrap().keep();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.join("officer-exec");
        std::fs::copy(PROGRAM, &copy).unwrap();
        copy
    })
}

#[test]
fn with_nothing_configured_it_works_and_says_so_in_one_line() {
    let Some(user) = User::new() else { return };
    let finished = finish(&mut user.exec(&["-i", "a", "--", "echo", "hello"]));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "hello\n"), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("local to this host and user"), "{}", finished.stderr);
}

#[test]
fn named_local_is_silent() {
    let Some(user) = User::new() else { return };
    let finished = finish(&mut user.exec(&["-s", "local", "--", "echo", "hello"]));
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("hello\n", ""));
}

#[test]
fn one_user_meets_one_lock_whatever_the_environment() {
    let Some(user) = User::new() else { return };
    let _holder = user.hold(&["-i", "a"]);
    let program = program().to_str().unwrap();
    let probe = [program, "-s", "local", "-i", "a", "-n", "true"];
    let home = tempfile::tempdir().unwrap();

    let mut bare = user.command("env");
    bare.arg("-i").args(probe);
    let mut other_home = user.exec(&probe[1..]);
    other_home
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .env("XDG_STATE_HOME", home.path());
    other_home.env("TMPDIR", home.path());
    let mut private_tmp = clean(Command::new("unshare"));
    let script = format!(
        "mkdir -p /run/officer-test && cp {program} /run/officer-test/{uid} && mount -t tmpfs tmpfs /tmp && \
         mount -t tmpfs tmpfs /var/tmp && setpriv --reuid {uid} --regid {uid} --clear-groups \
         /run/officer-test/{uid} -s local -i a -n true; code=$?; rm /run/officer-test/{uid}; exit $code",
        uid = user.0
    );
    private_tmp.args(["--mount", "sh", "-c", &script]);
    for (what, mut command) in
        [("env -i", bare), ("another HOME", other_home), ("a private /tmp", private_tmp)]
    {
        let finished = finish(&mut command);
        assert_eq!(finished.code, Some(75), "{what}: {}", finished.stderr);
    }
}

#[test]
fn another_user_has_locks_of_its_own() {
    let (Some(one), Some(other)) = (User::new(), User::new()) else { return };
    let _holder = one.hold(&["-s", "local", "-i", "a"]);
    assert_eq!(finish(&mut other.exec(&["-s", "local", "-i", "a", "-n", "true"])).code, Some(0));
}

#[test]
fn twenty_at_once_on_a_cold_host_elect_one_server_and_lose_no_lock() {
    let Some(user) = User::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let inside = folder.path().join("inside");
    // Fails if two are inside at once; counts those that were.
    let script = format!("mkdir {0} || exit 99; sleep 0.01; rmdir {0}; echo done", inside.display());
    let mut all: Vec<Running> = (0..20)
        .map(|_| Running::start(user.exec(&["-s", "local", "-i", "a", "--"]).args(sh(&script))))
        .collect();
    let mut servers = BTreeSet::new();
    while all.iter_mut().any(Running::is_running) {
        servers.extend(user.server());
    }
    for running in all {
        let finished = running.finish();
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "done\n"), "{}", finished.stderr);
    }
    assert_eq!(servers.len(), 1, "{servers:?}");
}

#[test]
fn a_killed_server_is_replaced_by_one_that_knows_the_session() {
    let Some(user) = User::new() else { return };
    let mut holder = user.hold(&["-s", "local", "-i", "a"]);
    for _ in 0..3 {
        user.kill_server();
        let probe = finish(&mut user.exec(&["-s", "local", "-i", "a", "-n", "true"]));
        assert_eq!(probe.code, Some(75), "{}", probe.stderr);
    }
    assert!(holder.is_running());
    user.kill_server();
    // Nobody else asks: the wrapper itself starts the next server.
    wait_until("a new server is there", || user.server().is_some());
    let finished = holder.finish();
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let free = finish(&mut user.exec(&["-s", "local", "-i", "a", "-n", "true"]));
    assert_eq!(free.code, Some(0), "{}", free.stderr);
}

#[test]
fn the_server_belongs_to_nobody() {
    let Some(user) = User::new() else { return };
    let holder = user.hold(&["-s", "local", "-i", "a"]);
    let server = user.server().unwrap();
    // Ctrl-C at the starter's terminal, and the end of its tree, must not reach it.
    assert_eq!(nix::unistd::getsid(Some(server)).unwrap(), server);
    assert_eq!(holder.finish().code, Some(3));
    assert!(is_alive(server));
    let open = std::fs::read_dir(format!("/proc/{server}/fd")).unwrap();
    let targets: Vec<String> = open
        .filter_map(|fd| Some(std::fs::read_link(fd.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    assert!(!targets.iter().any(|target| target.starts_with("pipe:")), "{targets:?}");
}

#[test]
fn a_squatter_is_refused() {
    let Some(user) = User::new() else { return };
    let address = SocketAddr::from_abstract_name(format!("officer-exec/{}", user.0)).unwrap();
    let _squatter = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let finished = finish(&mut user.exec(&["-s", "local", "--", "echo", "never"]));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(77), ""));
    assert!(finished.stderr.contains("held by uid 0"), "{}", finished.stderr);
}

#[test]
fn where_no_server_runs_operators_are_told_that_nobody_holds() {
    let Some(user) = User::new() else { return };
    let ask = |words: &[&str]| finish(&mut user.exec(words));
    let release = ["release", "a", "--token", "1", "--reason", "test"];
    let expected = [
        (&["status"][..], 0, "nobody holds or waits (no embedded server runs)\n"),
        (&["status", "a"], 0, "nobody holds or waits (no embedded server runs)\n"),
        (&["verify", "a", "1"], 79, "not held\n"),
        (&release, 79, "not held by this token\n"),
        (&["ping"], 69, ""),
    ];
    for (words, code, stdout) in expected {
        let finished = ask(words);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(code), stdout), "{finished:?}");
    }
    let ping = ask(&["ping"]).stderr;
    assert!(ping.contains("no embedded server runs; the first `officer-exec -s local` starts one"), "{ping}");
    let json = |words: &[&str]| serde_json::from_str::<serde_json::Value>(&ask(words).stdout).unwrap();
    let keys = |status: &serde_json::Value| {
        let names =
            |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        (names(status), names(&status["server"]))
    };
    let at_rest = json(&["status", "--json"]);
    assert_eq!(at_rest["value"], serde_json::json!([]));
    assert_eq!(user.server(), None, "a question has started it");

    // In the same form as a server's own; and one that was killed may be needed still.
    let holder = user.hold(&["-s", "local", "-i", "a"]);
    assert_eq!(keys(&at_rest), keys(&json(&["status", "--json"])));
    holder.signal(Signal::SIGSTOP);
    user.kill_server();
    for words in [&["status"][..], &["verify", "a", "1"], &release] {
        let finished = ask(words);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""), "{finished:?}");
        assert!(finished.stderr.contains("the embedded server was killed"), "{finished:?}");
    }
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(3));
}

#[test]
fn operators_are_told_who_starts_a_killed_server_again() {
    let Some(user) = User::new() else { return };
    let status = || finish(&mut user.exec(&["status", "-s", "local"]));
    let run = |lock| finish(&mut user.exec(&["-s", "local", "-i", lock, "true"])).code;
    assert_eq!(run("a"), Some(0));
    user.kill_server();
    let told = status();
    assert_eq!((told.code, told.stdout.as_str()), (Some(69), ""), "{told:?}");
    assert!(
        told.stderr.contains(
            "the embedded server was killed or is just ending; an officer-exec that holds or waits \
             starts it again, and so does the next `officer-exec -s local`"
        ),
        "{told:?}"
    );
    // The next command.
    assert_eq!(run("a"), Some(0));
    wait_until("the command's connection is closed", || {
        status().stdout == "nobody holds or waits (1 connection, 0 sessions)\n"
    });

    // One that waits, while the holder can't.
    let holder = user.hold(&["-s", "local", "-i", "a", "--ttl", "60"]);
    let waiter = Running::start(&mut user.exec(&["-s", "local", "-i", "a", "--", "echo", "next"]));
    wait_until("it waits", || status().stdout.contains("waits"));
    holder.signal(Signal::SIGSTOP);
    user.kill_server();
    wait_until("both are known again", || {
        let known = status().stdout;
        known.contains("waits") && known.contains("suspended")
    });
    holder.signal(Signal::SIGCONT);
    assert_eq!(holder.finish().code, Some(3));
    assert_eq!(waiter.finish().stdout, "next\n");
}

#[test]
fn operators_do_not_believe_a_squatter() {
    let Some(user) = User::new() else { return };
    let address = SocketAddr::from_abstract_name(format!("officer-exec/{}", user.0)).unwrap();
    let squatter = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let release = ["release", "a", "--token", "1", "--reason", "test"];
    for words in [&["verify", "a", "1"][..], &["status"], &["ping"], &release] {
        let asked = Running::start(user.exec(words).args(["-s", "local"]));
        let (mut stream, _) = squatter.accept().unwrap();
        let _ = stream.write_all(b"{\"name\":\"a\",\"token\":1,\"held\":true,\"result\":\"verified\"}\n");
        let finished = asked.finish();
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(77), ""), "{words:?}: {finished:?}");
        assert!(finished.stderr.contains("held by uid 0"), "{words:?}: {finished:?}");
    }
}

#[test]
fn a_state_folder_of_another_is_refused() {
    let Some(user) = User::new() else { return };
    std::fs::create_dir(user.state()).unwrap();
    let finished = finish(&mut user.exec(&["-s", "local", "-T", "1", "--", "echo", "never"]));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""));
    assert!(finished.stderr.contains("it belongs to uid 0"), "{}", finished.stderr);
}

/// The embedded server is started by a wrapper that runs under a lock of another server.
mod under_another_lock {
    use super::*;

    /// A configured server that every user can reach.
    fn outer_server() -> Server {
        let server = Server::start();
        let all = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(server.socket().parent().unwrap(), all(0o755)).unwrap();
        std::fs::set_permissions(server.socket(), all(0o777)).unwrap();
        server
    }

    fn outer(user: &User, server: &Server, options: &[&str], script: &str) -> Command {
        let mut command = user.exec(&["-i", "outer", "--server", &server.url()]);
        command.args(options).arg("--").args(sh(script)).env("PROGRAM", program());
        command
    }

    const INNER: &str = "$PROGRAM --server local -i inner -- true";

    #[test]
    fn the_server_is_no_leftover_and_holds_no_lock() {
        for options in [&["--leftovers", "kill"], &["--leftovers", "wait"]] {
            let (Some(user), server) = (User::new(), outer_server()) else { return };
            // With and without something else that outlives the command.
            for script in [INNER.to_owned(), format!("{INNER}; (sleep 0.05 &)")] {
                let finished = finish(&mut outer(&user, &server, options, &script));
                assert_eq!(finished.code, Some(0), "{finished:?}");
                assert!(!finished.stderr.contains("officer-exec ("), "{finished:?}");
                assert_eq!(server.queue_len("outer"), 0);
                assert!(user.server().is_some(), "it was ended with the tree: {finished:?}");
            }
            user.kill_server();
        }
    }

    #[test]
    fn a_tree_is_ended_and_the_server_goes_on_serving_others() {
        let Some(user) = User::new() else { return };
        let server = outer_server();
        let script = format!("{INNER}; echo started; trap '' TERM; while :; do sleep 1; done");
        let mut running = Running::start(&mut outer(&user, &server, &["--grace", "100ms"], &script));
        running.expect_line("started");
        let embedded = user.server().unwrap();
        let holder = user.hold(&["-s", "local", "-i", "a"]);
        running.signal(Signal::SIGTERM);
        assert_eq!(running.wait_with_stdin_open().code, Some(137));
        assert_eq!(server.queue_len("outer"), 0);
        assert_eq!(user.server(), Some(embedded));
        assert_eq!(holder.finish().code, Some(3));
    }

    #[test]
    fn the_server_outlives_a_killed_guardian_and_a_killed_wrapper() {
        let Some(user) = User::new() else { return };
        let server = outer_server();
        let mut embedded = None;
        for victim in [guardian_of, |wrapper| wrapper] {
            let script = format!("{INNER}; echo started; read line");
            let mut running = Running::start(&mut outer(&user, &server, &[], &script));
            running.expect_line("started");
            let found = user.server();
            assert!(found.is_some() && (embedded.is_none() || embedded == found));
            embedded = found;
            kill(victim(running.pid()), Signal::SIGKILL).unwrap();
            running.wait();
            wait_until("the lock is free", || server.queue_len("outer") == 0);
            assert_eq!(user.server(), embedded);
            assert_eq!(finish(&mut user.exec(&["-s", "local", "-i", "a", "true"])).code, Some(0));
            // The next round starts a server of its own below its tree.
            if embedded.is_some() {
                user.kill_server();
                embedded = None;
            }
        }
    }

    #[test]
    fn what_only_looks_like_the_server_is_ended() {
        let Some(user) = User::new() else { return };
        let server = outer_server();
        let folder = tempfile::Builder::new().prefix("officer-test-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let other = folder.path().join("officer-exec");
        std::fs::copy(PROGRAM, &other).unwrap();
        // Another program at the user's socket; and this program at another socket.
        let impostor = format!("{} --server local -i inner -- true", other.display());
        let socket = format!("/tmp/officer-test-{}", user.0);
        let stranger = format!(
            "$PROGRAM serve --ephemeral -o UNIX -f {socket} 2>/dev/null & \
             until [ -S {socket} ]; do sleep 0.01; done"
        );
        for script in [impostor, stranger] {
            let finished = finish(&mut outer(&user, &server, &[], &script));
            assert!(
                finished.stderr.contains("left processes behind, ending them: officer-exec ("),
                "{finished:?}"
            );
            assert_eq!(server.queue_len("outer"), 0);
            assert_eq!(user.server(), None);
            let _ = std::fs::remove_file(&socket);
        }
    }

    #[test]
    fn it_is_not_started_in_isolation_with_which_it_would_end() {
        let Some(user) = User::new() else { return };
        let server = outer_server();
        let inner = "$PROGRAM --server local -i inner -T 500ms -- echo inside";
        let mut isolated = outer(&user, &server, &["--isolate"], inner);
        let refused = finish(&mut isolated);
        if refused.stderr.contains("cannot isolate") {
            return eprintln!("skipped: this user may not make namespaces: {}", refused.stderr);
        }
        assert_eq!((refused.code, user.server()), (Some(69), None), "{refused:?}");
        assert!(
            refused.stderr.contains("one that is started under --isolate would end with it"),
            "{refused:?}"
        );
        // One that runs outside serves in there too, and goes on.
        let holder = user.hold(&["-s", "local", "-i", "a"]);
        let embedded = user.server();
        let served = finish(&mut isolated);
        assert_eq!((served.code, served.stdout.as_str()), (Some(0), "inside\n"), "{served:?}");
        assert_eq!(user.server(), embedded);
        assert_eq!(holder.finish().code, Some(3));
    }
}

#[test]
fn a_limit_on_processes_costs_no_line_and_no_run() {
    let Some(user) = User::new() else { return };
    let server = Server::start();
    std::fs::set_permissions(server.socket().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(server.socket(), Permissions::from_mode(0o777)).unwrap();
    let mut command = user.exec(&["-s", &server.url(), "--max-hold", "1", "--", "sleep", "1000"]);
    // The wrapper, its guardian and the command, so no thread for the log.
    // SAFETY: one system call, which may be made between fork and exec.
    unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_NPROC, 3, 3)?)) };
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(124), "{}", finished.stderr);
    assert!(finished.stderr.contains("held for --max-hold"), "{}", finished.stderr);
}

#[test]
fn a_limit_on_processes_is_told_if_the_server_can_not_be_started() {
    let Some(user) = User::new() else { return };
    let mut command = user.exec(&["-s", "local", "-T", "1s", "--", "true"]);
    // The wrapper and its guardian.
    // SAFETY: one system call, which may be made between fork and exec.
    unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_NPROC, 2, 2)?)) };
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(69), "{}", finished.stderr);
    assert!(finished.stderr.contains("cannot start a thread"), "{}", finished.stderr);
}
