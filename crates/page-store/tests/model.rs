//! Random operations, closes, drops and crashes: every answer is one that the reference model allows.

mod fixture;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use fixture::{copy_tree, pread, released, say, uring};
use hicache_core::{
    Engine, EngineCapabilities, ListCursor, Listing, MemoryKind, Namespace, Outcome, PageBatch, PageKey,
    PageRequest, Region, Registration, Result, Storage, StorageStat, StoreOptions, Transfer,
};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_testkit::{Semantics, ThreadEngine, Universe, operations, run_sequence};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

/// Sequences a test. Longer rounds: raise it.
const SEQUENCES: u32 = 80;
/// Operations a sequence.
const OPERATIONS: usize = 60;

/// How a store ends before it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Closed.
    Close,
    /// Dropped, like a future that nobody waits for.
    Drop,
    /// As if killed: the files as they are when the store is idle, under another name.
    Kill,
}

/// A store whose close is another end.
#[derive(Debug)]
struct Ending {
    store: Mutex<Option<Arc<PageStore>>>,
    end: End,
    roots: Vec<PathBuf>,
}

impl Ending {
    fn store(&self) -> Arc<PageStore> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(store.as_ref().expect("used after its end"))
    }

    fn take(&self) -> Arc<PageStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).take().expect("ended twice")
    }
}

#[async_trait]
impl Storage for Ending {
    fn name(&self) -> &'static str {
        "ending"
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.store().register(region)
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        self.store().load(requests)
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        self.store().store(requests, options)
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        self.store().exists_now(keys)
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        self.store().delete(keys).await
    }

    async fn clear(&self) -> Result<u64> {
        self.store().clear().await
    }

    async fn list(&self, prefix: &str, cursor: Option<&ListCursor>, limit: usize) -> Result<Listing> {
        self.store().list(prefix, cursor, limit).await
    }

    fn stat(&self) -> StorageStat {
        self.store().stat()
    }

    async fn close(&self) -> Result<()> {
        let store = self.take();
        let images: Vec<PathBuf> = self.roots.iter().map(|root| root.with_extension("image")).collect();
        match self.end {
            End::Close => store.close().await?,
            End::Kill => {
                for (root, image) in self.roots.iter().zip(&images) {
                    copy_tree(root, image);
                }
                store.close().await?;
            }
            End::Drop => {}
        }
        drop(store);
        for (root, image) in self.roots.iter().zip(&images) {
            released(root).await;
            if self.end == End::Kill {
                std::fs::remove_dir_all(root).unwrap();
                std::fs::rename(image, root).unwrap();
            }
        }
        Ok(())
    }
}

struct Case {
    name: &'static str,
    engine: fn() -> Arc<dyn Engine>,
    roots: usize,
    /// Of each root.
    capacity_bytes: u64,
    semantics: Semantics,
}

async fn open(case: &Case, directory: &Path, opened: &AtomicUsize) -> Arc<dyn Storage> {
    let roots: Vec<_> = (0..case.roots).map(|i| directory.join(i.to_string())).collect();
    let mut config = PageStoreConfig::new(roots.clone(), Namespace::new("model"));
    config.capacity_bytes = Some(case.capacity_bytes * case.roots as u64);
    config.segment_bytes = 256 << 10;
    let end = [End::Close, End::Drop, End::Kill][opened.fetch_add(1, Ordering::Relaxed) % 3];
    let store = PageStore::open(config, vec![(case.engine)()]).await.unwrap();
    Arc::new(Ending { store: Mutex::new(Some(store)), end, roots })
}

fn play(case: &Case) {
    let universe = Universe::default();
    let config =
        Config { cases: SEQUENCES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (hits, misses, reopened) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let result = TestRunner::new(config).run(&operations(&universe, OPERATIONS), |ops| {
        let directory = tempfile::tempdir().unwrap();
        let opened = AtomicUsize::new(0);
        let open = async || open(case, directory.path(), &opened).await;
        let played = runtime.block_on(run_sequence(open, case.semantics, &universe, &ops));
        let played = played.map_err(TestCaseError::fail)?;
        hits.fetch_add(played.hits as usize, Ordering::Relaxed);
        misses.fetch_add(played.misses as usize, Ordering::Relaxed);
        reopened.fetch_add(played.reopened as usize, Ordering::Relaxed);
        Ok(())
    });
    let (hits, misses, reopened) = (hits.into_inner(), misses.into_inner(), reopened.into_inner());
    say(&format!("{}: {SEQUENCES} sequences, {hits} hits, {misses} misses, {reopened} reopened", case.name));
    match result {
        Err(TestError::Fail(why, ops)) => panic!("{}: {why}\n{ops:#?}", case.name),
        other => other.unwrap(),
    }
    assert!(hits > 100 && misses > 100 && reopened > 3, "hardly anything was played");
}

const EXACT: Semantics = Semantics { evicts: false, fails: false, forgets_at_reopen: false };
const EVICTS: Semantics = Semantics { evicts: true, ..EXACT };
const ROOMY: u64 = 64 << 20;
/// For 16 of the longest pages, their metadata, and not much more.
const TIGHT: u64 = 600 << 10;

/// Takes aligned single pieces only and can't prove that it is idle: nearly everything is staged.
fn narrow() -> Arc<dyn Engine> {
    let all = threads_capabilities();
    let narrow = EngineCapabilities {
        alignment: 4096,
        max_pieces: 1,
        memory: vec![MemoryKind::Host],
        proves_idle: false,
        ..all
    };
    ThreadEngine::with_capabilities(narrow).unwrap()
}

fn threads_capabilities() -> EngineCapabilities {
    ThreadEngine::new().unwrap().capabilities().clone()
}

fn uring_here() -> Arc<dyn Engine> {
    uring().unwrap_or_else(pread)
}

#[test]
fn over_pread_with_room() {
    play(&Case { name: "pread", engine: pread, roots: 1, capacity_bytes: ROOMY, semantics: EXACT });
}

#[test]
fn over_io_uring_with_room_in_three_roots() {
    play(&Case {
        name: "io_uring, 3 roots",
        engine: uring_here,
        roots: 3,
        capacity_bytes: ROOMY,
        semantics: EXACT,
    });
}

#[test]
fn over_a_narrow_engine_with_room() {
    play(&Case { name: "staged", engine: narrow, roots: 1, capacity_bytes: ROOMY, semantics: EXACT });
}

#[test]
fn over_pread_evicting_in_two_roots() {
    play(&Case {
        name: "pread, tight, 2 roots",
        engine: pread,
        roots: 2,
        capacity_bytes: TIGHT,
        semantics: EVICTS,
    });
}

#[test]
fn over_io_uring_evicting() {
    play(&Case {
        name: "io_uring, tight",
        engine: uring_here,
        roots: 1,
        capacity_bytes: TIGHT,
        semantics: EVICTS,
    });
}
