//! What the table promises, one promise a test. Random commands are in `tests/lock_table_model.rs`.

use std::time::Duration;

use super::*;
use crate::boot_time::BootTime;

const WAIT: Ask = Ask { limit: Limit::ONE, wait: None, queue_max: None, extended: false };

fn at(seconds: u64) -> BootTime {
    BootTime::from_since_boot(Duration::from_secs(seconds))
}

fn table() -> Table {
    Table::new(Token(1), TableBounds { claims_per_owner: 1_000_000, waiters_per_lock: 1_000_000 })
}

fn owners<const N: usize>(table: &mut Table) -> [OwnerId; N] {
    std::array::from_fn(|number| table.add_owner(Party::Connection(number as u32)))
}

fn wait(seconds: u64) -> Ask {
    Ask { wait: Some(Duration::from_secs(seconds)), ..WAIT }
}

fn granted(effects: &[Effect]) -> Vec<Party> {
    let party = |effect: &Effect| match effect {
        Effect::Granted { party, .. } => Some(*party),
        Effect::TimedOut { .. } => None,
    };
    effects.iter().filter_map(party).collect()
}

#[test]
fn second_acquire_waits_for_the_unlock() {
    let mut table = table();
    let [a, b] = owners(&mut table);
    assert!(matches!(table.lock(a, "x", &WAIT, at(0)), Outcome::Acquired(_)));
    assert_eq!(table.lock(b, "x", &WAIT, at(0)), Outcome::Queued { ticket: 0 });
    let mut effects = Vec::new();
    assert_eq!(table.unlock(a, "x", at(1), &mut effects), Unlocked::Held(Token(1)));
    assert_eq!(granted(&effects), [Party::Connection(1)]);
    assert_eq!(table.claim_of(b, "x").unwrap().since(), at(1));
}

#[test]
fn a_free_lock_leaves_nothing_behind() {
    let mut table = table();
    let [a] = owners(&mut table);
    for number in 0..100 {
        let name = number.to_string();
        table.lock(a, &name, &WAIT, at(0));
        table.unlock(a, &name, at(0), &mut Vec::new());
    }
    assert_eq!((table.lock_count(), table.claims.len()), (0, 0));
}

