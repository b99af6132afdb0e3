//! A process is killed, stopped or asked to end: wrapper, guardian, command.

use nix::sys::signal::{Signal, killpg};
use officer::boot_time::BootTime;

use crate::beats::{OnTerm, Until};
use crate::scene::{Ending, Holder, LONG, Scene, lasting};
use crate::support::{finish, officer_exec, wait_until};
use crate::table::Proof;

crate::faults![
    a_killed_wrapper_hands_over: "wrapper SIGKILL",
    a_killed_process_group_hands_over: "SIGKILL to the wrapper's whole process group",
    a_stopped_wrapper_loses_the_lock: "wrapper SIGSTOP, then SIGCONT",
    a_stopped_process_group_loses_the_lock: "SIGSTOP to the wrapper's whole process group, then SIGCONT",
    a_terminated_wrapper_ends_its_tree: "wrapper SIGTERM",
    a_killed_guardian_is_stood_in_for: "guardian SIGKILL",
    a_stopped_guardian_costs_nothing: "guardian SIGSTOP, then SIGCONT",
    a_stopped_guardian_is_woken_at_the_deadline: "guardian SIGSTOP, and the server gone",
    a_stopped_guardian_sees_the_command_end: "guardian SIGSTOP, and the command ends",
    a_stopped_guardian_is_woken_to_stop: "guardian SIGSTOP, wrapper SIGTERM",
    a_guardian_does_not_hear_sigterm: "guardian SIGTERM",
    an_isolated_tree_dies_with_wrapper_and_guardian: "wrapper and guardian SIGKILL at once, with --isolate",
    a_killed_command_takes_its_daemon_along: "command SIGKILL",
    a_stopped_command_keeps_the_lock: "command SIGSTOP, then SIGCONT",
    a_terminated_command_takes_its_daemon_along: "command SIGTERM",
    a_daemon_does_not_outlive_the_command: "command exits, its daemon lives",
    a_job_longer_than_the_lease_keeps_the_lock: "job longer than the lease, no fault",
    a_command_that_ends_under_a_stopped_wrapper_has_its_own_code: "wrapper SIGSTOP, the command ends, then SIGCONT",
    a_killed_waiter_is_skipped: "waiting wrapper SIGKILL",
    a_waiter_that_slept_through_its_grant_asks_again: "waiting wrapper SIGSTOP while granted, then SIGCONT",
];

const KILLED: i32 = 128 + 9;
const TERMINATED: i32 = 128 + 15;
const LOST: i32 = 79;
const OURS: i32 = 70;

/// A fault happens to the holder, and its end must have this code.
fn under(fault: impl FnOnce(&Scene, &mut Holder), code: Option<i32>) -> Proof {
    let (scene, next, ending) = end_under(fault, code);
    scene.judge(next, ending)
}

/// The same, and the next one must not have to wait for the lease to end.
fn promptly_under(fault: impl FnOnce(&Scene, &mut Holder), code: Option<i32>) -> Proof {
    let (scene, next, ending) = end_under(fault, code);
    scene.judge(next, ending.prompt())
}

fn end_under(
    fault: impl FnOnce(&Scene, &mut Holder),
    code: Option<i32>,
) -> (Scene, crate::support::Running, Ending) {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let next = scene.next();
    let begun = BootTime::now();
    fault(&scene, &mut holder);
    let ended = holder.ends_by(code);
    (scene, next, Ending::new(ended, begun))
}

/// The holder must not notice; the hand-over is measured from the command's own end.
fn unharmed_by(fault: impl FnOnce(&Scene, &mut Holder)) -> Proof {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let next = scene.next();
    fault(&scene, &mut holder);
    scene.judge_unharmed(holder, next)
}

fn a_killed_wrapper_hands_over() -> Proof {
    promptly_under(|_, holder| holder.wrapper.signal(Signal::SIGKILL), None)
}

fn a_killed_process_group_hands_over() -> Proof {
    in_its_own_group(|holder| {
        killpg(holder.wrapper.pid(), Signal::SIGKILL).expect("it is there");
        None
    })
}

fn a_stopped_process_group_loses_the_lock() -> Proof {
    in_its_own_group(|holder| {
        killpg(holder.wrapper.pid(), Signal::SIGSTOP).expect("it is there");
        lasting(LONG);
        killpg(holder.wrapper.pid(), Signal::SIGCONT).expect("it is there");
        Some(LOST)
    })
}

/// As a shell with job control starts it; `fault` says which code it must end with.
fn in_its_own_group(fault: impl FnOnce(&mut Holder) -> Option<i32>) -> Proof {
    use std::os::unix::process::CommandExt;
    let scene = Scene::new();
    let mut command = scene.holding_command(&scene.url(), OnTerm::Ignores);
    let mut holder = scene.hold_by(command.process_group(0));
    let next = scene.next();
    let begun = BootTime::now();
    let code = fault(&mut holder);
    let ended = holder.ends_by(code);
    scene.judge(next, Ending::new(ended, begun))
}

fn a_stopped_wrapper_loses_the_lock() -> Proof {
    under(
        |_, holder| {
            holder.wrapper.signal(Signal::SIGSTOP);
            lasting(LONG);
            holder.wrapper.signal(Signal::SIGCONT);
        },
        Some(LOST),
    )
}

