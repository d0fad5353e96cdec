//! Engines that fail, lie and lose: each fault costs what it must, and no page is ever wrong.

mod fixture;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fixture::faulty::{CAPACITY, balanced, eventually, faulty, impatient, kinds, narrow};
use fixture::{Bench, Dice, Got, PAGE, Page, in_time, limited, page, pages, pread, say, seen};
use hicache_core::{
    Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone, MemoryKind,
    Region, Registration, Result, Storage, StoreOptions, Transfer,
};
use hicache_page_store::{PageStore, PageStoreConfig};
use hicache_testkit::{EngineFault, FaultPlan, FaultyEngine};

/// Rounds of random faults. Longer rounds: raise it.
const ROUNDS: u64 = 60;

#[tokio::test]
async fn a_bad_read_costs_that_page_only() {
    for inner in [pread, narrow] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, engine) = faulty(directory.path(), inner()).await;
        let all = pages(0..8);
        bench.store(&all).await;
        let cases = [
            (EngineFault::Short { bytes: 100 }, ErrorKind::Io, true),
            (EngineFault::Short { bytes: 0 }, ErrorKind::Io, true),
            (EngineFault::Fail { errno: 5, after_moving: false }, ErrorKind::Io, true),
            (EngineFault::Fail { errno: 5, after_moving: true }, ErrorKind::Io, true),
            (EngineFault::Corrupt { bit: 12_345 }, ErrorKind::Corrupt, false),
            (EngineFault::Lost, ErrorKind::Abandoned, true),
        ];
        for (fault, kind, stays) in cases {
            engine.set_plan(FaultPlan::script([(Direction::Read, 3, fault)]));
            let got = bench.load(&all).await;
            let bad: Vec<_> = (0..8).filter(|&i| got[i] != Got::Version(1)).collect();
            assert_eq!(bad.len(), 1, "{fault:?}: {got:?}");
            assert_eq!(got[bad[0]], Got::Failed(kind), "{fault:?}");
            engine.release_lost();
            let again = bench.load(&[all[bad[0]]]).await;
            assert_eq!(again, [if stays { Got::Version(1) } else { Got::Absent }], "{fault:?}");
            bench.store(&all).await;
        }
        let stat = bench.store.stat();
        assert_eq!((stat.corrupt_pages, stat.abandoned_pages, stat.failed_pages), (1, 1, 4));
        balanced(&bench, directory.path(), 0).await;
        bench.close().await;
    }
}

#[tokio::test]
async fn a_bad_write_is_no_page() {
    for inner in [pread, narrow] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, engine) = faulty(directory.path(), inner()).await;
        let cases = [
            (EngineFault::Short { bytes: 100 }, ErrorKind::Io, 0),
            (EngineFault::Fail { errno: 5, after_moving: false }, ErrorKind::Io, 0),
            (EngineFault::Fail { errno: 28, after_moving: true }, ErrorKind::NoSpace, 0),
            // Nobody knows when a lost write ends, so its slot is not used again.
            (EngineFault::Lost, ErrorKind::Abandoned, 1),
        ];
        let mut lost = 0;
        for (round, (fault, kind, leaks)) in (0..).zip(cases) {
            let all = pages(round * 8..round * 8 + 8);
            engine.set_plan(FaultPlan::script([(Direction::Write, 5, fault)]));
            let outcomes = bench.try_store(&all, false).await;
            let bad: Vec<_> = (0..8).filter(|&i| !outcomes[i].is_done()).collect();
            assert_eq!(bad.len(), 1, "{fault:?}: {outcomes:?}");
            assert_eq!(outcomes[bad[0]].error().unwrap().kind(), kind, "{fault:?}");
            engine.release_lost();
            let got = bench.load(&all).await;
            assert!(
                (0..8).all(|i| got[i] == if i == bad[0] { Got::Absent } else { Got::Version(1) }),
                "{got:?}"
            );
            bench.store(&all).await;
            lost += leaks;
        }
        // On the medium, unseen until it is read.
        engine.set_plan(FaultPlan::script([(Direction::Write, 0, EngineFault::Corrupt { bit: 999 })]));
        bench.store(&[page(500)]).await;
        assert_eq!(bench.load(&[page(500)]).await, [Got::Failed(ErrorKind::Corrupt)]);
        assert_eq!(bench.load(&[page(500)]).await, [Got::Absent]);
        balanced(&bench, directory.path(), lost).await;
        bench.close().await;
        fixture::verify(directory.path());
    }
}

