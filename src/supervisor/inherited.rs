//! How signals stood when this program was started, so that the command finds them the same way:
//! what `nohup` ignores stays ignored, SIGPIPE ends a writer unless it was ignored before us.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Rust's runtime ignores SIGPIPE before `main`, and then nobody can tell what it was; the loader
/// runs this before the runtime.
#[used]
// SAFETY: `.init_array` holds addresses of C functions that the loader calls once, before `main`.
#[unsafe(link_section = ".init_array")]
static LOOK_AT_SIGPIPE: extern "C" fn() = look_at_sigpipe;

extern "C" fn look_at_sigpipe() {
    SIGPIPE_WAS_IGNORED.store(is_ignored(Signal::SIGPIPE), Ordering::Relaxed);
}

/// Whether this process ignores a signal.
pub(super) fn is_ignored(signal: Signal) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action this only writes the present one, which is plain data.
    unsafe {
        libc::sigaction(signal as libc::c_int, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// What the command is to find.
#[derive(Clone, Debug)]
pub(super) struct Inherited {
    mask: SigSet,
    child: SigAction,
    file_size: SigAction,
}

impl Inherited {
    /// Looks, and takes two for us: a parent that ignores SIGCHLD is never told how a child ended, and
    /// SIGXFSZ would end us without a word where ignored it makes an error of the write (`ulimit -f`).
    pub(super) fn capture() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, None, Some(&mut mask))?;
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action runs no code of ours.
        let child = unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: ignoring a signal runs no code of ours.
        let file_size = unsafe { sigaction(Signal::SIGXFSZ, &ignore) }?;
        Ok(Self { mask, child, file_size })
    }

    /// Puts everything back; for a process that is about to become another program.
    pub(super) fn restore(&self) -> io::Result<()> {
        let pipe = match SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed) {
            true => SigHandler::SigIgn,
            false => SigHandler::SigDfl,
        };
        let pipe = SigAction::new(pipe, SaFlags::empty(), SigSet::empty());
        // SAFETY: none of these actions runs code of ours, or the one that stood before us does.
        unsafe {
            sigaction(Signal::SIGPIPE, &pipe)?;
            sigaction(Signal::SIGCHLD, &self.child)?;
            sigaction(Signal::SIGXFSZ, &self.file_size)?;
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None)?;
        Ok(())
    }
}

/// Forgets the signals that came while they were blocked: they were not meant for what this process
/// is about to become.
pub(super) fn discard_pending() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: no code of ours runs on either action. Ignoring a signal drops what is pending.
        // SIGKILL and SIGSTOP can't be ignored, nor be pending.
        unsafe {
            if let Ok(before) = sigaction(signal, &ignore) {
                let _ = sigaction(signal, &before);
            }
        }
    }
}
