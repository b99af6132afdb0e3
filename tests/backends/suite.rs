//! The promises that every engine keeps. Each is a function over an engine; [`suite!`] makes them tests.

use std::time::Duration;

use officer::backend::{self, AcquireError, Backend, ConnectError, Event, Guard, Wait, WaitEnd, Wanted};
use officer::boot_time::BootTime;
use officer::lock::Slot;
use tokio::task::JoinHandle;

use crate::engines::client::{LONG_TTL, at_once, client, client_with, connect, one_of, options, wanted};
use crate::engines::process::{blocking, free_port, soon};
use crate::engines::{Engine, Networked};
use crate::holder::Holder;
use crate::proxy::Proxy;

/// Makes the tests of the promises that every engine keeps.
macro_rules! suite {
    ($engine:ty) => {
        $crate::suite::promises! {
            $engine, suite:
            a_free_lock_is_granted_at_once
            a_held_lock_is_busy_for_who_does_not_wait
            a_wait_ends_at_its_limit
            a_full_queue_is_not_joined
            waiters_are_served_in_order
            waiters_are_served_also_over_a_restart
            a_waiter_that_leaves_is_skipped
            a_waiter_outlives_its_ttl
            a_release_passes_the_lock_on
            a_semaphore_admits_its_limit_and_no_more
            a_waiter_of_a_semaphore_is_let_in
            other_limits_are_refused
            tokens_rise_also_across_a_restart
            a_lock_deleted_by_hand_is_lost_at_once
            a_restart_of_the_engine_leaves_the_lock_ours
            a_stopped_engine_renews_nothing
            a_will_passes_the_lock_on
            a_will_may_be_executed_twice
            a_place_in_line_has_a_will
        }
    };
}
pub(crate) use suite;

/// Makes the tests of those that need a network between client and server, and a server that doesn't
/// start by itself.
macro_rules! over_a_network {
    ($engine:ty) => {
        $crate::suite::promises! {
            $engine, suite:
            a_session_that_ended_during_a_cut_is_lost
            a_short_cut_suspends_and_resumes
            an_engine_that_is_not_there_is_unreachable
            an_engine_that_goes_ends_the_wait
        }
        $crate::suite::promises! {
            $engine, wrapper:
            an_engine_that_is_not_there_is_exit_69
            a_command_that_is_cut_off_ends_before_the_next_begins
        }
    };
}
pub(crate) use over_a_network;

/// Makes functions over an engine tests of one engine.
macro_rules! promises {
    ($engine:ty, $file:ident: $($promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                $crate::suite::run::<$engine, _>($crate::$file::$promise::<$engine>);
            }
        )*
    };
}
pub(crate) use promises;

/// Runs one test where the engine's servers are in nobody's way.
pub(crate) fn run<E: Engine, Promise: Future<Output = ()> + 'static>(promise: fn() -> Promise) {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _skipped_if_none = E::apart(move || runtime().block_on(promise()));
}

async fn acquire(backend: &mut dyn Backend, wanted: &Wanted) -> Box<dyn Guard> {
    soon("the lock is granted", backend.acquire(wanted)).await.unwrap_or_else(|cause| panic!("{cause}"))
}

pub(crate) async fn refused(backend: &mut dyn Backend, wanted: &Wanted) -> AcquireError {
    let error = match soon("an answer", backend.acquire(wanted)).await {
        Ok(_) => panic!("{} was granted", wanted.name),
        Err(error) => error,
    };
    backend.leave().await;
    error
}

pub(crate) async fn busy(url: &str, wanted: &Wanted) -> backend::Busy {
    match refused(&mut *client(url).await, wanted).await {
        AcquireError::Busy(busy) => busy,
        other => panic!("{other}"),
    }
}

/// Holds a lock with a long lease.
async fn hold(url: &str, wanted: &Wanted) -> Holder {
    Holder::of(acquire(&mut *client(url).await, wanted).await)
}

/// Stands in line in a task of its own.
fn wait_in_line(url: &str, wanted: Wanted) -> JoinHandle<Holder> {
    let url = url.to_owned();
    tokio::spawn(async move { hold(&url, &wanted).await })
}

/// Returns when holders and waiters of a lock of limit 1 are `many`.
pub(crate) async fn until_queued(url: &str, name: &str, many: u64) {
    until_queued_for(url, &at_once(name), many).await;
}

