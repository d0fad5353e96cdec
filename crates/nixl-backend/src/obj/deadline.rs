//! An answer that comes in time, or an error: for what may block for ever in the plugin.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hicache_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

type Reply = Arc<Mutex<Option<oneshot::Sender<Result<()>>>>>;

/// Who answers.
pub(super) struct Answer {
    reply: Reply,
    /// Ends the watch when it is dropped.
    _watch: Sender<()>,
}

impl Answer {
    /// Whether it came in time, and somebody waits for it.
    pub(super) fn send(self, answer: Result<()>) -> bool {
        take(&self.reply).is_some_and(|reply| reply.send(answer).is_ok())
    }
}

fn take(reply: &Reply) -> Option<oneshot::Sender<Result<()>>> {
    reply.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What is not answered within `limit` is `late`. A thread watches, since callers have no runtime with timers.
///
/// # Errors
/// `Unavailable` if there can be no thread.
pub(super) fn within(limit: Duration, late: Error) -> Result<(Answer, oneshot::Receiver<Result<()>>)> {
    let (reply, answered) = oneshot::channel();
    let (watch, watched) = channel::<()>();
    let reply: Reply = Arc::new(Mutex::new(Some(reply)));
    let own = Arc::clone(&reply);
    let wait = move || {
        if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
            && let Some(reply) = take(&own)
        {
            // Nobody may be waiting.
            let _ = reply.send(Err(late));
        }
    };
    thread::Builder::new().name("hicache-nixl-open".into()).spawn(wait).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "no thread for the object store").with_source(error)
    })?;
    Ok((Answer { reply, _watch: watch }, answered))
}
