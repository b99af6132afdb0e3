//! What the tests run under a supervisor and no tool offers.

use std::ffi::OsString;
use std::io::Read;

use nix::unistd::{ForkResult, fork, pause};

/// The last will: writes what it finds to a file, under its final name only when it is complete.
pub(crate) fn will(file: OsString) {
    let mut secret = String::new();
    std::io::stdin().read_to_string(&mut secret).expect("stdin can be read");
    let open: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc is there")
        .map(|entry| entry.expect("a descriptor").file_name().into_string().expect("a number"))
        // The one by which this list is read.
        .filter(|fd| fd != "3")
        .collect();
    let mut unfinished = file.clone();
    unfinished.push(".new");
    std::fs::write(&unfinished, format!("{secret} {}", open.len())).expect("the file can be written");
    std::fs::rename(unfinished, file).expect("the file can be renamed");
}

/// Forks and exits, for ever: no process of it lives long enough to be looked at twice.
pub(crate) fn fork_chain() {
    println!("ready");
    loop {
        // SAFETY: there is one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {}
            Ok(ForkResult::Parent { .. }) => std::process::exit(0),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Every process of it forks children that do the same, as many as it takes to be a nuisance.
pub(crate) fn fork_wide() {
    /// Of one process; three generations of it are some hundreds.
    const CHILDREN: usize = 6;
    const GENERATIONS: usize = 3;
    println!("ready");
    let mut generation = 0;
    let mut children = 0;
    while children < CHILDREN && generation < GENERATIONS {
        // SAFETY: there is one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                generation += 1;
                children = 0;
            }
            Ok(ForkResult::Parent { .. }) => children += 1,
            Err(_) => std::thread::yield_now(),
        }
    }
    loop {
        pause();
    }
}
