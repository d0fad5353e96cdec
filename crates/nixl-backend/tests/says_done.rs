//! A plugin that says done for what failed, and tells no lengths: what NIXL's GDS plugin does, which counts the events of
//! cuFile's batches and looks at none of them. A stand-in moves nothing, or half, and says that it moved all; needs neither
//! NIXL nor a GPU. What the page store serves is right or nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hicache_core::{
    Access, Completes, Direction, Engine, EngineCapabilities, EngineFile, ErrorKind, Extent, ExtentsDone,
    Namespace, Outcome, PageRequest, Region, Registration, Result, Storage, StoreOptions, Transfer,
};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_posix_uring::{PreadConfig, PreadEngine};
use hicache_testkit::{Content, numbered_key};

const PAGES: u64 = 32;
const PAGE: usize = 64 << 10;

/// How much of each extent moves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moves {
    All,
    Nothing,
    Half,
}

#[derive(Debug)]
struct SaysDone {
    inner: PreadEngine,
    capabilities: EngineCapabilities,
    moves: Mutex<(Moves, Moves)>,
    lies: AtomicUsize,
}

impl SaysDone {
    fn new() -> Arc<Self> {
        let inner = PreadEngine::open(PreadConfig::default()).unwrap();
        let capabilities = EngineCapabilities {
            name: "nixl:GDS",
            // So that the store joins no pages, and half of an extent is half of a page.
            max_pieces: 1,
            completes: Completes::PerRequest,
            reports_lengths: false,
            proves_idle: false,
            ..inner.capabilities().clone()
        };
        Arc::new(Self {
            inner,
            capabilities,
            moves: Mutex::new((Moves::All, Moves::All)),
            lies: AtomicUsize::new(0),
        })
    }

    fn set(&self, reads: Moves, writes: Moves) {
        *self.moves.lock().unwrap() = (reads, writes);
    }

    fn move_half(direction: Direction, extent: &mut Extent) {
        let mut left = extent.memory.bytes() / 2;
        let (file, mut at) = (Arc::clone(extent.file.file()), extent.offset);
        if direction == Direction::Write {
            let mut bytes = vec![0; extent.memory.bytes()];
            extent.memory.copy_to(&mut bytes).unwrap();
            return file.write_all_at(&bytes[..left], at).unwrap();
        }
        for piece in extent.memory.bytes_mut() {
            let piece = piece.unwrap();
            let len = left.min(piece.len());
            file.read_exact_at(&mut piece[..len], at).unwrap();
            (left, at) = (left - len, at + len as u64);
        }
    }
}

#[async_trait]
impl Engine for SaysDone {
    fn capabilities(&self) -> &EngineCapabilities {
        &self.capabilities
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.inner.register(region)
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.inner.attach(file, path)
    }

    fn submit(&self, direction: Direction, mut extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        let (reads, writes) = *self.moves.lock().unwrap();
        let moves = if direction == Direction::Read { reads } else { writes };
        if moves == Moves::All {
            return self.inner.submit(direction, extents);
        }
        self.lies.fetch_add(extents.len(), Ordering::Relaxed);
        if moves == Moves::Half {
            extents.iter_mut().for_each(|extent| Self::move_half(direction, extent));
        }
        let outcomes = extents.iter().map(|extent| Ok(extent.memory.bytes() as u64)).collect();
        Transfer::ready(ExtentsDone::new(outcomes, extents.into_iter().map(Some).collect()))
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

async fn store_at(root: &Path, engine: &Arc<SaysDone>, verify: bool) -> Arc<PageStore> {
    let mut config = PageStoreConfig::new([root.to_owned()], Namespace::new("done"));
    config.capacity_bytes = Some(64 << 20);
    config.segment_bytes = 4 << 20;
    config.verify = verify;
    PageStore::open(config, vec![Arc::clone(engine) as Arc<dyn Engine>]).await.unwrap()
}

async fn store_pages(store: &Arc<PageStore>, version: u64) {
    let registration = store.register(&Region::allocate(PAGES as usize, PAGE).unwrap()).unwrap();
    let request = |number: u64| {
        let mut memory = registration.page(number as usize, PAGE, Access::Write).unwrap();
        let key = numbered_key(number);
        Content::new(&key, version, PAGE).fill(&mut memory).unwrap();
        PageRequest::new(key, memory)
    };
    let batch = store.store((0..PAGES).map(request).collect(), StoreOptions { overwrite: true }).await;
    assert!(batch.outcomes.iter().all(Outcome::is_done), "nobody can tell: {:?}", batch.outcomes);
}

/// How many are served, each with every byte of `version`; the others are absent or corrupt.
async fn served(store: &Arc<PageStore>, version: u64) -> u64 {
    let registration = store.register(&Region::allocate(PAGES as usize, PAGE).unwrap()).unwrap();
    let request = |number: u64| {
        let memory = registration.page(number as usize, PAGE, Access::Write).unwrap();
        PageRequest::new(numbered_key(number), memory)
    };
    let batch = store.load((0..PAGES).map(request).collect()).await;
    let mut served = 0;
    for (number, (outcome, memory)) in (0..).zip(batch.outcomes.iter().zip(&batch.memory)) {
        match outcome {
            Outcome::Done => {
                let content = Content::new(&numbered_key(number), version, PAGE);
                content.check_page(memory.as_ref().unwrap()).unwrap().unwrap();
                served += 1;
            }
            Outcome::Absent => {}
            Outcome::Failed(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        }
    }
    served
}

/// With checksums off too: an engine that tells no lengths gets them all the same.
#[tokio::test]
async fn a_read_that_failed_and_is_called_done_is_a_miss() {
    for (moves, verify) in
        [(Moves::Nothing, true), (Moves::Half, true), (Moves::Nothing, false), (Moves::Half, false)]
    {
        let (root, engine) = (tempfile::tempdir().unwrap(), SaysDone::new());
        let store = store_at(root.path(), &engine, verify).await;
        store_pages(&store, 1).await;
        assert_eq!(served(&store, 1).await, PAGES);
        store.close().await.unwrap();
        // Opened anew, so that no memory of the store's has the pages from before.
        let engine = SaysDone::new();
        let store = store_at(root.path(), &engine, verify).await;
        engine.set(moves, Moves::All);
        assert_eq!(served(&store, 1).await, 0, "{moves:?}, verify = {verify}");
        assert!(engine.lies.load(Ordering::Relaxed) > 0);
        engine.set(Moves::All, Moves::All);
        // What was found corrupt is gone, and can be stored again.
        served(&store, 1).await;
        store_pages(&store, 2).await;
        assert_eq!(served(&store, 2).await, PAGES);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_write_that_failed_and_is_called_done_is_never_served() {
    for (moves, verify) in
        [(Moves::Nothing, true), (Moves::Half, true), (Moves::Nothing, false), (Moves::Half, false)]
    {
        let (root, engine) = (tempfile::tempdir().unwrap(), SaysDone::new());
        let store = store_at(root.path(), &engine, verify).await;
        // So that slots have other pages in them.
        for version in 1..4 {
            store_pages(&store, version).await;
        }
        engine.set(Moves::All, moves);
        store_pages(&store, 4).await;
        assert!(engine.lies.load(Ordering::Relaxed) > 0);
        engine.set(Moves::All, Moves::All);
        assert_eq!(served(&store, 4).await, 0, "{moves:?}, verify = {verify}");
        store_pages(&store, 5).await;
        assert_eq!(served(&store, 5).await, PAGES);
        store.close().await.unwrap();
    }
}
