//! A person at a terminal leaves a job stopped for longer than its lease.

use std::io::Read;
use std::process::Command;

use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::scene::{Ending, LONG, Scene, lasting};
use crate::support::{children, clean, pid_of, state, wait_until};
use crate::table::Proof;
use crate::terminals::Terminal;

crate::faults![
    a_job_left_stopped_loses_the_lock: "Ctrl-Z, then fg",
];

const CTRL_Z: &[u8] = b"\x1a";

fn a_job_left_stopped_loses_the_lock() -> Proof {
    let scene = Scene::new();
    let mut terminal = Terminal::of_shell(clean(Command::new("sh")));
    // A screen that nobody reads would hold up whoever writes to it.
    let mut screen = terminal.screen.try_clone().expect("a copy");
    std::thread::spawn(move || while let Ok(1..) = screen.read(&mut [0; 1024]) {});
    let command = scene.holding_command(&scene.url(), OnTerm::Ignores);
    terminal.run(&command, "");
    scene.wait_for_beats();
    let wrapper = children(pid_of(&terminal.leader))[0];
    let next = scene.next();
    let begun = BootTime::now();
    terminal.press(CTRL_Z);
    wait_until("the job stands still", || state(wrapper) == Some('T'));
    lasting(LONG);
    terminal.type_line("fg");
    wait_until("the job has ended", || state(wrapper).is_none());
    let code_file = scene.path().join("code");
    terminal.type_line(&format!("echo $? > '{}'", code_file.display()));
    let mut code = None;
    wait_until("the shell tells the exit code", || {
        let text = std::fs::read_to_string(&code_file).unwrap_or_default();
        code = text.trim().parse().ok();
        code.is_some()
    });
    assert_eq!(code, Some(79));
    scene.judge(next, Ending::new(code, begun))
}
