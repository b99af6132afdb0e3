//! Work that blocks, on a thread of its own. A thread that can't be made (a limit on processes) is an
//! error here; a runtime's pool would panic.

use std::io;
use std::thread::Builder;

use tokio::sync::oneshot;

/// Runs `work` on a thread and waits for what it returns. Nobody waits for a thread whose future is
/// dropped: it goes on alone.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    // If nobody listens any more, the result isn't needed.
    let started = Builder::new().spawn(move || drop(sender.send(work())));
    started.map_err(|error| io::Error::new(error.kind(), format!("cannot start a thread: {error}")))?;
    result.await.map_err(|_| io::Error::other("a thread ended without its result"))
}
