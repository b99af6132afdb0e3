//! Nothing survives the lock: whatever the command left, and whichever of our processes is killed.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    LONG_TTL, PROGRAM, Running, Server, clean, finish, guardian_of, is_alive, marked, sh, wait_until,
};

/// A command whose whole tree can be found, wherever it went.
struct Marked {
    running: Running,
    mark: String,
}

impl Marked {
    fn start(server: &Server, options: &[&str], script: &str, processes: usize) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let value = format!("{}-{number}", std::process::id());
        let mut command = server.exec(options, &sh(script));
        let mut running = Running::start(command.env("TREE_MARK", &value));
        let marked_tree = format!("TREE_MARK={value}");
        running.expect_line("started");
        wait_until("the tree is there", || marked(&marked_tree).len() >= processes);
        Self { running, mark: marked_tree }
    }

    fn survivors(&self) -> Vec<nix::unistd::Pid> {
        marked(&self.mark)
    }
}

/// A daemon as daemons are made: a process session of its own, a double fork, deaf to TERM.
const DAEMON: &str =
    "setsid sh -c 'trap \"\" TERM HUP; (trap \"\" TERM HUP; sleep 1000; :) &' > /dev/null 2>&1;";

/// For the next holder's command: names what is left of the tree before it, then `end`.
fn look_for(mark: &str) -> String {
    format!(
        "for f in $(grep -lzsx '{mark}' /proc/[0-9]*/environ); do cat ${{f%environ}}comm 2>/dev/null; done; echo end"
    )
}

/// What the next holder saw, less our own processes, which may still be on their way out.
fn seen(next: Running) -> Vec<String> {
    let stdout = next.finish().stdout;
    assert!(stdout.ends_with("end\n"), "{stdout}");
    stdout.lines().filter(|line| !line.starts_with("officer-") && *line != "end").map(str::to_owned).collect()
}

fn daemon_and(rest: &str) -> String {
    format!("{DAEMON} {rest}")
}

#[test]
fn a_daemon_is_ended_before_the_lock_passes_on() {
    let server = Server::start();
    let tree =
        Marked::start(&server, &["-i", "a", "--grace", "100ms"], &daemon_and("echo started; read line"), 3);
    let next = server.wait_for("a", &["-i", "a"], &sh(&look_for(&tree.mark)));
    let finished = tree.running.finish();
    assert_eq!(seen(next), [""; 0]);
    assert_eq!(finished.code, Some(1), "the command's own code: read found the end of file");
    assert!(
        finished.stderr.contains("left processes behind") && finished.stderr.contains("sleep"),
        "{}",
        finished.stderr
    );
}

#[test]
fn leftovers_can_be_waited_for() {
    let server = Server::start();
    let script = "exec 3<&0; (read line <&3; echo done) & echo started; exit 5";
    let mut running = Running::start(&mut server.exec(&["-i", "a", "--leftovers", "wait"], &sh(script)));
    running.expect_line("started");
    assert_eq!(server.run(&["-i", "a", "-n"], &["true"]).code, Some(75));
    running.write_line("go on");
    running.expect_line("done");
    assert_eq!(running.finish().code, Some(5));
}

#[test]
fn a_pipeline_is_ended_as_a_whole() {
    let server = Server::start();
    let mut tree =
        Marked::start(&server, &["-i", "a"], "echo started; sleep 1000 | sleep 1000 | sleep 1000", 4);
    tree.running.signal(Signal::SIGTERM);
    tree.running.wait();
    assert_eq!(tree.survivors(), []);
}

#[test]
fn two_hundred_children_are_ended() {
    let server = Server::start();
    let script = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo started; wait";
    let mut tree = Marked::start(&server, &["-i", "a"], script, 201);
    tree.running.signal(Signal::SIGTERM);
    assert_eq!(tree.running.wait().code(), Some(143));
    assert_eq!(tree.survivors(), []);
}

#[test]
fn a_command_that_forks_all_the_time_is_ended() {
    let server = Server::start();
    let script = "trap '' TERM; echo started; while :; do (sleep 0.02; sleep 0.02) & done";
    let mut tree = Marked::start(&server, &["-i", "a", "--grace", "200ms"], script, 10);
    tree.running.signal(Signal::SIGTERM);
    assert_eq!(tree.running.wait().code(), Some(137));
    assert_eq!(tree.survivors(), []);
}

#[test]
fn a_killed_wrapper_takes_its_tree_along_and_the_lock_passes_on() {
    let server = Server::start();
    let script = daemon_and("sleep 1000 | sleep 1000 & echo started; wait");
    // The last will must give the lock back.
    let options = ["-i", "a", "--ttl", LONG_TTL];
    let mut tree = Marked::start(&server, &options, &script, 5);
    let next = server.wait_for("a", &["-i", "a"], &sh(&look_for(&tree.mark)));
    tree.running.signal(Signal::SIGKILL);
    tree.running.wait();
    assert_eq!(seen(next), [""; 0]);
}

