//! The loop: moves bytes between sockets and the [`Service`], one thread, one epoll. A turn reads
//! what has come, runs the timers, commits, and writes once to each connection that got lines.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use tracing::{debug, warn};

use crate::boot_time::BootTime;
use crate::protocol::{ErrorCode, Refusal};

use super::bounds::READ_BYTES;
use super::connection::{Key, Peer};
use super::listener::{Listener, Socket};
use super::lookout::Lookout;
use super::service::{AfterWrite, Service};
use super::{Config, ServeError};

/// Events fetched at once; more wait for the next turn.
const EVENTS: usize = 1024;
/// How long accepting pauses at most when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// The loop looks around at least so often.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Sleeps shorter than this count from now, longer ones from the begin of the turn.
const PRECISE_BELOW: Duration = Duration::from_secs(1);
/// Reads of one connection a turn: one that sends faster than we read doesn't hold up the others.
const READS_A_TURN: usize = 4;

/// Clients over the bound that are told so; more are just closed.
const TURNED_AWAY_AT_ONCE: usize = 64;

pub(super) const WAKER: Token = Token(usize::MAX);
const STOPPER: Token = Token(usize::MAX - 1);
const FIRST_LISTENER: usize = usize::MAX / 2;

pub(super) struct EventLoop {
    pub(super) poll: Poll,
    pub(super) listeners: Vec<Listener>,
    pub(super) service: Service,
    pub(super) stop: Arc<AtomicBool>,
    /// Kept open for as long as it is watched.
    stopper: Option<OwnedFd>,
    sockets: Vec<Option<Client>>,
    config: Config,
    buffer: Box<[u8]>,
    /// Sockets with more to read than their turn allowed.
    unread: Vec<Key>,
    dirty: Vec<Key>,
    lookout: Lookout,
    unix_clients: u64,
    accept_again_at: Option<BootTime>,
    empty_since: Option<BootTime>,
    /// Turns in a row that fetched as many events as fit: some may be older than they look.
    full_turns: usize,
    heard_until: BootTime,
    /// When this turn began.
    now: BootTime,
    next_stats: Option<BootTime>,
}

struct Client {
    socket: Socket,
    /// The kernel may have more bytes for us.
    is_readable: bool,
    /// The client's end has come; it is read after the bytes before it.
    has_ended: bool,
    /// It stands in the list of those to be read next turn.
    is_queued: bool,
    /// The kernel takes no more bytes; it will say when.
    is_blocked: bool,
}

