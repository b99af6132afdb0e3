//! The whole tree is ended, whatever it does, and it is dead before we say so.

use std::time::Duration;

use nix::sys::signal::Signal;
use officer::supervisor::Leftovers;
use serde_json::json;

use crate::driver::{Setting, is_alive, pid_in, send, state, wait_until};

crate::promises![
    a_daemon_is_dead_before_the_tree_is,
    leftovers_are_named,
    leftovers_may_be_waited_for,
    stop_reaches_the_whole_pipeline,
    what_ignores_the_stop_signal_is_killed_after_the_grace,
    another_stop_signal_can_be_chosen,
    two_hundred_children_die,
    a_chain_of_forks_is_caught,
    a_spreading_tree_is_caught,
    a_stopped_child_can_act_on_the_stop_signal,
    kill_needs_no_grace,
    a_stopped_tree_dies_at_its_deadline,
    the_deadline_moves,
    a_frozen_tree_stands_still_until_it_is_thawed,
    what_stood_still_before_a_freeze_still_does_after_it,
    a_frozen_tree_dies_at_its_deadline,
];

/// Leaves the command's session and parents; prints its process id.
const DAEMON: &str = "setsid sh -c 'setsid sleep 1000 >/dev/null & echo $!'";

const SOON: Duration = Duration::from_millis(50);

fn a_daemon_is_dead_before_the_tree_is() {
    let mut wrapper = Setting::script(&format!("{DAEMON}; read line")).start();
    wrapper.started();
    let daemon = wrapper.pid_line();
    assert!(is_alive(daemon));
    wrapper.order("stop");
    wrapper.event_at_last("tree_dead");
    assert!(!is_alive(daemon));
}

fn leftovers_are_named() {
    let has_its_name = "until grep -q sleep /proc/$daemon/comm; do :; done";
    let mut wrapper = Setting::script(&format!("daemon=$({DAEMON}); {has_its_name}; echo $daemon")).start();
    wrapper.started();
    let daemon = wrapper.pid_line();
    assert_eq!(wrapper.event("ended")["exit"], json!({"Code": 0}));
    assert_eq!(wrapper.event("leftovers")["list"], json!([{"pid": daemon, "name": "sleep"}]));
    let dead = wrapper.event("tree_dead");
    assert_eq!(dead["killed_by"], json!(null), "the stop signal was enough");
    assert!(!is_alive(daemon));
    assert_eq!(wrapper.code(), 0);
}

fn leftovers_may_be_waited_for() {
    let mut setting = Setting::script(DAEMON);
    setting.plan.leftovers = Leftovers::Wait;
    let mut wrapper = setting.start();
    wrapper.started();
    let daemon = wrapper.pid_line();
    wrapper.event("ended");
    let leftovers = wrapper.event("leftovers");
    assert_eq!(pid_in(&leftovers["list"][0]["pid"]), daemon);
    assert!(is_alive(daemon), "nobody ends it");
    send(daemon, Signal::SIGKILL);
    assert_eq!(wrapper.event("tree_dead")["exit"], json!({"Code": 0}));
}

fn stop_reaches_the_whole_pipeline() {
    let mut wrapper = Setting::script("sleep 1000 | sleep 1000 | (echo ready; sleep 1000); echo on").start();
    wrapper.started();
    assert_eq!(wrapper.line(), "ready");
    wrapper.order("stop");
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!((&dead["exit"], &dead["killed_by"]), (&json!({"Signal": 15}), &json!(null)));
    assert_eq!(wrapper.line(), "", "the shell didn't go on");
}

fn what_ignores_the_stop_signal_is_killed_after_the_grace() {
    let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo ready; while :; do sleep 1000; done'; :";
    let mut wrapper = Setting::script(script).grace(SOON).start();
    wrapper.started();
    wrapper.line();
    wrapper.order("stop");
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!((&dead["exit"], &dead["killed_by"]), (&json!({"Signal": 9}), &json!("Grace")));
}

fn another_stop_signal_can_be_chosen() {
    let mut setting = Setting::script("trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done");
    setting.plan.stop_signal = Signal::SIGUSR1 as i32;
    let mut wrapper = setting.start();
    wrapper.started();
    wrapper.line();
    wrapper.order("stop");
    assert_eq!(wrapper.event_at_last("tree_dead")["exit"], json!({"Code": 7}));
}

