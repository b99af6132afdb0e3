//! From bytes to lines that are served: as many of one connection as a turn allows, the rest is kept
//! for the next one.

use memchr::memchr;

use crate::boot_time::BootTime;
use crate::protocol::{ErrorCode, Refusal, Request};
use crate::server::bounds::{LINES_A_TURN, PAUSE_READING_BYTES};
use crate::server::connection::{Key, Stage};

use super::Service;

impl Service {
    /// Bytes came from a connection.
    pub(in crate::server) fn receive(&mut self, key: Key, bytes: &[u8], now: BootTime) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.stage != Stage::Open {
            return;
        }
        connection.heard_at = now;
        if connection.unread.is_empty() {
            let served = self.serve_lines(key, bytes, now);
            if let Some(connection) = self.connections.get_mut(key) {
                connection.unread = bytes[served..].to_vec();
            }
            return;
        }
        connection.unread.extend_from_slice(bytes);
        if memchr(b'\n', bytes).is_some() || connection.unread.len() > self.bounds.line_bytes {
            self.serve_unread(key, now);
        }
    }

    /// Serves what earlier turns left over, each connection as much as a turn allows.
    pub(in crate::server) fn serve_backlog(&mut self, now: BootTime) {
        for key in std::mem::take(&mut self.backlog) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            if std::mem::take(&mut connection.is_queued) && connection.has_backlog {
                self.serve_unread(key, now);
            }
        }
    }

    /// Something is left that can be done without waiting for anything.
    pub(in crate::server) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || !self.untold.is_empty()
    }

    pub(super) fn serve_unread(&mut self, key: Key, now: BootTime) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let mut unread = std::mem::take(&mut connection.unread);
        connection.has_backlog = false;
        let served = self.serve_lines(key, &unread, now);
        unread.drain(..served);
        unread.shrink_to(unread.len() * 2);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.stage == Stage::InputEnded && !connection.has_backlog {
            return self.hang_up(key, now);
        }
        connection.unread = unread;
        // It may be read from again.
        self.connections.touch(key);
    }

    /// Serves whole lines as far as a turn allows; how many bytes are done with comes back.
    pub(super) fn serve_lines(&mut self, key: Key, bytes: &[u8], now: BootTime) -> usize {
        let mut at = 0;
        for _ in 0..LINES_A_TURN {
            let rest = &bytes[at..];
            match self.connections.get(key) {
                Some(c) if matches!(c.stage, Stage::Open | Stage::InputEnded) => {
                    if c.unsent_len() > PAUSE_READING_BYTES {
                        break;
                    }
                }
                Some(_) | None => return bytes.len(),
            }
            let end = memchr(b'\n', rest);
            if end.unwrap_or(rest.len()) > self.bounds.line_bytes {
                self.refuse_long_line(key, now);
                return bytes.len();
            }
            let Some(end) = end else { return at };
            at += end + 1;
            self.serve_line(key, rest[..end].trim_ascii(), now);
        }
        if memchr(b'\n', &bytes[at..]).is_some() {
            self.has_more(key);
        }
        at
    }

    pub(super) fn has_more(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.has_backlog = true;
            self.queue_backlog(key);
        }
    }

    /// Lets a connection's lines be served next turn, unless it must read its replies first.
    pub(super) fn queue_backlog(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.unsent_len() <= PAUSE_READING_BYTES
            && !std::mem::replace(&mut connection.is_queued, true)
        {
            self.backlog.push(key);
        }
    }

    pub(super) fn serve_line(&mut self, key: Key, line: &[u8], now: BootTime) {
        if line.is_empty() {
            return;
        }
        if !self.untold.is_empty() {
            self.tell_before_serving(key, now);
        }
        let refused = match Request::parse(line) {
            Ok(request) => self.serve(key, request, now).err(),
            Err(refusal) => Some(refusal),
        };
        if let Some(refusal) = refused {
            self.refuse(key, &refusal);
        }
    }

    pub(super) fn refuse_long_line(&mut self, key: Key, now: BootTime) {
        let message = format!("a line may have at most {} bytes", self.bounds.line_bytes);
        self.turn_away(key, &Refusal::new(ErrorCode::LineTooLong, message), now);
    }
}
