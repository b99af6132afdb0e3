//! Heartbeats: the command under the lock and a daemon of it write, every other millisecond, when
//! they were alive, on the boot clock, and under which token. Read back, they tell who ran when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::Pid;
use officer::boot_time::BootTime;

use crate::support::is_alive;

const EVERY: Duration = Duration::from_millis(2);

/// What a test left behind by a crash of its own ends by itself.
const LONGEST_LIFE: Duration = Duration::from_secs(120);

const COMMAND: &str = "--beating-command";
const MIDDLE: &str = "--beating-middle";
const DAEMON: &str = "--beating-daemon";

/// How a command ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// When the file of this name lies beside the beats.
    Told,
    /// After so many beats.
    Beats(u32),
}

/// How it takes SIGTERM.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OnTerm {
    Dies,
    Ignores,
}

/// The words of a command that beats into `file`.
pub(crate) fn command(file: &Path, until: Until, on_term: OnTerm) -> Vec<String> {
    let ourselves = std::env::current_exe().expect("this program");
    let until = match until {
        Until::Told => "told".into(),
        Until::Beats(count) => count.to_string(),
    };
    let words = [ourselves.display().to_string(), COMMAND.into(), file.display().to_string(), until];
    words.into_iter().chain([format!("{on_term:?}")]).collect()
}

/// The file whose appearance ends a command that runs until it is told.
pub(crate) fn end_file(beats: &Path) -> PathBuf {
    beats.with_extension("end")
}

/// What the first argument may ask this program to be.
pub(crate) fn run_if_asked(arguments: &[String]) -> bool {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [COMMAND, file, until, on_term] => be_command(Path::new(file), until, on_term),
        [MIDDLE, file] => be_middle(file),
        [DAEMON, file] => {
            ignore_term();
            Beater::open(Path::new(file), 'd').beat_while(|_| true);
        }
        _ => return false,
    }
    true
}

fn be_command(file: &Path, until: &str, on_term: &str) {
    let mut beater = Beater::open(file, 'c');
    beater.beat();
    beater.note_survivors(file);
    if on_term == "Ignores" {
        ignore_term();
    }
    // A daemon as daemons are made: a process session of its own, a double fork.
    in_role(MIDDLE, &file.display().to_string()).status().expect("this program starts");
    let end = end_file(file);
    match until.parse::<u32>() {
        Ok(count) => beater.beat_while(|beats| beats < count),
        Err(_) => beater.beat_while(|_| !end.exists()),
    }
}

/// Ends before its child, which so becomes a daemon.
#[allow(clippy::zombie_processes, reason = "whoever adopts the daemon waits for it")]
fn be_middle(file: &str) {
    in_role(DAEMON, file).spawn().expect("this program starts");
}

/// This program in another role, in a process session of its own.
fn in_role(role: &str, file: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([role, file]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: one system call, which may be made between fork and exec.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
    command
}

fn ignore_term() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.expect("it can be ignored");
}

struct Beater {
    file: File,
    token: u64,
    role: char,
    beats: u32,
}

impl Beater {
    fn open(file: &Path, role: char) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(file).expect("the file of the beats");
        let token = std::env::var("OFFICER_TOKEN").expect("a token").parse().expect("a number");
        Self { file, token, role, beats: 0 }
    }

    fn write(&mut self, kind: char, value: u128) {
        let line = format!("{kind} {value} {} {} {}\n", self.token, Pid::this(), self.role);
        // One write of a line that appends: lines of several processes don't mix.
        self.file.write_all(line.as_bytes()).expect("there is room for a beat");
    }

    fn beat(&mut self) {
        self.write('b', BootTime::now().since_boot().as_nanos());
        self.beats += 1;
    }

    fn beat_while(&mut self, goes_on: impl Fn(u32) -> bool) {
        let end = BootTime::now() + LONGEST_LIFE;
        while goes_on(self.beats) && BootTime::now() < end {
            self.beat();
            std::thread::sleep(EVERY);
        }
    }

    /// Looks, as the first thing under the lock, for processes of those who had it before.
    fn note_survivors(&mut self, file: &Path) {
        let beats = Beats::read(file);
        let others = beats.runs.iter().filter(|(token, _)| **token != self.token);
        let survivors = others.map(|(_, run)| run.alive(file)).sum::<usize>();
        self.write('s', survivors as u128);
    }
}

/// All that was written so far, by token.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    pub(crate) runs: BTreeMap<u64, Run>,
}

/// One tree under the lock.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// All its beats, in the order of time.
    pub(crate) stamps: Vec<BootTime>,
    pub(crate) pids: BTreeSet<(i32, char)>,
    /// Processes of earlier trees that its command found alive.
    pub(crate) survivors: Option<usize>,
}

impl Beats {
    pub(crate) fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut beats = Self::default();
        // What comes after the last line end is being written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            beats.take(line).unwrap_or_else(|| panic!("no beat: {line:?}"));
        }
        beats.runs.values_mut().for_each(|run| run.stamps.sort());
        beats
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, value, token, pid, role] = words[..] else { return None };
        let run = self.runs.entry(token.parse().ok()?).or_default();
        run.pids.insert((pid.parse().ok()?, role.chars().next()?));
        match kind {
            "b" => run.stamps.push(BootTime::from_since_boot(Duration::from_nanos(value.parse().ok()?))),
            "s" => run.survivors = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

impl Run {
    pub(crate) fn has_both(&self) -> bool {
        ['c', 'd'].iter().all(|role| self.pids.iter().any(|(_, found)| found == role))
    }

    pub(crate) fn pid(&self, role: char) -> Pid {
        let found = self.pids.iter().find(|(_, found)| *found == role);
        Pid::from_raw(found.expect("it has beaten").0)
    }

    /// How many of its processes live; an id may be a stranger's by now.
    pub(crate) fn alive(&self, file: &Path) -> usize {
        let file = file.as_os_str().as_encoded_bytes();
        let is_ours = |pid: Pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|&byte| byte == 0).any(|word| word == file)
        };
        let pids = self.pids.iter().map(|&(pid, _)| Pid::from_raw(pid));
        pids.filter(|&pid| is_alive(pid) && is_ours(pid)).count()
    }

    pub(crate) fn first(&self) -> BootTime {
        *self.stamps.first().expect("it has beaten")
    }

    pub(crate) fn last(&self) -> BootTime {
        *self.stamps.last().expect("it has beaten")
    }
}