#[test]
fn without_a_lease_too_the_tree_is_dead_before_the_lock_passes_on() {
    let server = Server::start();
    let script = daemon_and("echo started; sleep 1000");
    let mut tree = Marked::start(&server, &["-i", "a", "--ttl", "0"], &script, 3);
    let next = server.wait_for("a", &["-i", "a"], &sh(&look_for(&tree.mark)));
    tree.running.signal(Signal::SIGKILL);
    tree.running.wait();
    assert_eq!(seen(next), [""; 0]);
}

#[test]
fn a_killed_guardian_takes_the_tree_along() {
    let server = Server::start();
    let mut tree = Marked::start(&server, &["-i", "a"], &daemon_and("echo started; sleep 1000"), 3);
    kill(guardian_of(tree.running.pid()), Signal::SIGKILL).unwrap();
    assert_eq!(tree.running.wait().code(), Some(70));
    assert_eq!(tree.survivors(), []);
    wait_until("the lock is free", || server.queue_len("a") == 0);
}

#[test]
fn a_lock_below_a_killed_wrapper_passes_on_before_its_lease_ends() {
    let server = Server::start();
    let inner = format!(
        "{PROGRAM} --server {} -i inner --ttl {LONG_TTL} -- sh -c 'echo started; sleep 1000'",
        server.url()
    );
    let mut tree = Marked::start(&server, &["-i", "outer", "--ttl", LONG_TTL], &inner, 3);
    let next_outer = server.wait_for("outer", &["-i", "outer"], &sh(&look_for(&tree.mark)));
    let next_inner = server.wait_for("inner", &["-i", "inner"], &["true"]);
    tree.running.signal(Signal::SIGKILL);
    tree.running.wait();
    assert_eq!(seen(next_outer), [""; 0]);
    assert_eq!(next_inner.finish().code, Some(0));
}

#[test]
fn a_guardian_that_was_stopped_during_the_wait_starts_the_command() {
    let server = Server::start();
    let holder = server.hold(&["-i", "a"]);
    let mut waiter = server.wait_for("a", &["-i", "a", "--ttl", LONG_TTL], &["echo", "started"]);
    kill(guardian_of(waiter.pid()), Signal::SIGSTOP).unwrap();
    holder.finish();
    wait_until("the command has run", || !waiter.is_running());
    assert_eq!(waiter.finish().stdout, "started\n");
}

#[test]
fn a_stopped_wrapper_loses_its_tree_at_the_deadline() {
    let server = Server::start();
    let options = ["-i", "a", "--ttl", "2", "--grace", "300ms"];
    let tree = Marked::start(&server, &options, &daemon_and("echo started; sleep 1000"), 3);
    tree.running.signal(Signal::SIGSTOP);
    let next = server.wait_for("a", &["-i", "a"], &sh(&look_for(&tree.mark)));
    assert_eq!(seen(next), [""; 0]);
    tree.running.signal(Signal::SIGCONT);
    let mut running = tree.running;
    assert_eq!(running.wait().code(), Some(79));
    assert_eq!(marked(&tree.mark), []);
}

#[test]
fn an_isolated_tree_dies_even_if_wrapper_and_guardian_are_killed() {
    let server = Server::start();
    let allowed = server.exec(&["-i", "a", "--isolate"], &["true"]).output().unwrap();
    if !allowed.status.success() {
        let told = String::from_utf8_lossy(&allowed.stderr);
        assert!(told.contains("cannot isolate true in a PID namespace"), "{told}");
        return;
    }
    let options = ["-i", "a", "--isolate"];
    let mut tree = Marked::start(&server, &options, &daemon_and("echo started; sleep 1000"), 3);
    let guardian = guardian_of(tree.running.pid());
    // Neither can act between the two.
    kill(guardian, Signal::SIGSTOP).unwrap();
    tree.running.signal(Signal::SIGKILL);
    kill(guardian, Signal::SIGKILL).unwrap();
    tree.running.wait();
    wait_until("nothing is left", || tree.survivors().is_empty());
}

#[test]
fn used_up_namespaces_are_told_with_the_limits_to_look_at() {
    let server = Server::start();
    let nested = |script: &str| {
        let mut command = clean(Command::new("unshare"));
        finish(command.args(["--user", "--map-root-user"]).args(sh(script)).args([
            "sh",
            PROGRAM,
            &server.url(),
        ]))
    };
    // Limits of a user namespace that ends with the test, not of this machine.
    let limit = |kind: &str| format!("echo 0 > /proc/sys/user/max_{kind}_namespaces");
    let probe = nested(&limit("user"));
    if probe.code != Some(0) {
        return println!("skipped: user namespaces aren't allowed here: {}", probe.stderr);
    }
    let run = "\"$1\" -s \"$2\" -i a --isolate -- true";
    // Who may not make the others makes one of users first.
    let weak = "exec setpriv --bounding-set -sys_admin";
    for script in [
        format!("{}; {run}", limit("pid")),
        format!("{}; {run}", limit("mnt")),
        format!("{}; {weak} {run}", limit("user")),
    ] {
        let refused = nested(&script);
        assert_eq!(refused.code, Some(70), "{script}: {refused:?}");
        assert_eq!(
            refused.stderr,
            "officer-exec: cannot isolate true in a PID namespace: a limit on namespaces is reached (look at \
             the sysctls user.max_pid_namespaces, user.max_mnt_namespaces and user.max_user_namespaces)\n"
        );
    }
    assert_eq!(server.queue_len("a"), 0);
}

