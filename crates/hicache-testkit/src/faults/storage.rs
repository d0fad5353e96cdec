//! Faults of a storage.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::{
    Answer, Completion, Direction, Error, ErrorKind, ListCursor, Listing, Namespace, Outcome, PageBatch,
    PageKey, PageRequest, Region, Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};

use super::plan::FaultPlan;

/// What goes wrong with one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// Its batch is handed on after this time.
    Late(Duration),
    /// The page fails with an error of this kind; it is neither loaded nor stored.
    Fail(ErrorKind),
    /// A load that misses. A store with this fault answers `Done` and stores nothing, as if evicted at once.
    Absent,
    /// Its batch is dropped before it was begun: its answer is `Abandoned` at once, and its memory free.
    NeverSubmitted,
    /// Its batch is done, and no answer comes; its memory stays held until [`FaultyStorage::release_lost`].
    Swallowed,
    /// The call panics.
    Panic,
    /// A load that answers `Done` with this bit, modulo the length, turned over. Nothing for a store.
    Corrupt(u64),
}

/// A [`Storage`] that does what another one does, except where a [`FaultPlan`] says otherwise; everything but loads
/// and stores goes to the inner storage as it is. A batch with a fault is driven by a thread of its own.
#[derive(Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    plan: Mutex<FaultPlan<StorageFault>>,
    injected: AtomicU64,
    down: AtomicBool,
    lost: Arc<Mutex<Vec<Swallowed>>>,
}

/// A batch that is done and unanswered.
type Swallowed = (Completion<PageBatch>, PageBatch);

impl FaultyStorage {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Storage>, plan: FaultPlan<StorageFault>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            plan: Mutex::new(plan),
            injected: AtomicU64::new(0),
            down: AtomicBool::new(false),
            lost: Arc::default(),
        })
    }

    /// Goes on by another plan, which counts pages from 0.
    pub fn set_plan(&self, plan: FaultPlan<StorageFault>) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    /// Kills the backend, or brings it back: while it is down, every call fails with `Unavailable`.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Release);
    }

    fn up(&self) -> Result<()> {
        match self.down.load(Ordering::Acquire) {
            true => Err(Error::new(ErrorKind::Unavailable, "the backend is down").with_backend("faulty")),
            false => Ok(()),
        }
    }

    /// How many batches were swallowed and hold their memory.
    pub fn held(&self) -> usize {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Lets go of the memory of all batches that were swallowed; they answer `Abandoned`.
    pub fn release_lost(&self) {
        let held = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for (completion, batch) in held {
            drop(batch);
            drop(completion);
        }
    }

    /// How many faults were injected so far.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    fn run(
        &self,
        direction: Direction,
        requests: Vec<PageRequest>,
        call: impl FnOnce(&dyn Storage, Vec<PageRequest>) -> Transfer<PageBatch> + Send + 'static,
    ) -> Transfer<PageBatch> {
        if let Err(error) = self.up() {
            return Transfer::ready(PageBatch::failed(requests, &error));
        }
        let faults: Vec<_> = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            let mut fault =
                |page: &PageRequest| plan.next(direction, 0, page.memory.bytes() as u64, Some(page.key));
            requests.iter().map(&mut fault).collect()
        };
        let count = faults.iter().flatten().count();
        if count == 0 {
            return call(&*self.inner, requests);
        }
        self.injected.fetch_add(count as u64, Ordering::Relaxed);
        let has = |fault| faults.contains(&Some(fault));
        assert!(!has(StorageFault::Panic), "the storage panics on purpose");
        let (completion, transfer) = Transfer::channel(requests.len());
        if has(StorageFault::NeverSubmitted) {
            drop((requests, completion));
            return transfer;
        }
        let lost = has(StorageFault::Swallowed).then(|| Arc::clone(&self.lost));
        let inner = Arc::clone(&self.inner);
        let drive = move || {
            let late = faults.iter().filter_map(|fault| match fault {
                Some(StorageFault::Late(delay)) => Some(*delay),
                _ => None,
            });
            std::thread::sleep(late.max().unwrap_or_default());
            let batch = answer(&*inner, direction, requests, &faults, call);
            match lost {
                Some(lost) => lost.lock().unwrap_or_else(PoisonError::into_inner).push((completion, batch)),
                None => drop(completion.answer(batch)),
            }
        };
        // Where no thread can be started the completion is dropped, and the batch is lost as it would be for real.
        let _ = std::thread::Builder::new().name("faulty-storage".to_owned()).spawn(drive);
        transfer
    }
}

fn answer(
    inner: &dyn Storage,
    direction: Direction,
    requests: Vec<PageRequest>,
    faults: &[Option<StorageFault>],
    call: impl FnOnce(&dyn Storage, Vec<PageRequest>) -> Transfer<PageBatch>,
) -> PageBatch {
    let mut batch = PageBatch::abandoned(requests.len());
    let (mut places, mut passed) = (Vec::new(), Vec::new());
    for (i, (request, fault)) in requests.into_iter().zip(faults).enumerate() {
        let outcome = match fault {
            Some(StorageFault::Fail(kind)) => {
                Outcome::Failed(Error::new(*kind, "injected").with_key(request.key))
            }
            Some(StorageFault::Absent) if direction == Direction::Read => Outcome::Absent,
            Some(StorageFault::Absent) => Outcome::Done,
            _ => {
                places.push(i);
                passed.push(request);
                continue;
            }
        };
        batch.outcomes[i] = outcome;
        batch.memory[i] = Some(request.memory);
    }
    let passed = call(inner, passed).wait();
    for (i, (outcome, memory)) in places.into_iter().zip(passed.outcomes.into_iter().zip(passed.memory)) {
        batch.outcomes[i] = outcome;
        batch.memory[i] = memory;
        if let (Some(StorageFault::Corrupt(bit)), Direction::Read, Some(memory), true) =
            (faults[i], direction, &mut batch.memory[i], batch.outcomes[i].is_done())
        {
            let mut bytes = vec![0; memory.bytes()];
            let bit = (bit % (bytes.len() as u64 * 8)) as usize;
            let turned = memory.copy_to(&mut bytes).and_then(|()| {
                bytes[bit / 8] ^= 1 << (bit % 8);
                memory.copy_from(&bytes)
            });
            if let Err(error) = turned {
                batch.outcomes[i] = Outcome::Failed(error);
            }
        }
    }
    batch
}

#[async_trait]
impl Storage for FaultyStorage {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn namespace(&self) -> Option<&Namespace> {
        self.inner.namespace()
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.inner.register(region)
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        self.run(Direction::Read, requests, |inner, requests| inner.load(requests))
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        self.run(Direction::Write, requests, move |inner, requests| inner.store(requests, options))
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        match self.up() {
            Ok(()) => self.inner.exists_now(keys),
            Err(error) => Some(Err(error)),
        }
    }

    async fn exists(&self, keys: &[PageKey]) -> Result<Vec<bool>> {
        self.up()?;
        self.inner.exists(keys).await
    }

    async fn exists_prefix(&self, keys: &[PageKey]) -> Result<usize> {
        self.up()?;
        self.inner.exists_prefix(keys).await
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        self.inner.delete(keys).await
    }

    async fn clear(&self) -> Result<u64> {
        self.inner.clear().await
    }

    async fn list(&self, prefix: &str, cursor: Option<&ListCursor>, limit: usize) -> Result<Listing> {
        self.inner.list(prefix, cursor, limit).await
    }

    fn stat(&self) -> StorageStat {
        self.inner.stat()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
