//! Batches that make no progress: answered where that is safe, and never waited for by others.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hicache_core::{Answer, Completion, Error, ErrorKind, PageBatch};

use super::Shared;

/// When a batch last got something done.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    last_ms: AtomicU64,
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    pub(crate) fn mark(&self) {
        self.last_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// Open while some batch is stuck: other calls fail at once instead of queueing behind it. Lets calls through again
/// after as long as a batch may be without progress; one that gets stuck then opens it again.
#[derive(Debug)]
pub(crate) struct Breaker {
    began: Instant,
    open_until_ms: AtomicU64,
    opened: AtomicU64,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), open_until_ms: AtomicU64::new(0), opened: AtomicU64::new(0) }
    }

    fn open(&self, lasting: Duration) {
        let until = (self.began.elapsed() + lasting).as_millis() as u64;
        self.open_until_ms.store(until, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        let until = self.open_until_ms.load(Ordering::Relaxed);
        until > 0 && (self.began.elapsed().as_millis() as u64) < until
    }

    pub(crate) fn error() -> Error {
        Error::new(
            ErrorKind::Unavailable,
            "an operation on the medium is stuck; the store answers again by itself",
        )
        .with_backend("page-store")
        .with_retryable(true)
    }
}

/// One more batch is under way until this is dropped, by a panic too.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a batch and answers it. One without progress for the store's limit opens the breaker, once: a batch that is
/// stuck for ever must not keep the store shut. If all its memory is
/// our own it is answered `Abandoned` then, and its slots stay leased until the device is done with them, if ever; a
/// batch with a caller's memory is answered when the device is done, however long that takes.
pub(crate) async fn watched(
    shared: &Shared,
    completion: Completion<PageBatch>,
    pages: usize,
    foreign: bool,
    progress: &Progress,
    work: impl Future<Output = PageBatch>,
) {
    let _counted = Counted::new(&shared.batches);
    let mut work = pin!(work);
    let mut completion = Some(completion);
    let (mut looked, mut stuck_since) = (Instant::now(), None);
    loop {
        let deadline = progress.last().max(looked) + shared.io_timeout;
        tokio::select! {
            biased;
            batch = &mut work => {
                if let Some(completion) = completion.take() {
                    // Nobody waits any more: the leases in the answer end here.
                    drop(completion.answer(batch));
                }
                return;
            }
            () = tokio::time::sleep_until(deadline.into()) => {
                looked = Instant::now();
                let last = progress.last();
                if last + shared.io_timeout > looked || stuck_since.replace(last) == Some(last) {
                    continue;
                }
                shared.breaker.open(shared.io_timeout);
                tracing::error!(pages, foreign, "no progress for {:?}; the batch counts as lost", shared.io_timeout);
                if !foreign && let Some(completion) = completion.take() {
                    shared.volumes[0].count(|counters| counters.abandoned_pages += pages as u64);
                    drop(completion.answer(PageBatch::abandoned(pages)));
                }
            }
        }
    }
}
