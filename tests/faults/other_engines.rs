//! The same measure over every other engine: faults of wrapper, guardian, server and network.

use std::time::Duration;

use nix::sys::signal::Signal;
use officer::backend::{AcquireError, WaitEnd, Wanted};
use officer::boot_time::BootTime;

use crate::engines::client::{at_once, client};
use crate::engines::{self, Engine};
#[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
use crate::network::{
    a_cut_from_the_wrapper_loses_the_lock, a_cut_network_loses_the_lock,
    a_cut_towards_the_wrapper_loses_the_lock, a_short_cut_costs_nothing,
};
use crate::scene::{Ending, Holder, LONG, Scene, Site, TTL, lasting};
use crate::support::wait_until;
use crate::table::Proof;

/// A lease that a server outlives which has to be started again.
const RESTART_TTL: Duration = Duration::from_secs(20);

/// The promises over an engine, as [`crate::faults`] has those over our own server.
macro_rules! faults_of {
    ($name:literal, $engine:ty, $($promise:ident: $fault:literal),* $(,)?) => {
        &[$((concat!($name, "::", stringify!($promise)), concat!($name, ": ", $fault), $promise::<$engine>)),*]
    };
}

/// Over any engine.
macro_rules! everywhere {
    ($name:literal, $engine:ty) => {
        faults_of!($name, $engine,
            a_killed_wrapper_hands_over: "wrapper SIGKILL",
            a_killed_guardian_is_stood_in_for: "guardian SIGKILL",
            a_stopped_wrapper_loses_the_lock: "wrapper SIGSTOP, then SIGCONT",
            a_job_longer_than_the_lease_keeps_the_lock: "job longer than the lease, no fault",
            a_killed_waiter_is_skipped: "waiting wrapper SIGKILL",
            a_server_stopped_for_long_loses_the_lock: "server SIGSTOP, then SIGCONT",
            a_server_killed_and_back_costs_nothing: "server SIGKILL, back at once",
        )
    };
}

/// Over one whose server is elsewhere, and isn't started by its clients.
#[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
macro_rules! over_a_network {
    ($name:literal, $engine:ty) => {
        faults_of!($name, $engine,
            a_server_killed_for_long_loses_the_lock: "server SIGKILL, back after the fault",
            a_cut_network_loses_the_lock: "network cut, packets dropped both ways",
            a_cut_towards_the_wrapper_loses_the_lock: "cut one way: towards the wrapper",
            a_cut_from_the_wrapper_loses_the_lock: "cut one way: from the wrapper",
            a_short_cut_costs_nothing: "network cut for 300 ms",
        )
    };
}

pub(crate) const PROMISES: &[&[crate::Promise]] = &[
    everywhere!("local", engines::Local),
    #[cfg(feature = "zookeeper")]
    everywhere!("zookeeper", engines::ZooKeeper),
    #[cfg(feature = "zookeeper")]
    over_a_network!("zookeeper", engines::ZooKeeper),
    #[cfg(feature = "etcd")]
    everywhere!("etcd", engines::Etcd),
    #[cfg(feature = "etcd")]
    over_a_network!("etcd", engines::Etcd),
    #[cfg(feature = "redis")]
    everywhere!("redis", engines::Redis),
    #[cfg(feature = "redis")]
    over_a_network!("redis", engines::Redis),
];

impl<E: Engine> Site for E {
    fn url(&self) -> String {
        Engine::url(self)
    }

    fn queue_len(&self, lock: &str) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = Engine::url(self);
        (1..).find(|&many| !runtime.block_on(has_queued(&url, lock, many))).expect("an end") as usize - 1
    }
}

/// Whether so many hold or wait, as the engine tells one who would not stand behind them.
async fn has_queued(url: &str, lock: &str, many: u64) -> bool {
    let wanted = Wanted { queue_max: Some(many), ..at_once(lock) };
    let mut client = client(url).await;
    let answer = client.acquire(&wanted).await;
    client.leave().await;
    match answer {
        Ok(_) => panic!("nobody holds {lock}"),
        Err(AcquireError::Busy(busy)) => busy.ended_by == WaitEnd::QueueMax(many),
        Err(other) => panic!("{other}"),
    }
}

