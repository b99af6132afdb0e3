//! A lock that is ours at an Officer server.

use std::time::Duration;

use async_trait::async_trait;

use crate::protocol::Reply;

use super::link::{Heard, Link};
use crate::backend::{Event, Grant, Guard, Loss, ReleaseError, Will, for_people};

/// A lock held at an Officer server.
pub(super) struct Held {
    pub(super) link: Link,
    pub(super) grant: Grant,
    pub(super) server: String,
    /// The loss was told; nothing follows it.
    pub(super) lost: bool,
}

#[async_trait]
impl Guard for Held {
    fn grant(&self) -> &Grant {
        &self.grant
    }

    fn will(&self) -> Option<Will> {
        let Link::Leased(session) = &self.link else { return None };
        Some(Will { server: self.server.clone(), handle: session.id().to_hex() })
    }

    fn connection(&self) -> Option<std::os::fd::OwnedFd> {
        self.link.duplicate()
    }

    fn renew(&mut self) {
        self.link.renew();
    }

    async fn event(&mut self) -> Event {
        if self.lost {
            return std::future::pending().await;
        }
        let event = self.next_event().await;
        self.lost = matches!(event, Event::Lost(_));
        event
    }

    async fn release(self: Box<Self>, bound: Duration) -> Result<(), ReleaseError> {
        let Self { link, grant, server, .. } = *self;
        let released = tokio::time::timeout(bound, link.release(&grant.name)).await;
        released.map_err(|_| ReleaseError { server, cause: format!("no answer in {}", for_people(bound)) })
    }
}

impl Held {
    async fn next_event(&mut self) -> Event {
        loop {
            match self.link.next().await {
                Heard::Renewed { sent } => return Event::Renewed { sent },
                Heard::Suspended { cause } => return Event::Suspended { cause },
                Heard::Over(loss) => return Event::Lost(loss),
                Heard::Resumed { holds } => {
                    let ours = holds.iter().any(|held| {
                        held.name == self.grant.name
                            && self.grant.token.is_none_or(|token| token == held.token)
                    });
                    return if ours { Event::Resumed } else { Event::Lost(Loss::LockGone) };
                }
                Heard::Reply(Reply::Revoked { name, reason, .. }) if name == self.grant.name => {
                    return Event::Lost(Loss::Revoked { reason });
                }
                Heard::Reply(reply) => tracing::debug!(?reply, "a reply that nobody asked for"),
            }
        }
    }
}
