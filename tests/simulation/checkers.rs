//! What must hold, judged apart from the code: from what is seen of processes in true time, and of
//! the server's requests, replies and connections. It has its own books of queues and holders and
//! never looks into the table, and it knows nothing of leases.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use officer::lock::{SessionId, Token};

use crate::clock::{MILLI, Time};
use crate::scheduler::ClientId;

/// A tree that is thawed after its lease can't know it before it runs. It counts as running again
/// only when the guardian had the time to wake up and kill it.
pub(crate) const THAW_ALLOWANCE: Time = 175 * MILLI;

/// In a calm run a last will is executed within this; a lease is longer.
const LONGEST_CALM_WILL: Time = 1000 * MILLI;

/// What timers and killing may take on top of a lease, less the lease's own margin.
const OPERATOR_SLACK: Time = 100 * MILLI;

/// A grant that the server made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GrantSeen {
    pub(crate) lock: usize,
    pub(crate) token: Token,
}

/// One command's tree, of all that a client has started.
pub(crate) type TreeId = (ClientId, u64);

/// How a wrapper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its command ran, to its end or until it was stopped.
    Ran,
    /// The wait limit passed.
    Busy,
    /// A grant came too late to be used.
    GivenBack,
    /// The server couldn't be reached.
    Unreachable,
    /// It was told to stop while waiting.
    GaveUp,
    /// It was killed.
    Killed,
}

/// A process tree under a lock.
#[derive(Clone, Copy, Debug)]
struct Tree {
    lock: usize,
    token: Token,
    /// Not running: its host is suspended.
    is_frozen: bool,
    thawed_at: Option<Time>,
}

/// One lock as its clients could see it.
#[derive(Default)]
struct Book {
    limit: usize,
    queue: Vec<SessionId>,
    holders: HashSet<SessionId>,
    last_token: Option<Token>,
    started_tokens: BTreeSet<Token>,
}

pub(crate) struct Checkers {
    violation: Option<String>,
    /// The faults are so small that nobody may notice.
    is_calm: bool,
    now: Time,
    locks: Vec<Book>,
    connected: HashSet<SessionId>,
    trees: BTreeMap<TreeId, Tree>,
    /// Trees that must be dead by then, for their wrapper was killed.
    doomed: BTreeMap<TreeId, Time>,
    /// Sessions that are to be ended by a last will when these trees are dead.
    bequeathed: BTreeMap<TreeId, SessionId>,
    /// Sessions that must be ended by then, by a last will.
    willed: Vec<(SessionId, Time)>,
    /// What operators have taken, whether or not they were told so yet.
    taken: HashSet<Token>,
    /// Trees with these tokens must be dead by then, for the operator was told so.
    deposed: BTreeMap<Token, Time>,
    /// Up to when a client may give the server up: the faults, and how long it tries.
    unreachable_until: Time,
    pub(crate) starts: u64,
}

impl Checkers {
    pub(crate) fn new(limits: &[u32], is_calm: bool, unreachable_until: Time) -> Self {
        let book = |&limit: &u32| Book { limit: limit as usize, ..Book::default() };
        Self {
            violation: None,
            is_calm,
            now: 0,
            locks: limits.iter().map(book).collect(),
            connected: HashSet::new(),
            trees: BTreeMap::new(),
            doomed: BTreeMap::new(),
            bequeathed: BTreeMap::new(),
            willed: Vec::new(),
            taken: HashSet::new(),
            deposed: BTreeMap::new(),
            unreachable_until,
            starts: 0,
        }
    }

    /// The first rule that was broken.
    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// True time goes on: a tree whose allowance is over counts again, and what was due is looked at.
    pub(crate) fn time_passed(&mut self, now: Time) {
        self.now = now;
        let counts_again = |tree: &Tree| tree.thawed_at.is_some_and(|at| at + THAW_ALLOWANCE < now);
        let due: Vec<_> =
            self.trees.iter().filter(|(_, tree)| counts_again(tree)).map(|(&id, _)| id).collect();
        for id in due {
            let tree = self.trees.get_mut(&id).expect("it was found just now");
            tree.thawed_at = None;
            tree.is_frozen = false;
            let lock = tree.lock;
            self.check_exclusion(lock);
        }
        let survivor = self.doomed.iter().find(|&(id, &by)| by < now && !self.trees[id].is_frozen);
        if let Some((id, _)) = survivor {
            self.fail(format!("P5: the tree {id:?} outlives its wrapper"));
        }
        self.check_deposed();
        if let Some((session, _)) = self.willed.iter().find(|&&(_, by)| by < now) {
            self.fail(format!("P5: {session:?} isn't closed by the last will of its wrapper"));
        }
    }

