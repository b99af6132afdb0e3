//! Wrapper and guardian stand in for each other.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::driver::{PATIENCE, Setting, Wrapper, accept, is_alive, send, state, wait_until};
use crate::wrapper::SECRET;

crate::promises![
    a_killed_wrapper_takes_the_tree_along_and_leaves_its_will,
    a_stopped_wrapper_loses_the_tree_at_its_deadline,
    a_stopped_process_group_loses_the_tree_at_its_deadline,
    a_killed_process_group_takes_the_daemon_along_and_leaves_its_will,
    a_killed_guardian_is_replaced,
    a_spared_child_outlives_the_guardian,
    a_stopped_guardian_is_woken_to_kill,
    a_guardian_that_cannot_be_woken_is_replaced,
    a_guardian_that_stands_still_while_it_kills_is_helped,
    a_term_to_the_process_group_spares_the_guardian,
    a_dismissed_guardian_leaves_no_will,
    a_guardian_without_command_just_leaves,
    a_wrapper_killed_before_its_command_leaves_its_will,
    what_is_kept_open_closes_with_the_tree,
    a_stopped_wrapper_loses_the_tree_with_its_connection,
    a_wrapper_that_stops_the_tree_when_its_connection_is_gone_has_the_grace,
];

/// A shell that waits, and a daemon of it.
const FAMILY: &str = "setsid sh -c 'setsid sleep 1000 >/dev/null & echo $!'; read line";

/// Command and daemon of a running family.
fn family(wrapper: &mut Wrapper) -> [i32; 2] {
    [wrapper.started(), wrapper.pid_line()]
}

fn wait_for_will(wrapper: &Wrapper) {
    wait_until("the will is carried out", || wrapper.will_file().exists());
    let found = std::fs::read_to_string(wrapper.will_file()).unwrap();
    assert_eq!(found, format!("{SECRET} 3"), "the secret, and three descriptors");
}

fn a_killed_wrapper_takes_the_tree_along_and_leaves_its_will() {
    let mut wrapper = Setting::script(FAMILY).will().start();
    let family = family(&mut wrapper);
    wrapper.send(Signal::SIGKILL);
    wait_for_will(&wrapper);
    assert!(!family.into_iter().any(is_alive), "the will comes last");
}

fn a_stopped_wrapper_loses_the_tree_at_its_deadline() {
    let mut wrapper = Setting::script(FAMILY).deadline(Duration::from_millis(500)).start();
    let family = family(&mut wrapper);
    wrapper.send(Signal::SIGSTOP);
    wait_until("the tree is dead", || !family.into_iter().any(is_alive));
    assert_eq!(state(wrapper.pid), Some('T'), "the wrapper still stands");
    wrapper.send(Signal::SIGCONT);
    assert_eq!(wrapper.event_at_last("tree_dead")["killed_by"], json!("Deadline"));
}

fn a_stopped_process_group_loses_the_tree_at_its_deadline() {
    let mut wrapper = Setting::script(FAMILY).deadline(Duration::from_millis(500)).start();
    let family = family(&mut wrapper);
    killpg(Pid::from_raw(wrapper.pid), Signal::SIGSTOP).unwrap();
    wait_until("the tree is dead", || !family.into_iter().any(is_alive));
    assert_eq!(state(wrapper.pid), Some('T'), "the wrapper still stands");
}

fn a_killed_process_group_takes_the_daemon_along_and_leaves_its_will() {
    let mut wrapper = Setting::script(FAMILY).will().start();
    let family = family(&mut wrapper);
    killpg(Pid::from_raw(wrapper.pid), Signal::SIGKILL).unwrap();
    wait_for_will(&wrapper);
    assert!(!family.into_iter().any(is_alive));
}

fn a_killed_guardian_is_replaced() {
    let mut wrapper = Setting::script(FAMILY).start();
    let family = family(&mut wrapper);
    send(wrapper.guardian, Signal::SIGKILL);
    wrapper.event("guardian_died");
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!((&dead["exit"], &dead["killed_by"]), (&json!({"Signal": 9}), &json!("GuardianGone")));
    assert!(!family.into_iter().any(is_alive));
    assert_eq!(wrapper.code(), 137);
}

fn a_spared_child_outlives_the_guardian() {
    // With the wrapper a subreaper, the daemon becomes its child once the guardian is gone.
    let mut wrapper = Setting::script(FAMILY).start();
    let [command, daemon] = family(&mut wrapper);
    wrapper.order(&format!("spare {daemon}"));
    wrapper.event("spared");
    send(wrapper.guardian, Signal::SIGKILL);
    wrapper.event_at_last("tree_dead");
    assert!(is_alive(daemon) && !is_alive(command));
    send(daemon, Signal::SIGKILL);
}

fn a_stopped_guardian_is_woken_to_kill() {
    let mut wrapper = Setting::script(FAMILY).deadline(Duration::from_millis(500)).start();
    let family = family(&mut wrapper);
    send(wrapper.guardian, Signal::SIGSTOP);
    wrapper.event_at_last("tree_dead");
    assert!(!family.into_iter().any(is_alive));
}

