//! Finds the descendants of a process in /proc. A look is a moment: the tree may have changed when
//! it returns, and a list of children that shrinks while it is read may hide one. Whoever needs
//! certainty looks again until `wait` says that there is nothing left.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use nix::unistd::Pid;

/// One process, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// The parent under which it was found.
    pub(super) parent: Pid,
}

/// What /proc/PID/stat says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: String,
    /// One letter: R, S, D, T (stopped), t (traced), Z (zombie), ...
    pub(super) state: char,
    pub(super) parent: Pid,
    threads: u32,
}

impl Stat {
    /// `None` if there is no such process.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    /// The name stands in parentheses and may hold any byte, also `)`.
    fn parse(text: &str) -> Option<Self> {
        const STATE: usize = 0;
        const PARENT: usize = 1;
        const THREADS: usize = 17;
        let (head, tail) = text.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        Some(Self {
            name,
            state: fields.get(STATE)?.chars().next()?,
            parent: Pid::from_raw(fields.get(PARENT)?.parse().ok()?),
            threads: fields.get(THREADS)?.parse().ok()?,
        })
    }

    /// Whether it has ended and only waits for its parent. A zombie main thread alone doesn't say so.
    pub(super) fn is_dead(&self) -> bool {
        self.state == 'X' || (self.state == 'Z' && self.threads <= 1)
    }

    /// Whether it stands still on a signal.
    pub(super) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }
}

/// All descendants, parents before their children.
pub(super) fn descendants(of: Pid) -> Vec<Process> {
    if Path::new("/proc/thread-self/children").exists() {
        breadth_first(of, listed_children)
    } else {
        let children = children_by_parent();
        breadth_first(of, |parent| children.get(&parent).cloned().unwrap_or_default())
    }
}

/// The direct children.
pub(super) fn children(of: Pid) -> Vec<Pid> {
    if Path::new("/proc/thread-self/children").exists() {
        listed_children(of)
    } else {
        children_by_parent().remove(&of).unwrap_or_default()
    }
}

fn breadth_first(root: Pid, mut children_of: impl FnMut(Pid) -> Vec<Pid>) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut parent = root;
    let mut next = 0;
    loop {
        found.extend(children_of(parent).into_iter().map(|pid| Process { pid, parent }));
        let Some(process) = found.get(next) else { return found };
        parent = process.pid;
        next += 1;
    }
}

/// A child belongs to the thread that forked it, so all threads are asked.
fn listed_children(of: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{of}/task")) else { return vec![] };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    children
}

/// For kernels without lists of children: one pass over all processes.
fn children_by_parent() -> HashMap<Pid, Vec<Pid>> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return children };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let pid = Pid::from_raw(pid);
        if let Some(stat) = Stat::of(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A shell with a child that waits for the shell's stdin to be closed.
    fn family() -> Child {
        Command::new("sh")
            .args(["-c", "cat | cat >/dev/null; :"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell starts")
    }

    fn wait_for(what: impl Fn() -> bool) {
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !what() {
            assert!(std::time::Instant::now() < give_up);
            std::thread::yield_now();
        }
    }

    #[test]
    fn both_ways_of_looking_find_the_grandchildren() {
        let mut shell = family();
        let shell_pid = Pid::from_raw(shell.id().cast_signed());
        wait_for(|| breadth_first(shell_pid, listed_children).len() == 2);
        let scanned = children_by_parent();
        let mut one = breadth_first(shell_pid, listed_children);
        let mut other = breadth_first(shell_pid, |parent| scanned.get(&parent).cloned().unwrap_or_default());
        one.sort_by_key(|process| process.pid);
        other.sort_by_key(|process| process.pid);
        assert_eq!(one, other);
        assert!(descendants(Pid::this()).iter().any(|process| process.pid == shell_pid));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn names_may_hold_anything() {
        let line = "77 (a) b (c) ) T 5 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 2 3 4";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat.name, "a) b (c) ");
        assert_eq!(stat.parent, Pid::from_raw(5));
        assert!(stat.is_stopped() && !stat.is_dead());
    }

    #[test]
    fn a_zombie_main_thread_with_other_threads_lives() {
        let zombie = |threads: u32| {
            Stat::parse(&format!("7 (x) Z 5 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 0")).unwrap()
        };
        assert!(zombie(1).is_dead());
        assert!(!zombie(2).is_dead());
    }
}
