//! The network between the holder's host and the server fails; the next one sits beside the server.

use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::engines::{Engine, Networked, Officer};
use crate::netns::{Hosts, SERVER_ADDRESS, Way};
use crate::scene::{Ending, Holder, LONG, SHORT, Scene, TTL, lasting};
use crate::table::Proof;

crate::faults![
    Officer;
    a_cut_network_loses_the_lock: "network cut, packets dropped both ways",
    a_cut_towards_the_wrapper_loses_the_lock: "cut one way: towards the wrapper",
    a_cut_from_the_wrapper_loses_the_lock: "cut one way: from the wrapper",
    a_link_that_is_down_loses_the_lock: "link down",
    a_blackhole_route_loses_the_lock: "no route to the server",
    a_short_cut_costs_nothing: "network cut for 300 ms",
    a_short_link_down_costs_nothing: "link down for 300 ms",
];

/// Begins a fault, or ends it.
type Change = fn(&Hosts);

struct Fault {
    begin: Change,
    end: Change,
}

const CUT: Fault = Fault {
    begin: |hosts| {
        hosts.lose(Way::ToServer);
        hosts.lose(Way::ToHolder);
    },
    end: Hosts::heal,
};
const CUT_TOWARDS: Fault = Fault { begin: |hosts| hosts.lose(Way::ToHolder), end: Hosts::heal };
const CUT_FROM: Fault = Fault { begin: |hosts| hosts.lose(Way::ToServer), end: Hosts::heal };
const LINK_DOWN: Fault = Fault { begin: |hosts| hosts.set_link("down"), end: |hosts| hosts.set_link("up") };
const NO_ROUTE: Fault = Fault { begin: |hosts| hosts.blackhole("add"), end: |hosts| hosts.blackhole("del") };

/// The server, the next one and the test are on one host, the holder on another.
struct Apart<E: Engine> {
    scene: Scene<E>,
    hosts: Hosts,
    holder: Holder,
}

impl<E: Networked> Apart<E> {
    /// Moves this thread to the server's host; `None`: there can't be two here.
    fn new() -> Option<Self> {
        let hosts = Hosts::new()?;
        hosts.stay_on_server();
        let scene = Scene::at(E::start_on(SERVER_ADDRESS), TTL);
        let mut command = scene.holding_command(&scene.url(), OnTerm::Ignores);
        hosts.on_holder(&mut command);
        let holder = scene.hold_by(&mut command);
        Some(Self { scene, hosts, holder })
    }
}

/// Proves something on a thread of its own, for that can't leave the server's host.
fn between_hosts<E: Networked>(prove: impl FnOnce(Apart<E>) -> Proof + Send + 'static) -> Proof {
    let proof = std::thread::spawn(|| Apart::new().map(prove));
    let proof = proof.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    proof.unwrap_or(Proof::Skipped("network namespaces need root and ip"))
}

/// The network fails for longer than the lease: the command is ended in time.
fn loses_the_lock<E: Networked>(fault: &'static Fault) -> Proof {
    between_hosts::<E>(|Apart { scene, hosts, holder }| {
        let next = scene.next();
        let begun = BootTime::now();
        (fault.begin)(&hosts);
        lasting(LONG);
        (fault.end)(&hosts);
        let code = holder.ends_with(79);
        scene.judge(next, Ending::new(code, begun))
    })
}

/// The network fails for a moment: the command runs on, well beyond the lease it had then.
fn costs_nothing<E: Networked>(fault: &'static Fault) -> Proof {
    between_hosts::<E>(|Apart { scene, hosts, holder }| {
        let next = scene.next();
        (fault.begin)(&hosts);
        lasting(SHORT);
        (fault.end)(&hosts);
        lasting(LONG);
        scene.judge_unharmed(holder, next)
    })
}

pub(crate) fn a_cut_network_loses_the_lock<E: Networked>() -> Proof {
    loses_the_lock::<E>(&CUT)
}

pub(crate) fn a_cut_towards_the_wrapper_loses_the_lock<E: Networked>() -> Proof {
    loses_the_lock::<E>(&CUT_TOWARDS)
}

pub(crate) fn a_cut_from_the_wrapper_loses_the_lock<E: Networked>() -> Proof {
    loses_the_lock::<E>(&CUT_FROM)
}

pub(crate) fn a_link_that_is_down_loses_the_lock<E: Networked>() -> Proof {
    loses_the_lock::<E>(&LINK_DOWN)
}

pub(crate) fn a_blackhole_route_loses_the_lock<E: Networked>() -> Proof {
    loses_the_lock::<E>(&NO_ROUTE)
}

pub(crate) fn a_short_cut_costs_nothing<E: Networked>() -> Proof {
    costs_nothing::<E>(&CUT)
}

pub(crate) fn a_short_link_down_costs_nothing<E: Networked>() -> Proof {
    costs_nothing::<E>(&LINK_DOWN)
}