fn a_terminated_wrapper_ends_its_tree() -> Proof {
    promptly_under(|_, holder| holder.wrapper.signal(Signal::SIGTERM), Some(KILLED))
}

fn a_killed_guardian_is_stood_in_for() -> Proof {
    promptly_under(|_, holder| holder.signal(holder.guardian, Signal::SIGKILL), Some(OURS))
}

fn a_stopped_guardian_costs_nothing() -> Proof {
    unharmed_by(|_, holder| {
        holder.signal(holder.guardian, Signal::SIGSTOP);
        lasting(LONG);
        holder.signal(holder.guardian, Signal::SIGCONT);
    })
}

fn a_stopped_guardian_is_woken_at_the_deadline() -> Proof {
    let scene = Scene::new();
    let holder = scene.hold();
    let next = scene.next();
    let begun = BootTime::now();
    holder.signal(holder.guardian, Signal::SIGSTOP);
    scene.server.signal(Signal::SIGSTOP);
    let code = holder.ends_with(LOST);
    scene.server.signal(Signal::SIGCONT);
    scene.judge(next, Ending::new(code, begun))
}

fn a_stopped_guardian_sees_the_command_end() -> Proof {
    unharmed_by(|_, holder| holder.signal(holder.guardian, Signal::SIGSTOP))
}

fn a_stopped_guardian_is_woken_to_stop() -> Proof {
    promptly_under(
        |_, holder| {
            holder.signal(holder.guardian, Signal::SIGSTOP);
            holder.wrapper.signal(Signal::SIGTERM);
        },
        Some(KILLED),
    )
}

/// Nobody is left to give the lock back, so its lease ends it.
fn an_isolated_tree_dies_with_wrapper_and_guardian() -> Proof {
    let scene = Scene::new();
    if finish(officer_exec().args(["-s", &scene.url(), "--isolate", "true"])).code != Some(0) {
        return Proof::Skipped("PID namespaces aren't allowed here");
    }
    let mut command = scene.holding_command(&scene.url(), OnTerm::Ignores);
    let holder = scene.hold_by(command.env("OFFICER_ISOLATE", "true"));
    let next = scene.next();
    let begun = BootTime::now();
    // Stopped, it can't do anything between the two.
    holder.signal(holder.guardian, Signal::SIGSTOP);
    holder.wrapper.signal(Signal::SIGKILL);
    holder.signal(holder.guardian, Signal::SIGKILL);
    let code = holder.ends_by(None);
    scene.judge(next, Ending::new(code, begun))
}

fn a_guardian_does_not_hear_sigterm() -> Proof {
    unharmed_by(|_, holder| holder.signal(holder.guardian, Signal::SIGTERM))
}

fn a_killed_command_takes_its_daemon_along() -> Proof {
    promptly_under(|_, holder| holder.signal(holder.command, Signal::SIGKILL), Some(KILLED))
}

fn a_stopped_command_keeps_the_lock() -> Proof {
    unharmed_by(|_, holder| {
        holder.signal(holder.command, Signal::SIGSTOP);
        lasting(LONG);
        holder.signal(holder.command, Signal::SIGCONT);
    })
}

fn a_terminated_command_takes_its_daemon_along() -> Proof {
    let scene = Scene::new();
    let holder = scene.hold_by(&mut scene.holding_command(&scene.url(), OnTerm::Dies));
    let next = scene.next();
    let begun = BootTime::now();
    holder.signal(holder.command, Signal::SIGTERM);
    let code = holder.ends_with(TERMINATED);
    scene.judge(next, Ending::new(code, begun))
}

fn a_daemon_does_not_outlive_the_command() -> Proof {
    unharmed_by(|_, _| {})
}

fn a_job_longer_than_the_lease_keeps_the_lock() -> Proof {
    unharmed_by(|scene, _| {
        lasting(LONG);
        wait_until("nobody else has run", || scene.runs() == 1);
    })
}

fn a_command_that_ends_under_a_stopped_wrapper_has_its_own_code() -> Proof {
    under(
        |scene, holder| {
            holder.wrapper.signal(Signal::SIGSTOP);
            scene.tell_to_end();
            lasting(LONG);
            holder.wrapper.signal(Signal::SIGCONT);
        },
        Some(0),
    )
}

fn a_killed_waiter_is_skipped() -> Proof {
    let scene = Scene::new();
    let holder = scene.hold();
    let waiter = scene.next();
    let next = scene.next();
    waiter.signal(Signal::SIGKILL);
    drop(waiter);
    scene.judge_unharmed(holder, next)
}

/// The grant lies in its socket until another has got the lock: it must not take it for one.
fn a_waiter_that_slept_through_its_grant_asks_again() -> Proof {
    let scene = Scene::new();
    let holder = scene.hold();
    let sleeper = scene.next();
    let next = scene.next_for(Until::Beats(500));
    sleeper.signal(Signal::SIGSTOP);
    let told = BootTime::now();
    scene.tell_to_end();
    let code = holder.ends_with(0);
    wait_until("the next one runs", || scene.runs() == 2);
    sleeper.signal(Signal::SIGCONT);
    scene.judge_all(vec![next, sleeper], Ending::new(code, told))
}