/// `fault` happens to the holder or its server, and its end must have this code; then the next one runs.
fn under<E: Engine>(
    code: Option<i32>,
    fault: impl FnOnce(&mut Scene<E>, &mut Holder) + Send + 'static,
    after: fn(Ending) -> Ending,
) -> Proof {
    apart::<E>(move || {
        let mut scene = Scene::at(E::start(), TTL);
        let mut holder = scene.hold();
        let next = scene.next();
        let begun = BootTime::now();
        fault(&mut scene, &mut holder);
        scene.judge(next, after(Ending::new(holder.ends_by(code), begun)))
    })
}

fn apart<E: Engine>(test: impl FnOnce() -> Proof + Send + 'static) -> Proof {
    E::apart(test).unwrap_or(Proof::Skipped("a network and a state folder of its own need root"))
}

/// The holder must not notice; the hand-over is measured from the command's own end.
fn unharmed_by<E: Engine>(
    ttl: Duration,
    fault: impl FnOnce(&mut Scene<E>, &mut Holder) + Send + 'static,
) -> Proof {
    apart::<E>(move || {
        let mut scene = Scene::at(E::start(), ttl);
        let mut holder = scene.hold();
        let next = scene.next();
        fault(&mut scene, &mut holder);
        scene.judge_unharmed(holder, next)
    })
}

fn a_killed_wrapper_hands_over<E: Engine>() -> Proof {
    under::<E>(None, |_, holder| holder.wrapper.signal(Signal::SIGKILL), Ending::prompt)
}

fn a_killed_guardian_is_stood_in_for<E: Engine>() -> Proof {
    under::<E>(Some(70), |_, holder| holder.signal(holder.guardian, Signal::SIGKILL), Ending::prompt)
}

fn a_stopped_wrapper_loses_the_lock<E: Engine>() -> Proof {
    let stop = |_: &mut Scene<E>, holder: &mut Holder| {
        holder.wrapper.signal(Signal::SIGSTOP);
        lasting(LONG);
        holder.wrapper.signal(Signal::SIGCONT);
    };
    under(Some(79), stop, |ending| ending)
}

fn a_job_longer_than_the_lease_keeps_the_lock<E: Engine>() -> Proof {
    unharmed_by::<E>(TTL, |scene, _| {
        lasting(LONG);
        wait_until("nobody else has run", || scene.runs() == 1);
    })
}

fn a_killed_waiter_is_skipped<E: Engine>() -> Proof {
    apart::<E>(|| {
        let scene = Scene::at(E::start(), TTL);
        let holder = scene.hold();
        let waiter = scene.next();
        let next = scene.next();
        waiter.signal(Signal::SIGKILL);
        drop(waiter);
        let told = BootTime::now();
        scene.tell_to_end();
        let code = holder.ends_with(0);
        scene.judge(next, Ending::new(code, told).prompt())
    })
}

fn a_server_stopped_for_long_loses_the_lock<E: Engine>() -> Proof {
    let stop = |scene: &mut Scene<E>, _: &mut Holder| {
        scene.server.pause();
        lasting(LONG);
        scene.server.resume();
    };
    under(Some(79), stop, |ending| ending)
}

fn a_server_killed_and_back_costs_nothing<E: Engine>() -> Proof {
    unharmed_by::<E>(RESTART_TTL, |scene, _| {
        scene.server.restart();
        lasting(LONG);
    })
}

#[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
fn a_server_killed_for_long_loses_the_lock<E: Engine>() -> Proof {
    let kill = |scene: &mut Scene<E>, _: &mut Holder| {
        scene.server.stop();
        lasting(LONG);
        scene.server.start_again();
    };
    under(Some(79), kill, |ending| ending)
}