/// A lost write may land at any time. Staged or not, its slot has no other page by then.
#[tokio::test]
async fn a_lost_write_that_lands_late_hits_nobody() {
    for inner in [pread, narrow] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, engine) = faulty(directory.path(), inner()).await;
        bench.store(&pages(0..64)).await;
        let late = EngineFault::LateStart(Duration::from_millis(400));
        engine.set_plan(FaultPlan::script([
            (Direction::Write, 0, late),
            (Direction::Write, 1, EngineFault::Dropped),
        ]));
        let outcomes = bench.try_store(&pages(100..102), false).await;
        assert!(
            outcomes.iter().all(|o| o.error().is_some_and(|e| e.kind() == ErrorKind::Abandoned)),
            "{outcomes:?}"
        );
        let slots = bench.store.slots(PAGE as u64).unwrap();
        let all = pages(1000..1000 + slots);
        let other = Bench::unaligned(Arc::clone(&bench.store), 32, PAGE);
        in_time("storing", other.store(&all)).await;
        eventually("the late write", || engine.held() > 0).await;
        let got = other.load(&all).await;
        assert!(
            !got.contains(&Got::Failed(ErrorKind::Corrupt)),
            "a late write hit a page that was stored since"
        );
        assert_eq!(got.iter().filter(|got| **got == Got::Version(1)).count() as u64, slots - 2);
        engine.release_lost();
        drop(other);
        bench.close().await;
    }
}

/// Pages are read late, while more is stored than fits, the same keys are overwritten, and everything is cleared.
#[tokio::test]
async fn a_page_that_is_being_read_is_not_written_over() {
    for round in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let engine = FaultyEngine::new(pread(), FaultPlan::none());
        let patient = limited(directory.path(), CAPACITY);
        let bench =
            Bench::new(fixture::open(patient, Arc::clone(&engine) as Arc<dyn Engine>).await, 64, PAGE);
        let reader = Bench::new(Arc::clone(&bench.store), 64, PAGE);
        bench.store(&pages(0..64)).await;
        let late = EngineFault::LateStart(Duration::from_millis(100));
        engine.set_plan(FaultPlan::every(Direction::Read, late));
        let reading = bench.store.load(reader.blank_batch(&pages(0..64)));
        eventually("the load began", || engine.injected().late > 0).await;
        let others = async {
            match round {
                0 => bench.store(&pages(1000..1600)).await,
                1 => {
                    let newer: Vec<_> = (0..64).map(|number| Page { version: 2, ..page(number) }).collect();
                    bench.store_with(&newer, true).await;
                    bench.store(&pages(1000..1600)).await;
                }
                _ => {
                    assert_eq!(bench.store.clear().await.unwrap(), 64);
                    bench.store(&pages(1000..1600)).await;
                }
            }
        };
        let (batch, ()) = in_time("a late load", async { tokio::join!(reading, others) }).await;
        assert_eq!(seen(&pages(0..64), &batch, 2), [Got::Version(1); 64]);
        drop(batch);
        engine.set_plan(FaultPlan::none());
        balanced(&bench, directory.path(), 0).await;
        drop(reader);
        bench.close().await;
    }
}

#[tokio::test]
async fn staging_goes_on_after_its_memory_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let engine = FaultyEngine::new(narrow(), FaultPlan::none());
    let config = PageStoreConfig { staging_bytes: 4 * PAGE as u64, ..impatient(directory.path()) };
    let bench =
        Bench::unaligned(fixture::open(config, Arc::clone(&engine) as Arc<dyn Engine>).await, 64, PAGE);
    bench.store(&pages(0..40)).await;
    // One slot of four, then the others, then again.
    for lost in [1, 3, 4, 2, 4] {
        let plan = (0..lost).map(|i| (Direction::Read, i, EngineFault::Lost));
        engine.set_plan(FaultPlan::script(plan));
        let got = in_time("a load that loses staging memory", bench.load(&pages(0..10))).await;
        let bad: Vec<_> = got.iter().filter(|got| **got != Got::Version(1)).collect();
        assert!(
            bad.len() as u64 >= lost && bad.iter().all(|got| **got == Got::Failed(ErrorKind::Abandoned)),
            "{got:?}"
        );
        in_time("a load after it", bench.load_all(&pages(0..40))).await;
        in_time("a store after it", bench.store(&pages(100 * lost..100 * lost + 20))).await;
    }
    engine.release_lost();
    balanced(&bench, directory.path(), 0).await;
    bench.close().await;
}

