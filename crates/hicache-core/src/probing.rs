//! Running a probe where it can neither hang nor panic its caller.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_channel::oneshot;

use crate::backend::{Check, Offer, ProbeReport, Verdict};
use crate::error::Result;

/// Runs `probe` on a thread of its own and makes a report of what it answers: why the backend can be used, or why not.
/// One that panics, or has not ended after `longest`, is a report too; its thread is then left behind.
pub async fn probe_on_a_thread(
    name: &'static str,
    offer: Offer,
    longest: Duration,
    probe: impl FnOnce(&mut Vec<Check>) -> Result<String> + Send + 'static,
) -> ProbeReport {
    let report = move |verdict, reason: String, checks| {
        // One line, whatever the message of a library has.
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        ProbeReport { backend: name, offer, verdict, reason, checks }
    };
    let (answer, answered) = oneshot::channel();
    let watch = move || {
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            let mut checks = Vec::new();
            let (verdict, reason) = match probe(&mut checks) {
                Ok(reason) => (Verdict::Usable, reason),
                Err(error) => (Verdict::Unavailable, error.to_string()),
            };
            // Nobody listens when it took too long.
            let _ = sender.send(report(verdict, reason, checks));
        };
        let started = thread::Builder::new().name("hicache-probe".to_owned()).spawn(work);
        let failure = match (started, receiver.recv_timeout(longest)) {
            (Err(error), _) => format!("no thread for the probe: {error}"),
            (Ok(_), Ok(seen)) => return drop(answer.send(seen)),
            (Ok(_), Err(mpsc::RecvTimeoutError::Timeout)) => format!("no answer within {longest:?}"),
            (Ok(_), Err(mpsc::RecvTimeoutError::Disconnected)) => "the probe panicked".to_owned(),
        };
        drop(answer.send(report(Verdict::Unavailable, failure, Vec::new())));
    };
    if let Err(error) = thread::Builder::new().name("hicache-probe".to_owned()).spawn(watch) {
        return report(Verdict::Unavailable, format!("no thread for the probe: {error}"), Vec::new());
    }
    answered
        .await
        .unwrap_or_else(|_| report(Verdict::Unavailable, "the probe was lost".to_owned(), Vec::new()))
}

/// Drives a future on this thread, which sleeps in between. Not for executor threads.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_that_panics_or_hangs_is_a_report() {
        let long = Duration::from_secs(20);
        let panicked =
            probe_on_a_thread("x", Offer::Engine, long, |_| std::panic::panic_any("on purpose")).await;
        assert_eq!(
            (panicked.verdict, panicked.reason.as_str()),
            (Verdict::Unavailable, "the probe panicked")
        );
        let short = Duration::from_millis(10);
        let hung = probe_on_a_thread("x", Offer::Engine, short, |_| {
            thread::sleep(Duration::from_millis(200));
            Ok(String::new())
        });
        assert!(hung.await.reason.contains("no answer within 10ms"));
    }
}
