//! What a seed decides before anything happens: who takes part, on which clocks and network, and
//! which faults come when. Half of the seeds are *calm*: each fault is so short that the lease must
//! outlive it unseen. The others are *wild*: anything for any time, until the faults end.

use std::time::Duration;

use officer::lease::Terms;
use officer::supervisor::Leftovers;

use crate::clock::{Clock, MILLI, SECOND, Time};
use crate::mutation::Mutation;
use crate::network::Path;
use crate::rng::Rng;
use crate::scheduler::ClientId;
use crate::server::CrashPoint;

const LOCK_NAMES: [&str; 2] = ["backup", "report"];

pub(crate) fn lock_name(number: usize) -> &'static str {
    LOCK_NAMES[number]
}

pub(crate) fn lock_number(name: &str) -> usize {
    LOCK_NAMES.iter().position(|&known| known == name).expect("a lock of this world")
}

/// Two clocks differ in rate by less than 1 %, and each from true time by at most that.
const CLOCK_SPREAD_PER_MILLION: u64 = 10_000;
/// What the margin takes the killing of a tree to need, by the guardian or, if that has to be replaced
/// first, by the wrapper.
pub(crate) const MOST_KILL_TIME: Time = 150 * MILLI;

/// How long a client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    ForEver,
    AtMost(Time),
    NotAtAll,
}

/// One client: it runs its command `rounds` times, each time as a new process.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) lock: usize,
    pub(crate) terms: Terms,
    pub(crate) ttl: Duration,
    pub(crate) grace: Duration,
    pub(crate) waiting: Waiting,
    pub(crate) run_for: Time,
    /// Ends so long after the stop signal.
    pub(crate) stops_in: Time,
    /// What the command leaves behind ends so long after it.
    pub(crate) lingers: Time,
    pub(crate) leftovers: Leftovers,
    pub(crate) rounds: u32,
    pub(crate) start: Time,
    pub(crate) clock: Clock,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Nothing gets through, upwards, downwards or both.
    Partition {
        client: ClientId,
        up: bool,
        down: bool,
        length: Time,
    },
    /// A connection is lost with all that is in flight; either end notices after so long, or never.
    Cut {
        client: ClientId,
        client_notices: Option<Time>,
        server_notices: Option<Time>,
    },
    /// Messages take up to so much longer.
    Slow {
        client: ClientId,
        length: Time,
        by: Time,
    },
    PauseWrapper {
        client: ClientId,
        length: Time,
    },
    /// A deaf one isn't woken by SIGCONT: it is held by a debugger, or by a freezer of its own.
    PauseGuardian {
        client: ClientId,
        length: Time,
        is_deaf: bool,
    },
    PauseHost {
        client: ClientId,
        length: Time,
    },
    PauseServer {
        length: Time,
    },
    CrashServer {
        point: CrashPoint,
        down_for: Time,
    },
    RebootServer {
        down_for: Time,
    },
    KillWrapper {
        client: ClientId,
    },
    KillGuardian {
        client: ClientId,
    },
    /// The wrapper is told to end while it waits.
    GiveUp {
        client: ClientId,
    },
    /// An operator takes the lock that this client uses from one who holds it.
    Revoke {
        client: ClientId,
    },
}

