//! One lock, a server, a holder and the next in the queue; and what must be true when it is over.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use officer::boot_time::BootTime;
use tempfile::TempDir;

use crate::beats::{self, Beats, OnTerm, Run, Until};
use crate::server::Server;
use crate::support::{Running, guardian_of, officer_exec, wait_until};
use crate::table::{Proof, Row};

pub(crate) const LOCK: &str = "contended";

/// The lease of the wrappers; renewed every third of it, killed 220 ms before its end.
pub(crate) const TTL: Duration = Duration::from_secs(2);

/// How long a fault lasts that is to outlast a lease.
pub(crate) const LONG: Duration = Duration::from_secs(3);

/// How long one lasts that is to be survived: a renewal may be missed, the stop deadline isn't.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// What the next in the queue does with the lock.
const BEATS_OF_NEXT: Until = Until::Beats(50);

/// From the stop signal of the wrappers to SIGKILL.
const GRACE: &str = "300ms";

/// Where the lock is kept.
pub(crate) trait Site {
    fn url(&self) -> String;

    /// Holders and waiters of a lock.
    fn queue_len(&self, lock: &str) -> usize;
}

pub(crate) struct Scene<S: Site = Server> {
    // Before the folder, so that it ends first.
    pub(crate) server: S,
    folder: TempDir,
    /// Of the wrappers.
    ttl: Duration,
}

/// A wrapper that holds the lock, its guardian and what runs under it.
pub(crate) struct Holder {
    pub(crate) wrapper: Running,
    pub(crate) guardian: Pid,
    pub(crate) command: Pid,
}

/// What the end of a holder looked like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) code: Option<i32>,
    fault: BootTime,
    thaw: Option<BootTime>,
    /// Once the old tree is dead, the next one must not have to wait for a lease from then on.
    free_at: Option<BootTime>,
}

impl Ending {
    pub(crate) fn new(code: Option<i32>, fault: BootTime) -> Self {
        Self { code, fault, thaw: None, free_at: None }
    }

    /// After which the next one must not have to wait for the lease.
    pub(crate) fn prompt(self) -> Self {
        self.free_at(self.fault)
    }

    /// The same for a fault that has to end first.
    pub(crate) fn free_at(self, instant: BootTime) -> Self {
        Self { free_at: Some(instant), ..self }
    }

