//! A paused machine: wrapper, guardian and tree stand still together for longer than the lease, and
//! go on together. The kernel's cgroup freezer does it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::link::scene_with_cable;
use crate::scene::{Ending, Holder, LONG, SHORT, Scene, lasting};
use crate::support::wait_until;
use crate::table::Proof;

crate::faults![
    a_thawed_tree_is_dead_at_once: "whole tree frozen, then thawed (a paused machine)",
    a_short_pause_costs_nothing: "whole tree frozen for 300 ms",
    a_frozen_command_keeps_the_lock_until_it_can_die: "command frozen, wrapper SIGTERM, then thawed",
    a_guardian_that_cannot_even_die_is_stood_in_for: "guardian frozen and network cut, then thawed",
];

/// How long an old command may live after the thaw, on a machine that has time for us.
const DEAD_WITHIN: Duration = Duration::from_millis(20);

/// A group of processes that can be frozen.
struct Freezer {
    folder: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// cgroup v1, the controller "freezer".
    State,
    /// cgroup v2.
    Freeze,
}

impl Freezer {
    /// `None`: this machine has none that we may use.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("officer-exec-faults-{}-{number}", std::process::id());
        let places = [
            ("/sys/fs/cgroup/freezer", Kind::State),
            ("/sys/fs/cgroup", Kind::Freeze),
            ("/sys/fs/cgroup/unified", Kind::Freeze),
        ];
        places.into_iter().find_map(|(root, kind)| {
            let folder = Path::new(root).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let freezer = Self { folder, kind };
            freezer.switch().exists().then_some(freezer)
        })
    }

    fn switch(&self) -> PathBuf {
        self.folder.join(match self.kind {
            Kind::State => "freezer.state",
            Kind::Freeze => "cgroup.freeze",
        })
    }

    fn freeze(&self) {
        self.turn(match self.kind {
            Kind::State => "FROZEN",
            Kind::Freeze => "1",
        });
        wait_until("they are frozen", || match self.kind {
            Kind::State => self.read("freezer.state").trim() == "FROZEN",
            Kind::Freeze => self.read("cgroup.events").contains("frozen 1"),
        });
    }

    fn thaw(&self) {
        self.turn(match self.kind {
            Kind::State => "THAWED",
            Kind::Freeze => "0",
        });
    }

    fn turn(&self, state: &str) {
        std::fs::write(self.switch(), state).expect("it can be switched");
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).expect("it can be read")
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        // Those that have just ended may still be in it for a moment.
        let emptied = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            std::fs::remove_dir(&self.folder).is_ok()
        });
        if !emptied {
            eprintln!("cannot remove {}", self.folder.display());
        }
    }
}

