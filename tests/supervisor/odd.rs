//! Processes that can't simply be killed.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use officer::supervisor::Leftovers;

use crate::driver::{Setting, copy, is_alive, pid_in, send, state, wait_until};

crate::promises![
    what_may_not_be_killed_is_named_and_keeps_the_tree_alive,
    a_traced_process_is_killed_and_waited_for,
    a_zombie_in_the_tree_is_no_leftover,
];

/// A user that isn't root; there needn't be such an account.
const NOBODY: u32 = 65534;

/// A setuid program that becomes root altogether, run by a wrapper that isn't root.
fn what_may_not_be_killed_is_named_and_keeps_the_tree_alive() {
    if !Uid::effective().is_root() {
        println!("skipped: only root can make a setuid program");
        return;
    }
    let programs = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let becomes_root = programs.path().join("becomes-root");
    copy("/usr/bin/setpriv", &becomes_root);
    set_mode(programs.path(), 0o755);
    set_mode(&becomes_root, 0o4755);
    let script = format!(
        "{} --reuid=0 --regid=0 --clear-groups sh -c 'echo $$; exec sleep 1000' & wait",
        becomes_root.display()
    );
    let mut setting = Setting::script(&script);
    let ourselves = programs.path().join("tests");
    copy(std::env::current_exe().unwrap(), &ourselves);
    setting.command = std::process::Command::new(&ourselves);
    setting.command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    setting.command.process_group(0).uid(NOBODY).gid(NOBODY);
    set_mode(setting.folder.path(), 0o777);
    let mut wrapper = setting.start();
    wrapper.started();
    let rooted = wrapper.pid_line();
    wrapper.order("kill");
    let told = wrapper.event_at_last("unkillable");
    assert_eq!(pid_in(&told["list"][0]["pid"]), rooted, "{told}");
    assert!(is_alive(rooted));
    send(rooted, Signal::SIGKILL);
    wrapper.event_at_last("tree_dead");
}

fn set_mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

fn a_traced_process_is_killed_and_waited_for() {
    let mut wrapper = Setting::script("sh -c 'echo $$; read line; :'; :").start();
    wrapper.started();
    let traced = Pid::from_raw(wrapper.pid_line());
    ptrace::attach(traced).expect("it may be traced");
    assert!(matches!(waitpid(traced, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Stopped(..))));
    assert_eq!(state(traced.as_raw()), Some('t'));
    wrapper.order("kill");
    // Its tracer is told first, and only then its parent.
    assert!(matches!(
        waitpid(traced, Some(WaitPidFlag::__WALL)),
        Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _))
    ));
    wrapper.event_at_last("tree_dead");
}

fn a_zombie_in_the_tree_is_no_leftover() {
    // The shell becomes a program that never waits for the shell's child.
    let mut setting = Setting::script("sh -c 'echo $$' & exec cat");
    setting.plan.leftovers = Leftovers::Wait;
    let mut wrapper = setting.start();
    wrapper.started();
    let zombie = wrapper.pid_line();
    wait_until("it is a zombie", || state(zombie) == Some('Z'));
    drop(wrapper.stdin.take());
    wrapper.event("ended");
    wrapper.event("tree_dead");
}
