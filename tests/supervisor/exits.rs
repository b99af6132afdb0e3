//! How the command ended is told as it was.

use std::time::Duration;

use serde_json::json;

use crate::driver::Setting;
use crate::wrapper::NOT_STARTED;

crate::promises![
    every_exit_code_passes_through,
    every_deadly_signal_passes_through,
    a_missing_program_is_not_found,
    a_file_that_is_no_program_cannot_run,
    what_is_past_its_deadline_is_not_started,
    a_guardian_is_not_forked_from_a_threaded_process,
];

fn every_exit_code_passes_through() {
    for code in 0..=255 {
        let mut wrapper = Setting::script(&format!("exit {code}")).start();
        wrapper.started();
        assert_eq!(wrapper.event("ended")["exit"], json!({"Code": code}));
        let dead = wrapper.event("tree_dead");
        assert_eq!((&dead["exit"], &dead["killed_by"]), (&json!({"Code": code}), &json!(null)));
        assert_eq!(wrapper.code(), code);
    }
}

fn every_deadly_signal_passes_through() {
    const A_REAL_TIME_SIGNAL: i32 = 40;
    for signal in [1, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15, A_REAL_TIME_SIGNAL] {
        let mut wrapper = Setting::script(&format!("ulimit -c 0; kill -{signal} $$")).start();
        wrapper.started();
        assert_eq!(wrapper.event("ended")["exit"], json!({"Signal": signal}));
        wrapper.event("tree_dead");
        assert_eq!(wrapper.code(), 128 + signal);
    }
}

fn a_missing_program_is_not_found() {
    let mut wrapper = Setting::program(["no-such-program-anywhere"]).start();
    let told = wrapper.event("not_started");
    assert!(told["error"].as_str().unwrap().starts_with("NotFound"), "{told}");
    assert_eq!(wrapper.code(), NOT_STARTED);
}

fn a_file_that_is_no_program_cannot_run() {
    let mut wrapper = Setting::program(["/etc/passwd"]).start();
    let told = wrapper.event("not_started");
    assert!(told["error"].as_str().unwrap().starts_with("CannotRun"), "{told}");
    assert_eq!(wrapper.code(), NOT_STARTED);
}

fn what_is_past_its_deadline_is_not_started() {
    let mut wrapper = Setting::script("echo it ran").deadline(Duration::ZERO).start();
    let told = wrapper.event("not_started");
    assert!(told["error"].as_str().unwrap().starts_with("TooLate"), "{told}");
    assert_eq!(wrapper.code(), NOT_STARTED);
    assert_eq!(wrapper.line(), "");
}

fn a_guardian_is_not_forked_from_a_threaded_process() {
    let (ask, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let refused = officer::supervisor::Guardian::fork().unwrap_err();
    assert!(refused.to_string().contains("threads"), "{refused}");
    drop(ask);
    thread.join().unwrap().unwrap_err();
}