fn two_hundred_children_die() {
    let script = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait";
    for order in ["stop", "kill"] {
        let mut wrapper = Setting::script(script).start();
        wrapper.started();
        assert_eq!(wrapper.line(), "ready");
        wrapper.order(order);
        wrapper.event_at_last("tree_dead");
    }
}

fn ourselves(mode: &str) -> Setting {
    Setting::program([std::env::current_exe().expect("this program").into_os_string(), mode.into()])
}

fn a_chain_of_forks_is_caught() {
    let mut wrapper = ourselves("fork-chain").grace(SOON).start();
    wrapper.started();
    wrapper.line();
    wrapper.order("kill");
    wrapper.event_at_last("tree_dead");
}

fn a_spreading_tree_is_caught() {
    let mut wrapper = ourselves("fork-wide").start();
    wrapper.started();
    wrapper.line();
    wrapper.order("kill");
    wrapper.event_at_last("tree_dead");
}

fn a_stopped_child_can_act_on_the_stop_signal() {
    let script =
        "sh -c 'trap \"exit 0\" TERM; trap \"echo bye\" EXIT; echo $$; while :; do sleep 0.01; done'; :";
    let mut wrapper = Setting::script(script).start();
    wrapper.started();
    let child = wrapper.pid_line();
    send(child, Signal::SIGSTOP);
    wait_until("the child stands still", || state(child) == Some('T'));
    wrapper.order("stop");
    assert_eq!(wrapper.line(), "bye");
    assert_eq!(wrapper.event_at_last("tree_dead")["killed_by"], json!(null));
}

fn kill_needs_no_grace() {
    let mut wrapper = Setting::script("trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done").start();
    wrapper.started();
    wrapper.line();
    wrapper.order("kill");
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!((&dead["exit"], &dead["killed_by"]), (&json!({"Signal": 9}), &json!("Request")));
}

fn a_stopped_tree_dies_at_its_deadline() {
    let mut wrapper = Setting::script("kill -STOP $$").start();
    let command = wrapper.started();
    wait_until("the command stands still", || state(command) == Some('T'));
    wrapper.order("deadline 50");
    assert_eq!(wrapper.event_at_last("tree_dead")["killed_by"], json!("Deadline"));
}

fn the_deadline_moves() {
    let first = Duration::from_millis(1000);
    let mut wrapper = Setting::script("echo ready; read line; exit 5").deadline(first).start();
    wrapper.started();
    assert_eq!(wrapper.line(), "ready");
    wrapper.order("deadline 100000");
    std::thread::sleep(first * 2);
    drop(wrapper.stdin.take());
    let dead = wrapper.event_at_last("tree_dead");
    assert_eq!((&dead["exit"], &dead["killed_by"]), (&json!({"Code": 5}), &json!(null)));
}

fn a_frozen_tree_stands_still_until_it_is_thawed() {
    let mut wrapper = Setting::script("sh -c 'echo $$; read line; :'; exit 4").start();
    let command = wrapper.started();
    let child = wrapper.pid_line();
    wrapper.order("freeze");
    wait_until("the tree stands still", || state(command) == Some('T') && state(child) == Some('T'));
    wrapper.order("thaw");
    wait_until("the tree goes on", || state(command) != Some('T') && state(child) != Some('T'));
    drop(wrapper.stdin.take());
    assert_eq!(wrapper.event_at_last("tree_dead")["exit"], json!({"Code": 4}));
}

fn what_stood_still_before_a_freeze_still_does_after_it() {
    let mut wrapper =
        Setting::script("sh -c 'echo $$; kill -STOP $$' & read line; kill -CONT $!; wait").start();
    let command = wrapper.started();
    let child = wrapper.pid_line();
    wait_until("the child stands still", || state(child) == Some('T'));
    wrapper.order("freeze");
    wait_until("the command stands still", || state(command) == Some('T'));
    // What stands by our doing is no such thing.
    wrapper.order("freeze");
    wrapper.order("thaw");
    wait_until("the command goes on", || state(command) != Some('T'));
    assert_eq!(state(child), Some('T'));
    drop(wrapper.stdin.take());
    assert_eq!(wrapper.event_at_last("tree_dead")["killed_by"], json!(null));
}

fn a_frozen_tree_dies_at_its_deadline() {
    let mut wrapper = Setting::script("echo ready; read line").start();
    let command = wrapper.started();
    wrapper.line();
    wrapper.order("freeze");
    wait_until("the command stands still", || state(command) == Some('T'));
    wrapper.order("deadline 50");
    assert_eq!(wrapper.event_at_last("tree_dead")["killed_by"], json!("Deadline"));
}
