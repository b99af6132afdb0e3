//! Ends a tree whose guardian is gone: the wrapper is a subreaper too, so what is left of the tree
//! is now among its own descendants.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::boot_time::BootTime;
use crate::boot_timer::BootTimer;

use super::policy::Remains;
use super::tree::{Outlives, Survivors, Tree};
use super::{Exit, Leftover};

/// Between two looks: soon at first, since most trees die at once, then ever later.
const FIRST_LOOK_AFTER: Duration = Duration::from_millis(1);
const LAST_LOOK_AFTER: Duration = Duration::from_millis(200);

/// What came of it so far.
#[derive(Debug)]
pub(super) enum Progress {
    /// The command itself has ended.
    Ended(Exit),
    /// We aren't allowed to kill these; the list has changed.
    Unkillable(Vec<Leftover>),
    /// These were killed, and live; the list has changed.
    StillThere(Vec<Leftover>),
    /// They can't be looked for, and count as alive meanwhile; said once.
    CannotLook(io::Error),
    /// Nothing is left.
    Dead {
        /// How the command itself ended.
        exit: Exit,
    },
}

/// A tree without guardian.
#[derive(Debug)]
pub(super) struct Orphans {
    tree: Tree,
    command: Option<Pid>,
    exit: Option<Exit>,
    timer: Option<BootTimer>,
    look_at: BootTime,
    look_after: Duration,
    survivors: Survivors,
}

impl Orphans {
    /// All descendants of this process but the spared ones and what is below them. `exit` if the
    /// command's own end is known already.
    pub(super) fn new(
        command: Option<Pid>,
        exit: Option<Exit>,
        spared: impl IntoIterator<Item = Pid>,
        outlives: Outlives,
        timer: Option<BootTimer>,
    ) -> Self {
        Self {
            tree: Tree::new(spared, outlives),
            command,
            exit,
            timer,
            look_at: BootTime::now(),
            look_after: FIRST_LOOK_AFTER,
            survivors: Survivors::default(),
        }
    }

    /// One more child that is no part of the tree.
    pub(super) fn spare(&mut self, child: Pid) {
        self.tree.spare(child);
    }

    /// Kills and reaps until there is something to tell. Cancel safe.
    pub(super) async fn progress(&mut self) -> Progress {
        loop {
            let slept = match &mut self.timer {
                Some(timer) => timer.sleep_until(Some(self.look_at)).await.is_ok(),
                None => false,
            };
            if !slept {
                // Not heard of. Without a timer we look as often as we can.
                tokio::task::yield_now().await;
            }
            if let Some(progress) = self.look() {
                return progress;
            }
        }
    }

    fn look(&mut self) -> Option<Progress> {
        let now = BootTime::now();
        let survivors = self.tree.kill(now);
        let (reaped, remains) = self.tree.reap();
        let remains = self.tree.remains_to_end(now, remains);
        let ended = reaped.iter().find(|one| Some(one.pid) == self.command);
        if let (Some(ended), None) = (ended, self.exit) {
            self.exit = Some(ended.exit);
            // Asked again at once, it says the rest.
            return Some(Progress::Ended(ended.exit));
        }
        if remains == Remains::None {
            // If the guardian took the exit along, what it does to the command is all that is known.
            let exit = self.exit.unwrap_or(Exit::Signal(Signal::SIGKILL as i32));
            return Some(Progress::Dead { exit });
        }
        self.look_at = BootTime::now() + self.look_after;
        self.look_after = (self.look_after * 2).min(LAST_LOOK_AFTER);
        if let Some(error) = self.tree.take_blindness() {
            return Some(Progress::CannotLook(error));
        }
        self.news_of(survivors)
    }

    /// One list at a time; the other one is met by the next look.
    fn news_of(&mut self, now: Survivors) -> Option<Progress> {
        if now.refused != self.survivors.refused && !now.refused.is_empty() {
            self.survivors.refused.clone_from(&now.refused);
            return Some(Progress::Unkillable(now.refused));
        }
        if now.still_there != self.survivors.still_there && !now.still_there.is_empty() {
            self.survivors.still_there.clone_from(&now.still_there);
            return Some(Progress::StillThere(now.still_there));
        }
        None
    }
}