pub(crate) struct Plan {
    pub(crate) is_calm: bool,
    pub(crate) limits: Vec<u32>,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) server_clock: Clock,
    pub(crate) max_ttl: Duration,
    pub(crate) faults: Vec<(Time, Fault)>,
    pub(crate) faults_end: Time,
    /// When everything must be over.
    pub(crate) bound: Time,
    most_delay: Time,
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng, mutation: Option<Mutation>) -> Self {
        let is_calm = rng.chance(1, 2);
        let clock_spread = match mutation {
            Some(Mutation::ClocksDifferTooMuch) => 3 * CLOCK_SPREAD_PER_MILLION,
            _ => CLOCK_SPREAD_PER_MILLION,
        };
        let clocks = Clocks { slowest: 1_000_000 - rng.between(0, clock_spread), spread: clock_spread };
        let spread_of_ttls =
            if rng.chance(1, 2) { rng.log_up_to(12 * SECOND) } else { rng.below(12 * SECOND) };
        let ttl_scale = 500 * MILLI + spread_of_ttls;
        let limits: Vec<u32> = (0..rng.between(1, 2)).map(|_| limit(rng)).collect();
        let clients: Vec<_> =
            (0..rng.between(2, 6)).map(|_| client(rng, is_calm, ttl_scale, limits.len(), clocks)).collect();
        let greatest_ttl = clients.iter().map(|client| client.ttl).max().expect("there are clients");
        let mut plan = Self {
            is_calm,
            limits,
            clients,
            server_clock: clocks.one(rng),
            max_ttl: greatest_ttl + Duration::from_nanos(rng.below(SECOND)),
            faults: Vec::new(),
            faults_end: 0,
            bound: 0,
            most_delay: rng.log_up_to(20 * MILLI).max(MILLI),
        };
        if is_calm {
            plan.add_calm_faults(rng);
        } else {
            plan.add_wild_faults(rng);
        }
        plan.bound = plan.faults_end + plan.longest_aftermath();
        plan
    }

    /// One path a client.
    pub(crate) fn paths(&self) -> Vec<Path> {
        let path = |_| Path {
            least_delay: MILLI / 20,
            most_delay: self.most_delay,
            blocked: [(0, 0); 2],
            slow: (0, 0),
        };
        self.clients.iter().map(path).collect()
    }

    /// How long an outage may last that no lease notices: a renewal is lost in it, is sent again
    /// after it, maybe over a new connection, and its answer must come before the stop deadline.
    fn calm_length(&self) -> Time {
        let spare = |client: &ClientPlan| {
            let ttl = client.ttl.as_nanos() as Time;
            let grace = client.grace.as_nanos() as Time;
            ttl.saturating_sub(ttl / 3 + grace + self.margin_and_slack(ttl))
        };
        self.clients.iter().map(spare).min().expect("there are clients") / 4
    }

    /// Whether a connection that is lost without a word stops no command: it is noticed when the
    /// second renewal is due, and the new one must be in use before the stop deadline.
    fn outlives_silence(&self) -> bool {
        let outlives = |client: &ClientPlan| {
            let (ttl, grace) = (client.ttl.as_nanos() as Time, client.grace.as_nanos() as Time);
            ttl * 2 / 3 + grace + self.margin_and_slack(ttl) < ttl
        };
        self.clients.iter().all(outlives)
    }

    fn margin_and_slack(&self, ttl: Time) -> Time {
        let margin = ttl / 100 + 200 * MILLI;
        margin + ttl * 3 / 100 + 8 * self.most_delay + 30 * MILLI
    }

    fn add_calm_faults(&mut self, rng: &mut Rng) {
        let most = self.calm_length();
        let recovery = self.max_ttl.as_nanos() as Time;
        let mut at = 0;
        for _ in 0..rng.between(1, 4) {
            at += recovery + rng.below(recovery);
            let fault = calm_fault(rng, self.clients.len(), most, self.outlives_silence());
            self.faults.push((at, fault));
        }
        self.faults_end = at + recovery;
    }

    fn add_wild_faults(&mut self, rng: &mut Rng) {
        let ttl = self.max_ttl.as_nanos() as Time;
        let span = ttl * rng.between(1, 4);
        let kind = rng.below(5);
        let others = if kind < 2 { rng.between(0, 8) } else { rng.between(0, 2) };
        for _ in 0..others {
            let fault = wild_fault(rng, self.clients.len(), 2 * ttl);
            self.faults.push((rng.below(span), fault));
        }
        match kind {
            0 | 1 => {}
            2 => self.squeeze(rng, span),
            3 => self.depose(rng, span),
            _ => self.forget(rng, span),
        }
        self.faults_end = self.faults.iter().map(|&(at, _)| at).max().unwrap_or(0).max(span) + 2 * ttl;
    }

    /// The hardest case for the store: a client is cut off without a word, so that a grant to it is
    /// lost and passes on when it has expired, and then the server's host reboots and forgets that;
    /// maybe the server crashes too before it has waited for long enough.
    fn forget(&mut self, rng: &mut Rng, span: Time) {
        let victim = rng.below(self.clients.len() as u64) as usize;
        let lock = self.clients[victim].lock;
        let ttl = self.clients[victim].ttl.as_nanos() as Time;
        for client in self.clients.iter_mut().filter(|client| client.lock == lock) {
            client.waiting = Waiting::ForEver;
        }
        let at = rng.below(span);
        let rebooted = at + rng.below(2 * ttl);
        let down_for = rng.below(ttl / 4);
        let length = (rebooted + down_for).saturating_sub(at) + rng.below(ttl / 4);
        self.faults.push((at, Fault::Cut { client: victim, client_notices: None, server_notices: None }));
        self.faults.push((at, Fault::Partition { client: victim, up: true, down: true, length }));
        self.faults.push((rebooted, Fault::RebootServer { down_for }));
        if rng.chance(1, 3) {
            let crashed = rebooted + down_for + rng.below(ttl / 2);
            self.faults.push((crashed, Fault::CrashServer { point: crash_point(rng), down_for: ttl / 20 }));
        }
    }

    /// The hardest case for a revocation: the holder doesn't hear of it, and then the server or its host
    /// crashes, before the holder is back.
    fn depose(&mut self, rng: &mut Rng, span: Time) {
        let victim = rng.below(self.clients.len() as u64) as usize;
        let holder = &mut self.clients[victim];
        let ttl = holder.ttl.as_nanos() as Time;
        holder.run_for = 4 * ttl;
        holder.start = 0;
        let at = rng.below(span);
        let (hidden_for, crashed) = (rng.below(ttl / 4), at + rng.below(ttl / 4));
        let hidden =
            Fault::Partition { client: victim, up: rng.chance(1, 2), down: true, length: hidden_for };
        let down_for = rng.below(ttl / 4);
        let crash = match rng.below(4) {
            0 => Fault::RebootServer { down_for },
            _ => Fault::CrashServer { point: crash_point(rng), down_for },
        };
        self.faults.extend([(at, hidden), (at, Fault::Revoke { client: victim }), (crashed, crash)]);
    }

    /// The hardest case for a lease: a holder whose command ends by nothing but SIGKILL is cut off
    /// after an answer that was late, or is suspended with it, while others wait for its lock; or the one
    /// that would kill stands still too.
    fn squeeze(&mut self, rng: &mut Rng, span: Time) {
        let victim = rng.below(self.clients.len() as u64) as usize;
        let lock = self.clients[victim].lock;
        let ttl = self.clients[victim].ttl.as_nanos() as Time;
        for client in self.clients.iter_mut().filter(|client| client.lock == lock) {
            client.waiting = Waiting::ForEver;
        }
        let holder = &mut self.clients[victim];
        holder.run_for = 4 * ttl;
        holder.stops_in = 4 * ttl;
        holder.start = 0;
        let at = rng.below(span);
        if rng.chance(1, 2) {
            let by = rng.below(ttl / 2);
            self.faults
                .push((at.saturating_sub(ttl / 2), Fault::Slow { client: victim, length: ttl / 2, by }));
        }
        let length = ttl + rng.below(ttl);
        let fault = match rng.below(6) {
            0 => Fault::PauseHost { client: victim, length },
            1 => Fault::PauseWrapper { client: victim, length },
            2 => {
                let paused_at = at + rng.below(ttl);
                let is_deaf = rng.chance(1, 2);
                self.faults.push((paused_at, Fault::PauseGuardian { client: victim, length, is_deaf }));
                partition(rng, victim, length)
            }
            _ => partition(rng, victim, length),
        };
        self.faults.push((at, fault));
    }

    /// Generous: every round of every client one after the other, each a lease late, and a reboot.
    fn longest_aftermath(&self) -> Time {
        let ttl = self.max_ttl.as_nanos() as Time;
        let round = |client: &ClientPlan| {
            u64::from(client.rounds) * (client.run_for + client.lingers + 3 * ttl + SECOND)
        };
        4 * ttl + 20 * SECOND + self.clients.iter().map(round).sum::<Time>()
    }
}