#[test]
fn tokens_grow_over_all_locks() {
    let mut table = table();
    let [a] = owners(&mut table);
    let mut last = Token(0);
    for name in ["x", "y", "x", "z", "x"] {
        let Outcome::Acquired(grant) = table.lock(a, name, &WAIT, at(0)) else { panic!() };
        assert!(grant.token > last);
        last = grant.token;
        table.unlock(a, name, at(0), &mut Vec::new());
    }
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before() {
    let mut table = table();
    let [a, b] = owners(&mut table);
    table.lock(a, "x", &WAIT, at(0));
    table.lock(b, "x", &wait(5), at(1));
    assert_eq!(table.next_deadline(), Some(at(6)));
    let mut effects = Vec::new();
    table.expire_waits(at(5), &mut effects);
    assert_eq!(effects, []);
    table.expire_waits(at(6), &mut effects);
    let timed_out = Effect::TimedOut { party: Party::Connection(1), name: "x".into(), extended: false };
    assert_eq!(effects, [timed_out]);
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn the_deadline_goes_with_the_wait() {
    let mut table = table();
    let [a, b] = owners(&mut table);
    table.lock(a, "x", &WAIT, at(0));
    for end in [
        |table: &mut Table, b| {
            table.unlock(b, "x", at(0), &mut Vec::new());
        },
        |table: &mut Table, b| table.release_all(b, at(0), &mut Vec::new()),
        |table: &mut Table, b| {
            table.lock(b, "x", &wait(0), at(0));
        },
    ] {
        table.lock(b, "x", &wait(5), at(0));
        end(&mut table, b);
        assert_eq!(table.next_deadline(), None);
    }
    table.lock(b, "x", &wait(5), at(0));
    table.unlock(a, "x", at(0), &mut Vec::new());
    assert_eq!(table.next_deadline(), None);
}

#[test]
fn a_suspended_waiter_is_passed_over_and_keeps_its_place() {
    let mut table = table();
    let [holder, suspended, late, later] = owners(&mut table);
    for owner in [holder, suspended, late, later] {
        table.lock(owner, "x", &WAIT, at(0));
    }
    table.suspend(suspended);
    let mut effects = Vec::new();
    table.unlock(holder, "x", at(0), &mut effects);
    assert_eq!(granted(&effects), [Party::Connection(2)]);
    effects.clear();
    table.resume(suspended, at(0), &mut effects);
    assert_eq!(effects, []);
    table.unlock(late, "x", at(0), &mut effects);
    assert_eq!(granted(&effects), [Party::Connection(1)]);
}

#[test]
fn a_resumed_waiter_gets_a_lock_that_is_free() {
    let mut table = table();
    let [holder, suspended] = owners(&mut table);
    table.lock(holder, "x", &WAIT, at(0));
    table.lock(suspended, "x", &WAIT, at(0));
    table.suspend(suspended);
    let mut effects = Vec::new();
    table.unlock(holder, "x", at(0), &mut effects);
    assert_eq!(effects, []);
    table.resume(suspended, at(0), &mut effects);
    assert_eq!(granted(&effects), [Party::Connection(1)]);
}

#[test]
fn many_that_resume_at_once_get_their_locks_in_the_order_of_asking() {
    let mut table = table();
    let [holder, opened_first, asked_first] = owners(&mut table);
    for (owner, name) in [(holder, "x"), (holder, "y"), (asked_first, "x"), (opened_first, "x")] {
        table.lock(owner, name, &WAIT, at(0));
    }
    table.lock(opened_first, "y", &WAIT, at(0));
    table.lock(asked_first, "y", &WAIT, at(0));
    table.suspend(opened_first);
    table.suspend(asked_first);
    let mut effects = Vec::new();
    table.remove_owner(holder, at(1), &mut effects);
    assert_eq!(effects, []);
    table.resume_all(&[opened_first, asked_first], at(1), &mut effects);
    let to = |name: &str| table.lock_view(name).unwrap().holders().next().unwrap().owner();
    assert_eq!((to("x"), to("y")), (asked_first, opened_first));
}

#[test]
fn a_newcomer_takes_what_only_suspended_ones_wait_for() {
    let mut table = table();
    let [holder, suspended, new] = owners(&mut table);
    table.lock(holder, "x", &WAIT, at(0));
    table.lock(suspended, "x", &WAIT, at(0));
    table.suspend(suspended);
    table.unlock(holder, "x", at(0), &mut Vec::new());
    assert!(matches!(table.lock(new, "x", &WAIT, at(0)), Outcome::Acquired(_)));
}

#[test]
fn what_is_restored_stands_as_before() {
    let mut table = Table::new(Token(50), TableBounds { claims_per_owner: 9, waiters_per_lock: 9 });
    let [holder, first, second] = owners(&mut table);
    let limit = Limit::new(2).unwrap();
    let restored = |state| Restored { limit, extended: true, since: at(0), state };
    let holding = |token, slot| restored(ClaimState::Holding { token: Token(token), slot: Slot(slot) });
    table.restore(holder, "x", &holding(49, 1)).unwrap();
    table.restore(first, "x", &restored(ClaimState::Waiting { ticket: 7 })).unwrap();
    table.restore(second, "x", &restored(ClaimState::Waiting { ticket: 9 })).unwrap();
    let waiters: Vec<_> = table.lock_view("x").unwrap().waiters().map(|claim| claim.party()).collect();
    assert_eq!(waiters, [Party::Connection(1), Party::Connection(2)]);
    let mut effects = Vec::new();
    table.suspend(first);
    table.resume(first, at(1), &mut effects);
    let Effect::Granted { grant, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(*grant, Grant { token: Token(50), slot: Slot(0), limit });
    let [late] = owners(&mut table);
    let ask = Ask { limit, ..WAIT };
    assert_eq!(table.lock(late, "x", &ask, at(1)), Outcome::Queued { ticket: 10 });
}

#[test]
fn a_store_that_contradicts_itself_is_not_restored() {
    let mut table = Table::new(Token(50), TableBounds { claims_per_owner: 9, waiters_per_lock: 9 });
    let [a, b] = owners(&mut table);
    let restored =
        |limit, state| Restored { limit: Limit::new(limit).unwrap(), extended: true, since: at(0), state };
    let holding = |token, slot| ClaimState::Holding { token: Token(token), slot: Slot(slot) };
    table.restore(a, "x", &restored(2, holding(1, 0))).unwrap();
    for (owner, limit, state) in [
        (b, 2, holding(2, 0)),
        (b, 2, holding(2, 2)),
        (b, 2, holding(50, 1)),
        (b, 3, holding(2, 1)),
        (a, 2, holding(2, 1)),
    ] {
        assert!(table.restore(owner, "x", &restored(limit, state)).is_err(), "{state:?}");
    }
}

#[test]
#[should_panic(expected = "after its removal")]
fn a_removed_owner_can_do_nothing() {
    let mut table = table();
    let [a] = owners(&mut table);
    table.remove_owner(a, at(0), &mut Vec::new());
    let [_same_index] = owners(&mut table);
    table.lock(a, "x", &WAIT, at(0));
}

#[test]
fn leaving_a_long_queue_costs_no_walk() {
    let mut table = table();
    let [holder] = owners(&mut table);
    table.lock(holder, "x", &WAIT, at(0));
    let waiters: Vec<_> = (0..100_000).map(|number| table.add_owner(Party::Connection(number))).collect();
    for &waiter in &waiters {
        table.lock(waiter, "x", &wait(1000), at(0));
    }
    // From the middle outwards: a walk from either end would make ten thousand million steps.
    let (front, back) = waiters.split_at(waiters.len() / 2);
    for (&a, &b) in front.iter().rev().zip(back) {
        table.remove_owner(a, at(0), &mut Vec::new());
        table.remove_owner(b, at(0), &mut Vec::new());
    }
    assert_eq!((table.claims.len(), table.next_deadline()), (1, None));
}