/// The same of a lock with the limit of `wanted`.
async fn until_queued_for(url: &str, wanted: &Wanted, many: u64) {
    let probe = Wanted { wait: Wait::No, queue_max: Some(many), ..wanted.clone() };
    soon("the queue grows", async {
        while busy(url, &probe).await.ended_by != WaitEnd::QueueMax(many) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(crate) async fn a_free_lock_is_granted_at_once<E: Engine>() {
    let url = E::shared().url();
    let before = BootTime::now();
    let holder = hold(&url, &at_once("free")).await;
    assert!(holder.grant.name.ends_with("free"), "{:?}", holder.grant);
    assert!(holder.grant.token.is_some(), "{:?}", holder.grant);
    assert_eq!(holder.grant.slot, Some(Slot(0)));
    assert!(holder.grant.proven_at >= before && holder.grant.proven_at <= BootTime::now());
    assert!(!holder.grant.ttl.is_zero());
    holder.release().await;
    hold(&url, &at_once("free")).await.release().await;
}

pub(crate) async fn a_held_lock_is_busy_for_who_does_not_wait<E: Engine>() {
    let url = E::shared().url();
    let holder = hold(&url, &at_once("busy")).await;
    let busy = busy(&url, &at_once("busy")).await;
    assert_eq!(busy.ended_by, WaitEnd::NotWaiting);
    assert_eq!(busy.holders.len(), 1, "{busy}");
    holder.release().await;
}

pub(crate) async fn a_wait_ends_at_its_limit<E: Engine>() {
    let url = E::shared().url();
    let holder = hold(&url, &at_once("limited")).await;
    let limit = Duration::from_millis(200);
    let busy = busy(&url, &Wanted { wait: Wait::AtMost(limit), ..wanted("limited") }).await;
    assert_eq!(busy.ended_by, WaitEnd::WaitLimit(limit));
    holder.release().await;
    // Nothing of the one that gave up is in the way.
    hold(&url, &at_once("limited")).await.release().await;
}

pub(crate) async fn a_full_queue_is_not_joined<E: Engine>() {
    let url = E::shared().url();
    let holder = hold(&url, &at_once("full")).await;
    let ended_by = |busy: backend::Busy| busy.ended_by;
    let with_max = |max| Wanted { queue_max: Some(max), ..at_once("full") };
    assert_eq!(ended_by(busy(&url, &with_max(1)).await), WaitEnd::QueueMax(1));
    assert_eq!(ended_by(busy(&url, &with_max(2)).await), WaitEnd::NotWaiting);
    holder.release().await;
}

pub(crate) async fn waiters_are_served_in_order<E: Engine>() {
    let url = E::shared().url();
    let mut holder = hold(&url, &at_once("order")).await;
    let mut line = Vec::new();
    for place in 0..4 {
        line.push(wait_in_line(&url, wanted("order")));
        until_queued(&url, "order", place + 2).await;
    }
    for next in line {
        let last_token = holder.grant.token;
        holder.release().await;
        let served = soon("the first in line is served", next).await.expect("no panic");
        assert!(served.grant.token > last_token, "{:?}", served.grant);
        holder = served;
    }
    holder.release().await;
}

/// Who is served first is who is back first: one that is cut off is skipped.
pub(crate) async fn waiters_are_served_also_over_a_restart<E: Engine>() {
    let mut server = blocking(E::start).await;
    let url = server.url();
    let holder = hold(&url, &at_once("kept-places")).await;
    let mut one = wait_in_line(&url, wanted("kept-places"));
    until_queued(&url, "kept-places", 2).await;
    let mut other = wait_in_line(&url, wanted("kept-places"));
    until_queued(&url, "kept-places", 3).await;
    let server = blocking(move || {
        server.restart();
        server
    })
    .await;
    until_queued(&url, "kept-places", 3).await;
    holder.release().await;
    let served = async {
        tokio::select! {
            served = &mut one => (served, other),
            served = &mut other => (served, one),
        }
    };
    let (served, last) = soon("one of them is served", served).await;
    assert!(!last.is_finished(), "served beside the other");
    served.expect("no panic").release().await;
    soon("the other is served", last).await.expect("no panic").release().await;
    drop(server);
}

pub(crate) async fn a_waiter_that_leaves_is_skipped<E: Engine>() {
    let url = E::shared().url();
    let holder = hold(&url, &at_once("leaver")).await;
    let mut leaver = client(&url).await;
    let leaver_wants = wanted("leaver");
    {
        let mut standing = leaver.acquire(&leaver_wants);
        tokio::select! {
            _ = &mut standing => panic!("granted"),
            () = until_queued(&url, "leaver", 2) => {}
        }
    }
    let next = wait_in_line(&url, wanted("leaver"));
    until_queued(&url, "leaver", 3).await;
    leaver.leave().await;
    holder.release().await;
    soon("the next in line is served", next).await.expect("no panic").release().await;
}

pub(crate) async fn a_waiter_outlives_its_ttl<E: Engine>() {
    let url = E::shared().url();
    let mut holder = hold(&url, &at_once("patient")).await;
    let mut waiter = client_with(&url, E::SHORTEST_TTL).await;
    let waiter_wants = wanted("patient");
    let mut standing = waiter.acquire(&waiter_wants);
    let twice_its_ttl = BootTime::now() + E::SHORTEST_TTL * 2;
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = tokio::time::sleep(twice_its_ttl.saturating_since(BootTime::now())) => {}
    }
    assert!(!holder.heard().iter().any(|event| matches!(event, Event::Lost(_))));
    let released_at = BootTime::now();
    let released = tokio::spawn(holder.release());
    let guard = match soon("the waiter is served", standing).await {
        Ok(guard) => guard,
        Err(cause) => panic!("{cause}"),
    };
    assert!(guard.grant().proven_at + guard.grant().ttl > released_at);
    soon("the release ends", released).await.expect("no panic");
    Holder::of(guard).release().await;
}

pub(crate) async fn a_release_passes_the_lock_on<E: Engine>() {
    let url = E::shared().url();
    let holder = hold(&url, &at_once("passed-on")).await;
    let next = wait_in_line(&url, wanted("passed-on"));
    until_queued(&url, "passed-on", 2).await;
    let first_token = holder.grant.token;
    holder.release().await;
    // The deadline of `soon` is shorter than the lease that was given back.
    let next = soon("the next is served before the lease ends", next).await.expect("no panic");
    assert!(next.grant.token > first_token);
    next.release().await;
}

pub(crate) async fn a_semaphore_admits_its_limit_and_no_more<E: Engine>() {
    let url = E::shared().url();
    let mut holders = Vec::new();
    for _ in 0..3 {
        holders.push(hold(&url, &one_of(3, "semaphore")).await);
    }
    let tokens: Vec<_> = holders.iter().map(|holder| holder.grant.token.expect("a token")).collect();
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
    let mut slots: Vec<_> = holders.iter().filter_map(|holder| holder.grant.slot).collect();
    slots.sort();
    let numbered = if E::SLOTS { vec![Slot(0), Slot(1), Slot(2)] } else { vec![] };
    assert_eq!(slots, numbered);
    assert_eq!(busy(&url, &one_of(3, "semaphore")).await.holders.len(), 3);
    holders.remove(1).release().await;
    let fourth = hold(&url, &one_of(3, "semaphore")).await;
    assert_eq!(fourth.grant.slot, E::SLOTS.then_some(Slot(1)));
    holders.push(fourth);
    for holder in holders {
        holder.release().await;
    }
}

pub(crate) async fn a_waiter_of_a_semaphore_is_let_in<E: Engine>() {
    let url = E::shared().url();
    let first = hold(&url, &one_of(2, "let-in")).await;
    let second = hold(&url, &one_of(2, "let-in")).await;
    let third = wait_in_line(&url, Wanted { wait: Wait::Forever, ..one_of(2, "let-in") });
    until_queued_for(&url, &one_of(2, "let-in"), 3).await;
    first.release().await;
    soon("the third is let in", third).await.expect("no panic").release().await;
    second.release().await;
}

pub(crate) async fn other_limits_are_refused<E: Engine>() {
    let url = E::shared().url();
    for (held, asked) in [(1, 2), (2, 1), (2, 3)] {
        let name = format!("limits-{held}-{asked}");
        let holder = hold(&url, &one_of(held, &name)).await;
        match refused(&mut *client(&url).await, &one_of(asked, &name)).await {
            AcquireError::LimitMismatch { in_use, asked: ours, .. } => {
                assert_eq!((in_use, ours.get()), (held.to_string(), asked));
            }
            other => panic!("{other}"),
        }
        holder.release().await;
    }
}

pub(crate) async fn tokens_rise_also_across_a_restart<E: Engine>() {
    let mut server = blocking(E::start).await;
    let url = server.url();
    let mut tokens = Vec::new();
    for restarting in [false, false, true, false] {
        if restarting {
            server = blocking(move || {
                server.restart();
                server
            })
            .await;
        }
        let holder = hold(&url, &at_once("tokens")).await;
        tokens.push(holder.grant.token.expect("a token"));
        holder.release().await;
    }
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

pub(crate) async fn a_lock_deleted_by_hand_is_lost_at_once<E: Engine>() {
    let server = E::shared();
    let url = server.url();
    let mut guard = acquire(&mut *client(&url).await, &at_once("deleted")).await;
    blocking(move || server.delete_by_hand("deleted")).await;
    // Nobody renews: that it is gone must be seen by itself.
    let lost = async {
        loop {
            if let Event::Lost(loss) = guard.event().await {
                return loss;
            }
        }
    };
    assert_eq!(soon("the loss is noticed", lost).await, E::loss_by_hand());
    guard.release(Duration::from_secs(10)).await.unwrap_or_else(|cause| panic!("{cause}"));
    hold(&url, &at_once("deleted")).await.release().await;
}

pub(crate) async fn a_session_that_ended_during_a_cut_is_lost<E: Networked>() {
    let server = E::shared();
    let proxy = Proxy::to(server.port());
    let mut cut_off = client_with(&E::url_at(proxy.port()), E::SHORTEST_TTL).await;
    let mut holder = Holder::of(acquire(&mut *cut_off, &at_once("cut")).await);
    holder.is_renewed_after(BootTime::from_since_boot(Duration::ZERO)).await;
    proxy.cut();
    let cut_at = BootTime::now();
    // The engine passes it on, by itself, once the lease has ended.
    let next = hold(&server.url(), &wanted("cut")).await;
    let proven: Vec<_> = holder.heard();
    let renewed_late = |event: &&Event| matches!(event, Event::Renewed { sent } if *sent > cut_at);
    assert_eq!(proven.iter().find(renewed_late), None, "renewed over a cut cable");
    proxy.heal();
    holder.is_lost().await;
    next.release().await;
}

pub(crate) async fn a_short_cut_suspends_and_resumes<E: Networked>() {
    let server = E::shared();
    let proxy = Proxy::to(server.port());
    let mut client = client_with(&E::url_at(proxy.port()), Duration::from_secs(15)).await;
    let mut holder = Holder::of(acquire(&mut *client, &at_once("short-cut")).await);
    proxy.cut();
    holder.is_suspended().await;
    proxy.heal();
    let healed_at = BootTime::now();
    holder.hears("resumed", |event| matches!(event, Event::Resumed)).await;
    holder.is_renewed_after(healed_at).await;
    assert_eq!(busy(&server.url(), &at_once("short-cut")).await.ended_by, WaitEnd::NotWaiting);
    holder.release().await;
}

pub(crate) async fn a_restart_of_the_engine_leaves_the_lock_ours<E: Engine>() {
    let mut server = blocking(E::start).await;
    let url = server.url();
    let mut holder = Holder::of(
        acquire(&mut *client_with(&url, Duration::from_secs(30)).await, &at_once("restarted")).await,
    );
    let server = blocking(move || {
        server.restart();
        server
    })
    .await;
    let restarted_at = BootTime::now();
    holder.is_renewed_after(restarted_at).await;
    assert_eq!(busy(&url, &at_once("restarted")).await.ended_by, WaitEnd::NotWaiting);
    holder.release().await;
    drop(server);
}

pub(crate) async fn a_stopped_engine_renews_nothing<E: Engine>() {
    let server = blocking(E::start).await;
    let mut holder = Holder::of(
        acquire(&mut *client_with(&server.url(), Duration::from_secs(9)).await, &at_once("stopped")).await,
    );
    holder.is_renewed_after(BootTime::from_since_boot(Duration::ZERO)).await;
    server.pause();
    let paused_at = BootTime::now();
    let mut heard = Vec::new();
    soon("suspended", async {
        loop {
            heard.extend(holder.heard());
            if heard.iter().any(|event| matches!(event, Event::Suspended { .. })) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let late = |event: &&Event| matches!(event, Event::Renewed { sent } if *sent > paused_at);
    assert_eq!(heard.iter().find(late), None);
    server.resume();
}

pub(crate) async fn a_will_passes_the_lock_on<E: Engine>() {
    let url = E::shared().url();
    let guard = acquire(&mut *client(&url).await, &at_once("will")).await;
    let will = guard.will().expect("a lease can be given back");
    let next = wait_in_line(&url, wanted("will"));
    until_queued(&url, "will", 2).await;
    // As if the process were dead: nothing is given back by it.
    std::mem::forget(guard);
    soon("the will is executed", backend::execute_will(&will))
        .await
        .unwrap_or_else(|cause| panic!("{cause}"));
    soon("the next is served", next).await.expect("no panic").release().await;
}

pub(crate) async fn a_place_in_line_has_a_will<E: Engine>() {
    let url = E::shared().url();
    for limit in [1, 2] {
        let name = format!("bequeathed-place-{limit}");
        let mut holders = Vec::new();
        for _ in 0..limit {
            holders.push(hold(&url, &one_of(limit, &name)).await);
        }
        let mut dying = client(&url).await;
        let waits = Wanted { wait: Wait::Forever, ..one_of(limit, &name) };
        let will = dying.will(&waits).expect("a place with a lease can be given back");
        stand_until_queued(&mut *dying, &url, &waits, u64::from(limit) + 1).await;
        let next = wait_in_line(&url, waits.clone());
        until_queued_for(&url, &waits, u64::from(limit) + 2).await;
        // As if the process were dead: nothing is given back by it.
        std::mem::forget(dying);
        soon("the will is executed", backend::execute_will(&will))
            .await
            .unwrap_or_else(|cause| panic!("{cause}"));
        for holder in holders {
            holder.release().await;
        }
        soon("the next is served", next).await.expect("no panic").release().await;
    }
}

/// Asks for a lock, and stops listening once so many hold and wait.
async fn stand_until_queued(backend: &mut dyn Backend, url: &str, wanted: &Wanted, many: u64) {
    let mut standing = backend.acquire(wanted);
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = until_queued_for(url, wanted, many) => {}
    }
}

pub(crate) async fn a_will_may_be_executed_twice<E: Engine>() {
    let url = E::shared().url();
    let guard = acquire(&mut *client(&url).await, &at_once("two-wills")).await;
    let will = guard.will().expect("a lease can be given back");
    std::mem::forget(guard);
    backend::execute_will(&will).await.unwrap_or_else(|cause| panic!("{cause}"));
    let next = hold(&url, &at_once("two-wills")).await;
    backend::execute_will(&will).await.unwrap_or_else(|cause| panic!("{cause}"));
    assert_eq!(busy(&url, &at_once("two-wills")).await.ended_by, WaitEnd::NotWaiting);
    next.release().await;
}

pub(crate) async fn an_engine_that_is_not_there_is_unreachable<E: Networked>() {
    let mut options = options(LONG_TTL);
    options.connect_timeout = Duration::from_millis(300);
    options.connect_tries = 2;
    let url = E::url_at(free_port());
    match soon("an answer", connect(&url, &options)).await.map(drop) {
        Err(ConnectError::Unreachable { .. }) => {}
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn an_engine_that_goes_ends_the_wait<E: Networked>() {
    let mut server = blocking(E::start).await;
    let url = server.url();
    let holder = acquire(&mut *client(&url).await, &at_once("gone")).await;
    let mut options = options(E::SHORTEST_TTL);
    options.connect_timeout = Duration::from_secs(1);
    let mut waiter = connect(&url, &options).await.unwrap_or_else(|cause| panic!("{cause}"));
    let waiter_wants = wanted("gone");
    let mut standing = waiter.acquire(&waiter_wants);
    tokio::select! {
        _ = &mut standing => panic!("granted"),
        () = until_queued(&url, "gone", 2) => {}
    }
    blocking(move || server.stop()).await;
    match soon("the wait ends", standing).await.map(drop) {
        Err(AcquireError::Connection(ConnectError::Unreachable { .. })) => {}
        other => panic!("{other:?}"),
    }
    drop(holder);
}

#[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
pub(crate) async fn a_lock_without_a_lease_is_refused<E: Engine>() {
    match connect(&E::shared().url(), &options(Duration::ZERO)).await.map(drop) {
        Err(ConnectError::Unsupported(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[cfg(any(feature = "zookeeper", feature = "etcd", feature = "redis"))]
pub(crate) async fn names_that_mean_something_to_the_engine_are_refused<E: Engine>() {
    let url = E::shared().url();
    for name in ["", "line\nbreak", "nul\0"] {
        match refused(&mut *client(&url).await, &at_once(name)).await {
            AcquireError::Connection(ConnectError::Unsupported(_)) => {}
            other => panic!("{name:?}: {other}"),
        }
    }
}
