//! Three servers that are one engine, and elect one of them.

use super::process::until;
use super::{Engine, Program, Server};

/// What a member is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Leader,
    Follower,
}

/// A program that can be one of three.
pub(crate) trait Clustered: Program {
    /// Three that know each other; they may not answer yet.
    fn start_three() -> Vec<Server<Self>>;

    /// What this one is, if it has a leader.
    fn role(&self) -> Option<Role>;
}

pub(crate) struct Cluster<P> {
    members: Vec<Server<P>>,
}

impl<P: Clustered> Cluster<P> {
    pub(crate) fn start() -> Self {
        let cluster = Self { members: P::start_three() };
        cluster.wait_until_one_leads();
        cluster
    }

    /// The `--server` of all, as often as there are members: each begins with another one.
    pub(crate) fn urls(&self) -> Vec<String> {
        let addresses: Vec<_> = self.members.iter().map(|member| member.program.address()).collect();
        let begins_with = |first: usize| {
            let after = addresses.iter().cycle().skip(first + 1).take(addresses.len() - 1);
            after.fold(P::url_at(addresses[first]), |url, next| format!("{url},{next}"))
        };
        (0..addresses.len()).map(begins_with).collect()
    }

    /// Kills the leader (SIGKILL), and waits until the others have another one.
    pub(crate) fn kill_leader(&mut self) {
        let leads = |member: &Server<P>| member.program.role() == Some(Role::Leader);
        let leader = self.members.iter().position(leads).expect("there is a leader");
        self.members.remove(leader).stop();
        self.wait_until_one_leads();
    }

    /// What the member is with which the URL of this number begins.
    pub(crate) fn role_of(&self, member: usize) -> Option<Role> {
        self.members[member].program.role()
    }

    /// Stops that member (SIGSTOP).
    pub(crate) fn pause(&self, member: usize) {
        self.members[member].pause();
    }

    fn wait_until_one_leads(&self) {
        until("one leads, and the others follow", || {
            let roles: Option<Vec<_>> = self.members.iter().map(|member| member.program.role()).collect();
            roles.is_some_and(|roles| roles.iter().filter(|role| **role == Role::Leader).count() == 1)
        });
    }
}