/// How long the machine let somebody wait who wanted to run every millisecond: what a deadline in
/// milliseconds can't blame on us.
struct Noise {
    worst_micros: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Noise {
    fn listen() -> Self {
        let noise = Self { worst_micros: Arc::default(), over: Arc::default() };
        let (worst, over) = (noise.worst_micros.clone(), noise.over.clone());
        std::thread::spawn(move || {
            const TICK: Duration = Duration::from_millis(1);
            while !over.load(Ordering::Relaxed) {
                let before = BootTime::now();
                std::thread::sleep(TICK);
                let late = BootTime::now().saturating_since(before).saturating_sub(TICK);
                worst.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        noise
    }

    fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_micros.load(Ordering::Relaxed))
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A holder that can be frozen with all that belongs to it; `Err`: not here.
fn scene_in_a_freezer() -> Result<(Freezer, Scene, Holder), Proof> {
    let freezer = Freezer::new().ok_or(Proof::Skipped("no cgroup freezer may be used here"))?;
    let scene = Scene::new();
    let procs = freezer.folder.join("cgroup.procs");
    let mut command = scene.holding_command(&scene.url(), OnTerm::Ignores);
    // SAFETY: it opens and writes a file by a path made before; nothing else runs in the child.
    unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
    let holder = scene.hold_by(&mut command);
    Ok((freezer, scene, holder))
}

/// Noise only ever adds: the least of a few thaws is what is ours.
fn a_thawed_tree_is_dead_at_once() -> Proof {
    const THAWS: usize = 3;
    let mut late = Vec::new();
    for _ in 0..THAWS {
        match thaw_after_the_lease() {
            Thawed::InTime(proof) => return proof,
            Thawed::Late { alive, allowed } => late.push(format!("{alive:?}, allowed were {allowed:?}")),
        }
    }
    panic!("alive after the thaw: {}", late.join("; "))
}

enum Thawed {
    InTime(Proof),
    Late { alive: Duration, allowed: Duration },
}

fn thaw_after_the_lease() -> Thawed {
    let (freezer, scene, holder) = match scene_in_a_freezer() {
        Ok(frozen) => frozen,
        Err(proof) => return Thawed::InTime(proof),
    };
    let next = scene.next();
    let begun = BootTime::now();
    freezer.freeze();
    lasting(LONG);
    wait_until("the next one runs", || scene.runs() == 2);
    let noise = Noise::listen();
    let thaw = BootTime::now();
    freezer.thaw();
    let code = holder.ends_with(79);
    let allowed = DEAD_WITHIN + noise.worst() * 2;
    let proof = scene.judge(next, Ending::new(code, begun).thawed_at(thaw));
    match &proof {
        Proof::Measured(row) => {
            let alive = row.after_thaw.expect("it was thawed");
            if alive > allowed { Thawed::Late { alive, allowed } } else { Thawed::InTime(proof) }
        }
        Proof::Shown(_) | Proof::Skipped(_) => Thawed::InTime(proof),
    }
}

fn a_short_pause_costs_nothing() -> Proof {
    let (freezer, scene, holder) = match scene_in_a_freezer() {
        Ok(frozen) => frozen,
        Err(proof) => return proof,
    };
    let next = scene.next();
    freezer.freeze();
    lasting(SHORT);
    freezer.thaw();
    lasting(LONG);
    scene.judge_unharmed(holder, next)
}

/// A process that SIGKILL doesn't end before it is thawed: the old freezer's are so. `Err`: not here.
fn freeze_alone(process: impl std::fmt::Display) -> Result<Freezer, Proof> {
    let freezer = Freezer::new().filter(|it| matches!(it.kind, Kind::State));
    let freezer = freezer.ok_or(Proof::Skipped("no freezer that holds off SIGKILL may be used here"))?;
    std::fs::write(freezer.folder.join("cgroup.procs"), process.to_string()).expect("it is ours");
    freezer.freeze();
    Ok(freezer)
}

/// Nobody is said to have forbidden it.
fn a_frozen_command_keeps_the_lock_until_it_can_die() -> Proof {
    let scene = Scene::new();
    let mut holder = scene.hold();
    let next = scene.next();
    let begun = BootTime::now();
    let freezer = match freeze_alone(holder.command) {
        Ok(freezer) => freezer,
        Err(proof) => return proof,
    };
    holder.wrapper.signal(Signal::SIGTERM);
    holder.wrapper.stderr_until(|line| {
        assert!(!line.contains("not allowed"), "{line}");
        line.contains("still there after SIGKILL").then_some(())
    });
    assert_eq!(scene.runs(), 1, "nobody else has run");
    freezer.thaw();
    let code = holder.ends_with(128 + 9);
    scene.judge(next, Ending::new(code, begun))
}

/// It is woken, given up and killed in vain; the wrapper ends its tree over its head.
fn a_guardian_that_cannot_even_die_is_stood_in_for() -> Proof {
    let (scene, cable, holder) = scene_with_cable();
    let next = scene.next();
    let begun = BootTime::now();
    let freezer = match freeze_alone(holder.guardian) {
        Ok(freezer) => freezer,
        Err(proof) => return proof,
    };
    cable.cut();
    wait_until("the next one runs", || scene.runs() == 2);
    freezer.thaw();
    cable.mend();
    let code = holder.ends_with(79);
    scene.judge(next, Ending::new(code, begun))
}
