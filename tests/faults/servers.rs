//! The server is killed, stopped, restarted or replaced, at once or after longer than the lease; or it
//! runs out of descriptors.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use officer::boot_time::BootTime;

use crate::scene::{Ending, LOCK, LONG, SHORT, Scene, lasting};
use crate::support::wait_until;
use crate::table::Proof;

crate::faults![
    a_server_killed_and_back_costs_nothing: "server SIGKILL, back at once",
    a_server_restart_costs_nothing: "server SIGTERM, back at once",
    a_replaced_server_costs_nothing: "server replaced by another copy of the program at once",
    a_server_killed_for_long_loses_the_lock: "server SIGKILL, back after the fault",
    a_server_away_for_long_loses_the_lock: "server SIGTERM, back after the fault",
    a_server_replaced_after_long_loses_the_lock: "server SIGKILL, replaced by another copy after the fault",
    a_server_stopped_for_long_loses_the_lock: "server SIGSTOP, then SIGCONT",
    a_server_stopped_for_a_moment_costs_nothing: "server SIGSTOP for 300 ms",
    a_server_killed_again_and_again_doubles_nobody: "server SIGKILL and back again and again, eight in the queue",
    a_killed_server_knows_what_an_operator_took: "server SIGKILL between an operator's release and the holder",
    a_server_without_descriptors_serves_whom_it_has: "server out of file descriptors",
];

/// Not in step with anything else.
const BETWEEN_KILLS: Duration = Duration::from_millis(130);

/// Nobody notices; the hand-over is measured from the command's own end.
fn costs_nothing(fault: impl FnOnce(&mut Scene)) -> Proof {
    let mut scene = Scene::new();
    let holder = scene.hold();
    let next = scene.next();
    fault(&mut scene);
    lasting(LONG);
    scene.judge_unharmed(holder, next)
}

/// The server is away for longer than the lease, then `back` brings it back.
fn loses_the_lock(away: Signal, back: impl FnOnce(&mut Scene)) -> Proof {
    let mut scene = Scene::new();
    let holder = scene.hold();
    let next = scene.next();
    let begun = BootTime::now();
    scene.server.end(away);
    lasting(LONG);
    back(&mut scene);
    let code = holder.ends_with(79);
    scene.judge(next, Ending::new(code, begun))
}

fn a_server_killed_and_back_costs_nothing() -> Proof {
    costs_nothing(|scene| {
        scene.server.end(Signal::SIGKILL);
        scene.server.start();
    })
}

fn a_server_restart_costs_nothing() -> Proof {
    costs_nothing(|scene| {
        scene.server.end(Signal::SIGTERM);
        scene.server.start();
    })
}

fn a_replaced_server_costs_nothing() -> Proof {
    costs_nothing(|scene| {
        scene.server.replace_program();
        scene.server.end(Signal::SIGTERM);
        scene.server.start();
    })
}

fn a_server_killed_for_long_loses_the_lock() -> Proof {
    loses_the_lock(Signal::SIGKILL, |scene| scene.server.start())
}

fn a_server_away_for_long_loses_the_lock() -> Proof {
    loses_the_lock(Signal::SIGTERM, |scene| scene.server.start())
}

fn a_server_replaced_after_long_loses_the_lock() -> Proof {
    loses_the_lock(Signal::SIGKILL, |scene| {
        scene.server.replace_program();
        scene.server.start();
    })
}

fn a_server_stopped_for_long_loses_the_lock() -> Proof {
    let scene = Scene::new();
    let holder = scene.hold();
    let next = scene.next();
    let begun = BootTime::now();
    scene.server.signal(Signal::SIGSTOP);
    lasting(LONG);
    let back = BootTime::now();
    scene.server.signal(Signal::SIGCONT);
    let code = holder.ends_with(79);
    // It finds that the holder was there while it slept, but also that it gave the lock back.
    scene.judge(next, Ending::new(code, begun).free_at(back))
}

fn a_server_stopped_for_a_moment_costs_nothing() -> Proof {
    costs_nothing(|scene| {
        scene.server.signal(Signal::SIGSTOP);
        lasting(SHORT);
        scene.server.signal(Signal::SIGCONT);
    })
}

fn a_server_killed_again_and_again_doubles_nobody() -> Proof {
    const QUEUE: usize = 8;
    let mut scene = Scene::new();
    let holder = scene.hold();
    let nexts: Vec<_> = (0..QUEUE).map(|_| scene.next()).collect();
    let told = BootTime::now();
    scene.tell_to_end();
    while scene.runs() < 1 + QUEUE {
        scene.server.end(Signal::SIGKILL);
        scene.server.start();
        lasting(BETWEEN_KILLS);
    }
    let code = holder.ends_with(0);
    scene.judge_all(nexts, Ending::new(code, told))
}

fn a_killed_server_knows_what_an_operator_took() -> Proof {
    let mut scene = Scene::new();
    let holder = scene.hold();
    let next = scene.next();
    let begun = BootTime::now();
    // The holder hears nothing from the first of these servers, nor from the second.
    holder.wrapper.signal(Signal::SIGSTOP);
    for is_asked in [true, false] {
        scene.server.end(Signal::SIGKILL);
        scene.server.start();
        if is_asked {
            scene.server.release(LOCK);
        }
    }
    let back = BootTime::now();
    holder.wrapper.signal(Signal::SIGCONT);
    let code = holder.ends_with(79);
    scene.judge(next, Ending::new(code, begun).free_at(back))
}

fn a_server_without_descriptors_serves_whom_it_has() -> Proof {
    /// Fewer than the clients that come.
    const DESCRIPTORS: u64 = 80;
    let few = || Ok(setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)?);
    let scene = Scene::with(|server| server.prepare(Some(Arc::new(few))));
    let holder = scene.hold();
    let next = scene.next();
    let crowd: Vec<_> = (0..2 * DESCRIPTORS)
        .map(|_| UnixStream::connect(scene.server.socket()).expect("the queue of the socket is longer"))
        .collect();
    scene.server.wait_for_log("cannot accept clients");
    lasting(LONG);
    let proof = scene.judge_unharmed(holder, next);
    drop(crowd);
    wait_until("new clients are served again", || {
        let Ok(mut client) = UnixStream::connect(scene.server.socket()) else { return false };
        std::io::Write::write_all(&mut client, b"{\"command\":\"locks\"}\n").is_ok()
            && client.read(&mut [0; 64]).is_ok_and(|count| count > 0)
    });
    proof
}