impl EventLoop {
    pub(super) fn new(
        config: Config,
        mut listeners: Vec<Listener>,
        service: Service,
    ) -> Result<(Self, Arc<Waker>), ServeError> {
        let failed = |source| ServeError::Poll { source };
        let poll = Poll::new().map_err(failed)?;
        for (number, listener) in listeners.iter_mut().enumerate() {
            listener.register(poll.registry(), Token(FIRST_LISTENER + number)).map_err(failed)?;
        }
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(failed)?);
        let now = BootTime::now();
        let event_loop = Self {
            poll,
            listeners,
            service,
            stop: Arc::default(),
            stopper: None,
            sockets: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            unread: Vec::new(),
            dirty: Vec::new(),
            lookout: Lookout::new(config.busy_poll),
            unix_clients: 0,
            accept_again_at: None,
            empty_since: Some(now),
            full_turns: 0,
            heard_until: now,
            now,
            next_stats: config.stats.map(|every| now + every),
            config,
        };
        Ok((event_loop, waker))
    }

    /// Ends the loop once this can be read from.
    pub(super) fn stop_when_readable(&mut self, stopper: OwnedFd) -> Result<(), ServeError> {
        let registered =
            self.poll.registry().register(&mut SourceFd(&stopper.as_raw_fd()), STOPPER, Interest::READABLE);
        self.stopper = Some(stopper);
        registered.map_err(|source| ServeError::Poll { source })
    }

    pub(super) fn run(mut self) -> Result<(), ServeError> {
        let mut events = Events::with_capacity(EVENTS);
        self.finish_turn(BootTime::now());
        while !self.stop.load(Ordering::Acquire) && !self.is_over() {
            self.turn(&mut events)?;
        }
        self.service.close().map_err(ServeError::from)
    }

    fn turn(&mut self, events: &mut Events) -> Result<(), ServeError> {
        // The clock as it was read last: earlier than the wait, which is all that it must be here.
        let before = self.now;
        self.wait(events)?;
        let now = BootTime::now();
        self.now = now;
        self.note_heard(before, events);
        for key in std::mem::take(&mut self.unread) {
            if let Some(Some(client)) = self.sockets.get_mut(key) {
                client.is_queued = false;
                self.read(key, now);
            }
        }
        for event in events.iter() {
            match event.token() {
                WAKER => {}
                STOPPER => self.stop.store(true, Ordering::Release),
                Token(number) if number >= FIRST_LISTENER => self.accept_all(number - FIRST_LISTENER, now),
                Token(key) => self.handle(key, event, now),
            }
        }
        self.accept_after_pause(now);
        self.service.serve_backlog(now);
        self.service.run_timers(now, self.heard_until);
        self.finish_turn(now);
        if self.service.take_handed_over() {
            self.lookout.handed_over(now);
        }
        self.log_stats(now);
        Ok(())
    }

    /// Everything that had arrived before the wait is served in this turn, unless more connections
    /// have something to say than we fetch at once: then only after as many turns as it takes.
    fn note_heard(&mut self, before: BootTime, events: &Events) {
        let turns_for_all = self.sockets.len() / EVENTS + 1;
        if events.iter().count() < EVENTS || self.full_turns >= turns_for_all {
            self.full_turns = 0;
            self.heard_until = before;
        } else {
            self.full_turns += 1;
        }
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), ServeError> {
        if self.has_work() {
            return self.poll(events, Duration::ZERO);
        }
        if let Some(until) = self.lookout.until(BootTime::now()) {
            if self.look_out(events, until)? {
                return Ok(());
            }
            self.lookout.in_vain();
        }
        let next = self.next_timer();
        let mut time = next.saturating_since(self.now);
        if time < PRECISE_BELOW {
            time = next.saturating_since(BootTime::now());
        }
        self.poll(events, time.min(MAX_SLEEP))
    }

    /// Looks for events without sleeping; whether some came.
    fn look_out(&mut self, events: &mut Events, until: BootTime) -> Result<bool, ServeError> {
        loop {
            self.poll(events, Duration::ZERO)?;
            if !events.is_empty() {
                return Ok(true);
            }
            if BootTime::now() >= until {
                return Ok(false);
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.unread.is_empty() || self.service.has_backlog()
    }

    fn poll(&mut self, events: &mut Events, timeout: Duration) -> Result<(), ServeError> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            polled => polled.map_err(|source| ServeError::Poll { source }),
        }
    }

    fn next_timer(&self) -> BootTime {
        let empty_until = match (self.config.exit_when_empty, self.empty_since) {
            (Some(after), Some(since)) => Some(since + after),
            (None, _) | (_, None) => None,
        };
        [self.accept_again_at, empty_until, self.next_stats]
            .into_iter()
            .flatten()
            .fold(self.service.next_timer(), BootTime::min)
    }

    /// An embedded server that nobody has needed for a while ends.
    fn is_over(&self) -> bool {
        match (self.config.exit_when_empty, self.empty_since) {
            (Some(after), Some(since)) => BootTime::now() >= since + after,
            (None, _) | (_, None) => false,
        }
    }

    fn handle(&mut self, key: Key, event: &mio::event::Event, now: BootTime) {
        let Some(Some(client)) = self.sockets.get_mut(key) else { return };
        if event.is_writable() && client.is_blocked {
            client.is_blocked = false;
            let _ = self.poll.registry().reregister(client.socket.source(), Token(key), Interest::READABLE);
            self.service.connections.touch(key);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            client.is_readable = true;
            client.has_ended |= event.is_read_closed() || event.is_error();
            self.read(key, now);
        }
    }

    /// Reads from a connection what its turn allows.
    fn read(&mut self, key: Key, now: BootTime) {
        for _ in 0..READS_A_TURN {
            let Some(Some(client)) = self.sockets.get_mut(key) else { return };
            if !client.is_readable || !self.service.wants_input(key) {
                return;
            }
            match client.socket.read(&mut self.buffer) {
                Ok(0) => {
                    client.is_readable = false;
                    return self.service.end_input(key, now);
                }
                Ok(count) => {
                    // A short read has emptied the socket: the next byte is a new event. Only an end
                    // that came with these bytes is not, and is read for again.
                    client.is_readable = count == self.buffer.len() || client.has_ended;
                    self.service.receive(key, &self.buffer[..count], now);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        client.is_readable = false;
                        return;
                    }
                    io::ErrorKind::Interrupted => {}
                    _ => {
                        client.is_readable = false;
                        return self.service.fail(key);
                    }
                },
            }
        }
        self.queue_read(key);
    }

    /// Has a connection read next turn, if there is something to read and it may be.
    fn queue_read(&mut self, key: Key) {
        let Some(Some(client)) = self.sockets.get_mut(key) else { return };
        if client.is_readable && self.service.wants_input(key) && !client.is_queued {
            client.is_queued = true;
            self.unread.push(key);
        }
    }

    /// Commits, writes what is to be written and closes what is over, until nothing is left to do:
    /// each end of a connection can be the next one's turn.
    fn finish_turn(&mut self, now: BootTime) {
        loop {
            self.service.commit(now);
            let mut dirty = std::mem::take(&mut self.dirty);
            self.service.connections.take_dirty(&mut dirty);
            for &key in &dirty {
                self.write(key, now);
            }
            self.dirty = dirty;
            let ended = self.service.take_ended();
            if ended.is_empty() {
                break;
            }
            ended.into_iter().for_each(|key| self.close(key, now));
        }
        self.empty_since = match self.service.is_empty() {
            true => self.empty_since.or(Some(now)),
            false => None,
        };
    }

    fn write(&mut self, key: Key, now: BootTime) {
        let Some(Some(client)) = self.sockets.get_mut(key) else { return };
        let Some(connection) = self.service.connections.get_mut(key) else { return };
        while !client.is_blocked && !connection.output().is_empty() {
            match client.socket.write(connection.output()) {
                Ok(written) => connection.advance(written),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        client.is_blocked = true;
                        let both = Interest::READABLE | Interest::WRITABLE;
                        let _ = self.poll.registry().reregister(client.socket.source(), Token(key), both);
                    }
                    io::ErrorKind::Interrupted => {}
                    _ => return self.service.fail(key),
                },
            }
        }
        match self.service.after_write(key, now) {
            AfterWrite::Nothing => {}
            AfterWrite::EndOutput => client.socket.end_output(),
        }
        self.queue_read(key);
    }

    fn close(&mut self, key: Key, now: BootTime) {
        if let Some(client) = self.sockets.get_mut(key)
            && client.take().is_some()
        {
            self.service.disconnect(key, now);
            // A file descriptor is free again.
            self.accept_again_at = self.accept_again_at.map(|_| now);
        }
    }

    fn accept_after_pause(&mut self, now: BootTime) {
        if self.accept_again_at.is_some_and(|at| now >= at) {
            self.accept_again_at = None;
            (0..self.listeners.len()).for_each(|number| self.accept_all(number, now));
        }
    }

    /// Accepts until nobody is left: only a new client is a new event.
    fn accept_all(&mut self, number: usize, now: BootTime) {
        while self.accept_again_at.is_none() {
            match self.listeners[number].accept(self.unix_clients + 1) {
                Ok((socket, peer)) => {
                    self.unix_clients += u64::from(matches!(socket, Socket::Unix(_)));
                    self.admit(socket, peer, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_client(&error) => {
                    debug!(%error, "a client was gone before it came in")
                }
                Err(error) => {
                    warn!(%error, "cannot accept clients for a moment");
                    self.accept_again_at = Some(now + ACCEPT_PAUSE);
                }
            }
        }
    }

    fn admit(&mut self, mut socket: Socket, peer: Peer, now: BootTime) {
        let most = self.service.bounds.connections;
        let count = self.service.connections.len();
        if count >= most + TURNED_AWAY_AT_ONCE {
            return;
        }
        let key = self.service.connect(peer, now);
        if let Err(error) = self.poll.registry().register(socket.source(), Token(key), Interest::READABLE) {
            warn!(%error, "cannot serve a client");
            return self.service.disconnect(key, now);
        }
        let refusal = match (self.config.only_uid, socket.peer_uid()) {
            (Some(served), Some(uid)) if served != uid => {
                let message = format!("this server is for the user with id {served} only");
                Some(Refusal::new(ErrorCode::WrongUser, message))
            }
            _ if count >= most => {
                let message = format!("the server may have at most {most} connections");
                Some(Refusal::new(ErrorCode::TooManyConnections, message))
            }
            _ => None,
        };
        let client =
            Client { socket, is_readable: true, has_ended: false, is_queued: false, is_blocked: false };
        if self.sockets.len() <= key {
            self.sockets.resize_with(key + 1, || None);
        }
        self.sockets[key] = Some(client);
        match refusal {
            Some(refusal) => self.service.turn_away(key, &refusal, now),
            // What it has said while we were busy or stopped counts as said before the timers run.
            None => self.read(key, now),
        }
    }

    fn log_stats(&mut self, now: BootTime) {
        if let (Some(every), Some(at)) = (self.config.stats, self.next_stats)
            && now >= at
        {
            self.next_stats = Some(now + every);
            self.service.log_stats(every);
        }
    }
}

/// Errors of accept that are about the client that just came, not about us.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
