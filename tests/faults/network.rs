//! The network between the holder's host and the server fails; the next one sits beside the server.

use officer::boot_time::BootTime;

use crate::beats::OnTerm;
use crate::netns::{Hosts, SERVER_ADDRESS, Way};
use crate::scene::{Ending, LONG, SHORT, Scene, lasting};
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

/// A holder on a host of its own; `Err`: there can't be one here.
fn scene_of_two_hosts() -> Result<(Scene, Hosts, crate::scene::Holder), Proof> {
    let hosts = Hosts::new().ok_or(Proof::Skipped("network namespaces need root and ip"))?;
    let on_server = hosts.on_server();
    let scene = Scene::with(|server| {
        server.listen_on(SERVER_ADDRESS, PORT);
        server.prepare(Some(on_server));
    });
    let url = format!("officer://{SERVER_ADDRESS}:{PORT}");
    let mut command = scene.holding_command(&url, OnTerm::Ignores);
    hosts.on_holder(&mut command);
    let holder = scene.hold_by(&mut command);
    Ok((scene, hosts, holder))
}

/// The network fails for longer than the lease: the command is ended in time.
fn loses_the_lock(fault: &Fault) -> Proof {
    let (scene, hosts, holder) = match scene_of_two_hosts() {
        Ok(scene) => scene,
        Err(proof) => return proof,
    };
    let next = scene.next();
    let begun = BootTime::now();
    (fault.begin)(&hosts);
    lasting(LONG);
    (fault.end)(&hosts);
    let code = holder.ends_with(79);
    scene.judge(next, Ending::new(code, begun))
}

/// The network fails for a moment: the command runs on, well beyond the lease it had then.
fn costs_nothing(fault: &Fault) -> Proof {
    let (scene, hosts, holder) = match scene_of_two_hosts() {
        Ok(scene) => scene,
        Err(proof) => return proof,
    };
    let next = scene.next();
    (fault.begin)(&hosts);
    lasting(SHORT);
    (fault.end)(&hosts);
    lasting(LONG);
    scene.judge_unharmed(holder, next)
}

fn a_cut_network_loses_the_lock() -> Proof {
    loses_the_lock(&CUT)
}

fn a_cut_towards_the_wrapper_loses_the_lock() -> Proof {
    loses_the_lock(&CUT_TOWARDS)
}

fn a_cut_from_the_wrapper_loses_the_lock() -> Proof {
    loses_the_lock(&CUT_FROM)
}

fn a_link_that_is_down_loses_the_lock() -> Proof {
    loses_the_lock(&LINK_DOWN)
}

fn a_blackhole_route_loses_the_lock() -> Proof {
    loses_the_lock(&NO_ROUTE)
}

fn a_short_cut_costs_nothing() -> Proof {
    costs_nothing(&CUT)
}

fn a_short_link_down_costs_nothing() -> Proof {
    costs_nothing(&LINK_DOWN)
}
