//! Finds the descendants of a process in /proc. A look is a moment: the tree may have changed when
//! it returns, and a list of children that shrinks while it is read may hide one. Whoever needs
//! certainty looks again until `wait` says that there is nothing left. A look that fails says so: it
//! is not one that has found nobody.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
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
    /// `None` if there is no such process, or it can't be looked at.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        Self::read(pid).ok().flatten()
    }

    /// `None` if there is no such process, or it is hidden from us.
    fn read(pid: Pid) -> io::Result<Option<Self>> {
        match fs::read(format!("/proc/{pid}/stat")) {
            Ok(text) => Ok(Self::parse(&String::from_utf8_lossy(&text))),
            Err(error) if is_of_one_process(&error) => Ok(None),
            Err(error) => Err(error),
        }
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

/// What a look has found, and what kept it from finding all.
#[derive(Debug)]
pub(super) struct Found {
    /// Parents before their children.
    pub(super) processes: Vec<Process>,
    /// The first thing that went wrong.
    pub(super) error: Option<io::Error>,
}

/// All descendants, or as many as could be found.
pub(super) fn descendants(of: Pid) -> Found {
    match check_proc() {
        Err(error) => Found { processes: vec![], error: Some(error) },
        Ok(()) if has_lists() => breadth_first(of, listed_children),
        Ok(()) => match children_by_parent() {
            Err(error) => Found { processes: vec![], error: Some(error) },
            Ok(children) => {
                breadth_first(of, |parent| Ok(children.get(&parent).cloned().unwrap_or_default()))
            }
        },
    }
}

/// The direct children.
pub(super) fn children(of: Pid) -> io::Result<Vec<Pid>> {
    check_proc()?;
    if has_lists() { listed_children(of) } else { Ok(children_by_parent()?.remove(&of).unwrap_or_default()) }
}

/// Something else may have been mounted at /proc since, also that of another PID namespace, whose ids
/// are strangers' here.
fn check_proc() -> io::Result<()> {
    let ourselves = fs::read_link("/proc/self")?;
    if ourselves == Path::new(&Pid::this().to_string()) { Ok(()) } else { Err(Errno::ESRCH.into()) }
}

fn has_lists() -> bool {
    Path::new("/proc/thread-self/children").exists()
}

/// Whether an error is about one process, that has gone or is hidden from us, and not about looking.
fn is_of_one_process(error: &io::Error) -> bool {
    let hidden = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
    hidden || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

fn breadth_first(root: Pid, mut children_of: impl FnMut(Pid) -> io::Result<Vec<Pid>>) -> Found {
    let mut found = Found { processes: Vec::new(), error: None };
    let mut parent = root;
    let mut next = 0;
    loop {
        match children_of(parent) {
            Ok(pids) => found.processes.extend(pids.into_iter().map(|pid| Process { pid, parent })),
            // What it had is somebody else's child now, and found by the next look.
            Err(error) if parent != root && is_of_one_process(&error) => {}
            Err(error) => found.error = found.error.or(Some(error)),
        }
        let Some(process) = found.processes.get(next) else { return found };
        parent = process.pid;
        next += 1;
    }
}

/// A child belongs to the thread that forked it, so all threads are asked. One that ends meanwhile
/// makes this fail, for it hands its children to another one.
fn listed_children(of: Pid) -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{of}/task"))? {
        let list = fs::read_to_string(thread?.path().join("children"))?;
        children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    Ok(children)
}

/// For kernels without lists of children: one pass over all processes.
fn children_by_parent() -> io::Result<HashMap<Pid, Vec<Pid>>> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let pid = Pid::from_raw(pid);
        if let Some(stat) = Stat::read(pid)? {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    Ok(children)
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
        wait_for(|| breadth_first(shell_pid, listed_children).processes.len() == 2);
        let scanned = children_by_parent().unwrap();
        let mut one = breadth_first(shell_pid, listed_children).processes;
        let of_scanned = |parent| Ok(scanned.get(&parent).cloned().unwrap_or_default());
        let mut other = breadth_first(shell_pid, of_scanned).processes;
        one.sort_by_key(|process| process.pid);
        other.sort_by_key(|process| process.pid);
        assert_eq!(one, other);
        assert!(descendants(Pid::this()).processes.iter().any(|process| process.pid == shell_pid));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn a_look_that_fails_has_not_found_nobody() {
        let refused = |_| Err(io::Error::from(Errno::EMFILE));
        assert!(breadth_first(Pid::this(), refused).error.is_some());
        let gone = |pid| {
            if pid == Pid::this() { Ok(vec![Pid::from_raw(i32::MAX)]) } else { listed_children(pid) }
        };
        let found = breadth_first(Pid::this(), gone);
        assert!(found.error.is_none(), "one that has gone meanwhile is no failure: {found:?}");
        assert!(listed_children(Pid::from_raw(i32::MAX)).is_err());
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
