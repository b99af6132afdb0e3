//! The supervisor on real processes. This program is the tests, and, by its first argument, also the
//! wrapper that they drive, the last will, and commands that fork as fast as they can.

mod commands;
mod driver;
mod ending;
mod exits;
mod isolated;
mod odd;
mod terminal;
#[path = "../terminals/mod.rs"]
mod terminals;
mod world;
mod wrapper;
mod wrapper_death;

use libtest_mimic::{Arguments, Failed, Trial};

/// A promise: its name and its proof.
type Promise = (&'static str, fn());

/// Names a function as a promise.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => { pub(crate) const PROMISES: &[crate::Promise] = &[$((stringify!($promise), $promise)),*]; };
}
pub(crate) use promises;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|first| first.to_str()) {
        Some("wrapper") => wrapper::main(arguments.next().expect("a plan")),
        Some("will") => commands::will(arguments.next().expect("a file")),
        Some("fork-chain") => commands::fork_chain(),
        Some("fork-wide") => commands::fork_wide(),
        Some(_) | None => run_all(),
    }
}

fn run_all() {
    let trials = [
        exits::PROMISES,
        ending::PROMISES,
        wrapper_death::PROMISES,
        world::PROMISES,
        odd::PROMISES,
        isolated::PROMISES,
        terminal::PROMISES,
    ]
    .into_iter()
    .flatten()
    .map(|(name, prove)| Trial::test(*name, move || prove_it(*prove)))
    .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn prove_it(prove: fn()) -> Result<(), Failed> {
    prove();
    Ok(())
}