    // P1, P2, P5: process trees.

    pub(crate) fn tree_started(&mut self, id: TreeId, lock: usize, token: Token) {
        self.starts += 1;
        self.trees.insert(id, Tree { lock, token, is_frozen: false, thawed_at: None });
        let book = &mut self.locks[lock];
        let is_newest = book.started_tokens.last().is_none_or(|&last| last < token);
        let is_new = book.started_tokens.insert(token);
        if !is_new {
            self.fail(format!("P4: two commands were given the token {token} of lock {lock}"));
        } else if self.locks[lock].limit == 1 && !is_newest {
            self.fail(format!("P4: {id:?} starts with token {token} after a greater one of lock {lock}"));
        }
        self.check_exclusion(lock);
    }

    pub(crate) fn tree_died(&mut self, id: TreeId) {
        self.trees.remove(&id);
        self.doomed.remove(&id);
        if let Some(session) = self.bequeathed.remove(&id) {
            self.will_is_due(session);
        }
    }

    /// Somebody is left who is to end this session.
    pub(crate) fn wrapper_killed(&mut self, id: TreeId, session: SessionId) {
        if self.trees.contains_key(&id) {
            self.doomed.insert(id, self.now + THAW_ALLOWANCE);
            self.bequeathed.insert(id, session);
        } else {
            self.will_is_due(session);
        }
    }

    pub(crate) fn frozen(&mut self, client: ClientId) {
        for (_, tree) in self.trees.iter_mut().filter(|((of, _), _)| *of == client) {
            tree.is_frozen = true;
            tree.thawed_at = None;
        }
    }

    pub(crate) fn thawed(&mut self, client: ClientId) {
        for (_, tree) in self.trees.iter_mut().filter(|((of, _), _)| *of == client) {
            tree.thawed_at = Some(self.now);
        }
    }

    /// A client gives the lock back under which it ran this tree.
    pub(crate) fn releasing(&mut self, id: TreeId) {
        if self.trees.contains_key(&id) {
            self.fail(format!("P2: {id:?} gives its lock back while its tree is alive"));
        }
    }

    /// The same, by a last will: where the network works that is soon done.
    pub(crate) fn will_begins(&mut self, id: TreeId, session: SessionId) {
        self.releasing(id);
        self.will_is_due(session);
    }

    fn will_is_due(&mut self, session: SessionId) {
        if self.is_calm && !self.willed.iter().any(|&(known, _)| known == session) {
            self.willed.push((session, self.now + LONGEST_CALM_WILL));
        }
    }

    /// The server has confirmed that the session is gone, or nobody is left to ask.
    pub(crate) fn will_ended(&mut self, session: SessionId) {
        self.willed.retain(|&(willed, _)| willed != session);
    }

    fn check_exclusion(&mut self, lock: usize) {
        let runs = |tree: &&Tree| tree.lock == lock && !tree.is_frozen;
        let running = self.trees.values().filter(runs).count();
        let limit = self.locks[lock].limit;
        if running > limit {
            self.fail(format!(
                "P1: {running} trees run under lock {lock} of limit {limit}: {:?}",
                self.trees
            ));
        }
    }

    // What operators take.

    pub(crate) fn revoked(&mut self, token: Token) {
        self.taken.insert(token);
    }

    /// The operator knows from here on that the command will end, whatever happens to the server: no
    /// later than by the lease that its session has now.
    pub(crate) fn operator_told(&mut self, token: Token, ttl: Duration) {
        let by = self.now + ttl.as_nanos() as Time + OPERATOR_SLACK;
        self.deposed.entry(token).or_insert(by);
    }

    fn check_deposed(&mut self) {
        let is_over = |tree: &Tree| self.deposed.get(&tree.token).is_some_and(|&by| by < self.now);
        if let Some((id, tree)) = self.trees.iter().find(|(_, tree)| !tree.is_frozen && is_over(tree)) {
            let text =
                format!("the tree {id:?} with token {} outlives what an operator was told", tree.token);
            self.fail(text);
        }
    }

    // P3: queues as the server's clients could see them.

    pub(crate) fn attached(&mut self, session: SessionId) {
        self.connected.insert(session);
    }

    pub(crate) fn detached(&mut self, session: SessionId) {
        self.connected.remove(&session);
    }

    pub(crate) fn queued(&mut self, session: SessionId, lock: usize) {
        self.locks[lock].queue.push(session);
    }

