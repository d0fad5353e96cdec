//! Storages that don't keep what they promise: calls that block, memory that is kept, an index that knows pages which
//! can't be read. Each costs its own operation, and nobody else waits.

mod fixture;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fixture::{Engine, LONG, Served, config, prompt};
use hicache_controller::{HostState, Layout, PrefetchStatus, PromptSpace};
use hicache_core::{
    Error, ErrorKind, ListCursor, Listing, MemoryStorage, Outcome, PageBatch, PageKey, PageRequest, Region,
    Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vice {
    None,
    /// Loading blocks its caller, stores block theirs, questions block theirs.
    Blocks,
    /// Loads are answered `Done` without the memory, which nothing was put in.
    KeepsMemory,
    /// What is there can't be read.
    CanNotRead,
}

#[derive(Debug)]
struct Stubborn {
    inner: MemoryStorage,
    vice: Mutex<Vice>,
    changed: Condvar,
    loads: Mutex<usize>,
}

impl Stubborn {
    fn new() -> Arc<Self> {
        let (vice, loads) = (Mutex::new(Vice::None), Mutex::new(0));
        Arc::new(Self { inner: MemoryStorage::new(), vice, changed: Condvar::new(), loads })
    }

    fn set(&self, vice: Vice) {
        *self.vice.lock().unwrap() = vice;
        self.changed.notify_all();
    }

    /// Blocks while that is its vice.
    fn vice(&self) -> Vice {
        let vice = self.vice.lock().unwrap();
        *self.changed.wait_while(vice, |vice| *vice == Vice::Blocks).unwrap()
    }
}

#[async_trait]
impl Storage for Stubborn {
    fn name(&self) -> &'static str {
        "stubborn"
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.inner.register(region)
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        *self.loads.lock().unwrap() += 1;
        match self.vice() {
            Vice::KeepsMemory => {
                let outcomes = requests.iter().map(|_| Outcome::Done).collect();
                Transfer::ready(PageBatch { outcomes, memory: requests.iter().map(|_| None).collect() })
            }
            Vice::CanNotRead => {
                let error = Error::new(ErrorKind::Io, "on purpose");
                Transfer::ready(PageBatch::failed(requests, &error))
            }
            Vice::None | Vice::Blocks => self.inner.load(requests),
        }
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        self.vice();
        self.inner.store(requests, options)
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        self.vice();
        self.inner.exists_now(keys)
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        self.inner.delete(keys).await
    }

    async fn clear(&self) -> Result<u64> {
        self.vice();
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

/// An engine whose storage has pages 1 to 6, and nothing else has.
fn engine(storage: &Arc<Stubborn>, layout: Layout) -> Engine {
    let mut config = config(16, 40);
    (config.storage_timeout_ms, config.breaker_backoff_ms, config.host_layout) = (60, 20, layout);
    let mut engine = Engine::new(config);
    engine.controller.attach(Arc::clone(storage) as _).unwrap();
    engine.serve(&[1, 2, 3, 4, 5, 6]).unwrap();
    engine.rest();
    engine.controller.reset(LONG).unwrap();
    engine
}

#[test]
fn calls_that_block_are_given_up_and_their_threads_replaced() {
    // As pages lie, and copied.
    for layout in [Layout::PageFirst, Layout::LayerFirst] {
        blocked(layout);
    }
}

fn blocked(layout: Layout) {
    let storage = Stubborn::new();
    let mut engine = engine(&storage, layout);
    storage.set(Vice::Blocks);
    // More of each kind than there are threads: all of them end, with nothing from storage.
    let begun = Instant::now();
    for round in 0..4_u64 {
        let got = engine.serve_from_storage(&format!("blocked {round}"), &[1, 2, 3, 4, 5, 6, 100 + round]);
        assert_eq!(got.unwrap().storage, 0);
        engine.account();
    }
    assert!(engine.controller.drain(LONG), "a backup hangs");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(engine.controller.is_cut_off(), (true, true));
    engine.account();
    // It comes to its senses: the threads that were stuck end, and everything works again.
    storage.set(Vice::None);
    let until = Instant::now() + LONG;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        engine.controller.poll();
        engine.serve(&[1, 2, 3, 4, 5, 6]).unwrap();
        assert!(engine.controller.drain(LONG));
        engine.controller.reset(LONG).unwrap();
        let got = engine.serve_from_storage(&format!("{:?}", Instant::now()), &[1, 2, 3, 4, 5, 6]).unwrap();
        if got == (Served { storage: 6, ..Served::default() }) {
            break;
        }
        assert!(Instant::now() < until, "it is cut off for ever");
    }
    engine.rest();
}

#[test]
fn a_page_whose_memory_is_kept_is_not_used() {
    for layout in [Layout::PageFirst, Layout::LayerFirst] {
        let storage = Stubborn::new();
        let mut engine = engine(&storage, layout);
        storage.set(Vice::KeepsMemory);
        let got = engine.serve_from_storage("kept", &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!((got.storage, got.computed), (0, 6), "{layout}");
        engine.rest();
    }
}

#[test]
fn an_index_that_answers_does_not_keep_a_dead_medium_open() {
    let storage = Stubborn::new();
    let mut engine = engine(&storage, Layout::PageFirst);
    storage.set(Vice::CanNotRead);
    for round in 0..6_u64 {
        let got = engine.serve_from_storage(&format!("{round}"), &[1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(got.storage, 0);
        engine.rest();
        engine.controller.reset(LONG).unwrap();
    }
    assert!(engine.controller.is_cut_off().0);
    let loads = *storage.loads.lock().unwrap();
    assert!(loads < 6, "{loads} of 6 prefetches were tried, and 3 failures in a row cut it off");
}

#[test]
fn clearing_is_bound_and_works_inside_a_runtime() {
    let storage = Stubborn::new();
    let mut engine = engine(&storage, Layout::PageFirst);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        storage.set(Vice::Blocks);
        let error = engine.controller.clear(Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        storage.set(Vice::None);
        let until = Instant::now() + LONG;
        while storage.stat().pages > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(engine.controller.clear(Duration::MAX).unwrap(), 0);
        engine.serve(&[1, 2]).unwrap();
        assert!(engine.controller.drain(Duration::MAX));
        assert_eq!(engine.controller.clear(LONG).unwrap(), 2);
    });
    engine.rest();
}

#[test]
fn a_prefetch_that_is_terminated_while_its_call_blocks_ends_at_once() {
    let storage = Stubborn::new();
    let mut engine = engine(&storage, Layout::PageFirst);
    let request = engine.controller.begin(PromptSpace::default(), prompt(&[1, 2, 3, 4, 5, 6]));
    // It has been found, and is being loaded.
    storage.set(Vice::None);
    let id = engine.controller.prefetch("a", &request).unwrap();
    storage.set(Vice::Blocks);
    std::thread::sleep(Duration::from_millis(20));
    engine.controller.poll();
    let begun = Instant::now();
    let pages = engine.controller.terminate_prefetch(id);
    assert!(begun.elapsed() < Duration::from_millis(100) && pages <= 6, "{:?}", begun.elapsed());
    assert_eq!(engine.controller.check_prefetch(id), PrefetchStatus::Ended { pages: 0, found: 0 });
    engine.controller.cancel(request);
    storage.set(Vice::None);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(engine.rest().host.of(HostState::Reserved), 0);
}
