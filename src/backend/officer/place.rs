//! A place in a queue at an Officer server: asked for, kept while the connection comes and goes, and
//! answered.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::boot_time::BootTime;
use crate::boot_timer::{BootTimer, sleep_until};
use crate::lease::{PATIENCE_PER_TTL, RENEWALS_PER_TTL};
use crate::lock::Limit;
use crate::protocol::{Granted, Holder, LockRequest, Reply, Request, TurnedAway};

use super::link::{Heard, Link};
use super::reach::{FIRST_BACKOFF, LAST_BACKOFF, keep_trying, open};
use super::{LEAVE_BOUND, Officer, draw_id};
use crate::backend::{AcquireError, Busy, ConnectError, Loss, Wait, WaitEnd, Wanted, for_people};

/// How much later than the wait limit the server's word on it may come.
const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// The error by which a server says that it grants no session a lock yet.
const NOT_READY: &str = "not_ready";

/// Keep-alives of a lock without a lease while waiting.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// A place in a queue, from asking to the answer.
pub(super) struct Place<'a> {
    officer: &'a mut Officer,
    wanted: &'a Wanted,
    full_name: String,
    limit: WaitLimit,
    /// Since when the server can't be reached.
    suspended_since: Option<BootTime>,
    next_renewal: BootTime,
    /// Since when the link is up.
    linked_at: BootTime,
    /// When we asked last.
    asked_at: BootTime,
    setbacks: Option<Setbacks>,
}

/// How long to wait. Every try to reach the server shares it: it counts from the first one that could
/// ask, for the server may have heard that one although its answer was lost.
#[derive(Clone)]
struct WaitLimit {
    /// `None`: for ever.
    length: Option<Duration>,
    until: Arc<OnceLock<BootTime>>,
}

impl WaitLimit {
    fn new(wait: Wait) -> Self {
        let length = match wait {
            Wait::Forever => None,
            Wait::AtMost(length) => Some(length),
            Wait::No => Some(Duration::ZERO),
        };
        Self { length, until: Arc::default() }
    }

    /// The server is about to be asked.
    fn begin(&self, now: BootTime) {
        if let Some(length) = self.length {
            self.until.get_or_init(|| now + length);
        }
    }

    /// When it passes, once it has begun.
    fn until(&self) -> Option<BootTime> {
        self.until.get().copied()
    }

    fn left(&self, now: BootTime) -> Option<Duration> {
        self.until().map(|until| until.saturating_since(now)).or(self.length)
    }
}

/// Links that were lost as soon as they were made, one after another.
#[derive(Clone, Copy)]
struct Setbacks {
    since: BootTime,
    pause: Duration,
}

impl<'a> Place<'a> {
    pub(super) fn new(officer: &'a mut Officer, wanted: &'a Wanted) -> Self {
        let now = BootTime::now();
        let full_name = match &wanted.path {
            Some(path) => format!("{path}:{}", wanted.name),
            None => wanted.name.clone(),
        };
        let mut place = Self {
            officer,
            wanted,
            full_name,
            limit: WaitLimit::new(wanted.wait),
            suspended_since: None,
            next_renewal: now,
            linked_at: now,
            asked_at: now,
            setbacks: None,
        };
        place.next_renewal = now + place.renew_every();
        place
    }

    fn link(&mut self) -> &mut Link {
        self.officer.link.as_mut().expect("a place is left before its link")
    }

    /// Reaches the server, if it isn't reached yet, and asks for the lock.
    async fn link_up(&mut self) -> Result<(), ConnectError> {
        let server = self.officer.connector.server();
        let mut dialed = self.officer.dialed.take();
        // The same for each try: one whose answer was lost must not stand in line before us.
        let id = std::mem::replace(&mut self.officer.next_id, draw_id());
        self.officer.opening = (!self.officer.options.ttl.is_zero()).then_some(id);
        let (connector, options) = (&self.officer.connector, &self.officer.options);
        let (full_name, wanted, limit) = (&self.full_name, self.wanted, &self.limit);
        let link = keep_trying(&server, options, || {
            let (full_name, wanted, limit) = (full_name.clone(), wanted.clone(), limit.clone());
            let first = move || {
                let now = BootTime::now();
                limit.begin(now);
                lock_request(&full_name, &wanted, &limit, now)
            };
            Box::pin(open(connector.clone(), options.clone(), dialed.take(), id, first))
        })
        .await?;
        self.officer.link = Some(link);
        self.officer.opening = None;
        let now = BootTime::now();
        self.linked_at = now;
        self.asked_at = now;
        self.suspended_since = None;
        self.next_renewal = now + self.renew_every();
        Ok(())
    }