/// A wrapper in a mount namespace of its own after `before`, where `script` may hide what it likes;
/// `None` where the kernel doesn't allow one.
fn in_own_mounts(server: &Server, options: &[&str], before: &str, script: &str) -> Option<Command> {
    if finish(Command::new("unshare").args(["-m", "true"])).code != Some(0) {
        println!("skipped: mount namespaces aren't allowed here");
        return None;
    }
    let mut command = clean(Command::new("unshare"));
    command.arg("-m").args(sh(before)).args(["sh", PROGRAM, "--server", &server.url()]);
    command.args(options).arg("--").args(sh(script));
    Some(command)
}

/// What goes before a wrapper that finds everything as it is.
const AS_IT_IS: &str = "exec \"$@\"";

#[test]
fn a_command_runs_without_a_null_device() {
    let server = Server::start();
    let before = format!("mount -t tmpfs none /dev && {AS_IT_IS}");
    let script = "echo started; read line; echo $line; exit 3";
    let Some(mut command) = in_own_mounts(&server, &["-i", "a"], &before, script) else { return };
    let mut running = Running::start(&mut command);
    running.expect_line("started");
    running.write_line("and alive");
    running.expect_line("and alive");
    assert_eq!(running.finish().code, Some(3));
}

/// Leaves a daemon, prints its process id, and hides /proc.
const HIDDEN_DAEMON: &str =
    "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; mount -t tmpfs none /proc; ";

fn daemon_of(running: &mut Running) -> Pid {
    Pid::from_raw(running.line().parse().expect("a process id"))
}

fn wait_for_blindness(running: &mut Running) {
    running.stderr_until(|line| line.contains("cannot look for the processes").then_some(()));
}

#[test]
fn a_guardian_that_cannot_look_keeps_the_lock_until_the_tree_is_dead() {
    let server = Server::start();
    let options = ["-i", "a", "--grace", "100ms"];
    let Some(mut command) = in_own_mounts(&server, &options, AS_IT_IS, HIDDEN_DAEMON) else { return };
    let mut running = Running::start(&mut command);
    let daemon = daemon_of(&mut running);
    wait_for_blindness(&mut running);
    assert_eq!(server.run(&["-i", "a", "-n"], &["true"]).code, Some(75), "nobody else gets it");
    assert!(is_alive(daemon) && running.is_running());
    kill(daemon, Signal::SIGKILL).unwrap();
    let finished = running.finish();
    assert_eq!(finished.code, Some(0));
    assert!(!finished.stderr.contains("cannot look for"), "said once: {}", finished.stderr);
}

#[test]
fn a_wrapper_that_cannot_look_keeps_the_lock_until_the_orphans_are_dead() {
    let server = Server::start();
    let script = format!("{HIDDEN_DAEMON} echo hidden; read line");
    let Some(mut command) = in_own_mounts(&server, &["-i", "a"], AS_IT_IS, &script) else { return };
    let mut running = Running::start(&mut command);
    let daemon = daemon_of(&mut running);
    running.expect_line("hidden");
    kill(guardian_of(running.pid()), Signal::SIGKILL).unwrap();
    wait_for_blindness(&mut running);
    assert_eq!(server.run(&["-i", "a", "-n"], &["true"]).code, Some(75), "nobody else gets it");
    assert!(is_alive(daemon) && running.is_running());
    kill(daemon, Signal::SIGKILL).unwrap();
    assert_eq!(running.finish().code, Some(70));
}

#[test]
fn a_guardian_that_can_look_again_ends_the_tree() {
    let server = Server::start();
    let options = ["-i", "a", "--grace", "100ms"];
    let mut tree = Marked::start(&server, &options, &daemon_and("echo started; read line; exit 4"), 3);
    let guardian = guardian_of(tree.running.pid()).to_string();
    let allow_descriptors = |limit: &str| {
        let limited = Command::new("prlimit").args(["--pid", &guardian, limit]).status().unwrap();
        assert!(limited.success());
    };
    allow_descriptors("--nofile=3:");
    tree.running.write_line("go on");
    wait_for_blindness(&mut tree.running);
    assert!(!tree.survivors().is_empty() && tree.running.is_running());
    allow_descriptors("--nofile=1024:");
    assert_eq!(tree.running.wait().code(), Some(4));
    assert_eq!(tree.survivors(), []);
}
