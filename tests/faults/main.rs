//! Faults on real processes, sockets, disks and networks: under each of them no two trees run under
//! one lock, nothing survives, tokens rise, exit codes are right, and the next in the queue starts.
//!
//! This program is the tests and, by its first argument, the command under the lock as well. At the
//! end it prints one table.

mod beats;
mod dead_file_server;
mod disk;
#[path = "../engines/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests of the engines")]
mod engines;
mod freezer;
mod inner_life;
mod link;
mod netns;
mod network;
mod other_engines;
mod processes;
mod scene;
mod server;
mod servers;
#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the command line")]
mod support;
mod table;
mod terminal;
#[path = "../terminals/mod.rs"]
mod terminals;
mod wall_clock;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::table::{Proof, Table};

/// Each test waits far more than it computes.
const TESTS_AT_ONCE: usize = 8;

/// A promise under a fault: its name, the fault for the table, its proof.
type Promise = (&'static str, &'static str, fn() -> Proof);

/// Names functions as promises, with the fault as the table shows it.
macro_rules! faults {
    ($($promise:ident: $fault:literal),* $(,)?) => {
        pub(crate) const PROMISES: &[crate::Promise] = &[$((stringify!($promise), $fault, $promise)),*];
    };
    ($engine:ty; $($promise:ident: $fault:literal),* $(,)?) => {
        pub(crate) const PROMISES: &[crate::Promise] =
            &[$((stringify!($promise), $fault, $promise::<$engine>)),*];
    };
}
pub(crate) use faults;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if beats::run_if_asked(&arguments) {
        return;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(TESTS_AT_ONCE));
    let table: &'static Table = Box::leak(Box::default());
    let conclusion = libtest_mimic::run(&arguments, trials(table));
    table.print();
    conclusion.exit();
}

fn trials(table: &'static Table) -> Vec<Trial> {
    [
        processes::PROMISES,
        terminal::PROMISES,
        freezer::PROMISES,
        network::PROMISES,
        link::PROMISES,
        servers::PROMISES,
        disk::PROMISES,
        dead_file_server::PROMISES,
        inner_life::PROMISES,
        wall_clock::PROMISES,
    ]
    .into_iter()
    .chain(other_engines::PROMISES.iter().copied())
    .flatten()
    .enumerate()
    .map(|(place, &(name, fault, prove))| Trial::test(name, move || prove_it(table, place, fault, prove)))
    .collect()
}

fn prove_it(table: &Table, place: usize, fault: &'static str, prove: fn() -> Proof) -> Result<(), Failed> {
    table.add(place, fault, prove());
    Ok(())
}
