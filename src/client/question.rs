//! One question on a connection of its own: what operators ask. Bounded as a whole: connecting to a
//! server that accepts nobody, sending, and waiting for one that doesn't answer.

use std::io;
use std::time::Duration;

use crate::protocol::Request;

use super::wire::{Connect, Stream, Wire};

/// So often is a server tried whose queue of new connections is full.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Asks and returns the line that answers, as it came and without its end. `TimedOut`: there was none
/// within `patience`.
pub async fn ask(connector: &dyn Connect, question: &Request<'_>, patience: Duration) -> io::Result<String> {
    let exchange = async {
        let mut wire = Wire::new(connect(connector).await?);
        wire.queue(question);
        wire.receive_line().await
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(answer) => answer,
        Err(_) => {
            let text = format!("no answer in {} s", patience.as_secs_f64());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

/// A UNIX socket with a full queue says so at once instead of making us wait.
async fn connect(connector: &dyn Connect) -> io::Result<Box<dyn Stream>> {
    loop {
        match connector.connect().await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(FULL_QUEUE_PAUSE).await;
            }
            connected => return connected,
        }
    }
}
