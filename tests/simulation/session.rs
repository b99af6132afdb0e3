//! A client's session at the server, as `client::Session` keeps it: suspended by a lost connection
//! or an unanswered renewal, resumed at once and then with growing pauses.

use std::collections::VecDeque;
use std::time::Duration;

use officer::boot_time::BootTime;
use officer::lock::SessionId;
use officer::protocol::{Held, Reply, Request};

use crate::network::ConnId;
use crate::scheduler::{ClientId, Downlink};
use crate::world::Env;

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// What a session hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Reply(Reply),
    Renewed {
        sent: BootTime,
    },
    Suspended,
    Resumed {
        holds: Vec<Held>,
    },
    /// It is gone with all it had.
    Over,
}

pub(crate) struct Session {
    client: ClientId,
    pub(crate) id: SessionId,
    pub(crate) ttl: Duration,
    /// When the last answered renewal had been sent.
    pub(crate) proven_at: BootTime,
    link: Link,
    seq: u64,
    unanswered: VecDeque<(u64, BootTime)>,
}

enum Link {
    Up(ConnId),
    Resuming(Resuming),
    Over,
}

struct Resuming {
    attempt: Option<(ConnId, BootTime)>,
    /// When the attempt is given up, or the next one made.
    at: BootTime,
    backoff: Duration,
}

impl Session {
    pub(crate) fn opened(
        client: ClientId,
        id: SessionId,
        ttl: Duration,
        conn: ConnId,
        sent: BootTime,
    ) -> Self {
        let link = Link::Up(conn);
        Self { client, id, ttl, proven_at: sent, link, seq: 0, unanswered: VecDeque::new() }
    }

    /// Sends a request; drops it while suspended.
    pub(crate) fn ask(&self, request: Request<'static>, env: &mut Env) {
        if let Link::Up(conn) = self.link {
            env.send_up(conn, request);
        }
    }

    /// Sends a renewal. If the last one has not been answered the connection is taken for dead.
    pub(crate) fn renew(&mut self, now: BootTime, env: &mut Env) -> Option<Heard> {
        let Link::Up(conn) = self.link else { return None };
        if !self.unanswered.is_empty() {
            return Some(self.suspend(now, env));
        }
        self.seq += 1;
        self.unanswered.push_back((self.seq, now));
        env.send_up(conn, Request::Renew { seq: self.seq });
        None
    }

    /// Something came on a connection of this client.
    pub(crate) fn heard(
        &mut self,
        from: ConnId,
        what: Downlink,
        now: BootTime,
        env: &mut Env,
    ) -> Option<Heard> {
        match (&mut self.link, what) {
            (Link::Up(conn), Downlink::Closed | Downlink::Broken) if *conn == from => {
                Some(self.suspend(now, env))
            }
            (Link::Up(conn), Downlink::Reply(reply)) if *conn == from => self.answered(reply),
            (Link::Resuming(resuming), what) => match resuming.attempt {
                Some((conn, sent)) if conn == from => self.attempt_answered(conn, sent, what, now),
                Some(_) | None => None,
            },
            (Link::Up(_) | Link::Over, _) => None,
        }
    }

    fn answered(&mut self, reply: Reply) -> Option<Heard> {
        match reply {
            Reply::Renewed { seq, .. } => {
                let position = self.unanswered.iter().position(|&(known, _)| known == seq)?;
                let (_, sent) = self.unanswered[position];
                self.unanswered.drain(..=position);
                self.proven_at = self.proven_at.max(sent);
                Some(Heard::Renewed { sent })
            }
            Reply::SessionUnknown | Reply::Expired | Reply::Superseded => {
                self.link = Link::Over;
                Some(Heard::Over)
            }
            other => Some(Heard::Reply(other)),
        }
    }

    fn attempt_answered(
        &mut self,
        conn: ConnId,
        sent: BootTime,
        what: Downlink,
        now: BootTime,
    ) -> Option<Heard> {
        match what {
            Downlink::Reply(Reply::Resumed { ttl, holds, .. }) => {
                self.link = Link::Up(conn);
                let not_renewed = self.ttl.saturating_sub(Duration::from_secs_f64(ttl));
                self.proven_at = self.proven_at.max(sent - not_renewed);
                Some(Heard::Resumed { holds })
            }
            Downlink::Reply(Reply::SessionUnknown) => {
                self.link = Link::Over;
                Some(Heard::Over)
            }
            Downlink::Reply(other) => panic!("a resume was answered {other:?}"),
            Downlink::Closed | Downlink::Broken => {
                self.pause_attempts(now);
                None
            }
        }
    }

    fn suspend(&mut self, now: BootTime, env: &mut Env) -> Heard {
        if let Link::Up(conn) = self.link {
            env.close_up(conn);
        }
        self.unanswered.clear();
        self.link = Link::Resuming(Resuming { attempt: None, at: now, backoff: FIRST_BACKOFF });
        self.wake(now, env);
        Heard::Suspended
    }

    fn pause_attempts(&mut self, now: BootTime) {
        let last_backoff = LAST_BACKOFF.min(self.ttl / 10);
        if let Link::Resuming(resuming) = &mut self.link {
            resuming.attempt = None;
            resuming.at = now + resuming.backoff;
            resuming.backoff = (resuming.backoff * 2).min(last_backoff);
        }
    }

    /// Makes the next try to resume, or gives one up.
    pub(crate) fn wake(&mut self, now: BootTime, env: &mut Env) {
        let Link::Resuming(resuming) = &mut self.link else { return };
        if now < resuming.at {
            return;
        }
        match resuming.attempt {
            None => {
                let conn = env.connect(self.client);
                env.send_up(conn, Request::Resume { session: self.id });
                resuming.attempt = Some((conn, now));
                resuming.at = now + self.ttl / 3;
            }
            Some((conn, _)) => {
                env.close_up(conn);
                self.pause_attempts(now);
            }
        }
    }

    pub(crate) fn next_wake(&self) -> Option<BootTime> {
        match &self.link {
            Link::Resuming(resuming) => Some(resuming.at),
            Link::Up(_) | Link::Over => None,
        }
    }

    /// The process lets go of its connection.
    pub(crate) fn hang_up(&mut self, env: &mut Env) {
        match &self.link {
            Link::Up(conn) => env.close_up(*conn),
            Link::Resuming(Resuming { attempt: Some((conn, _)), .. }) => env.close_up(*conn),
            Link::Resuming(Resuming { attempt: None, .. }) | Link::Over => {}
        }
        self.link = Link::Over;
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.link, Link::Over)
    }
}