    fn renew_every(&self) -> Duration {
        match self.officer.options.ttl {
            Duration::ZERO => KEEP_ALIVE_EVERY,
            ttl => ttl / RENEWALS_PER_TTL,
        }
    }

    fn ask_again_after(&self) -> Duration {
        match self.officer.options.ttl {
            Duration::ZERO => KEEP_ALIVE_EVERY,
            ttl => ttl / PATIENCE_PER_TTL,
        }
    }

    pub(super) async fn wait(&mut self) -> Result<Granted, AcquireError> {
        let timer_failed = |cause: std::io::Error| self_failure(&cause);
        let mut timer = BootTimer::new().map_err(timer_failed)?;
        self.link_up().await?;
        loop {
            let wake = self.wake();
            tokio::select! {
                heard = self.link().next() => {
                    if let Some(granted) = self.heard(heard).await? {
                        return Ok(granted);
                    }
                }
                woken = timer.sleep_until(Some(wake)) => {
                    woken.map_err(timer_failed)?;
                    self.woken(BootTime::now())?;
                }
            }
        }
    }

    fn wake(&self) -> BootTime {
        let Some(since) = self.suspended_since else {
            return self.overdue().map_or(self.next_renewal, |overdue| overdue.min(self.next_renewal));
        };
        let unreachable_at = since + self.officer.options.connect_timeout;
        self.limit.until().map_or(unreachable_at, |until| until.min(unreachable_at))
    }

    /// By then the server must have told us that the wait limit has passed.
    fn overdue(&self) -> Option<BootTime> {
        self.limit.until().map(|until| until.max(self.asked_at) + ANSWER_SLACK)
    }

    /// A renewal is due, or a server that is gone has been gone too long.
    fn woken(&mut self, now: BootTime) -> Result<(), AcquireError> {
        let Some(since) = self.suspended_since else {
            if self.overdue().is_some_and(|overdue| overdue <= now) {
                return Err(self.busy(Vec::new()));
            }
            self.next_renewal = now + self.ask_again_after();
            self.link().renew();
            return Ok(());
        };
        if self.limit.until().is_some_and(|until| until <= now) {
            return Err(self.busy(Vec::new()));
        }
        if since + self.officer.options.connect_timeout <= now {
            let server = self.officer.connector.server();
            let cause = format!("the connection was lost {} ago", for_people(now.saturating_since(since)));
            return Err(ConnectError::Unreachable { server, cause }.into());
        }
        Ok(())
    }

    async fn heard(&mut self, heard: Heard) -> Result<Option<Granted>, AcquireError> {
        match heard {
            Heard::Reply(Reply::Revoked { name, reason, .. }) if name == self.full_name => {
                // Granted, but that was lost, and then taken by an operator: to be given back unused.
                if let Some(link) = self.officer.link.take() {
                    let _in_time = tokio::time::timeout(LEAVE_BOUND, link.close()).await;
                }
                self.start_over(Loss::Revoked { reason }).await.map(|()| None)
            }
            Heard::Reply(reply) => self.answered(reply),
            Heard::Renewed { sent } => {
                self.next_renewal = sent + self.renew_every();
                Ok(None)
            }
            Heard::Suspended { cause } => {
                tracing::info!(lock = self.full_name, cause, "connection lost while waiting");
                self.suspended_since = Some(BootTime::now());
                Ok(None)
            }
            Heard::Resumed { .. } => {
                let now = BootTime::now();
                self.suspended_since = None;
                self.next_renewal = now + self.renew_every();
                self.asked_at = now;
                // Also if it lists our lock: only the answer says that we have it, for the list may
                // come from before a reboot of the server's host, and another may have had it since.
                let again = lock_request(&self.full_name, self.wanted, &self.limit, now);
                self.link().ask(&again);
                Ok(None)
            }
            Heard::Over(loss) => self.start_over(loss).await.map(|()| None),
        }
    }

    /// Our session is gone and our place with it: a new session, at the end of the queue.
    async fn start_over(&mut self, loss: Loss) -> Result<(), AcquireError> {
        let pause = self.set_back(&loss, BootTime::now())?;
        let until = self.limit.until();
        let opening = async {
            tokio::time::sleep(pause).await;
            self.link_up().await
        };
        match until {
            None => Ok(opening.await?),
            Some(until) => tokio::select! {
                linked = opening => Ok(linked?),
                _ = sleep_until(until) => Err(self.busy(Vec::new())),
            },
        }
    }

