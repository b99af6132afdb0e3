//! N holders, each with its slot; all must agree on N.

use std::collections::BTreeSet;

use crate::support::{Running, Server, sh};

const SAY_SLOT: &str = "echo $OFFICER_SLOT of $OFFICER_LIMIT; read line";

#[test]
fn n_hold_at_once_each_with_its_slot() {
    let server = Server::start();
    let options = ["-i", "a", "-c", "3"];
    let mut holders: Vec<Running> =
        (0..3).map(|_| Running::start(&mut server.exec(&options, &sh(SAY_SLOT)))).collect();
    let slots: BTreeSet<String> = holders.iter_mut().map(Running::line).collect();
    assert_eq!(slots, BTreeSet::from(["0 of 3", "1 of 3", "2 of 3"].map(String::from)));
    assert_eq!(server.run(&["-i", "a", "-c", "3", "-n"], &["true"]).code, Some(75));
}

#[test]
fn a_freed_slot_is_taken_by_the_next() {
    let server = Server::start();
    let options = ["-i", "a", "-c", "2"];
    let mut first = Running::start(&mut server.exec(&options, &sh(SAY_SLOT)));
    let freed = first.line();
    let mut second = Running::start(&mut server.exec(&options, &sh(SAY_SLOT)));
    second.line();
    let mut third = server.wait_for("a", &options, &sh(SAY_SLOT));
    first.finish();
    assert_eq!(third.line(), freed);
}

#[test]
fn a_disagreement_names_both_numbers() {
    let server = Server::start();
    let _holder = server.hold(&["-i", "a", "-c", "2"]);
    let refused = server.run(&["-i", "a", "-c", "3"], &["echo", "never"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    assert!(
        refused.stderr.contains("limit 2") && refused.stderr.contains("asks for 3"),
        "{}",
        refused.stderr
    );
}