fn limit(rng: &mut Rng) -> u32 {
    if rng.chance(1, 2) { 1 } else { rng.between(1, 3) as u32 }
}

/// The clocks of one run.
#[derive(Clone, Copy)]
struct Clocks {
    slowest: u64,
    spread: u64,
}

impl Clocks {
    fn one(self, rng: &mut Rng) -> Clock {
        let per_million = match rng.below(4) {
            0 => self.slowest,
            1 => self.slowest + self.spread - 1,
            _ => self.slowest + rng.below(self.spread),
        };
        Clock { per_million, offset: rng.below(1_000_000 * SECOND), zero: 0 }
    }
}

fn client(rng: &mut Rng, is_calm: bool, ttl_scale: Time, locks: usize, clocks: Clocks) -> ClientPlan {
    // Whole milliseconds, as they come from a command line.
    let least_ttl = if is_calm { 2 * SECOND } else { 450 * MILLI };
    let ttl_ms = (ttl_scale / 2 + rng.below(ttl_scale)).max(least_ttl) / MILLI;
    let ttl = Duration::from_millis(ttl_ms);
    let most_grace =
        if is_calm { ttl / 4 } else { (ttl / 2).saturating_sub(ttl / 100 + Duration::from_millis(201)) };
    let grace = Duration::from_millis(rng.between(0, most_grace.as_millis() as u64));
    let terms = Terms::new(ttl, grace).expect("grace and margin are less than half of the ttl");
    let ttl_nanos = ttl_ms * MILLI;
    let waiting = match rng.below(6) {
        0 => Waiting::NotAtAll,
        1 | 2 => Waiting::AtMost(MILLI * rng.between(1, 3 * ttl_ms)),
        _ => Waiting::ForEver,
    };
    ClientPlan {
        lock: rng.below(locks as u64) as usize,
        terms,
        ttl,
        grace,
        waiting,
        run_for: if rng.chance(1, 3) { rng.log_up_to(ttl_nanos) } else { rng.below(3 * ttl_nanos) },
        stops_in: rng.log_up_to(2 * grace.as_nanos() as u64 + MILLI),
        lingers: if rng.chance(1, 2) { 0 } else { rng.log_up_to(ttl_nanos) },
        leftovers: if rng.chance(2, 3) { Leftovers::Kill } else { Leftovers::Wait },
        rounds: rng.between(1, 3) as u32,
        start: rng.below(ttl_nanos),
        clock: clocks.one(rng),
    }
}

