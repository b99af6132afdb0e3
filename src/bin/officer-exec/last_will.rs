//! What the guardian runs once wrapper and tree are dead: give the lease back, so that the next one
//! needn't wait for its end.

use std::io::Read;
use std::time::Duration;

use officer::backend::{Will, execute_will};

use crate::exit_status::ExitStatus;

/// The hidden verb; the will itself comes on stdin, for it holds secrets.
pub const VERB: &str = "last-will";

/// A lease that couldn't be given back by then is over, or will be.
const BOUND: Duration = Duration::from_secs(60);

/// Between tries to reach the server.
const BACKOFF: Duration = Duration::from_millis(200);

/// Executes the will on stdin.
pub fn execute() -> ExitStatus {
    let mut text = String::new();
    let will: Will = match std::io::stdin().read_to_string(&mut text).map(|_| serde_json::from_str(&text)) {
        Ok(Ok(will)) => will,
        Ok(Err(_)) | Err(_) => return ExitStatus::Usage,
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitStatus::Internal;
    };
    match runtime.block_on(async { tokio::time::timeout(BOUND, until_done(&will)).await }) {
        Ok(()) => ExitStatus::Success,
        Err(_) => ExitStatus::Unreachable,
    }
}

async fn until_done(will: &Will) {
    while let Err(error) = execute_will(will).await {
        tracing::debug!(%error, "the last will waits");
        tokio::time::sleep(BACKOFF).await;
    }
}