    pub(crate) fn left(&mut self, session: SessionId, lock: usize) {
        self.locks[lock].queue.retain(|&waiter| waiter != session);
    }

    pub(crate) fn released(&mut self, session: SessionId, lock: usize) {
        self.locks[lock].holders.remove(&session);
    }

    pub(crate) fn ended(&mut self, session: SessionId) {
        self.connected.remove(&session);
        for book in &mut self.locks {
            book.queue.retain(|&waiter| waiter != session);
            book.holders.remove(&session);
        }
    }

    pub(crate) fn granted(&mut self, session: SessionId, lock: usize) {
        if !self.connected.contains(&session) {
            self.fail(format!("P3: lock {lock} was granted to {session:?}, which has no connection"));
        }
        let book = &mut self.locks[lock];
        let ahead = book.queue.iter().take_while(|&&waiter| waiter != session);
        let passed_over = ahead.copied().find(|waiter| self.connected.contains(waiter));
        book.queue.retain(|&waiter| waiter != session);
        book.holders.insert(session);
        let (held, limit) = (book.holders.len(), book.limit);
        if let Some(waiter) = passed_over {
            self.fail(format!(
                "P3: lock {lock} was granted to {session:?} before {waiter:?}, which asked first"
            ));
        }
        if held > limit {
            self.fail(format!("P1: lock {lock} of limit {limit} was granted to {held} sessions"));
        }
    }

    /// A turn of the server is over: nobody who could have a place waits for it.
    pub(crate) fn turn_ended(&mut self, is_ready: bool) {
        for lock in 0..self.locks.len() {
            let book = &self.locks[lock];
            let ready = book.queue.iter().find(|waiter| self.connected.contains(waiter));
            if is_ready && book.holders.len() < book.limit && ready.is_some() {
                self.fail(format!("liveness: lock {lock} has a free place and {ready:?} waits for it"));
            }
        }
    }

    /// The server is dead: what it knew is gone, except for what its store has.
    pub(crate) fn server_died(&mut self) {
        self.connected.clear();
        for book in &mut self.locks {
            book.queue.clear();
            book.holders.clear();
        }
    }

    /// The store had this claim; waits come in the order of asking.
    pub(crate) fn put_back(&mut self, session: SessionId, lock: usize, is_held: bool) {
        let book = &mut self.locks[lock];
        if is_held {
            book.holders.insert(session);
        } else {
            book.queue.push(session);
        }
    }

    // P4: tokens of grants that were committed or told, in the order of the grants.

    pub(crate) fn tokens_given(&mut self, grants: &[GrantSeen]) {
        for grant in grants {
            let last = &mut self.locks[grant.lock].last_token;
            if last.is_some_and(|last| last >= grant.token) {
                let last = last.expect("it was compared");
                return self.fail(format!("P4: {grant:?} comes after the token {last}"));
            }
            *last = Some(grant.token);
        }
    }

    // What users see.

    pub(crate) fn stopped(&mut self, client: ClientId, token: Token, cause: &str) {
        if self.is_calm && !self.taken.contains(&token) {
            self.fail(format!("the command of client {client} was stopped without need: {cause}"));
        }
    }

    /// A waiter wasn't granted the lock, after so long (true time) of so much that it was to wait;
    /// `None`: for ever. In a calm run it ends at most `late_by` after its limit.
    pub(crate) fn sent_away(&mut self, client: ClientId, waited: Time, limit: Option<Time>, late_by: Time) {
        match limit {
            None => self.fail(format!("client {client} was to wait for ever and was sent away")),
            Some(limit) if waited < limit - limit / 20 => {
                self.fail(format!("client {client} was to wait {limit} ns and waited only {waited}"));
            }
            Some(limit) if self.is_calm && waited > limit + limit / 50 + late_by => {
                self.fail(format!("client {client} was to wait {limit} ns and waited {waited}"));
            }
            Some(_) => {}
        }
    }

    /// A wrapper ended.
    pub(crate) fn finished(&mut self, client: ClientId, outcome: Outcome) {
        match outcome {
            Outcome::GivenBack | Outcome::Unreachable if self.is_calm => {
                self.fail(format!("client {client} ended with {outcome:?} without need"));
            }
            Outcome::Unreachable if self.now > self.unreachable_until => {
                self.fail(format!("liveness: client {client} can't reach a server that works"));
            }
            Outcome::Ran
            | Outcome::Busy
            | Outcome::GivenBack
            | Outcome::Unreachable
            | Outcome::GaveUp
            | Outcome::Killed => {}
        }
    }
}
