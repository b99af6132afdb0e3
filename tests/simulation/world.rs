//! One run: the plan of a seed, carried out event by event until everybody has what they wanted.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;

use officer::protocol::Request;

use crate::checkers::Checkers;
use crate::client::Client;
use crate::clock::{SECOND, Time};
use crate::host::Host;
use crate::mutation::Mutation;
use crate::network::{ConnId, Direction, Network};
use crate::plan::{Fault, Plan};
use crate::rng::Rng;
use crate::scheduler::{ClientId, Downlink, Event, Scheduler, Uplink};
use crate::server::{CrashPoint, Life, Server};

/// No run of this size has so many; one that does runs in circles.
const MOST_EVENTS: u64 = 2_000_000;

/// Everything that happened, in words; it outlives a run that panics.
pub(crate) type Trace = Rc<RefCell<String>>;

/// What everybody in the world acts through.
pub(crate) struct Env {
    pub(crate) rng: Rng,
    pub(crate) scheduler: Scheduler,
    pub(crate) network: Network,
    pub(crate) checkers: Checkers,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) faults_end: Time,
    trace: Option<Trace>,
}

impl Env {
    pub(crate) fn now(&self) -> Time {
        self.scheduler.now()
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.scheduler.now();
        if let Some(trace) = &self.trace {
            writeln!(trace.borrow_mut(), "{:>12.6} {}", now as f64 / SECOND as f64, what())
                .expect("a String takes every write");
        }
    }

    pub(crate) fn connect(&mut self, client: ClientId) -> ConnId {
        self.network.connect(client)
    }

    pub(crate) fn send_up(&mut self, conn: ConnId, request: Request<'static>) {
        self.note(|| format!("  up   {conn}: {request:?}"));
        self.route_up(conn, Uplink::Request(request));
    }

    /// The client's side of a connection is closed.
    pub(crate) fn close_up(&mut self, conn: ConnId) {
        if !std::mem::replace(&mut self.network.conn_mut(conn).client_closed, true) {
            self.note(|| format!("  up   {conn}: closed"));
            self.route_up(conn, Uplink::Closed);
        }
    }

    pub(crate) fn send_down(&mut self, conn: ConnId, what: Downlink) {
        self.note(|| format!("  down {conn}: {what:?}"));
        let now = self.now();
        if let Some(at) = self.network.arrival(conn, Direction::Down, now, &mut self.rng) {
            self.scheduler.at(at, Event::ToClient { conn, what });
        }
    }

    fn route_up(&mut self, conn: ConnId, what: Uplink) {
        let now = self.now();
        if let Some(at) = self.network.arrival(conn, Direction::Up, now, &mut self.rng) {
            self.scheduler.at(at, Event::ToServer { conn, what });
        }
    }
}

/// What a run came to.
pub(crate) struct Report {
    pub(crate) violation: Option<String>,
    pub(crate) events: u64,
    pub(crate) starts: u64,
}

struct World {
    env: Env,
    plan: Plan,
    server: Server,
    clients: Vec<Client>,
}

/// Carries out one seed.
pub(crate) fn run(seed: u64, mutation: Option<Mutation>, trace: Option<Trace>) -> Report {
    let mut world = World::new(seed, mutation, trace);
    let mut events = 0;
    while world.env.checkers.violation().is_none() && world.step() {
        events += 1;
        if events > MOST_EVENTS {
            world.env.checkers.fail("liveness: the run doesn't end".into());
        }
    }
    let checkers = world.env.checkers;
    Report { violation: checkers.violation().map(str::to_owned), events, starts: checkers.starts }
}

