//! With nothing configured: an embedded server, one for each user, whatever the environment. What it
//! promises as every engine does is in `tests/backends`.
//!
//! Each test is a user of its own (a uid that nobody has), so it needs root.

use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Pid, geteuid};

use crate::support::{PROGRAM, Running, clean, finish, is_alive, sh, wait_until};

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
fn a_state_folder_of_another_is_refused() {
    let Some(user) = User::new() else { return };
    std::fs::create_dir(user.state()).unwrap();
    let finished = finish(&mut user.exec(&["-s", "local", "-T", "1", "--", "echo", "never"]));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(69), ""));
    assert!(finished.stderr.contains("it belongs to uid 0"), "{}", finished.stderr);
}
