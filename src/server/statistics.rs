//! What `--stats` logs, as Officer did: locks with their queues, connections with their locks, and how
//! many locks were acquired a second.

use std::time::Duration;

use tracing::info;

use super::listing;
use super::service::Service;

/// So much of each list is logged: a log is read by people.
const LOGGED_BYTES: usize = 4096;

impl Service {
    pub(super) fn log_stats(&mut self, every: Duration) {
        let granted = self.table.next_token().0 - self.counted_until.0;
        self.counted_until = self.table.next_token();
        let rate = granted as f64 / every.as_secs_f64();
        info!(
            acquired_a_second = format!("{rate:.1}"),
            connected = self.connections.len(),
            sessions = self.sessions.len(),
            held_or_waited_for = self.table.lock_count(),
            locks = listing::summary(&listing::locks(self), LOGGED_BYTES),
            connections = listing::summary(&listing::connections(self), LOGGED_BYTES),
            "statistics"
        );
    }
}
