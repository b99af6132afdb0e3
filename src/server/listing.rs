//! Lists of locks, holders and waiters as JSON, and how a client is named in them.

use crate::boot_time::BootTime;
use crate::lock::{ClaimState, ClaimView, Grant, LockView, OwnerId, Party, SessionKey, Who};
use crate::protocol::answer::push_hold;
use crate::protocol::json::{push_field, push_integer, push_seconds, push_string};
use crate::protocol::{Answer, TurnedAwayBy};

use super::connection::{Key, Role};
use super::service::Service;

/// Who holds and waits for one lock, as it stands in a reply to one who does neither.
pub(super) struct Lists {
    queue: Vec<u8>,
    holders: Vec<u8>,
}

impl Lists {
    pub(super) fn of_lock(service: &Service, name: &str, now: BootTime) -> Self {
        let (mut queue, mut holders) = (JsonList::new(), JsonList::new());
        if let Some(lock) = service.table.lock_view(name) {
            lock.queue().for_each(|claim| push_label(queue.next(), service, claim.party()));
            lock.holders().for_each(|claim| push_holder(holders.next(), service, &claim, now));
        }
        Self { queue: queue.end(), holders: holders.end() }
    }

    /// Bytes of a reply that carries them.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.holders.len()
    }

    pub(super) fn turned_away<'a>(&'a self, name: &'a str, extended: bool, why: TurnedAwayBy) -> Answer<'a> {
        Answer::TurnedAway { name, queue: &self.queue, holders: extended.then_some(&*self.holders), why }
    }
}

/// The value of `locks`: each lock with its holders and waiters.
pub(super) fn locks(service: &Service) -> Vec<u8> {
    let mut object = JsonObject::new();
    for lock in service.table.lock_views() {
        let mut queue = JsonList::new();
        lock.queue().for_each(|claim| push_label(queue.next(), service, claim.party()));
        object.field(lock.name()).extend_from_slice(&queue.end());
    }
    object.end()
}

/// The value of `connections`: those that ever asked for a lock, with what they hold and wait for.
pub(super) fn connections(service: &Service) -> Vec<u8> {
    let mut object = JsonObject::new();
    for (_, connection) in service.connections.iter() {
        let owner = match connection.role {
            Role::Plain(None) => continue,
            Role::Plain(Some(owner)) => owner,
            Role::Session(session) => service.sessions.get(session).owner,
        };
        let names = names(service, Some(owner), |_| true);
        object.field(&connection.peer.to_string()).extend_from_slice(&names);
    }
    object.end()
}

/// The names of what an owner holds and waits for, as far as they are wanted, in the order of asking.
pub(super) fn names(
    service: &Service,
    owner: Option<OwnerId>,
    wanted: impl Fn(ClaimState) -> bool,
) -> Vec<u8> {
    let mut names = JsonList::new();
    if let Some(owner) = owner {
        let claims = service.table.claims_of(owner).filter(|claim| wanted(claim.state()));
        claims.for_each(|claim| push_string(names.next(), claim.name()));
    }
    names.end()
}

/// What a session holds, with tokens and slots.
pub(super) fn holds(service: &Service, owner: Option<OwnerId>) -> Vec<u8> {
    let mut holds = JsonList::new();
    for claim in owner.into_iter().flat_map(|owner| service.table.claims_of(owner)) {
        match claim.state() {
            ClaimState::Holding { token, slot } => {
                push_hold(holds.next(), claim.name(), &Grant { token, slot, limit: claim.limit() });
            }
            ClaimState::Waiting { .. } => {}
        }
    }
    holds.end()
}

/// How others are told of a client: by its address; a session without a connection by its number.
pub(super) fn label(service: &Service, party: Party) -> String {
    let of_connection = |key| service.connections.get(key).map(|connection| connection.peer.to_string());
    match party {
        Party::Connection(key) => of_connection(key as Key).unwrap_or_default(),
        Party::Session(key) => {
            let session = service.sessions.get(SessionKey(key));
            let peer = session.connection.and_then(|key| of_connection(key as Key));
            peer.unwrap_or_else(|| format!("session {}", session.number))
        }
    }
}

fn push_label(out: &mut Vec<u8>, service: &Service, party: Party) {
    push_string(out, &label(service, party));
}

fn push_holder(out: &mut Vec<u8>, service: &Service, claim: &ClaimView<'_>, now: BootTime) {
    let ClaimState::Holding { token, slot } = claim.state() else { return };
    out.push(b'{');
    push_person(out, service, claim.party());
    out.extend_from_slice(b"\"token\":");
    push_integer(out, token.0);
    push_field(out, "slot");
    push_integer(out, slot.0.into());
    push_field(out, "held");
    push_seconds(out, now.saturating_since(claim.since()));
    out.push(b'}');
}

