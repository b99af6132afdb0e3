//! Random commands against the lock table and against a plain model of it: lists and a search for
//! everything. Whatever one of them says, the other must say.

use std::collections::BTreeMap;
use std::time::Duration;

use officer::boot_time::BootTime;
use officer::lock::{
    Ask, ClaimState, Effect, Grant, Limit, Outcome, OwnerId, Party, Slot, Table, TableBounds, Token, Unlocked,
};
use proptest::prelude::*;

const OWNERS: usize = 5;
/// More than an owner's claims are looked through without an index.
const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
const BOUNDS: TableBounds = TableBounds { claims_per_owner: 11, waiters_per_lock: 3 };
const FIRST_TOKEN: Token = Token(100);

#[derive(Clone, Debug)]
enum Step {
    Lock { owner: usize, name: usize, limit: u32, wait: Option<u64>, queue_max: Option<u64>, extended: bool },
    Unlock { owner: usize, name: usize },
    ReleaseAll { owner: usize },
    Replace { owner: usize },
    Suspend { owner: usize },
    Resume { owner: usize },
    Revoke { name: usize, holder: usize },
    Pass { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let owner = 0..OWNERS;
    // Half of the steps meet at few names, the others make owners with many.
    let name = prop_oneof![0..3_usize, 0..NAMES.len()];
    prop_oneof![
        8 => (
            owner.clone(),
            name.clone(),
            prop_oneof![8 => Just(2_u32), 2 => 1..4_u32],
            prop_oneof![2 => Just(None), 1 => Just(Some(0)), 3 => (1..20_u64).prop_map(Some)],
            prop_oneof![4 => Just(None), 1 => (1..5_u64).prop_map(Some)],
            any::<bool>(),
        )
            .prop_map(|(owner, name, limit, wait, queue_max, extended)| Step::Lock {
                owner,
                name,
                limit,
                wait,
                queue_max,
                extended
            }),
        5 => (owner.clone(), name.clone()).prop_map(|(owner, name)| Step::Unlock { owner, name }),
        1 => owner.clone().prop_map(|owner| Step::ReleaseAll { owner }),
        1 => owner.clone().prop_map(|owner| Step::Replace { owner }),
        2 => owner.clone().prop_map(|owner| Step::Suspend { owner }),
        2 => owner.prop_map(|owner| Step::Resume { owner }),
        1 => (name, 0..3_usize).prop_map(|(name, holder)| Step::Revoke { name, holder }),
        3 => (0..8_u64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// What both must say after a step.
#[derive(Debug, PartialEq)]
enum Said {
    Outcome(Outcome),
    Unlocked(Unlocked),
    Revoked(bool),
    Nothing,
}

struct ModelLock {
    limit: u32,
    holders: Vec<(usize, Grant)>,
    waiters: Vec<Waiter>,
}

#[derive(Clone)]
struct Waiter {
    owner: usize,
    deadline: Option<u64>,
    extended: bool,
    ticket: u64,
}

#[derive(Default)]
struct ModelOwner {
    suspended: bool,
    asked: Vec<usize>,
}

/// The plain model. Each holder's `extended` is that of its request.
struct Model {
    now: u64,
    next_token: u64,
    next_ticket: u64,
    locks: BTreeMap<usize, ModelLock>,
    owners: Vec<ModelOwner>,
    effects: Vec<Effect>,
}

impl Model {
    fn new() -> Self {
        let owners = (0..OWNERS).map(|_| ModelOwner::default()).collect();
        Self {
            now: 0,
            next_token: FIRST_TOKEN.0,
            next_ticket: 0,
            locks: BTreeMap::new(),
            owners,
            effects: Vec::new(),
        }
    }

    fn lock(&mut self, owner: usize, name: usize, ask: &Ask) -> Outcome {
        let suspended = self.owners[owner].suspended;
        if let Some(lock) = self.locks.get_mut(&name) {
            if lock.limit != ask.limit.get() {
                return Outcome::LimitMismatch(Limit::new(lock.limit).unwrap());
            }
            if let Some((_, grant)) = lock.holders.iter().find(|(holder, _)| *holder == owner) {
                return Outcome::AlreadyAcquired(*grant);
            }
            if let Some(at) = lock.waiters.iter().position(|waiter| waiter.owner == owner) {
                if ask.wait == Some(Duration::ZERO) {
                    self.leave(owner, name);
                    return Outcome::TimedOut;
                }
                let waiter = &mut lock.waiters[at];
                waiter.extended |= ask.extended;
                let asked = ask.wait.map(|wait| self.now + wait.as_secs());
                waiter.deadline = [waiter.deadline, asked].into_iter().flatten().min();
                return Outcome::StillQueued;
            }
            let queue = lock.holders.len() + lock.waiters.len();
            if ask.queue_max.is_some_and(|most| queue as u64 >= most) {
                return Outcome::QueueMaxed;
            }
        }
        if self.owners[owner].asked.len() >= BOUNDS.claims_per_owner as usize {
            return Outcome::TooManyLocks;
        }
        let (holders, waiters) =
            self.locks.get(&name).map_or((0, 0), |lock| (lock.holders.len(), lock.waiters.len()));
        let is_free = holders < ask.limit.get() as usize && !suspended;
        if !is_free && ask.wait == Some(Duration::ZERO) {
            return Outcome::TimedOut;
        }
        if !is_free && waiters >= BOUNDS.waiters_per_lock as usize {
            return Outcome::TooManyWaiters;
        }
        let lock = self.locks.entry(name).or_insert_with(|| ModelLock {
            limit: ask.limit.get(),
            holders: Vec::new(),
            waiters: Vec::new(),
        });
        self.owners[owner].asked.push(name);
        if is_free {
            let grant = grant_of(lock, &mut self.next_token);
            lock.holders.push((owner, grant));
            return Outcome::Acquired(grant);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let deadline = ask.wait.map(|wait| self.now + wait.as_secs());
        lock.waiters.push(Waiter { owner, deadline, extended: ask.extended, ticket });
        Outcome::Queued { ticket }
    }

    fn leave(&mut self, owner: usize, name: usize) -> Unlocked {
        let Some(lock) = self.locks.get_mut(&name) else { return Unlocked::Nothing };
        let held = lock.holders.iter().position(|(holder, _)| *holder == owner);
        let waited = lock.waiters.iter().position(|waiter| waiter.owner == owner);
        let unlocked = match (held, waited) {
            (Some(at), _) => Unlocked::Held(lock.holders.remove(at).1.token),
            (None, Some(at)) => {
                lock.waiters.remove(at);
                Unlocked::Waited
            }
            (None, None) => return Unlocked::Nothing,
        };
        self.owners[owner].asked.retain(|asked| *asked != name);
        self.pass_on(name);
        unlocked
    }

    fn pass_on(&mut self, name: usize) {
        let Some(lock) = self.locks.get_mut(&name) else { return };
        while lock.holders.len() < lock.limit as usize {
            let ready = lock.waiters.iter().position(|waiter| !self.owners[waiter.owner].suspended);
            let Some(at) = ready else { break };
            let waiter = lock.waiters.remove(at);
            let grant = grant_of(lock, &mut self.next_token);
            lock.holders.push((waiter.owner, grant));
            self.effects.push(Effect::Granted {
                party: Party::Connection(waiter.owner as u32),
                name: NAMES[name].into(),
                grant,
                extended: waiter.extended,
            });
        }
        if lock.holders.is_empty() && lock.waiters.is_empty() {
            self.locks.remove(&name);
        }
    }

    fn release_all(&mut self, owner: usize) {
        for name in self.owners[owner].asked.clone() {
            self.leave(owner, name);
        }
    }

    fn resume(&mut self, owner: usize) {
        self.owners[owner].suspended = false;
        for name in self.owners[owner].asked.clone() {
            self.pass_on(name);
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let mut due = Vec::new();
        for (&name, lock) in &self.locks {
            for waiter in &lock.waiters {
                if waiter.deadline.is_some_and(|deadline| deadline <= self.now) {
                    due.push((name, waiter.clone()));
                }
            }
        }
        for (name, waiter) in due {
            self.leave(waiter.owner, name);
            self.effects.push(Effect::TimedOut {
                party: Party::Connection(waiter.owner as u32),
                name: NAMES[name].into(),
                extended: waiter.extended,
            });
        }
    }
}

fn grant_of(lock: &ModelLock, next_token: &mut u64) -> Grant {
    let slot = (0..).find(|slot| lock.holders.iter().all(|(_, grant)| grant.slot.0 != *slot)).unwrap();
    let token = Token(*next_token);
    *next_token += 1;
    Grant { token, slot: Slot(slot), limit: Limit::new(lock.limit).unwrap() }
}

/// Both, and the table's handles for the model's owners.
struct Pair {
    table: Table,
    model: Model,
    ids: Vec<OwnerId>,
}

impl Pair {
    fn new() -> Self {
        let mut table = Table::new(FIRST_TOKEN, BOUNDS);
        let ids = (0..OWNERS).map(|owner| table.add_owner(Party::Connection(owner as u32))).collect();
        Self { table, model: Model::new(), ids }
    }

    fn take(&mut self, step: &Step) {
        let mut effects = Vec::new();
        let (said, expected) = self.take_both(step, &mut effects);
        assert_eq!(said, expected, "{step:?}");
        let mut expected_effects = std::mem::take(&mut self.model.effects);
        if let Step::Pass { .. } = step {
            // Which of two waits with one deadline ends first is nobody's matter.
            effects.sort_by_key(|effect| format!("{effect:?}"));
            expected_effects.sort_by_key(|effect| format!("{effect:?}"));
        }
        assert_eq!(effects, expected_effects, "{step:?}");
        self.compare_states();
    }

    fn take_both(&mut self, step: &Step, effects: &mut Vec<Effect>) -> (Said, Said) {
        let Self { table, model, ids } = self;
        let now = at(model.now);
        match *step {
            Step::Lock { owner, name, limit, wait, queue_max, extended } => {
                let limit = Limit::new(limit).unwrap();
                let ask = Ask { limit, wait: wait.map(Duration::from_secs), queue_max, extended };
                let outcome = table.lock(ids[owner], NAMES[name], &ask, now);
                (Said::Outcome(outcome), Said::Outcome(model.lock(owner, name, &ask)))
            }
            Step::Unlock { owner, name } => {
                let unlocked = table.unlock(ids[owner], NAMES[name], now, effects);
                (Said::Unlocked(unlocked), Said::Unlocked(model.leave(owner, name)))
            }
            Step::ReleaseAll { owner } => {
                table.release_all(ids[owner], now, effects);
                model.release_all(owner);
                (Said::Nothing, Said::Nothing)
            }
            Step::Replace { owner } => {
                table.remove_owner(ids[owner], now, effects);
                ids[owner] = table.add_owner(Party::Connection(owner as u32));
                model.release_all(owner);
                model.owners[owner] = ModelOwner::default();
                (Said::Nothing, Said::Nothing)
            }
            Step::Suspend { owner } => {
                table.suspend(ids[owner]);
                model.owners[owner].suspended = true;
                (Said::Nothing, Said::Nothing)
            }
            Step::Resume { owner } => {
                table.resume(ids[owner], now, effects);
                model.resume(owner);
                (Said::Nothing, Said::Nothing)
            }
            Step::Revoke { name, holder } => {
                let found = model.locks.get(&name).and_then(|lock| lock.holders.get(holder)).copied();
                let token = found.map_or(Token(0), |(_, grant)| grant.token);
                let revoked = table.revoke(NAMES[name], token, now, effects);
                if let Some((owner, _)) = found {
                    model.leave(owner, name);
                }
                (Said::Revoked(revoked), Said::Revoked(found.is_some()))
            }
            Step::Pass { seconds } => {
                model.pass(seconds);
                table.expire_waits(at(model.now), effects);
                (Said::Nothing, Said::Nothing)
            }
        }
    }

    fn compare_states(&self) {
        assert_eq!(self.table.lock_count(), self.model.locks.len());
        assert_eq!(self.table.next_token(), Token(self.model.next_token));
        for (&name, lock) in &self.model.locks {
            let view = self.table.lock_view(NAMES[name]).expect("both know the lock");
            assert_eq!(view.limit().get(), lock.limit);
            let holders: Vec<_> = view.holders().map(|claim| (claim.party(), claim.state())).collect();
            let expected: Vec<_> = lock
                .holders
                .iter()
                .map(|(owner, grant)| {
                    (
                        Party::Connection(*owner as u32),
                        ClaimState::Holding { token: grant.token, slot: grant.slot },
                    )
                })
                .collect();
            assert_eq!(holders, expected);
            let waiters: Vec<_> = view.waiters().map(|claim| (claim.party(), claim.state())).collect();
            let expected: Vec<_> = lock
                .waiters
                .iter()
                .map(|waiter| {
                    (Party::Connection(waiter.owner as u32), ClaimState::Waiting { ticket: waiter.ticket })
                })
                .collect();
            assert_eq!(waiters, expected);
        }
        for (owner, id) in self.ids.iter().enumerate() {
            let names: Vec<_> = self.table.claims_of(*id).map(|claim| claim.name().to_string()).collect();
            let expected: Vec<_> =
                self.model.owners[owner].asked.iter().map(|name| NAMES[*name].to_owned()).collect();
            assert_eq!(names, expected);
        }
        let deadlines = self.model.locks.values().flat_map(|lock| &lock.waiters).filter_map(|w| w.deadline);
        assert_eq!(self.table.next_deadline(), deadlines.min().map(at));
    }
}

fn at(seconds: u64) -> BootTime {
    BootTime::from_since_boot(Duration::from_secs(seconds))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_plain_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let mut pair = Pair::new();
        steps.iter().for_each(|step| pair.take(step));
    }
}