#[tokio::test]
async fn random_faults_never_bring_a_wrong_page() {
    let late = Duration::from_millis(20);
    let faults = [
        EngineFault::Short { bytes: 511 },
        EngineFault::LateStart(late),
        EngineFault::LateAnswer(late),
        EngineFault::Fail { errno: 5, after_moving: true },
        EngineFault::Fail { errno: 28, after_moving: false },
        EngineFault::Corrupt { bit: 777 },
        EngineFault::Lost,
        EngineFault::NeverSubmitted,
        EngineFault::Dropped,
        EngineFault::Swallowed,
    ];
    let wraps = [FaultyEngine::page_by_page, FaultyEngine::new];
    let inners = [pread as fn() -> Arc<dyn Engine>, narrow];
    for seed in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        // Pages that are joined are fewer operations.
        let per_mille = [25, 70][seed as usize % 2];
        let plan = FaultPlan::random(seed, per_mille, faults);
        let engine = wraps[seed as usize % 2](inners[seed as usize / 2](), plan);
        let config = PageStoreConfig { io_timeout_ms: 40, ..limited(directory.path(), CAPACITY) };
        let store = fixture::open(config, Arc::clone(&engine) as Arc<dyn Engine>).await;
        let mut dice = Dice::new(seed);
        let (mut done, mut failed) = (0, 0);
        let mut version = 0;
        for _ in 0..ROUNDS {
            // New memory each time: some of it stays with the engine.
            let bench = Bench::unaligned(Arc::clone(&store), 16, PAGE);
            version += 1;
            let first = dice.below(300);
            let some: Vec<_> = (first..first + 16).map(|n| Page { version, ..page(n) }).collect();
            let stored = store.store(bench.full_batch(&some), StoreOptions { overwrite: dice.below(2) == 0 });
            let stored = in_time("a store", stored).await;
            done += stored.outcomes.iter().filter(|outcome| outcome.is_done()).count();
            let mut cut_off = kinds(&stored).contains(&Some(ErrorKind::Unavailable));
            drop(stored);
            let bench = Bench::unaligned(Arc::clone(&store), 16, PAGE);
            let first = dice.below(300);
            let some: Vec<_> = (first..first + 16).map(page).collect();
            let batch = in_time("a load", store.load(bench.blank_batch(&some))).await;
            let got = seen(&some, &batch, version);
            failed += got.iter().filter(|got| matches!(got, Got::Failed(_))).count();
            cut_off |= got.contains(&Got::Failed(ErrorKind::Unavailable));
            if cut_off {
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }
        say(&format!("{:?}; {done} pages stored, {failed} loads failed", engine.injected()));
        assert!(engine.injected().total() > 20 && done > 100);
        engine.set_plan(FaultPlan::none());
        engine.release_lost();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let bench = Bench::unaligned(store, 64, PAGE);
        let slots = bench.store.slots(PAGE as u64).unwrap();
        let all = pages(5000..5000 + slots);
        in_time("storing afterwards", bench.store(&all)).await;
        let there = bench.load(&all).await.iter().filter(|got| **got == Got::Version(1)).count() as u64;
        // Slots of lost writes are not used again by this process.
        assert!(
            there * 10 >= slots * 3 && there == bench.store.stat().pages,
            "{there} of {slots} slots are left"
        );
        in_time("closing", bench.close()).await;
        fixture::verify(directory.path());
    }
}

/// Fails to make files known.
#[derive(Debug)]
struct NoFiles(Arc<dyn Engine>);

#[async_trait]
impl Engine for NoFiles {
    fn capabilities(&self) -> &EngineCapabilities {
        self.0.capabilities()
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.0.register(region)
    }

    fn attach(&self, _: Arc<File>, _: &Path) -> Result<EngineFile> {
        let error = std::io::Error::from_raw_os_error(24);
        Err(Error::io("attach", "a file", error))
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        self.0.submit(direction, extents)
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

/// What never went to a device comes back at once, memory and slots.
#[tokio::test]
async fn an_engine_that_takes_no_file() {
    for inner in [pread, narrow] {
        let directory = tempfile::tempdir().unwrap();
        let store = fixture::open(limited(directory.path(), CAPACITY), Arc::new(NoFiles(inner()))).await;
        let bench = Bench::unaligned(store, 64, PAGE);
        for round in 0..20 {
            let batch = bench.full_batch(&pages(round * 64..round * 64 + 64));
            let batch = in_time("a store", bench.store.store(batch, StoreOptions::default())).await;
            assert_eq!(kinds(&batch), [Some(ErrorKind::Io); 64]);
            assert!(batch.memory.iter().all(Option::is_some));
        }
        bench.close().await;
    }
}

#[test]
fn memory_kinds_that_no_engine_moves_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let store = PageStore::open(limited(directory.path(), CAPACITY), vec![pread()]).await.unwrap();
        let base = std::ptr::NonNull::<u8>::dangling();
        // SAFETY: device memory is never touched by the CPU, and nothing takes a lease of it here.
        let region = unsafe { Region::foreign(base, 4096, MemoryKind::Device(0), Box::new(())) }.unwrap();
        assert_eq!(store.register(&region).unwrap_err().kind(), ErrorKind::Unsupported);
        store.close().await.unwrap();
    });
}
