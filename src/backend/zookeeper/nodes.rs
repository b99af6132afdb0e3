//! The names of a lock's nodes, as kazoo's `Lock` and `Semaphore` have them, and the order that they
//! imply. Pure: no connection, no clock.

use std::fmt;

use crate::backend::engine::check_name;
use crate::backend::{AcquireError, ConnectError, Wanted};
use crate::lock::Limit;

/// The namespace of lockex.
pub(super) const DEFAULT_PATH: &str = "lockex";

/// What a contender's name has between its id and its number.
const CONTENDER: &str = "__lock__";

/// What the inner lock of a semaphore is called, behind the semaphore's own name.
const INNER: &str = "-__lock__";

/// The 32 hexadecimal digits by which our own nodes are found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeId(String);

impl NodeId {
    pub(super) fn random() -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(crate::secret::draw())))
    }

    /// The name of our contender, without its number.
    pub(super) fn contender(&self) -> String {
        format!("{}{CONTENDER}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the nodes of one lock are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// `/chroot/path/id`: contenders or leases are below it.
    pub(super) node: String,
    /// As people and the command are told: without the chroot.
    pub(super) shown: String,
}

impl Names {
    /// `chroot` is empty or begins with a slash.
    pub(super) fn of(chroot: &str, wanted: &Wanted) -> Result<Self, AcquireError> {
        check_name(&wanted.name, &['/'])?;
        let unsupported = |wrong: String| Err(ConnectError::Unsupported(wrong).into());
        if matches!(wanted.name.as_str(), "." | "..") || wanted.name.ends_with(INNER) {
            return unsupported(format!("a lock can't be named {:?} on ZooKeeper", wanted.name));
        }
        let path = wanted.path.as_deref().unwrap_or(DEFAULT_PATH).trim_matches('/');
        if path.split('/').any(|part| matches!(part, "." | "..") || part.chars().any(char::is_control))
            || path.contains("//")
        {
            return unsupported(format!("{path:?} is no path of ZooKeeper"));
        }
        let shown =
            if path.is_empty() { format!("/{}", wanted.name) } else { format!("/{path}/{}", wanted.name) };
        Ok(Self { node: format!("{chroot}{shown}"), shown })
    }

    /// The node of the lock that serialises the entry into a semaphore.
    pub(super) fn inner(&self) -> String {
        format!("{}{INNER}", self.node)
    }

    /// The node of our lease of a semaphore.
    pub(super) fn lease(&self, id: &NodeId) -> String {
        format!("{}/{id}", self.node)
    }
}

/// Splits a host list with an optional chroot: `h1:2181,h2/chroot`.
pub(super) fn split_chroot(hosts: &str) -> (&str, &str) {
    match hosts.find('/') {
        Some(slash) => (&hosts[..slash], hosts[slash..].trim_end_matches('/')),
        None => (hosts, ""),
    }
}

/// The number of a contender; `None` for any other node.
fn number(name: &str) -> Option<i64> {
    const DIGITS: usize = 10;
    let (_, number) = name.rsplit_once(CONTENDER)?;
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| number.parse().ok()).flatten()
}

/// The line at a lock.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Contenders in their order.
    contenders: Vec<(i64, String)>,
    /// Children that are not contenders: leases of a semaphore.
    pub(super) leases: usize,
}

impl Line {
    pub(super) fn of(children: Vec<String>) -> Self {
        let all = children.len();
        let mut contenders: Vec<_> =
            children.into_iter().filter_map(|child| Some((number(&child)?, child))).collect();
        contenders.sort();
        Self { leases: all - contenders.len(), contenders }
    }

    pub(super) fn contenders(&self) -> usize {
        self.contenders.len()
    }

    /// How many contenders there are, ours not counted.
    pub(super) fn besides_us(&self) -> u64 {
        self.contenders.len().saturating_sub(1) as u64
    }

    pub(super) fn contains(&self, own: &str) -> bool {
        self.contenders.iter().any(|(_, name)| name == own)
    }

    /// Our own contender.
    pub(super) fn find(&self, id: &NodeId) -> Option<&str> {
        let own = id.contender();
        self.contenders.iter().map(|(_, name)| name.as_str()).find(|name| name.starts_with(&own))
    }

    /// The one directly before `own`; `None`: `own` is first.
    pub(super) fn predecessor(&self, own: &str) -> Option<&str> {
        let own_number = number(own)?;
        let before = self.contenders.iter().take_while(|(number, _)| *number < own_number);
        before.last().map(|(_, name)| name.as_str())
    }

    /// The first in line.
    pub(super) fn first(&self) -> Option<&str> {
        self.contenders.first().map(|(_, name)| name.as_str())
    }
}

/// The limit in a semaphore's data; `None`: it says nothing.
pub(super) fn limit_in(data: &[u8]) -> Option<u32> {
    std::str::from_utf8(data).ok()?.trim().parse().ok()
}

/// The data of a semaphore that we make.
pub(super) fn data_of(limit: Limit) -> Vec<u8> {
    limit.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Wait;

    fn names(chroot: &str, path: Option<&str>, name: &str) -> Result<Names, AcquireError> {
        let wanted = Wanted {
            name: name.into(),
            path: path.map(Into::into),
            limit: Limit::ONE,
            wait: Wait::No,
            queue_max: None,
        };
        Names::of(chroot, &wanted)
    }

    #[test]
    fn nodes_are_where_lockex_looks() {
        let names = names("", None, "job").unwrap();
        assert_eq!(names.node, "/lockex/job");
        assert_eq!(names.inner(), "/lockex/job-__lock__");
    }

    #[test]
    fn a_chroot_and_a_path_go_in_front() {
        let (hosts, chroot) = split_chroot("h1:2181,h2/apps/");
        assert_eq!((hosts, chroot), ("h1:2181,h2", "/apps"));
        let names = names(chroot, Some("/a/b/"), "job").unwrap();
        assert_eq!((names.node.as_str(), names.shown.as_str()), ("/apps/a/b/job", "/a/b/job"));
        assert_eq!(super::tests::names("", Some(""), "job").unwrap().node, "/job");
    }

    #[test]
    fn names_that_would_be_other_nodes_are_refused() {
        for (path, name) in [
            (None, "a/b"),
            (None, ".."),
            (None, ""),
            (None, "x-__lock__"),
            (Some("a//b"), "x"),
            (Some("../x"), "y"),
        ] {
            assert!(names("", path, name).is_err(), "{path:?} {name:?}");
        }
    }

    #[test]
    fn the_line_is_ordered_by_number_alone() {
        let child = |id: char, number: &str| format!("{}__lock__{number}", id.to_string().repeat(32));
        let (a, b, c) = (child('f', "0000000007"), child('0', "0000000010"), child('1', "0000000009"));
        let lease = "2".repeat(32);
        let other = "x__lock__12".to_owned();
        let line = Line::of(vec![b.clone(), lease, a.clone(), other, c.clone()]);
        assert_eq!((line.contenders(), line.leases), (3, 2));
        assert_eq!(line.first(), Some(a.as_str()));
        assert_eq!(line.predecessor(&b), Some(c.as_str()));
        assert_eq!(line.predecessor(&c), Some(a.as_str()));
        assert_eq!(line.predecessor(&a), None);
        assert_eq!(line.find(&NodeId("1".repeat(32))), Some(c.as_str()));
    }

    #[test]
    fn numbers_that_have_wrapped_come_first() {
        let line = Line::of(vec!["a__lock__0000000001".into(), "b__lock__-2147483648".into()]);
        assert_eq!(line.first(), Some("b__lock__-2147483648"));
    }
}
