//! Runs one case on whatever executor polls it.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hicache_core::{Error, ErrorKind, Region};
use tokio::sync::oneshot;

use super::report::CaseOutcome;
use crate::content::WrongByte;

/// Why a case does not hold.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

pub(super) type Verdict = Result<(), Failure>;
pub(super) type CaseFuture<'a> = Pin<Box<dyn Future<Output = Verdict> + 'a>>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

impl From<WrongByte> for Failure {
    fn from(wrong: WrongByte) -> Self {
        Self(wrong.to_string())
    }
}

/// Polls the case to its end. A panic and a case that is still waiting after `limit` are failures.
pub(super) async fn run_case(mut case: CaseFuture<'_>, limit: Duration) -> CaseOutcome {
    let alarm = Alarm::new(limit);
    let polled = poll_fn(|context| {
        alarm.watch(context.waker());
        match catch_unwind(AssertUnwindSafe(|| case.as_mut().poll(context))) {
            Ok(Poll::Pending) if alarm.is_over() => {
                Poll::Ready(Err(Failure(format!("still waiting after {limit:?}; an answer was lost"))))
            }
            Ok(poll) => poll,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
                Poll::Ready(Err(Failure(format!("panicked: {}", text.unwrap_or_default()))))
            }
        }
    });
    match polled.await {
        Ok(()) => CaseOutcome::Passed,
        Err(Failure(reason)) => CaseOutcome::Failed(reason),
    }
}

/// Wakes a task after a time, from a thread: the suites have no runtime to ask.
struct Alarm {
    until: Instant,
    waker: Arc<Mutex<Option<Waker>>>,
    _off: Sender<()>,
}

impl Alarm {
    fn new(limit: Duration) -> Self {
        // Before the thread begins to wait, so that it is over when the thread says so.
        let until = Instant::now() + limit;
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let (off, over) = channel::<()>();
        let sleeper = Arc::clone(&waker);
        std::thread::spawn(move || {
            // Ends early, without waking anybody, when the alarm is dropped.
            if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
                && let Some(waker) = sleeper.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                waker.wake();
            }
        });
        Self { until, waker, _off: off }
    }

    fn watch(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Waits on the executor, not on its thread.
pub(super) async fn pause(time: Duration) {
    let alarm = Alarm::new(time);
    poll_fn(|context| {
        alarm.watch(context.waker());
        if alarm.is_over() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Waits until `met`, looking every few milliseconds; whether it was within `limit`.
pub(super) async fn eventually(limit: Duration, mut met: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    while !met() {
        if Instant::now() >= until {
            return false;
        }
        pause(Duration::from_millis(2)).await;
    }
    true
}

/// Runs `work` on a thread without blocking the executor's, in which the thing under test may have tasks of its own.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let done = catch_unwind(AssertUnwindSafe(work));
        drop(sender.send(done.unwrap_or_else(|_| Err(Failure("a thread of the case panicked".to_owned())))));
    });
    receiver.await.unwrap_or_else(|_| Err(Failure("a thread of the case is gone".to_owned())))
}

/// Polls all of them together; answers in order.
pub(super) async fn together<T>(running: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = running.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        for (future, answer) in &mut running {
            if answer.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *answer = Some(value);
            }
        }
        if running.iter().all(|(_, answer)| answer.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// All leases of the region have ended, or do so soon.
pub(super) async fn leases_end(region: &Arc<Region>) -> Verdict {
    let ended = eventually(Duration::from_secs(10), || region.leases() == 0).await;
    ensure!(ended, "{} leases have not come back", region.leases());
    Ok(())
}

/// The region is freed, or is soon.
pub(super) async fn region_ends(region: &Weak<Region>) -> Verdict {
    let ended = eventually(Duration::from_secs(10), || region.strong_count() == 0).await;
    ensure!(ended, "the memory is still held by {} after every handle was dropped", region.strong_count());
    Ok(())
}

/// `result` is an error of `kind`.
pub(super) fn refused<T>(result: &hicache_core::Result<T>, kind: ErrorKind, what: &str) -> Verdict {
    match result {
        Ok(_) => Err(Failure(format!("{what} succeeded; it must be a {kind} error"))),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(Failure(format!("{what} must be a {kind} error and is: {error}"))),
    }
}
