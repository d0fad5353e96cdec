//! A device and a storage that answer as real ones do and move no byte: what CPU is left is the controller's.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use async_trait::async_trait;
use hicache_core::{
    Completion, CopiesDone, CopyBatch, Device, Error, ErrorKind, Event, ListCursor, Listing, MemoryKind,
    Outcome, OwnerId, PageBatch, PageKey, PageRequest, Region, Registration, Result, Storage, StorageStat,
    StoreOptions, Stream, Transfer,
};

fn unsupported<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "nothing is moved here"))
}

/// Answers from a worker a stream, step by step, as a device does.
#[derive(Debug)]
pub(crate) struct NoDevice;

#[derive(Debug)]
struct NoStream(Sender<(CopyBatch, Completion<CopiesDone>)>);

impl Device for NoDevice {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn memory(&self) -> MemoryKind {
        MemoryKind::Host
    }

    fn allocate(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        Region::allocate_planes(planes, slots, slot_bytes)
    }

    fn stream(&self, _name: &'static str) -> Result<Arc<dyn Stream>> {
        let (sender, jobs) = channel::<(CopyBatch, Completion<CopiesDone>)>();
        std::thread::spawn(move || {
            for (batch, completion) in jobs {
                if let Some(hook) = &batch.step_done {
                    (0..batch.plan.steps().len()).for_each(|step| hook(step, true));
                }
                let outcomes = batch.pages.iter().map(|_| Ok(())).collect();
                let pages = batch.pages.into_iter().map(Some).collect();
                drop(completion.answer(CopiesDone { outcomes, pages }));
            }
        });
        Ok(Arc::new(NoStream(sender)))
    }
}

impl Stream for NoStream {
    fn copy(&self, batch: CopyBatch) -> Transfer<CopiesDone> {
        let (completion, transfer) = Transfer::channel(batch.pages.len());
        drop(self.0.send((batch, completion)));
        transfer
    }

    fn record(&self) -> Result<Arc<dyn Event>> {
        unsupported()
    }

    fn wait_event(&self, _event: Arc<dyn Event>) -> Result<()> {
        unsupported()
    }
}

/// Has every page.
#[derive(Debug)]
pub(crate) struct NoStorage(pub(crate) OwnerId);

impl NoStorage {
    fn done(requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        let outcomes = requests.iter().map(|_| Outcome::Done).collect();
        let memory = requests.into_iter().map(|request| Some(request.memory)).collect();
        Transfer::ready(PageBatch { outcomes, memory })
    }
}

#[async_trait]
impl Storage for NoStorage {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        Ok(Registration::new(self.0, Arc::clone(region), Box::new(())))
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        Self::done(requests)
    }

    fn store(&self, requests: Vec<PageRequest>, _options: StoreOptions) -> Transfer<PageBatch> {
        Self::done(requests)
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        Some(Ok(vec![true; keys.len()]))
    }

    async fn delete(&self, _keys: &[PageKey]) -> Result<Vec<Outcome>> {
        unsupported()
    }

    async fn clear(&self) -> Result<u64> {
        Ok(0)
    }

    async fn list(&self, _prefix: &str, _cursor: Option<&ListCursor>, _limit: usize) -> Result<Listing> {
        unsupported()
    }

    fn stat(&self) -> StorageStat {
        StorageStat::default()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