/// Who somebody is: what a session says of itself; the address of who doesn't say where it is.
fn push_person(out: &mut Vec<u8>, service: &Service, party: Party) {
    let has_host = match party {
        Party::Connection(_) => false,
        Party::Session(key) => {
            let who = &service.sessions.get(SessionKey(key)).who;
            push_who(out, who);
            who.host.is_some()
        }
    };
    if !has_host {
        out.extend_from_slice(b"\"peer\":");
        push_label(out, service, party);
        out.push(b',');
    }
}

/// The fields of a description, each with a comma behind it.
fn push_who(out: &mut Vec<u8>, who: &Who) {
    let json = serde_json::to_vec(who).expect("texts and numbers are JSON");
    let fields = &json[1..json.len() - 1];
    if !fields.is_empty() {
        out.extend_from_slice(fields);
        out.push(b',');
    }
}

/// Locks that are listed by `status` at most: a list that is read by people.
const LISTED_LOCKS: usize = 10_000;

/// The numbers of the whole server.
pub(super) fn server_status(service: &Service, now: BootTime) -> Vec<u8> {
    let mut object = JsonObject::new();
    push_string(object.field("version"), env!("CARGO_PKG_VERSION"));
    push_seconds(object.field("up"), now.saturating_since(service.started_at));
    push_integer(object.field("connections"), service.connections.len() as u64);
    push_integer(object.field("sessions"), service.sessions.len() as u64);
    push_integer(object.field("locks"), service.table.lock_count() as u64);
    object.end()
}

/// All locks or one, with everybody at them.
pub(super) fn status(service: &Service, name: Option<&str>, now: BootTime) -> Vec<u8> {
    let mut list = JsonList::new();
    match name {
        Some(name) => {
            if let Some(lock) = service.table.lock_view(name) {
                push_lock_status(list.next(), service, &lock, now);
            }
        }
        None => {
            let locks = service.table.lock_views().take(LISTED_LOCKS);
            locks.for_each(|lock| push_lock_status(list.next(), service, &lock, now));
        }
    }
    list.end()
}

fn push_lock_status(out: &mut Vec<u8>, service: &Service, lock: &LockView<'_>, now: BootTime) {
    let (mut holders, mut queue) = (JsonList::new(), JsonList::new());
    for claim in lock.holders() {
        let out = holders.next();
        push_holder(out, service, &claim, now);
        out.pop();
        push_life(out, service, &claim, now);
        push_bool(out, "revoked", service.revocations.has(claim.party(), claim.name()));
        out.push(b'}');
    }
    for claim in lock.waiters() {
        let out = queue.next();
        out.push(b'{');
        push_person(out, service, claim.party());
        out.extend_from_slice(b"\"waited\":");
        push_seconds(out, now.saturating_since(claim.since()));
        push_life(out, service, &claim, now);
        out.push(b'}');
    }
    let mut object = JsonObject::new();
    push_string(object.field("name"), lock.name());
    push_integer(object.field("limit"), lock.limit().get().into());
    object.field("holders").extend_from_slice(&holders.end());
    object.field("queue").extend_from_slice(&queue.end());
    out.extend_from_slice(&object.end());
}

/// When a client was last heard of, and whether it is connected.
fn push_life(out: &mut Vec<u8>, service: &Service, claim: &ClaimView<'_>, now: BootTime) {
    let (heard_at, suspended) = match claim.party() {
        Party::Connection(key) => (service.connections.get(key as Key).map(|c| c.heard_at), false),
        Party::Session(key) => {
            let session = service.sessions.get(SessionKey(key));
            (Some(session.renewed_at), session.connection.is_none())
        }
    };
    push_field(out, "seen");
    push_seconds(out, now.saturating_since(heard_at.unwrap_or(now)));
    push_bool(out, "suspended", suspended);
}

fn push_bool(out: &mut Vec<u8>, name: &str, value: bool) {
    push_field(out, name);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// The text of `--stats`: so many of the locks or connections, and how many more there are.
pub(super) fn summary(json: &[u8], most_bytes: usize) -> String {
    let text = String::from_utf8_lossy(json);
    match text.char_indices().map(|(at, _)| at).find(|&at| at >= most_bytes) {
        None => text.into_owned(),
        Some(end) => format!("{}… ({} bytes)", &text[..end], json.len()),
    }
}

/// A JSON list while it is written.
struct JsonList(Vec<u8>);

impl JsonList {
    fn new() -> Self {
        Self(vec![b'['])
    }

    /// Where the next element goes.
    fn next(&mut self) -> &mut Vec<u8> {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        &mut self.0
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b']');
        self.0
    }
}

/// A JSON object while it is written.
struct JsonObject(Vec<u8>);

impl JsonObject {
    fn new() -> Self {
        Self(vec![b'{'])
    }

    /// Where the value of the next field goes.
    fn field(&mut self, name: &str) -> &mut Vec<u8> {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        push_string(&mut self.0, name);
        self.0.push(b':');
        &mut self.0
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
