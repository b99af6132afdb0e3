//! Nobody reads the wrapper's stderr: its log must stand in the way of nothing.

use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{pipe2, write};
use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::scene::{Ending, LONG, SHORT, Scene, lasting};
use crate::support::spawn_tied;
use crate::table::Proof;

crate::faults![
    a_stderr_that_nobody_reads_costs_nothing: "wrapper's stderr full and not read",
    a_stderr_that_nobody_reads_does_not_delay_the_end: "wrapper's stderr full and not read, server SIGSTOP",
];

/// A pipe that takes nothing more; whoever writes to it waits.
struct FullPipe {
    #[allow(dead_code, reason = "without a reader the writer would get an error")]
    reader: OwnedFd,
    writer: OwnedFd,
}

impl FullPipe {
    fn new() -> nix::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let full = std::iter::repeat_with(|| write(&writer, &[b'\n'; 512])).find_map(Result::err);
        assert_eq!(full, Some(Errno::EAGAIN));
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(Self { reader, writer })
    }
}

/// A holder that logs all it can to a pipe that is full.
fn hold(scene: &Scene) -> (Child, FullPipe) {
    let pipe = FullPipe::new().expect("a pipe");
    let mut command = scene.holding_command(&scene.url(), OnTerm::Ignores);
    command.env("OFFICER_LOG_LEVEL", "trace").stdin(Stdio::null()).stdout(Stdio::null());
    let child = spawn_tied(command.stderr(pipe.writer.try_clone().expect("a copy")));
    scene.wait_for_beats();
    (child, pipe)
}

fn a_stderr_that_nobody_reads_costs_nothing() -> Proof {
    let mut scene = Scene::new();
    let (mut holder, _pipe) = hold(&scene);
    let next = scene.next();
    scene.server.end(Signal::SIGKILL);
    lasting(SHORT);
    scene.server.start();
    lasting(LONG);
    assert!(holder.try_wait().expect("it is our child").is_none());
    let told = BootTime::now();
    scene.tell_to_end();
    let code = holder.wait().expect("it is our child").code();
    assert_eq!(code, Some(0));
    scene.judge(next, Ending::new(code, told).prompt())
}

fn a_stderr_that_nobody_reads_does_not_delay_the_end() -> Proof {
    let scene = Scene::new();
    let (mut holder, _pipe) = hold(&scene);
    let next = scene.next();
    let begun = BootTime::now();
    scene.server.signal(Signal::SIGSTOP);
    lasting(LONG);
    scene.server.signal(Signal::SIGCONT);
    let code = holder.wait().expect("it is our child").code();
    assert_eq!(code, Some(79));
    scene.judge(next, Ending::new(code, begun))
}
