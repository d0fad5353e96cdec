//! Pages on their way to the far tier.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hicache_core::{ErrorKind, Outcome, PageKey, StoreOptions};
use tokio::sync::{Notify, Semaphore, watch};

use crate::counts::{add, count};
use crate::link::Health;
use crate::part::{Part, Tier};
use crate::shared::Shared;
use crate::staging::Staged;

/// How often a page is tried while the far tier answers others.
const MOST_TRIES: u32 = 4;
/// How long to wait where there was no memory for a single page of a batch, or the far tier is cut off.
const PAUSE: Duration = Duration::from_millis(20);

/// Places of removed pages that the order may hold, besides as many as pages wait.
const SKIPPED: usize = 1024;

/// A page that waits for the far tier.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) bytes: usize,
    pub(crate) name: Option<Box<str>>,
    /// A copy of it; without one it is read from the near tier when its turn comes.
    pub(crate) staged: Option<Staged>,
    pub(crate) tries: u32,
}

/// The queue. Each key is in it once.
#[derive(Debug)]
pub(crate) struct Uploads {
    most: usize,
    queue: Mutex<Queue>,
    came: Notify,
    /// Batches under way.
    running: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<PageKey>,
    pages: HashMap<PageKey, Waiting>,
    /// Nothing is taken in any more.
    closed: bool,
}

impl Uploads {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, queue: Mutex::default(), came: Notify::new(), running: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a page, if there is room and it is not closed; one that waits already stays as it is.
    pub(crate) fn push(&self, key: PageKey, page: Waiting) -> bool {
        let mut queue = self.lock();
        if queue.closed {
            return false;
        }
        if !queue.pages.contains_key(&key) {
            if queue.pages.len() >= self.most {
                return false;
            }
            queue.pages.insert(key, page);
            queue.order.push_back(key);
            self.came.notify_one();
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().pages.len()
    }

    pub(crate) fn remove(&self, key: &PageKey) {
        let mut queue = self.lock();
        let Queue { order, pages, .. } = &mut *queue;
        // Its place in the order stays, and is skipped; but such places must not pile up.
        if pages.remove(key).is_some() && order.len() > 2 * pages.len() + SKIPPED {
            let mut seen = HashSet::new();
            order.retain(|key| pages.contains_key(key) && seen.insert(*key));
        }
    }

    pub(crate) fn clear(&self) {
        let mut queue = self.lock();
        queue.order.clear();
        queue.pages.clear();
    }

    /// Takes nothing in any more. How many pages waited.
    pub(crate) fn close(&self) -> usize {
        let mut queue = self.lock();
        queue.closed = true;
        queue.order.clear();
        std::mem::take(&mut queue.pages).len()
    }

    /// Somebody who waits for pages shall look again.
    pub(crate) fn wake(&self) {
        self.came.notify_one();
    }

    fn take(&self, most: usize) -> Vec<(PageKey, Waiting)> {
        let mut queue = self.lock();
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some(key) = queue.order.pop_front() else { break };
            if let Some(page) = queue.pages.remove(&key) {
                taken.push((key, page));
            }
        }
        taken
    }

    /// Waits until nothing waits and nothing is under way.
    pub(crate) async fn drained(&self) {
        let mut running = self.running.subscribe();
        loop {
            let _ = running.wait_for(|&running| running == 0).await;
            if self.len() == 0 && *running.borrow() == 0 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Sends what comes, for as long as it is polled.
pub(crate) async fn upload(shared: &Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(shared.config.batches));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        while shared.uploads.len() == 0 {
            shared.uploads.came.notified().await;
        }
        if !shared.link.is_up() {
            // Somebody asks the far tier when it is time; here that must not depend on calls that come in.
            shared.try_far();
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        shared.uploads.running.send_modify(|running| *running += 1);
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            send_batch(&shared).await;
            shared.uploads.running.send_modify(|running| *running -= 1);
            drop(permit);
        });
        // It takes its pages, unless it must wait.
        tokio::task::yield_now().await;
    }
}