    /// How long to pause before asking again. A server that takes connections and ends them at once is
    /// no better than one that isn't there, and is given up like one.
    fn set_back(&mut self, loss: &Loss, now: BootTime) -> Result<Duration, AcquireError> {
        let has_lasted = now.saturating_since(self.linked_at) >= LAST_BACKOFF;
        let Some(setbacks) = self.setbacks.filter(|_| !has_lasted) else {
            tracing::warn!(lock = self.full_name, %loss, "place in the queue lost, asking again");
            self.setbacks = Some(Setbacks { since: now, pause: FIRST_BACKOFF });
            return Ok(if has_lasted { Duration::ZERO } else { FIRST_BACKOFF });
        };
        if setbacks.since + self.officer.options.connect_timeout <= now {
            let (server, cause) = (self.officer.connector.server(), loss.to_string());
            return Err(ConnectError::Unreachable { server, cause }.into());
        }
        let pause = (setbacks.pause * 2).min(LAST_BACKOFF);
        self.setbacks = Some(Setbacks { pause, ..setbacks });
        Ok(pause)
    }

    fn answered(&mut self, reply: Reply) -> Result<Option<Granted>, AcquireError> {
        match reply {
            Reply::Acquired(granted) | Reply::AlreadyAcquired(granted) if granted.name == self.full_name => {
                if granted.limit.is_none() && self.wanted.limit != Limit::ONE {
                    return Err(self.protocol("it has no semaphores, only --concurrent 1".into()));
                }
                Ok(Some(granted))
            }
            Reply::TimedOut(away) => Err(self.busy(away_texts(away))),
            Reply::QueueMaxed(away) => {
                let max = self.wanted.queue_max.unwrap_or_default();
                Err(self.busy_by(WaitEnd::QueueMax(max), away_texts(away)))
            }
            Reply::LimitMismatch { name, limit, asked } => {
                Err(AcquireError::LimitMismatch { name, in_use: limit.to_string(), asked })
            }
            Reply::Error { error, message } if error == NOT_READY => {
                Err(AcquireError::NotReady { server: self.officer.connector.server(), message })
            }
            Reply::Error { error, message } => {
                let (server, cause) = (self.officer.connector.server(), format!("{error}: {message}"));
                Err(ConnectError::Refused { server, cause }.into())
            }
            other => Err(self.protocol(format!("{other:?} out of turn"))),
        }
    }

    fn busy(&self, holders: Vec<String>) -> AcquireError {
        let ended_by = match self.wanted.wait {
            Wait::Forever | Wait::No => WaitEnd::NotWaiting,
            Wait::AtMost(limit) => WaitEnd::WaitLimit(limit),
        };
        self.busy_by(ended_by, holders)
    }

    fn busy_by(&self, ended_by: WaitEnd, holders: Vec<String>) -> AcquireError {
        AcquireError::Busy(Busy { name: self.full_name.clone(), ended_by, holders })
    }

    fn protocol(&self, answer: String) -> AcquireError {
        AcquireError::Protocol { server: self.officer.connector.server(), answer }
    }
}

/// Asks for the lock, with what is left of the wait limit.
fn lock_request(full_name: &str, wanted: &Wanted, limit: &WaitLimit, now: BootTime) -> Request<'static> {
    Request::Lock(LockRequest {
        name: full_name.to_owned().into(),
        timeout: limit.left(now),
        queue_max: wanted.queue_max,
        limit: Some(wanted.limit),
    })
}

fn self_failure(cause: &std::io::Error) -> AcquireError {
    AcquireError::Protocol { server: "this host".into(), answer: format!("cannot make a timer: {cause}") }
}

/// Who is in the way: the holders as they describe themselves, or all addresses if the server is
/// one that doesn't tell.
fn away_texts(away: TurnedAway) -> Vec<String> {
    if away.holders.is_empty() {
        return away.queue;
    }
    away.holders.iter().map(holder_text).collect()
}

fn holder_text(holder: &Holder) -> String {
    let who = &holder.who;
    let mut text = match (&who.user, &who.host) {
        (Some(user), Some(host)) => format!("{user}@{host}"),
        (None, Some(host)) => host.clone(),
        (_, None) => holder.peer.clone().unwrap_or_else(|| "someone".into()),
    };
    if let Some(pid) = who.pid {
        text += &format!(" pid {pid}");
    }
    if let Some(run) = &who.run {
        text += &format!(" ({run})");
    }
    let held = Duration::try_from_secs_f64(holder.held).unwrap_or_default();
    text + &format!(" since {}", humantime::format_duration(Duration::from_secs(held.as_secs())))
}
