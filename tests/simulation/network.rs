//! Connections between clients' hosts and the server's, as TCP makes them: in order within one
//! direction of one connection, anything between connections. A packet that is lost is sent again,
//! so it is late; a connection that is lost takes everything in flight with it, and either end
//! notices late or never.

use crate::clock::Time;
use crate::rng::Rng;
use crate::scheduler::ClientId;

pub(crate) type ConnId = u32;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Up = 0,
    Down = 1,
}

pub(crate) struct Conn {
    pub(crate) client: ClientId,
    /// Nothing that is on its way arrives, in either direction.
    pub(crate) is_dead: bool,
    pub(crate) client_closed: bool,
    pub(crate) server_closed: bool,
    /// When what was said to a host that was down is said again.
    pub(crate) sent_again_at: Time,
    is_fresh: bool,
    last_arrival: [Time; 2],
}

/// The path between one client's host and the server's.
pub(crate) struct Path {
    pub(crate) least_delay: Time,
    pub(crate) most_delay: Time,
    /// From when until when nothing gets through, in either direction.
    pub(crate) blocked: [(Time, Time); 2],
    /// Until when messages take up to this much longer.
    pub(crate) slow: (Time, Time),
}

pub(crate) struct Network {
    conns: Vec<Conn>,
    pub(crate) paths: Vec<Path>,
    /// Also a short partition may end a connection without a word.
    pub(crate) breaks_connections: bool,
}

impl Network {
    pub(crate) fn new(paths: Vec<Path>, breaks_connections: bool) -> Self {
        Self { conns: Vec::new(), paths, breaks_connections }
    }

    pub(crate) fn connect(&mut self, client: ClientId) -> ConnId {
        self.conns.push(Conn {
            client,
            is_dead: false,
            client_closed: false,
            server_closed: false,
            sent_again_at: 0,
            is_fresh: true,
            last_arrival: [0; 2],
        });
        (self.conns.len() - 1) as ConnId
    }

    pub(crate) fn conn(&self, id: ConnId) -> &Conn {
        &self.conns[id as usize]
    }

    pub(crate) fn conn_mut(&mut self, id: ConnId) -> &mut Conn {
        &mut self.conns[id as usize]
    }

    /// The connections of a client that could still carry something.
    pub(crate) fn living(&self, client: ClientId) -> Vec<ConnId> {
        let lives = |conn: &Conn| conn.client == client && !conn.is_dead && !conn.client_closed;
        (0..self.conns.len()).filter(|&id| lives(&self.conns[id])).map(|id| id as ConnId).collect()
    }

    /// When a message sent now arrives; `None`: never.
    pub(crate) fn arrival(&mut self, id: ConnId, way: Direction, now: Time, rng: &mut Rng) -> Option<Time> {
        let conn = &mut self.conns[id as usize];
        if conn.is_dead {
            return None;
        }
        let path = &self.paths[conn.client];
        let mut delay = rng.between(path.least_delay, path.most_delay);
        if now < path.slow.0 {
            delay += rng.log_up_to(path.slow.1);
        }
        let mut blocked = path.blocked[way as usize];
        if std::mem::take(&mut conn.is_fresh) {
            // Three packets before the first request.
            delay *= 3;
            blocked = path.blocked.into_iter().max_by_key(|&(_, until)| until).expect("two directions");
        }
        let mut arrival = now + delay;
        let (since, until) = blocked;
        if since <= now && now < until {
            if self.breaks_connections && rng.chance(1, 3) {
                conn.is_dead = true;
                return None;
            }
            // Sent again, at intervals that have doubled as long as nothing got through.
            arrival = until + delay + rng.below(until - now);
        }
        let last = &mut conn.last_arrival[way as usize];
        *last = arrival.max(*last + 1);
        Some(*last)
    }
}
