//! A seeded simulator of everything that P1, P3 and P4 depend on: the real lock table, the real
//! sessions and the real lease machine of several clients, with models of what acts around them,
//! under one scheduler that decides about time, network, crashes and pauses.
//!
//! ```text
//! cargo test --test simulation                                         # 10 000 seeds
//! OFFICER_SIM_SEEDS=5000000 cargo test --release --test simulation     # millions
//! OFFICER_SIM_FROM=5000000 OFFICER_SIM_SEEDS=5000000 cargo test …      # the next millions
//! OFFICER_SIM_SEED=1234 cargo test --test simulation one_seed          # one, with its trace
//! ```
//!
//! A run that breaks a rule prints its seed, the rule and everything that happened; the seed
//! replays it. Real: `lock::Table`, `lock::Sessions`, `lease::Lease` and `Terms`, what guardian and
//! wrapper decide about the tree and about each other (`supervisor::policy`, `supervisor::vigil`), the
//! protocol's requests and replies as values. Models: the server's glue and store (`server.rs`,
//! `store.rs`), the wrapper and its session (`client.rs`, `session.rs`), the guardian's loop and the tree
//! (`host.rs`), the last will (`will.rs`), TCP (`network.rs`). Bytes, sockets, SQLite and processes are tested elsewhere.
//!
//! Clocks: each host's runs at a rate within 1 % of true time, and no two differ by 1 % or more,
//! which is what the promises assume. A process of ours that is killed or paused is alone in that
//! on its host.

mod checkers;
mod client;
mod clock;
mod host;
mod mutation;
mod network;
mod plan;
mod rng;
mod scheduler;
mod server;
mod session;
mod store;
mod will;
mod world;

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mutation::Mutation;
use world::{Report, Trace, run};

/// So many in every test run.
const SEEDS: u64 = 10_000;
/// Within so many seeds each broken rule must be seen.
const SEEDS_PER_MUTATION: u64 = 5_000;

fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs seeds on all processors until one breaks a rule; the lowest one found.
fn first_violation(from: u64, count: u64, mutation: Option<Mutation>) -> Option<u64> {
    let next = AtomicU64::new(from);
    let end = from + count;
    let found = Mutex::new(None::<u64>);
    let starts = AtomicU64::new(0);
    let events = AtomicU64::new(0);
    let search = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let report = run_caught(seed, mutation, None);
            starts.fetch_add(report.starts, Ordering::Relaxed);
            events.fetch_add(report.events, Ordering::Relaxed);
            if report.violation.is_some() {
                next.store(end, Ordering::Relaxed);
                let mut found = found.lock().expect("nobody panics with it");
                *found = Some(found.map_or(seed, |other| other.min(seed)));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(search);
        }
    });
    if mutation.is_none() {
        let (starts, events) = (starts.into_inner(), events.into_inner());
        println!("{count} seeds from {from}: {events} events, {starts} commands started");
    }
    found.into_inner().expect("nobody panics with it")
}

/// A run that panics, by an assertion of the product or of a model, has broken a rule too.
fn run_caught(seed: u64, mutation: Option<Mutation>, trace: Option<Trace>) -> Report {
    std::panic::catch_unwind(AssertUnwindSafe(|| run(seed, mutation, trace))).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Report { violation: Some(format!("panicked: {text}")), events: 0, starts: 0 }
    })
}

/// Runs a seed again and tells everything that happens.
fn traced(seed: u64) -> (String, Option<String>) {
    let trace = Trace::default();
    let report = run_caught(seed, None, Some(trace.clone()));
    (trace.take(), report.violation)
}

fn fail_with_trace(seed: u64) -> ! {
    let (trace, violation) = traced(seed);
    let violation = violation.unwrap_or_else(|| "nothing: it doesn't replay".into());
    panic!("{trace}\nOFFICER_SIM_SEED={seed} breaks a rule: {violation}")
}

#[test]
fn no_schedule_breaks_a_promise() {
    let from = number_from_env("OFFICER_SIM_FROM").unwrap_or(0);
    let count = number_from_env("OFFICER_SIM_SEEDS").unwrap_or(SEEDS);
    if let Some(seed) = first_violation(from, count, None) {
        fail_with_trace(seed);
    }
}

/// Replays the seed in OFFICER_SIM_SEED and prints what happens; without one a seed of no renown.
#[test]
fn one_seed_runs_alone() {
    let seed = number_from_env("OFFICER_SIM_SEED").unwrap_or(1);
    let (trace, violation) = traced(seed);
    println!("{trace}");
    if let Some(violation) = violation {
        panic!("OFFICER_SIM_SEED={seed} breaks a rule: {violation}");
    }
}

#[test]
fn a_seed_replays_itself() {
    for seed in 0..50 {
        assert_eq!(traced(seed), traced(seed), "seed {seed} has two stories");
    }
}

#[test]
fn each_mutation_is_caught() {
    let escaped = Mutation::ALL.into_iter().filter(|&mutation| {
        let seed = first_violation(0, SEEDS_PER_MUTATION, Some(mutation));
        let violation = seed.and_then(|seed| run_caught(seed, Some(mutation), None).violation);
        println!("{mutation:?}: seed {seed:?}: {violation:?}");
        let unbroken = seed.and_then(|seed| run_caught(seed, None, None).violation);
        assert_eq!(unbroken, None, "without {mutation:?} nothing is wrong with seed {seed:?}");
        violation.is_none()
    });
    let escaped: Vec<_> = escaped.collect();
    assert!(escaped.is_empty(), "no seed shows that {escaped:?} break a rule");
}
