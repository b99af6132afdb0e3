//! A command in a PID namespace of its own. Where the kernel doesn't allow one, the error says so.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use nix::sys::signal::Signal;
use nix::unistd::Uid;
use serde_json::json;

use crate::driver::{Setting, Wrapper, copy, is_alive, send, state, wait_until};

crate::promises![
    nothing_survives_even_if_wrapper_and_guardian_are_killed_at_once,
    an_isolated_commands_exit_is_its_own,
    an_isolated_command_has_its_own_process_ids,
    an_isolated_commands_signals_reach_it,
    an_isolated_tree_is_stopped_and_dead_before_it_is_said,
    an_isolated_commands_leftovers_are_named,
    an_isolated_command_that_is_missing_is_not_found,
    an_isolated_commands_streams_are_its_own,
    an_isolated_frozen_tree_goes_on_when_thawed,
    anybody_may_isolate_where_the_kernel_allows_it,
];

/// `None` where the kernel doesn't allow it, which the error must say.
fn isolated(mut setting: Setting) -> Option<(Wrapper, i32)> {
    setting.plan.isolate = true;
    let mut wrapper = setting.start();
    let told = wrapper.next_event();
    if told["event"] == "not_started" {
        assert!(is_not_allowed(told["error"].as_str().unwrap()), "{told}");
        println!("skipped: {told}");
        return None;
    }
    assert_eq!(told["event"], "started");
    let pid = crate::driver::pid_in(&told["pid"]);
    Some((wrapper, pid))
}

fn is_not_allowed(error: &str) -> bool {
    error.starts_with("CannotIsolate") || error.starts_with("NoNamespaceLeft")
}

fn isolated_script(script: &str) -> Option<(Wrapper, i32)> {
    isolated(Setting::script(script))
}

/// All processes in the namespace of this one.
fn namespace_of(pid: i32) -> Vec<i32> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = namespace(pid).expect("it runs");
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    pids.filter(|pid| namespace(*pid).as_ref() == Some(&ours)).collect()
}

/// A daemon, and a shell that waits.
const FAMILY: &str = "setsid sh -c 'setsid sleep 1000 >/dev/null &'; echo ready; read line; exit 5";

fn nothing_survives_even_if_wrapper_and_guardian_are_killed_at_once() {
    let Some((mut wrapper, command)) = isolated_script(FAMILY) else { return };
    wrapper.line();
    let family = namespace_of(command);
    assert!(family.len() >= 3, "first process, command and daemon: {family:?}");
    // Neither can act between the two.
    send(wrapper.guardian, Signal::SIGSTOP);
    wrapper.send(Signal::SIGKILL);
    send(wrapper.guardian, Signal::SIGKILL);
    wait_until("all are dead", || !family.iter().any(|pid| is_alive(*pid)));
}

fn an_isolated_commands_exit_is_its_own() {
    for (script, exit, code) in [
        ("exit 0", json!({"Code": 0}), 0),
        ("exit 7", json!({"Code": 7}), 7),
        ("kill -TERM $$", json!({"Signal": 15}), 143),
    ] {
        let Some((mut wrapper, _)) = isolated_script(script) else { return };
        assert_eq!(wrapper.event("ended")["exit"], exit, "{script}");
        let dead = wrapper.event("tree_dead");
        assert_eq!((&dead["exit"], &dead["killed_by"]), (&exit, &json!(null)));
        assert_eq!(wrapper.code(), code);
    }
}

fn an_isolated_command_has_its_own_process_ids() {
    let Some((mut wrapper, command)) = isolated_script("echo $$ $(cat /proc/1/comm); read line") else {
        return;
    };
    assert_eq!(wrapper.line(), "2 officer-init");
    let name = std::fs::read_to_string(format!("/proc/{command}/comm")).unwrap();
    assert_eq!(name, "sh\n", "the id we are told is the one out here");
}

fn an_isolated_commands_signals_reach_it() {
    let script = "trap 'exit 6' USR1; echo ready; while :; do sleep 0.01; done";
    let Some((mut wrapper, _)) = isolated_script(script) else { return };
    wrapper.line();
    wrapper.send(Signal::SIGUSR1);
    assert_eq!(wrapper.event_at_last("ended")["exit"], json!({"Code": 6}));
    wrapper.event_at_last("tree_dead");
}

fn an_isolated_tree_is_stopped_and_dead_before_it_is_said() {
    for order in ["stop", "kill"] {
        let Some((mut wrapper, command)) = isolated_script(FAMILY) else { return };
        wrapper.line();
        let family = namespace_of(command);
        wrapper.order(order);
        wrapper.event_at_last("tree_dead");
        assert!(!family.into_iter().any(is_alive));
    }
}

fn an_isolated_commands_leftovers_are_named() {
    let script = "sleep 1000 >/dev/null & until grep -q sleep /proc/$!/comm; do :; done; exit 5";
    let Some((mut wrapper, _)) = isolated_script(script) else { return };
    assert_eq!(wrapper.event("ended")["exit"], json!({"Code": 5}));
    let told = wrapper.event("leftovers");
    assert_eq!(told["list"][0]["name"], "sleep");
    assert_eq!(told["list"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(wrapper.event("tree_dead")["killed_by"], json!(null));
}

fn an_isolated_command_that_is_missing_is_not_found() {
    let mut setting = Setting::program(["no-such-program-anywhere"]);
    setting.plan.isolate = true;
    let told = setting.start().event("not_started");
    let error = told["error"].as_str().unwrap();
    assert!(error.starts_with("NotFound") || is_not_allowed(error), "{told}");
}

fn an_isolated_commands_streams_are_its_own() {
    let Some((mut wrapper, _)) = isolated_script("read line; echo $line; exec >&-; read line") else {
        return;
    };
    std::io::Write::write_all(wrapper.stdin.as_mut().unwrap(), b"hello\n").unwrap();
    assert_eq!(wrapper.line(), "hello");
    assert_eq!(wrapper.line(), "", "the end, while the command runs");
}

fn an_isolated_frozen_tree_goes_on_when_thawed() {
    let Some((mut wrapper, command)) = isolated_script(FAMILY) else { return };
    wrapper.line();
    wrapper.order("freeze");
    wait_until("the command stands still", || state(command) == Some('T'));
    wrapper.order("thaw");
    wait_until("the command goes on", || state(command) != Some('T'));
    drop(wrapper.stdin.take());
    assert_eq!(wrapper.event("ended")["exit"], json!({"Code": 5}));
}

fn anybody_may_isolate_where_the_kernel_allows_it() {
    const NOBODY: u32 = 65534;
    let mut setting = Setting::script("id -u; echo $$");
    let programs = tempfile::tempdir().expect("a folder");
    if Uid::effective().is_root() {
        let open = |path: &std::path::Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        };
        let ourselves = programs.path().join("tests");
        copy(std::env::current_exe().unwrap(), &ourselves);
        open(programs.path());
        open(setting.folder.path());
        setting.command = std::process::Command::new(&ourselves);
        setting.command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        setting.command.process_group(0).uid(NOBODY).gid(NOBODY);
    }
    let Some((mut wrapper, _)) = isolated(setting) else { return };
    let user = if Uid::effective().is_root() { NOBODY } else { Uid::effective().as_raw() };
    assert_eq!(wrapper.line(), user.to_string());
    assert_eq!(wrapper.line(), "2");
    wrapper.event_at_last("tree_dead");
}
