//! What the wrapper is told of its command and tree.

use super::{Exit, KilledBy, Leftover};

/// What happened to the command and its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The command itself has ended; descendants may live on.
    Ended(Exit),
    /// These descendants have outlived the command; [`Policy::leftovers`](super::Policy::leftovers) says what is done with
    /// them. A long list is cut.
    Leftovers(Vec<Leftover>),
    /// These may not be killed by us (another user's, by setuid). The tree isn't dead; it is tried
    /// again and again. Told anew when the list changes. What lives on for another reason is logged.
    Unkillable(Vec<Leftover>),
    /// Nothing of the tree is left: confirmed, and final.
    TreeDead {
        /// How the command itself ended.
        exit: Exit,
        /// What made us send SIGKILL, if it was needed.
        killed_by: Option<KilledBy>,
    },
    /// The guardian is gone, and the command with it. What is left is being ended from here; go on
    /// asking for events until [`Event::TreeDead`]. Nobody would carry out the last will now.
    GuardianDied,
    /// The same; it didn't do what it had to (it stands still, and nobody can wake it), so we have killed
    /// it.
    GuardianGivenUp,
}
