//! The last will: what the guardian becomes when wrapper and tree are dead. It closes the session in
//! the wrapper's place.

use std::time::Duration;

use officer::lock::SessionId;
use officer::protocol::{Reply, Request};

use crate::clock::Time;
use crate::network::ConnId;
use crate::scheduler::{ClientId, Downlink, Event};
use crate::world::Env;

const TRIES: u32 = 4;

/// What a guardian would close if the wrapper died now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bequest {
    pub(crate) session: SessionId,
    pub(crate) ttl: Duration,
}

/// The last will of one client, if one is being carried out.
pub(crate) struct Will {
    client: ClientId,
    current: Option<Current>,
    generation: u64,
    /// Its process stands still.
    pub(crate) paused_until: Time,
}

struct Current {
    run: u64,
    bequest: Bequest,
    /// Of the last try.
    conn: ConnId,
    tries_left: u32,
}

impl Will {
    pub(crate) fn new(client: ClientId) -> Self {
        Self { client, current: None, generation: 0, paused_until: 0 }
    }

    pub(crate) fn execute(&mut self, run: u64, bequest: Bequest, env: &mut Env) {
        self.paused_until = 0;
        self.attempt(run, bequest, TRIES, env);
    }

    fn attempt(&mut self, run: u64, bequest: Bequest, tries: u32, env: &mut Env) {
        env.checkers.will_begins((self.client, run), bequest.session);
        let conn = env.connect(self.client);
        env.send_up(conn, Request::Close { session: Some(bequest.session) });
        self.generation += 1;
        let (client, generation) = (self.client, self.generation);
        env.scheduler.after((bequest.ttl / 3).as_nanos() as Time, Event::WillWake { client, generation });
        self.current = Some(Current { run, bequest, conn, tries_left: tries - 1 });
    }

    /// A try wasn't answered in time.
    pub(crate) fn wake(&mut self, generation: u64, env: &mut Env) {
        if generation != self.generation {
            return;
        }
        if let Some(Current { run, bequest, conn, tries_left }) = self.current.take() {
            env.close_up(conn);
            if tries_left > 0 {
                self.attempt(run, bequest, tries_left, env);
            }
        }
    }

    /// Its process is killed; false if there is none.
    pub(crate) fn kill(&mut self, env: &mut Env) -> bool {
        let Some(Current { bequest, conn, .. }) = self.current.take() else { return false };
        env.checkers.will_ended(bequest.session);
        env.close_up(conn);
        true
    }

    /// Whether this connection is the will's.
    pub(crate) fn speaks_on(&self, conn: ConnId) -> bool {
        self.current.as_ref().is_some_and(|current| current.conn == conn)
    }

    /// The same; if so its answer is heard.
    pub(crate) fn heard(&mut self, conn: ConnId, what: &Downlink, env: &mut Env) -> bool {
        let Some(current) = self.current.as_ref().filter(|current| current.conn == conn) else {
            return false;
        };
        match what {
            Downlink::Reply(Reply::Closed | Reply::SessionUnknown) => {
                env.checkers.will_ended(current.bequest.session);
                env.close_up(conn);
                self.current = None;
            }
            Downlink::Reply(other) => panic!("a will was answered {other:?}"),
            // The next try comes with the timer.
            Downlink::Closed | Downlink::Broken => {}
        }
        true
    }
}
