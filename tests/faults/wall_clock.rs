//! The wall clock is stepped under wrapper, guardian, server and command. Not this machine's: only
//! what these processes see of it, by libfaketime, which leaves the boot clock alone.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::beats::OnTerm;
use crate::scene::{LONG, SHORT, Scene, lasting};
use crate::support::wait_until;
use crate::table::Proof;

crate::faults![
    steps_of_the_wall_clock_change_nothing: "wall clock stepped by a day, forward and back",
    only_what_is_shown_or_numbered_reads_the_wall_clock: "wall clock, by the source",
];

/// Where a read of the wall clock decides nothing: since when something is held, for people to read,
/// and the number with which a store that was never used begins.
const MAY_READ_IT: [&str; 2] = ["server/restore.rs", "server/store/mod.rs"];

const WAYS_TO_READ_IT: [&str; 5] = ["SystemTime", "CLOCK_REALTIME", "UNIX_EPOCH", "gettimeofday", "chrono::"];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

/// A wall clock that this file moves, by offsets like +1d.
struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

impl WallClock {
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// Moves it, and makes sure that it has moved for a process under it.
    fn step(&self, offset: &str, expected: impl Fn(SystemTime) -> bool) {
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, offset).expect("there is room");
        std::fs::rename(draft, &self.file).expect("it is our folder");
        wait_until("the clock has moved", || {
            let output =
                Command::new("date").arg("+%s").envs(self.environment()).output().expect("date runs");
            let seconds = String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds");
            expected(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        });
    }
}

fn steps_of_the_wall_clock_change_nothing() -> Proof {
    let Some(library) = library() else { return Proof::Skipped("libfaketime isn't installed") };
    let folder = tempfile::tempdir().expect("a folder");
    let clock = WallClock { file: folder.path().join("offset"), library };
    let half_a_day = DAY / 2;
    clock.step("+0", |_| true);
    let scene = Scene::with(|server| server.set_environment(clock.environment()));
    let mut command = scene.holding_command(&scene.url(), OnTerm::Ignores);
    let holder = scene.hold_by(command.envs(clock.environment()));
    let next = scene.next();
    clock.step("+1d", |now| now > SystemTime::now() + half_a_day);
    lasting(SHORT);
    clock.step("-1d", |now| now < SystemTime::now() - half_a_day);
    lasting(LONG);
    scene.judge_unharmed(holder, next)
}

fn only_what_is_shown_or_numbered_reads_the_wall_clock() -> Proof {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("it is a folder").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if reads_the_wall_clock(&path) {
                found.push(path.strip_prefix(&root).expect("it is below").display().to_string());
            }
        }
    }
    found.sort();
    assert_eq!(found, MAY_READ_IT, "what reads the wall clock, and what may");
    Proof::Shown("no lease, deadline, session or queue reads it")
}

fn reads_the_wall_clock(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).expect("it is text");
    WAYS_TO_READ_IT.iter().any(|way| text.contains(way))
}