async fn send_batch(shared: &Arc<Shared>) {
    // Whatever deletes or replaces a page waits until this batch is done, so that it can't come back; and what is taken
    // from the queue before the gate is open is where nobody finds it who takes pages away.
    let gate = shared.gate().await;
    let mut batch = shared.uploads.take(shared.config.batch_pages);
    if batch.is_empty() {
        return;
    }
    read_near(shared, &mut batch).await;
    let mut part = Part::new(Tier::Far);
    let (mut keys, mut slots) = (Vec::new(), Vec::new());
    let mut unstaged = 0;
    for (key, mut page) in batch {
        let Some((memory, slot)) = page.staged.take().map(Staged::into_parts) else {
            unstaged += 1;
            if !shared.uploads.push(key, page) {
                count(&shared.counters.unsent_pages);
            }
            continue;
        };
        slots.push(slot);
        if memory.is_some_and(|memory| part.push(keys.len(), key, memory, page.name.clone()).is_ok()) {
            keys.push((key, page));
        }
    }
    let stored = part.store(&*shared.far, StoreOptions::default()).await;
    shared.heard(Health::of(stored.iter().map(|(_, outcome, _)| outcome)));
    let up = shared.link.is_up();
    for ((_, outcome, memory), (key, mut page)) in stored.into_iter().zip(keys) {
        drop(memory);
        match outcome {
            Outcome::Failed(error) => {
                page.tries += u32::from(up);
                let again = Health::of_error(error.kind()) != Health::Good || error.is_retryable();
                if !again || page.tries >= MOST_TRIES || !shared.uploads.push(key, page) {
                    tracing::warn!(%error, "a page was not sent to the far tier");
                    count(&shared.counters.unsent_pages);
                }
            }
            _ => {
                shared.sent.add(key);
                shared.absent.forget(&key);
                add(&shared.counters.far_stored_pages, 1);
            }
        }
    }
    drop(slots);
    drop(gate);
    if unstaged > 0 {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads the pages of `batch` that have no copy from the near tier, as far as there is memory; those that it has lost
/// are taken out.
async fn read_near(shared: &Arc<Shared>, batch: &mut Vec<(PageKey, Waiting)>) {
    let mut part = Part::new(Tier::Near);
    let mut slots = Vec::new();
    for (i, (key, page)) in batch.iter().enumerate().filter(|(_, (_, page))| page.staged.is_none()) {
        let Some((Some(memory), slot)) = shared.staging.take(page.bytes).map(Staged::into_parts) else {
            break;
        };
        if part.push(i, *key, memory, None).is_ok() {
            slots.push(slot);
        }
    }
    let mut lost = Vec::new();
    for ((i, outcome, memory), slot) in part.load(&*shared.near).await.into_iter().zip(slots) {
        match memory {
            Some(memory) if outcome.is_done() => batch[i].1.staged = Some(Staged::of(memory, slot)),
            memory => {
                drop(memory);
                if outcome.error().is_some_and(|error| error.kind() == ErrorKind::Corrupt) {
                    count(&shared.counters.corrupt_pages);
                }
                lost.push(i);
            }
        }
    }
    add(&shared.counters.unsent_pages, lost.len() as u64);
    let mut i = 0;
    batch.retain(|_| {
        i += 1;
        !lost.contains(&(i - 1))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Waiting {
        Waiting { bytes: 1, name: None, staged: None, tries: 0 }
    }

    #[test]
    fn places_of_removed_pages_do_not_pile_up() {
        let uploads = Uploads::new(10);
        let key = |number: u8| PageKey::kv([number; 32]);
        assert!(uploads.push(key(1), page()));
        for _ in 0..10_000 {
            assert!(uploads.push(key(2), page()));
            uploads.remove(&key(2));
        }
        assert!(uploads.lock().order.len() <= SKIPPED + 3, "{}", uploads.lock().order.len());
        assert_eq!(uploads.take(5).iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(1)]);
    }

    #[test]
    fn nothing_is_taken_in_after_close() {
        let uploads = Uploads::new(10);
        assert!(uploads.push(PageKey::kv([1; 32]), page()));
        assert_eq!(uploads.close(), 1);
        assert!(!uploads.push(PageKey::kv([2; 32]), page()));
        assert_eq!(uploads.len(), 0);
    }
}
