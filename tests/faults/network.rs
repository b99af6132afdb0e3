//! The network between the holder's host and the server fails; the next one sits beside the server.

use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::netns::{Hosts, SERVER_ADDRESS, Way};
use crate::scene::{Ending, Holder, LONG, SHORT, Scene, Site, expect_code, lasting};
use crate::server::Server;
use crate::table::Proof;

crate::faults![
    a_cut_network_loses_the_lock: "network cut, packets dropped both ways",
    a_cut_towards_the_wrapper_loses_the_lock: "cut one way: towards the wrapper",
    a_cut_from_the_wrapper_loses_the_lock: "cut one way: from the wrapper",
    a_link_that_is_down_loses_the_lock: "link down",
    a_blackhole_route_loses_the_lock: "no route to the server",
    a_short_cut_costs_nothing: "network cut for 300 ms",
    a_short_link_down_costs_nothing: "link down for 300 ms",
];

const PORT: u16 = 11500;

/// Begins a fault, or ends it.
type Change = fn(&Hosts);

pub(crate) struct Fault {
    begin: Change,
    end: Change,
}

pub(crate) const CUT: Fault = Fault {
    begin: |hosts| {
        hosts.lose(Way::ToServer);
        hosts.lose(Way::ToHolder);
    },
    end: Hosts::heal,
};
pub(crate) const CUT_TOWARDS: Fault = Fault { begin: |hosts| hosts.lose(Way::ToHolder), end: Hosts::heal };
pub(crate) const CUT_FROM: Fault = Fault { begin: |hosts| hosts.lose(Way::ToServer), end: Hosts::heal };
const LINK_DOWN: Fault = Fault { begin: |hosts| hosts.set_link("down"), end: |hosts| hosts.set_link("up") };
const NO_ROUTE: Fault = Fault { begin: |hosts| hosts.blackhole("add"), end: |hosts| hosts.blackhole("del") };

/// A scene whose holder is on a host of its own.
pub(crate) struct Apart<S: Site = Server> {
    pub(crate) scene: Scene<S>,
    pub(crate) hosts: Hosts,
    pub(crate) holder: Holder,
}

/// Two hosts; `Err`: there can't be any here.
pub(crate) fn two_hosts() -> Result<Hosts, Proof> {
    Hosts::new().ok_or(Proof::Skipped("network namespaces need root and ip"))
}

fn scene_of_two_hosts() -> Result<Apart, Proof> {
    let hosts = two_hosts()?;
    let on_server = hosts.on_server();
    let scene = Scene::with(|server| {
        server.listen_on(SERVER_ADDRESS, PORT);
        server.prepare(Some(on_server));
    });
    let url = format!("officer://{SERVER_ADDRESS}:{PORT}");
    Ok(Apart::new(scene, hosts, &url))
}

impl<S: Site> Apart<S> {
    /// A holder that reaches the server by `url`.
    pub(crate) fn new(scene: Scene<S>, hosts: Hosts, url: &str) -> Self {
        let mut command = scene.holding_command(url, OnTerm::Ignores);
        hosts.on_holder(&mut command);
        let holder = scene.hold_by(&mut command);
        Self { scene, hosts, holder }
    }
}

/// The network fails for longer than the lease: the command is ended in time.
pub(crate) fn loses_the_lock<S: Site>(apart: Result<Apart<S>, Proof>, fault: &Fault) -> Proof {
    let Apart { scene, hosts, holder } = match apart {
        Ok(apart) => apart,
        Err(proof) => return proof,
    };
    let next = scene.next();
    let begun = BootTime::now();
    (fault.begin)(&hosts);
    lasting(LONG);
    (fault.end)(&hosts);
    let (code, said) = holder.ended_saying();
    expect_code(code, 79, &said);
    scene.judge(next, Ending::new(code, begun))
}

/// The network fails for a moment: the command runs on, well beyond the lease it had then.
pub(crate) fn costs_nothing<S: Site>(apart: Result<Apart<S>, Proof>, fault: &Fault) -> Proof {
    let Apart { scene, hosts, mut holder } = match apart {
        Ok(apart) => apart,
        Err(proof) => return proof,
    };
    let next = scene.next();
    (fault.begin)(&hosts);
    lasting(SHORT);
    (fault.end)(&hosts);
    lasting(LONG);
    assert!(holder.wrapper.is_running());
    let told = BootTime::now();
    scene.tell_to_end();
    let (code, said) = holder.ended_saying();
    expect_code(code, 0, &said);
    scene.judge(next, Ending::new(code, told).prompt())
}

fn a_cut_network_loses_the_lock() -> Proof {
    loses_the_lock(scene_of_two_hosts(), &CUT)
}

fn a_cut_towards_the_wrapper_loses_the_lock() -> Proof {
    loses_the_lock(scene_of_two_hosts(), &CUT_TOWARDS)
}

fn a_cut_from_the_wrapper_loses_the_lock() -> Proof {
    loses_the_lock(scene_of_two_hosts(), &CUT_FROM)
}

fn a_link_that_is_down_loses_the_lock() -> Proof {
    loses_the_lock(scene_of_two_hosts(), &LINK_DOWN)
}

fn a_blackhole_route_loses_the_lock() -> Proof {
    loses_the_lock(scene_of_two_hosts(), &NO_ROUTE)
}

fn a_short_cut_costs_nothing() -> Proof {
    costs_nothing(scene_of_two_hosts(), &CUT)
}

fn a_short_link_down_costs_nothing() -> Proof {
    costs_nothing(scene_of_two_hosts(), &LINK_DOWN)
}
