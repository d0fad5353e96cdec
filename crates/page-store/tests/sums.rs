//! Sums that an engine takes as it reads: they are believed, and the memory is not gone over again.

mod fixture;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use fixture::{Bench, Got, PAGE, Page, config, pages, threads};
use hicache_core::{
    Access, Direction, Engine, EngineCapabilities, EngineFile, ErrorKind, Extent, ExtentsDone, PageMemory,
    PageRequest, PieceSums, Region, Registration, Result, Storage, StoreOptions, Transfer,
};
use hicache_hashing::checksum;

/// What an engine says of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Right,
    Wrong,
    /// One sum too many an extent.
    Odd,
    /// Sums for the first extent only.
    Few,
}

#[derive(Debug)]
struct Summing {
    inner: Arc<dyn Engine>,
    says: Says,
    /// Pages that the store had summed.
    summed: Arc<AtomicUsize>,
}

impl Summing {
    fn sums(&self, extent: &Extent) -> PieceSums {
        let pieces = extent.memory.pieces().iter();
        let mut sums: PieceSums = pieces.map(|piece| checksum(piece.lease().bytes().unwrap())).collect();
        match self.says {
            Says::Right | Says::Few => {}
            Says::Wrong => sums.iter_mut().for_each(|sum| *sum ^= 1),
            Says::Odd => sums.push(7),
        }
        sums
    }
}

#[async_trait]
impl Engine for Summing {
    fn capabilities(&self) -> &EngineCapabilities {
        self.inner.capabilities()
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.inner.register(region)
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        self.inner.attach(file, path)
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        let mut done = self.inner.submit(direction, extents).wait();
        if direction == Direction::Read {
            let extents = done.extents.iter().flatten();
            done.sums = extents.map(|extent| Some(self.sums(extent))).collect();
            if self.says == Says::Few {
                done.sums.truncate(1);
            }
        }
        Transfer::ready(done)
    }

    fn checksum(&self, memory: &PageMemory) -> Result<u64> {
        self.summed.fetch_add(1, Ordering::Relaxed);
        memory.checksum()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// A store over an engine that says so, 32 pages in it, and how often it was asked to sum since.
async fn stored(root: &Path, says: Says) -> (Bench, Vec<Page>, Arc<AtomicUsize>) {
    let summed = Arc::new(AtomicUsize::new(0));
    let engine = Summing { inner: threads(), says, summed: Arc::clone(&summed) };
    let bench = Bench::new(fixture::open(config(root), Arc::new(engine)).await, 64, PAGE);
    let pages = pages(0..32);
    bench.store(&pages).await;
    summed.store(0, Ordering::Relaxed);
    (bench, pages, summed)
}

#[tokio::test]
async fn nothing_is_summed_twice() {
    for (says, again) in [(Says::Right, 0..=0), (Says::Odd, 32..=32), (Says::Few, 0..=31)] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, pages, summed) = stored(directory.path(), says).await;
        // Side by side they are read as one, and apart each for itself.
        bench.load_all(&pages).await;
        assert!(again.contains(&summed.swap(0, Ordering::Relaxed)), "{says:?}");
        let apart: Vec<Page> = pages.iter().rev().step_by(2).copied().collect();
        bench.load_all(&apart).await;
        assert_eq!(summed.load(Ordering::Relaxed) == 0, says == Says::Right, "{says:?}");
        bench.close().await;
    }
}

#[tokio::test]
async fn a_wrong_sum_is_a_corrupt_page() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, pages, summed) = stored(directory.path(), Says::Wrong).await;
    assert_eq!(bench.load(&pages).await, [Got::Failed(ErrorKind::Corrupt); 32]);
    assert_eq!(summed.load(Ordering::Relaxed), 0);
    bench.close().await;
}

/// A page in pieces of different lengths.
#[tokio::test]
async fn the_sums_of_pieces_are_joined() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, _, summed) = stored(directory.path(), Says::Right).await;
    let wanted = pages(100..110);
    let request = |(i, page): (usize, &Page)| {
        let piece = |slot, bytes| bench.registration.piece(4 * i + slot, 0, bytes, Access::Write).unwrap();
        let mut memory =
            PageMemory::from_pieces([piece(0, 1000), piece(1, PAGE - 1507), piece(2, 500), piece(3, 7)])
                .unwrap();
        page.content().fill(&mut memory).unwrap();
        PageRequest::new(page.key(), memory)
    };
    let batch = wanted.iter().enumerate().map(request).collect();
    let stored = bench.store.store(batch, StoreOptions::default()).await;
    assert!(stored.outcomes.iter().all(hicache_core::Outcome::is_done));
    drop(stored);
    summed.store(0, Ordering::Relaxed);
    let batch: Vec<PageRequest> = wanted.iter().enumerate().map(request).collect();
    let loaded = bench.store.load(batch).await;
    for ((page, outcome), memory) in wanted.iter().zip(&loaded.outcomes).zip(&loaded.memory) {
        assert!(outcome.is_done(), "{outcome:?}");
        page.content().check_page(memory.as_ref().unwrap()).unwrap().unwrap();
    }
    assert_eq!(summed.load(Ordering::Relaxed), 0, "they were summed again");
    drop(loaded);
    bench.close().await;
}