fn a_guardian_that_cannot_be_woken_is_replaced() {
    let mut wrapper = Setting::script(FAMILY).deadline(Duration::from_secs(1)).start();
    let family = family(&mut wrapper);
    let guardian = Pid::from_raw(wrapper.guardian);
    // No SIGCONT moves what is traced.
    ptrace::attach(guardian).expect("it may be traced");
    let next_of_guardian = || waitpid(guardian, Some(WaitPidFlag::__WALL));
    assert!(matches!(next_of_guardian(), Ok(WaitStatus::Stopped(..))));
    wrapper.event("guardian_given_up");
    // Its tracer is told first, and only then its parent.
    assert!(matches!(next_of_guardian(), Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _))));
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!(dead["killed_by"], json!("GuardianGone"));
    assert!(!family.into_iter().any(is_alive));
}

/// Held where it has said that it kills, and has not: its one message after the start.
#[cfg(target_arch = "x86_64")]
fn a_guardian_that_stands_still_while_it_kills_is_helped() {
    let mut wrapper = Setting::script(FAMILY).deadline(Duration::from_secs(1)).start();
    let family = family(&mut wrapper);
    let guardian = Pid::from_raw(wrapper.guardian);
    let next_of_guardian = || waitpid(guardian, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::attach(guardian).expect("it may be traced");
    next_of_guardian();
    ptrace::setoptions(guardian, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
    // At the call's beginning, and once more at its end.
    let mut seen = 0;
    while seen < 2 {
        ptrace::syscall(guardian, None).unwrap();
        if matches!(next_of_guardian(), WaitStatus::PtraceSyscall(_)) {
            let call = ptrace::getregs(guardian).unwrap().orig_rax;
            seen += usize::from(call == libc::SYS_sendmsg as u64);
        }
    }
    wait_until("the tree is dead", || !family.into_iter().any(is_alive));
    ptrace::detach(guardian, None).unwrap();
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!(dead["killed_by"], json!("Deadline"));
}

#[cfg(not(target_arch = "x86_64"))]
fn a_guardian_that_stands_still_while_it_kills_is_helped() {
    println!("skipped: where it stands is read from this processor's registers");
}

fn a_term_to_the_process_group_spares_the_guardian() {
    let mut wrapper = Setting::script("trap 'exit 6' TERM; echo ready; while :; do sleep 0.01; done").start();
    wrapper.started();
    wrapper.line();
    send(wrapper.guardian, Signal::SIGTERM);
    send(wrapper.guardian, Signal::SIGHUP);
    killpg(Pid::from_raw(wrapper.pid), Signal::SIGTERM).unwrap();
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!(dead["exit"], json!({"Code": 6}));
}

fn a_dismissed_guardian_leaves_no_will() {
    let mut wrapper = Setting::script("exit 0").will().start();
    wrapper.started();
    wrapper.event_at_last("tree_dead");
    assert_eq!(wrapper.code(), 0);
    let guardian = wrapper.guardian;
    wait_until("the guardian has left", || !is_alive(guardian));
    assert!(!wrapper.will_file().exists());
}

fn a_guardian_without_command_just_leaves() {
    let mut setting = Setting::script("exit 0").will();
    setting.plan.leave_early = true;
    let mut wrapper = setting.start();
    assert_eq!(wrapper.code(), 0);
    let guardian = wrapper.guardian;
    wait_until("the guardian has left", || !is_alive(guardian));
    assert!(!wrapper.will_file().exists());
}

fn a_wrapper_killed_before_its_command_leaves_its_will() {
    let mut setting = Setting::script("exit 0").will();
    setting.plan.wait = true;
    let wrapper = setting.start();
    wrapper.send(Signal::SIGKILL);
    wait_for_will(&wrapper);
}

/// A wrapper, and the other end of the connection that its guardian keeps open.
fn with_connection(mut setting: Setting) -> (Wrapper, UnixStream) {
    let path = setting.folder.path().join("kept");
    let listener = UnixListener::bind(&path).unwrap();
    setting.plan.keep_open = Some(path);
    let wrapper = setting.start();
    let kept = accept(&listener);
    (wrapper, kept)
}

fn what_is_kept_open_closes_with_the_tree() {
    let (mut wrapper, mut kept) = with_connection(Setting::script(FAMILY));
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    let family = family(&mut wrapper);
    wrapper.send(Signal::SIGKILL);
    assert_eq!(kept.read(&mut [0]).unwrap(), 0, "it is closed");
    assert!(!family.into_iter().any(is_alive), "and the tree was dead before");
}

fn a_stopped_wrapper_loses_the_tree_with_its_connection() {
    let (mut wrapper, mut kept) = with_connection(Setting::script(FAMILY));
    let family = family(&mut wrapper);
    wrapper.send(Signal::SIGSTOP);
    kept.write_all(b"not for the guardian\n").unwrap();
    drop(kept);
    wait_until("the tree is dead", || !family.into_iter().any(is_alive));
    assert_eq!(state(wrapper.pid), Some('T'), "the wrapper still stands");
    wrapper.send(Signal::SIGCONT);
    assert_eq!(wrapper.event_at_last("tree_dead")["killed_by"], json!("Deadline"));
}

fn a_wrapper_that_stops_the_tree_when_its_connection_is_gone_has_the_grace() {
    let script = "trap 'echo stopping; read line; exit 6' TERM; echo ready; while :; do sleep 0.01; done";
    let (mut wrapper, kept) = with_connection(Setting::script(script));
    wrapper.started();
    wrapper.line();
    wrapper.order("stop");
    assert_eq!(wrapper.line(), "stopping");
    drop(kept);
    drop(wrapper.stdin.take());
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!((&dead["exit"], &dead["killed_by"]), (&json!({"Code": 6}), &json!(null)));
}