    /// Of a tree that was frozen, and thawed at this instant.
    pub(crate) fn thawed_at(self, thaw: BootTime) -> Self {
        Self { thaw: Some(thaw), ..self }
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A scene whose server is made ready by `prepare` before it starts.
    pub(crate) fn with(prepare: impl FnOnce(&mut Server)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::new(folder.path());
        prepare(&mut server);
        server.start();
        Self { server, folder, ttl: TTL }
    }
}

impl<S: Site> Scene<S> {
    /// A scene at a server that runs.
    pub(crate) fn at(server: S, ttl: Duration) -> Self {
        Self { server, folder: tempfile::tempdir().expect("a folder"), ttl }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn beats_file(&self) -> PathBuf {
        self.path().join("beats")
    }

    pub(crate) fn beats(&self) -> Beats {
        Beats::read(&self.beats_file())
    }

    /// A wrapper whose command beats until it is told to end.
    pub(crate) fn holding_command(&self, url: &str, on_term: OnTerm) -> Command {
        self.wrapped(url, &beats::command(&self.beats_file(), Until::Told, on_term))
    }

    /// The same beside another program of the tree.
    pub(crate) fn holding_command_beside(&self, program: &Path) -> Command {
        let script = format!("{} 1000 & exec \"$@\"", program.display());
        let beats = beats::command(&self.beats_file(), Until::Told, OnTerm::Ignores);
        let shell = ["sh".into(), "-c".into(), script, "sh".into()];
        self.wrapped(&self.server.url(), &[&shell[..], &beats].concat())
    }

    fn wrapped(&self, url: &str, words: &[String]) -> Command {
        let mut command = officer_exec();
        let ttl = format!("{}ms", self.ttl.as_millis());
        command.args(["--server", url, "-i", LOCK, "--ttl", &ttl, "--grace", GRACE]).arg("--").args(words);
        command
    }

    /// A holder whose command and daemon are deaf to SIGTERM.
    pub(crate) fn hold(&self) -> Holder {
        self.hold_by(&mut self.holding_command(&self.server.url(), OnTerm::Ignores))
    }

    /// The same through another way to the server, or into another world.
    pub(crate) fn hold_by(&self, command: &mut Command) -> Holder {
        let wrapper = Running::start(command);
        self.wait_for_beats();
        let guardian = guardian_of(wrapper.pid());
        Holder { guardian, command: self.first_pid('c'), wrapper }
    }

    /// Waits until the first command and its daemon beat.
    pub(crate) fn wait_for_beats(&self) {
        wait_until("command and daemon beat", || {
            self.beats().runs.first_entry().is_some_and(|first| first.get().has_both())
        });
    }

    fn first_pid(&self, role: char) -> Pid {
        self.beats().runs.first_entry().expect("somebody has run").get().pid(role)
    }

    /// The next in the queue: beats for a moment, then ends.
    pub(crate) fn next(&self) -> Running {
        self.next_for(BEATS_OF_NEXT)
    }

    /// One more in the queue.
    pub(crate) fn next_for(&self, until: Until) -> Running {
        let before = self.server.queue_len(LOCK);
        let words = beats::command(&self.beats_file(), until, OnTerm::Ignores);
        let next = Running::start(&mut self.wrapped(&self.server.url(), &words));
        wait_until("it stands in the queue", || self.server.queue_len(LOCK) > before);
        next
    }

    /// Tells the holder's command to end.
    pub(crate) fn tell_to_end(&self) {
        std::fs::write(beats::end_file(&self.beats_file()), "").expect("there is room");
    }

    /// How many have run under the lock.
    pub(crate) fn runs(&self) -> usize {
        self.beats().runs.len()
    }

    /// Nobody has noticed anything: the holder's command ends when it is told to, and not before; the
    /// hand-over is measured from there.
    pub(crate) fn judge_unharmed(&self, mut holder: Holder, next: Running) -> Proof {
        assert!(holder.wrapper.is_running());
        let told = BootTime::now();
        self.tell_to_end();
        let code = holder.ends_with(0);
        self.judge(next, Ending::new(code, told).prompt())
    }

    /// Waits for the next one's end, and checks what must be true whatever the fault was.
    pub(crate) fn judge(&self, next: Running, ending: Ending) -> Proof {
        self.judge_all(vec![next], ending)
    }

    /// The same for all who stood in the queue and got to run.
    pub(crate) fn judge_all(&self, nexts: Vec<Running>, ending: Ending) -> Proof {
        let expected = 1 + nexts.len();
        for next in nexts {
            let finished = next.wait_with_stdin_open();
            assert_eq!(finished.code, Some(0), "the next one's end; {}", finished.stderr);
        }
        let beats = self.beats();
        let runs: Vec<&Run> = beats.runs.values().collect();
        assert_eq!(runs.len(), expected, "trees that ran");
        // By token: one that is given later is greater.
        assert!(runs.is_sorted_by_key(|run| run.first()), "a later run has a smaller token");
        let row = Row {
            overlap: runs.windows(2).map(|pair| overlap(pair[0], pair[1], &ending)).max().expect("two ran"),
            survivors: self.survivors(&beats, ending.thaw.is_some()),
            gap: runs[1].first().saturating_since(ran_until(runs[0], &ending)),
            next_start: runs[1].first().saturating_since(ending.fault),
            code: ending.code,
            after_thaw: ending.thaw.map(|thaw| runs[0].last().saturating_since(thaw)),
        };
        assert_eq!(row.overlap, Duration::ZERO, "two trees under one lock: {row:?}");
        assert_eq!(row.survivors, 0, "processes outlived the lock: {row:?}");
        if let Some(free_at) = ending.free_at {
            let waited = runs[1].first().saturating_since(free_at.max(ran_until(runs[0], &ending)));
            assert!(waited < self.ttl / 2, "the next one had to wait for a lease: {row:?}");
        }
        Proof::Measured(row)
    }

    /// Those that the second command met, unless they stood frozen then, and those that are left now.
    fn survivors(&self, beats: &Beats, were_frozen: bool) -> usize {
        let met = beats.runs.values().filter_map(|run| run.survivors).max().expect("it has looked");
        let left = beats.runs.values().map(|run| run.alive(&self.beats_file())).sum();
        if were_frozen { left } else { left.max(met) }
    }
}

impl<S: Site> Drop for Scene<S> {
    fn drop(&mut self) {
        for run in self.beats().runs.values() {
            if run.alive(&self.beats_file()) > 0 {
                for &(pid, _) in &run.pids {
                    // It may have ended.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
    }
}

impl Holder {
    pub(crate) fn signal(&self, to: Pid, signal: Signal) {
        kill(to, signal).expect("it is there");
    }

    /// Waits for the wrapper's end, which must have this code.
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Option<i32> {
        self.ends_by(Some(code))
    }

    /// The same; none: a signal ended it.
    #[track_caller]
    pub(crate) fn ends_by(self, code: Option<i32>) -> Option<i32> {
        let finished = self.wrapper.wait_with_stdin_open();
        assert_eq!(finished.code, code, "the holder's exit code; it said: {}", finished.stderr);
        code
    }
}

fn overlap(old: &Run, new: &Run, ending: &Ending) -> Duration {
    ran_until(old, ending).saturating_since(new.first())
}

/// A frozen tree doesn't run; what it does once it is thawed is looked at apart.
fn ran_until(run: &Run, ending: &Ending) -> BootTime {
    match ending.thaw {
        Some(thaw) if run.first() < thaw => {
            *run.stamps.iter().rfind(|stamp| **stamp < thaw).expect("the first one is")
        }
        Some(_) | None => run.last(),
    }
}

/// A fault's length.
pub(crate) fn lasting(duration: Duration) {
    std::thread::sleep(duration);
}
