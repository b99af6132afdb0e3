//! Two hosts on one machine: network namespaces joined by a cable (a veth pair), whose failures are
//! the kernel's own. Needs root and `ip`.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::server::Prepare;

pub(crate) const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 1);
const HOLDER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 2);

/// A hardware address that nobody has: what is sent there is dropped by whoever gets it.
const NOBODY: &str = "02:00:00:00:00:99";

/// The end of the cable in each namespace.
const CABLE: &str = "cable";

/// Which packets are lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToServer,
    ToHolder,
}

/// The holder's host and the server's.
pub(crate) struct Hosts {
    server: Namespace,
    holder: Namespace,
}

struct Namespace {
    name: String,
}

impl Hosts {
    /// Two hosts that reach each other; `None`: it isn't allowed here.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("officer-faults-{}-{number}-{side}", std::process::id());
        let (server, holder) = (Namespace::new(name("s"))?, Namespace::new(name("h"))?);
        let ends = ["link", "add", CABLE, "netns", &server.name, "type", "veth"];
        let made = ip(&[&ends[..], &["peer", "name", CABLE, "netns", &holder.name]].concat());
        made.then(|| {
            server.connect(SERVER_ADDRESS);
            holder.connect(HOLDER_ADDRESS);
            Self { server, holder }
        })
    }

    /// Puts this thread on the server's host, and all that it starts from here on.
    pub(crate) fn stay_on_server(&self) {
        self.server.enter()().expect("it may be entered");
    }

    /// Puts a command on the holder's host.
    pub(crate) fn on_holder(&self, command: &mut Command) {
        let enter = self.holder.enter();
        // SAFETY: it is a system call on a descriptor opened before.
        unsafe { command.pre_exec(move || enter()) };
    }

    /// From now on packets of this way are lost without a word.
    pub(crate) fn lose(&self, way: Way) {
        let (from, to) = match way {
            Way::ToServer => (&self.holder, SERVER_ADDRESS),
            Way::ToHolder => (&self.server, HOLDER_ADDRESS),
        };
        let to = to.to_string();
        from.ip(&["neigh", "replace", &to, "lladdr", NOBODY, "dev", CABLE, "nud", "permanent"]);
    }

    /// Packets arrive again.
    pub(crate) fn heal(&self) {
        for (from, to) in [(&self.holder, SERVER_ADDRESS), (&self.server, HOLDER_ADDRESS)] {
            // One that wasn't replaced is learnt anew.
            let _ = ip(&["-n", &from.name, "neigh", "del", &to.to_string(), "dev", CABLE]);
        }
    }

    /// The holder's end of the cable: `up` or `down`.
    pub(crate) fn set_link(&self, state: &str) {
        self.holder.ip(&["link", "set", CABLE, state]);
    }

    /// The holder's host knows no way to the server: `add` or `del`.
    pub(crate) fn blackhole(&self, verb: &str) {
        self.holder.ip(&["route", verb, "blackhole", &format!("{SERVER_ADDRESS}/32")]);
    }
}

impl Namespace {
    fn new(name: String) -> Option<Self> {
        ip(&["netns", "add", &name]).then_some(Self { name })
    }

    fn connect(&self, address: Ipv4Addr) {
        self.ip(&["addr", "add", &format!("{address}/24"), "dev", CABLE]);
        self.ip(&["link", "set", CABLE, "up"]);
        self.ip(&["link", "set", "lo", "up"]);
    }

    fn ip(&self, arguments: &[&str]) {
        let done = ip(&[&["-n", &self.name], arguments].concat());
        assert!(done, "ip -n {} {arguments:?}", self.name);
    }

    fn enter(&self) -> Prepare {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        Arc::new(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Whoever is still in it keeps it, without a name.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Whether `ip` has done it; what it says is of interest only if somebody asks.
fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}
