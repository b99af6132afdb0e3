//! The command finds the world as the wrapper found it, and the streams are its own.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use serde_json::json;

use crate::driver::{Setting, wait_until};

crate::promises![
    signals_are_as_the_wrapper_found_them,
    descriptors_are_as_the_wrapper_found_them,
    the_environment_gains_what_is_added,
    stdin_is_the_commands,
    a_reader_sees_the_end_when_the_command_closes_its_output,
    a_writer_notices_when_the_command_closes_its_input,
    the_guardian_has_a_name_of_its_own,
    the_command_is_in_the_wrappers_group_and_session,
    the_guardian_is_in_a_session_of_its_own,
    a_signal_to_the_wrapper_is_passed_on,
    an_ignored_signal_stays_ignored,
];

/// Output of a script that runs bare, and of the same under a wrapper.
fn bare_and_wrapped(script: &str, prepare: impl Fn(&mut Command)) -> [String; 2] {
    let mut bare = Command::new("sh");
    bare.args(["-c", script]).stdin(Stdio::piped());
    prepare(&mut bare);
    let bare = bare.output().unwrap();
    let mut setting = Setting::script(script);
    prepare(&mut setting.command);
    let mut wrapper = setting.start();
    wrapper.started();
    let mut wrapped = String::new();
    loop {
        let line = wrapper.line();
        if line.is_empty() {
            break;
        }
        wrapped += &line;
        wrapped += "\n";
    }
    wrapper.event_at_last("tree_dead");
    [String::from_utf8(bare.stdout).unwrap(), wrapped]
}

fn with_odd_signals() -> std::io::Result<()> {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR2);
    // SAFETY: ignoring a signal and blocking one run no code of ours.
    unsafe {
        signal(Signal::SIGHUP, SigHandler::SigIgn)?;
        signal(Signal::SIGPIPE, SigHandler::SigIgn)?;
        signal(Signal::SIGCHLD, SigHandler::SigIgn)?;
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
    Ok(())
}

fn signals_are_as_the_wrapper_found_them() {
    let script = "exec grep '^Sig[BIC]' /proc/self/status";
    let [bare, wrapped] = bare_and_wrapped(script, |_| {});
    assert_eq!(bare, wrapped);
    let [odd, wrapped] = bare_and_wrapped(script, |command| {
        // SAFETY: it calls nothing but what may be called between fork and exec.
        unsafe { command.pre_exec(with_odd_signals) };
    });
    assert_ne!(odd, bare);
    assert_eq!(odd, wrapped);
}

fn descriptors_are_as_the_wrapper_found_them() {
    let file = std::fs::File::open("/etc/passwd").unwrap();
    let given = file.as_raw_fd();
    let [bare, wrapped] = bare_and_wrapped("exec ls /proc/self/fd", |command| {
        // SAFETY: it makes a copy of a descriptor, which may be done between fork and exec.
        unsafe {
            command.pre_exec(move || {
                nix::errno::Errno::result(libc::dup2(given, 17)).map(drop).map_err(Into::into)
            })
        };
    });
    assert_eq!(bare, wrapped);
    assert!(wrapped.contains("17"), "what we were given is passed on");
}

fn the_environment_gains_what_is_added() {
    let [bare, wrapped] = bare_and_wrapped("env | sort", |command| {
        command.env("KEPT", "as it is").env("OFFICER_TEST", "replaced");
    });
    assert_eq!(bare.replace("OFFICER_TEST=replaced", "OFFICER_TEST=a value"), wrapped);
}

fn stdin_is_the_commands() {
    let mut wrapper = Setting::program(["cat"]).start();
    wrapper.started();
    let mut stdin = wrapper.stdin.take().unwrap();
    writeln!(stdin, "through the pipe").unwrap();
    assert_eq!(wrapper.line(), "through the pipe");
    drop(stdin);
    assert_eq!(wrapper.event_at_last("tree_dead")["exit"], json!({"Code": 0}));
}

fn a_reader_sees_the_end_when_the_command_closes_its_output() {
    let mut wrapper = Setting::script("echo last; exec >&-; read line").start();
    wrapper.started();
    assert_eq!(wrapper.line(), "last");
    assert_eq!(wrapper.line(), "", "the end, while the command runs");
    drop(wrapper.stdin.take());
    wrapper.event_at_last("tree_dead");
}

fn a_writer_notices_when_the_command_closes_its_input() {
    let mut wrapper = Setting::script("exec <&-; echo closed; sleep 1000").start();
    wrapper.started();
    wrapper.line();
    let mut stdin = wrapper.stdin.take().unwrap();
    wait_until("the pipe is broken", || stdin.write_all(b"x").is_err());
}

fn the_guardian_has_a_name_of_its_own() {
    let mut wrapper = Setting::program(["cat"]).start();
    wrapper.started();
    let name = std::fs::read_to_string(format!("/proc/{}/comm", wrapper.guardian)).unwrap();
    assert_eq!(name, "officer-guard\n");
}

/// Process group and session.
fn group_and_session(pid: i32) -> (String, String) {
    let mut stat = String::new();
    std::fs::File::open(format!("/proc/{pid}/stat")).unwrap().read_to_string(&mut stat).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[2].to_owned(), fields[3].to_owned())
}

fn the_command_is_in_the_wrappers_group_and_session() {
    let mut wrapper = Setting::program(["cat"]).start();
    let command = wrapper.started();
    assert_eq!(group_and_session(command), group_and_session(wrapper.pid));
}

fn the_guardian_is_in_a_session_of_its_own() {
    let mut wrapper = Setting::program(["cat"]).start();
    wrapper.started();
    let guardian = wrapper.guardian.to_string();
    assert_eq!(group_and_session(wrapper.guardian), (guardian.clone(), guardian));
}

fn a_signal_to_the_wrapper_is_passed_on() {
    let mut wrapper = Setting::script("trap 'exit 8' USR2; echo ready; while :; do sleep 0.01; done").start();
    wrapper.started();
    wrapper.line();
    wrapper.send(Signal::SIGUSR2);
    let told = wrapper.event("signal");
    assert_eq!((&told["signal"], &told["from_terminal"]), (&json!(12), &json!(false)));
    assert_eq!(wrapper.event("ended")["exit"], json!({"Code": 8}));
}

fn an_ignored_signal_stays_ignored() {
    let mut setting = Setting::program(["cat"]);
    // SAFETY: it calls nothing but what may be called between fork and exec.
    unsafe { setting.command.pre_exec(with_odd_signals) };
    let mut wrapper = setting.start();
    wrapper.started();
    wrapper.send(Signal::SIGHUP);
    wrapper.send(Signal::SIGUSR1);
    let told = wrapper.event("signal");
    assert_eq!(told["signal"], json!(10), "nothing is heard of the first");
}