fn calm_fault(rng: &mut Rng, clients: usize, most: Time, may_be_silent: bool) -> Fault {
    let client = rng.below(clients as u64) as usize;
    let length = rng.log_up_to(most);
    match rng.below(11) {
        0 => partition(rng, client, length),
        1 => {
            let is_noticed = !may_be_silent || rng.chance(1, 2);
            let client_notices = is_noticed.then_some(length);
            Fault::Cut { client, client_notices, server_notices: notices(rng, most) }
        }
        2 => Fault::Slow { client, length: 10 * length, by: length },
        3 => Fault::PauseWrapper { client, length },
        4 => Fault::PauseHost { client, length },
        5 => Fault::PauseServer { length },
        6 => Fault::KillWrapper { client },
        7 => Fault::KillGuardian { client },
        8 => Fault::Revoke { client },
        9 => Fault::PauseGuardian { client, length, is_deaf: rng.chance(1, 2) },
        _ => Fault::CrashServer { point: crash_point(rng), down_for: length },
    }
}

fn wild_fault(rng: &mut Rng, clients: usize, most: Time) -> Fault {
    let client = rng.below(clients as u64) as usize;
    let length = rng.log_up_to(most);
    match rng.below(14) {
        0 | 1 => partition(rng, client, length),
        2 => Fault::Cut { client, client_notices: notices(rng, most), server_notices: notices(rng, most) },
        3 => Fault::Slow { client, length, by: rng.log_up_to(most / 2) },
        4 => Fault::PauseWrapper { client, length },
        5 => Fault::PauseHost { client, length },
        6 => Fault::PauseServer { length },
        7 => Fault::CrashServer { point: crash_point(rng), down_for: length },
        8 => Fault::RebootServer { down_for: length },
        9 => Fault::KillWrapper { client },
        10 => Fault::KillGuardian { client },
        11 => Fault::Revoke { client },
        12 => Fault::PauseGuardian { client, length, is_deaf: rng.chance(1, 2) },
        _ => Fault::GiveUp { client },
    }
}

fn partition(rng: &mut Rng, client: ClientId, length: Time) -> Fault {
    let (up, down) = [(true, true), (true, false), (false, true)][rng.below(3) as usize];
    Fault::Partition { client, up, down, length }
}

fn notices(rng: &mut Rng, most: Time) -> Option<Time> {
    rng.chance(2, 3).then(|| rng.log_up_to(most))
}

fn crash_point(rng: &mut Rng) -> CrashPoint {
    [CrashPoint::BetweenTurns, CrashPoint::BeforeCommit, CrashPoint::BeforeSending][rng.below(3) as usize]
}
