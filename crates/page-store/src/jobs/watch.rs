//! Batches that make no progress: answered where that is safe, and never waited for by others.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::{Answer, Completion, Direction, PageBatch};

use super::Shared;

/// When a batch last got something done, and what it waits for.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    last_ms: AtomicU64,
    waiting: Mutex<Vec<(usize, Direction)>>,
}

/// The batch waits for a volume until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    progress: &'a Progress,
    what: (usize, Direction),
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.progress.lock();
        if let Some(at) = waiting.iter().position(|what| *what == self.what) {
            waiting.swap_remove(at);
        }
    }
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0), waiting: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Direction)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the batch waits for a volume: if it gets stuck meanwhile, it is stuck there.
    pub(crate) fn wait_for(&self, volume: usize, direction: Direction) -> Waiting<'_> {
        let what = (volume, direction);
        self.lock().push(what);
        Waiting { progress: self, what }
    }

    fn waits_for(&self) -> Vec<(usize, Direction)> {
        let mut waiting = self.lock().clone();
        waiting.sort_unstable_by_key(|(volume, direction)| (*volume, direction.as_str()));
        waiting.dedup();
        waiting
    }

    pub(crate) fn mark(&self) {
        self.last_ms.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
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

/// Runs a batch and answers it. One without progress for the store's limit opens the breakers of what it waits for,
/// once: a batch that is stuck for ever must not keep a root shut. If all its memory is our own it is answered `Abandoned` then, and its slots stay leased until the device is done with them, if ever; a
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
                for (volume, direction) in progress.waits_for() {
                    shared.breakers.of(volume, direction).stuck();
                }
                tracing::error!(pages, foreign, "no progress for {:?}; the batch counts as lost", shared.io_timeout);
                if !foreign && let Some(completion) = completion.take() {
                    shared.volumes.now()[0].count(|counters| counters.abandoned_pages += pages as u64);
                    drop(completion.answer(PageBatch::abandoned(pages)));
                }
            }
        }
    }
}