impl World {
    fn new(seed: u64, mutation: Option<Mutation>, trace: Option<Trace>) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng, mutation);
        let greatest_ttl = plan.max_ttl.as_nanos() as Time;
        let mut env = Env {
            scheduler: Scheduler::default(),
            network: Network::new(plan.paths(), !plan.is_calm),
            checkers: Checkers::new(&plan.limits, plan.is_calm, plan.faults_end + 6 * greatest_ttl),
            mutation,
            faults_end: plan.faults_end,
            trace,
            rng,
        };
        for (number, &(at, _)) in plan.faults.iter().enumerate() {
            env.scheduler.at(at, Event::Fault(number));
        }
        let mut clients = Vec::new();
        for (id, client) in plan.clients.iter().enumerate() {
            env.scheduler.at(client.start, Event::Start(id));
            clients.push(Client::new(id, client.clone(), plan.limits[client.lock]));
        }
        let server = Server::new(plan.server_clock, plan.max_ttl);
        env.note(|| format!("calm: {}, limits {:?}, clients {:#?}", plan.is_calm, plan.limits, plan.clients));
        Self { env, server, clients, plan }
    }

    /// The next event; false once everything is over.
    fn step(&mut self) -> bool {
        if self.clients.iter().all(Client::is_done) && self.server.life == Life::Up && self.server.is_empty()
        {
            return false;
        }
        let Some(event) = self.env.scheduler.next() else {
            self.fail_unfinished();
            return false;
        };
        let now = self.env.now();
        self.env.checkers.time_passed(now);
        if now > self.plan.bound {
            self.fail_unfinished();
            return false;
        }
        self.happen(event);
        true
    }

    fn fail_unfinished(&mut self) {
        let waiting: Vec<_> = (0..self.clients.len()).filter(|&id| !self.clients[id].is_done()).collect();
        let locks: Vec<_> = self.server.table.lock_views().map(|lock| lock.name().to_string()).collect();
        let sessions = self.server.sessions.len();
        self.env.checkers.fail(format!(
            "liveness: clients {waiting:?} aren't done, locks {locks:?} and {sessions} sessions are left"
        ));
    }

    fn happen(&mut self, event: Event) {
        if let Some(until) = self.held_up_until(&event) {
            return self.env.scheduler.put_off(until, event);
        }
        let Self { env, server, clients, .. } = self;
        match event {
            Event::Start(client) => clients[client].start(env),
            Event::ToServer { conn, what } => {
                if !env.network.conn(conn).is_dead || matches!(what, Uplink::Broken) {
                    server.arrived(conn, what, env);
                }
            }
            Event::ToClient { conn, what } => self.client_hears(conn, what),
            Event::ServerTurn { generation } => server.turn(generation, env),
            Event::ServerStart => server.start(env),
            Event::WrapperWake { client, generation } => clients[client].wake(generation, env),
            Event::WrapperHears { client, run } => clients[client].hears_reports(run, env),
            Event::GuardianTimer { client, generation } => {
                self.at_host(client, |host, env| host.guardian_timer(generation, env));
            }
            Event::GuardianRuns { client, run } => {
                self.at_host(client, |host, env| host.guardian_runs(run, env));
            }
            Event::GuardianGone { client, run } => clients[client].guardian_gone(run, env),
            Event::CommandEnds { client, run } => clients[client].host.command_ends(run, env),
            Event::TreeDead { client, run } => self.at_host(client, |host, env| host.tree_dead(run, env)),
            Event::TreeKilled { client, run } => {
                self.at_host(client, |host, env| host.tree_killed(run, env));
            }
            Event::WillWake { client, generation } => clients[client].host.will.wake(generation, env),
            Event::Thaw(client) => self.thaw(client),
            Event::Fault(number) => self.strike(self.plan.faults[number].1),
        }
    }

    /// What may be the last that happens to a round whose wrapper was killed.
    fn at_host(&mut self, client: ClientId, happen: impl FnOnce(&mut Host, &mut Env)) {
        let client = &mut self.clients[client];
        happen(&mut client.host, &mut self.env);
        client.end_killed_round(&mut self.env);
    }

    /// Until when the party that this concerns is paused.
    fn held_up_until(&self, event: &Event) -> Option<Time> {
        let host = |id: ClientId| self.clients[id].host.frozen_until;
        let wrapper = |id: ClientId| host(id).max(self.clients[id].paused_until);
        let guardian = |id: ClientId| host(id).max(self.clients[id].host.guardian_paused_until());
        let until = match *event {
            Event::Start(id)
            | Event::CommandEnds { client: id, .. }
            | Event::TreeDead { client: id, .. }
            | Event::TreeKilled { client: id, .. } => host(id),
            Event::WillWake { client: id, .. } => host(id).max(self.clients[id].host.will.paused_until),
            Event::GuardianTimer { client: id, .. } | Event::GuardianRuns { client: id, .. } => guardian(id),
            Event::WrapperWake { client: id, .. }
            | Event::WrapperHears { client: id, .. }
            | Event::GuardianGone { client: id, .. } => wrapper(id),
            Event::ToClient { conn: conn_id, .. } => {
                let conn = self.env.network.conn(conn_id);
                let will = &self.clients[conn.client].host.will;
                match conn.client_closed {
                    true => 0,
                    false if will.speaks_on(conn_id) => host(conn.client).max(will.paused_until),
                    false => wrapper(conn.client),
                }
            }
            Event::ToServer { .. }
            | Event::ServerTurn { .. }
            | Event::ServerStart
            | Event::Thaw(_)
            | Event::Fault(_) => 0,
        };
        (until > self.env.now()).then_some(until)
    }

    fn client_hears(&mut self, conn: ConnId, what: Downlink) {
        let known = self.env.network.conn(conn);
        let is_lost = known.is_dead && !matches!(what, Downlink::Broken);
        if is_lost || known.client_closed {
            return;
        }
        let client = &mut self.clients[known.client];
        if !client.host.will.heard(conn, &what, &mut self.env) {
            client.heard(conn, what, &mut self.env);
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.env.note(|| format!("FAULT {fault:?}"));
        let now = self.env.now();
        match fault {
            Fault::Partition { client, up, down, length } => {
                let path = &mut self.env.network.paths[client];
                for (is_hit, way) in [(up, Direction::Up), (down, Direction::Down)] {
                    if is_hit && path.blocked[way as usize].1 < now + length {
                        path.blocked[way as usize] = (now, now + length);
                    }
                }
            }
            Fault::Cut { client, client_notices, server_notices } => {
                self.cut(client, client_notices, server_notices);
            }
            Fault::Slow { client, length, by } => {
                self.env.network.paths[client].slow = (now + length, by);
            }
            Fault::PauseWrapper { client, length } => {
                let client = &mut self.clients[client];
                if client.host.is_guarded(now) {
                    client.paused_until = client.paused_until.max(now + length);
                }
            }
            Fault::PauseGuardian { client, length, is_deaf } => {
                let client = &mut self.clients[client];
                if client.paused_until.max(client.host.frozen_until) > now {
                    return;
                }
                if client.host.is_guarded(now) {
                    client.host.pause_guardian(length, is_deaf, &mut self.env);
                } else if !client.host.wrapper_lives && !self.plan.is_calm {
                    // It has become the last will, which nobody promises to be prompt then.
                    client.host.will.paused_until = now + length;
                }
            }
            Fault::PauseHost { client, length } => self.freeze(client, length),
            Fault::PauseServer { length } => {
                self.server.paused_until = self.server.paused_until.max(now + length);
            }
            Fault::CrashServer { point, down_for } => self.crash_server(point, down_for),
            Fault::RebootServer { down_for } => {
                if self.server.life == Life::Up {
                    self.server.crash_host(down_for, &mut self.env);
                }
            }
            Fault::KillWrapper { client } => {
                let client = &mut self.clients[client];
                if client.host.is_guarded(now) && client.host.frozen_until <= now {
                    client.kill_wrapper(&mut self.env);
                }
            }
            Fault::KillGuardian { client } => {
                let client = &mut self.clients[client];
                if client.paused_until.max(client.host.frozen_until) > now {
                    return;
                }
                if client.host.wrapper_lives {
                    client.host.guardian_killed(&mut self.env);
                } else {
                    client.host.will.kill(&mut self.env);
                }
            }
            Fault::Revoke { client } => {
                let lock = self.clients[client].plan.lock;
                self.server.asked_to_revoke(lock, &mut self.env);
            }
            Fault::GiveUp { client } => {
                let client = &mut self.clients[client];
                if client.paused_until <= now && client.host.frozen_until <= now {
                    client.give_up(&mut self.env);
                }
            }
        }
    }

    fn cut(&mut self, client: ClientId, client_notices: Option<Time>, server_notices: Option<Time>) {
        let Some(&conn) = self.env.network.living(client).last() else { return };
        if self.plan.is_calm && client_notices.is_none() && self.clients[client].is_reaching() {
            // Opening a session has the whole connect timeout for its one answer: it would end there.
            return;
        }
        // What either end notices comes from its own kernel, after a time: on the same connection
        // nothing else arrives.
        self.env.network.conn_mut(conn).is_dead = true;
        if let Some(after) = client_notices {
            self.env.scheduler.after(after, Event::ToClient { conn, what: Downlink::Broken });
        }
        if let Some(after) = server_notices {
            self.env.scheduler.after(after, Event::ToServer { conn, what: Uplink::Broken });
        }
    }

    fn crash_server(&mut self, point: CrashPoint, down_for: Time) {
        match (self.server.life, point) {
            (Life::Crashed | Life::HostDown { .. }, _) => {}
            (Life::Up, CrashPoint::BetweenTurns) => self.server.crash(down_for, &mut self.env),
            (Life::Up, CrashPoint::BeforeCommit | CrashPoint::BeforeSending) => {
                self.server.crash_in_turn = Some((point, down_for));
            }
        }
    }

    fn freeze(&mut self, client: ClientId, length: Time) {
        let until = self.env.now() + length;
        let host = &mut self.clients[client].host;
        if host.frozen_until >= until || host.guardian_paused_until() > self.env.now() {
            return;
        }
        if host.frozen_until <= self.env.now() && self.env.mutation == Some(Mutation::TimersStopInSuspend) {
            // The clock of all timers stands still, so it is behind by the pause from then on.
            host.suspended_at = Some(self.env.now());
        }
        host.frozen_until = until;
        self.env.checkers.frozen(client);
        self.env.scheduler.first_at(until, Event::Thaw(client));
    }

    fn thaw(&mut self, client: ClientId) {
        let now = self.env.now();
        let host = &mut self.clients[client].host;
        if host.frozen_until > now {
            return;
        }
        if let Some(since) = host.suspended_at.take() {
            let asleep = host.clock.read(now).saturating_since(host.clock.read(since));
            host.clock.offset = host.clock.offset.saturating_sub(asleep.as_nanos() as u64);
        }
        self.env.checkers.thawed(client);
    }
}
