//! A root whose medium fails is cut off, and taken up again by itself; everything else goes on.

mod fixture;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fixture::faulty::{STUCK, balanced, eventually, faulty, kinds};
use fixture::{Bench, Got, PAGE, Page, config, in_time, keys, page, pages, pread};
use hicache_core::{
    Direction, Engine, EngineCapabilities, EngineFile, Error, ErrorKind, Extent, ExtentsDone, Outcome,
    Region, Registration, Result, Storage, Transfer,
};
use hicache_page_store::PageStoreConfig;
use hicache_testkit::{EngineFault, FaultPlan};

const EIO: EngineFault = EngineFault::Fail { errno: 5, after_moving: false };

fn kind_of(outcome: &Outcome) -> Option<ErrorKind> {
    outcome.error().map(Error::kind)
}

/// Stores one page after the other until one is answered so.
async fn until(bench: &Bench, kind: Option<ErrorKind>) -> Vec<Option<ErrorKind>> {
    let mut seen = Vec::new();
    for number in 1000.. {
        let outcome = in_time("a store", bench.try_store(&[page(number)], false)).await.remove(0);
        seen.push(kind_of(&outcome));
        if seen.last() == Some(&kind) {
            break;
        }
        assert!(seen.len() < 100, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

#[tokio::test]
async fn a_root_that_takes_no_writes_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, engine) = faulty(directory.path(), pread()).await;
    bench.store(&pages(0..8)).await;
    engine.set_plan(FaultPlan::every(Direction::Write, EIO));
    let seen = until(&bench, Some(ErrorKind::Unavailable)).await;
    let (io, no) = (Some(ErrorKind::Io), Some(ErrorKind::Unavailable));
    assert_eq!(seen, [io, io, io, no]);
    let outcomes = bench.try_store(&pages(2000..2003), false).await;
    let error = outcomes[0].error().unwrap();
    assert_eq!(error.errno(), Some(5), "{error}");
    let (text, root) = (error.to_string(), directory.path().to_str().unwrap());
    assert!(text.contains(root) && text.contains("os error 5"), "{text}");
    bench.load_all(&pages(0..8)).await;
    assert_eq!(bench.store.exists(&keys(&pages(0..8))).await.unwrap(), [true; 8]);
    assert_eq!(kind_of(&bench.try_store(&[page(3)], false).await[0]), None, "it is there");
    assert_eq!(bench.store.delete(&keys(&pages(0..1))).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(bench.store.clear().await.unwrap_err().kind(), ErrorKind::Unavailable);
    // Trials come by themselves, further and further apart, each with a batch of its own.
    let seen = until(&bench, io).await;
    assert!(seen.len() > 1, "{seen:?}");
    engine.set_plan(FaultPlan::none());
    let seen = until(&bench, None).await;
    assert!(seen.iter().all(|kind| [None, no].contains(kind)), "{seen:?}");
    let stat = bench.store.stat();
    assert_eq!((stat.breaker_opened, stat.breakers_open), (2, 0));
    assert!(stat.refused_pages >= 4, "{stat:?}");
    bench.load_all(&pages(0..8)).await;
    assert_eq!(bench.store.delete(&keys(&pages(0..1))).await.unwrap().len(), 1);
    bench.close().await;
}

#[tokio::test]
async fn a_root_that_can_not_be_read_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, engine) = faulty(directory.path(), pread()).await;
    bench.store(&pages(0..8)).await;
    // A page of each batch can be read: nothing is cut off.
    for round in 0..5 {
        engine.set_plan(FaultPlan::custom(move |read| (read.number != round % 4).then_some(EIO)));
        let got = bench.load(&pages(0..4)).await;
        assert_eq!(got.iter().filter(|got| **got == Got::Failed(ErrorKind::Io)).count(), 3, "{got:?}");
    }
    engine.set_plan(FaultPlan::every(Direction::Read, EngineFault::Short { bytes: 9 }));
    for _ in 0..3 {
        assert_eq!(bench.load(&pages(0..4)).await, [Got::Failed(ErrorKind::Io); 4]);
    }
    assert_eq!(bench.load(&pages(0..4)).await, [Got::Failed(ErrorKind::Unavailable); 4]);
    assert_eq!(bench.store.exists(&keys(&pages(0..4))).await.unwrap(), [false; 4]);
    bench.store(&pages(100..108)).await;
    engine.set_plan(FaultPlan::none());
    let begun = Instant::now();
    while bench.load(&pages(0..4)).await != [Got::Version(1); 4] {
        assert!(begun.elapsed() < 10 * STUCK);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.load_all(&pages(100..108)).await;
    bench.close().await;
}

#[tokio::test]
async fn one_batch_is_the_trial() {
    let directory = tempfile::tempdir().unwrap();
    let (bench, engine) = faulty(directory.path(), pread()).await;
    engine.set_plan(FaultPlan::every(Direction::Write, EIO));
    until(&bench, Some(ErrorKind::Unavailable)).await;
    tokio::time::sleep(STUCK * 2).await;
    let tried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tried);
    engine.set_plan(FaultPlan::custom(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Some(EngineFault::LateStart(STUCK / 3))
    }));
    let batches = (0..8).map(|n| {
        let bench = Bench::new(Arc::clone(&bench.store), 1, PAGE);
        async move { kind_of(&bench.try_store(&[page(n)], false).await[0]) }
    });
    let answers = in_time("eight stores", futures_join(batches)).await;
    assert_eq!(tried.load(Ordering::Relaxed), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|kind| kind.is_none()).count(), 1, "{answers:?}");
    bench.store(&pages(0..8)).await;
    bench.close().await;
}

/// All at once, answers in order.
async fn futures_join<T: Send + 'static>(
    futures: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.map(tokio::spawn).collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

/// Knows no file under one directory while `failing`.
#[derive(Debug)]
struct FailsUnder {
    inner: Arc<dyn Engine>,
    directory: PathBuf,
    failing: AtomicBool,
}

#[async_trait]
impl Engine for FailsUnder {
    fn capabilities(&self) -> &EngineCapabilities {
        self.inner.capabilities()
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        self.inner.register(region)
    }

    fn attach(&self, file: Arc<File>, path: &Path) -> Result<EngineFile> {
        if self.failing.load(Ordering::Relaxed) && path.starts_with(&self.directory) {
            return Err(Error::io(
                "attach",
                path.display().to_string(),
                std::io::Error::from_raw_os_error(5),
            ));
        }
        self.inner.attach(file, path)
    }

    fn submit(&self, direction: Direction, extents: Vec<Extent>) -> Transfer<ExtentsDone> {
        self.inner.submit(direction, extents)
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[tokio::test]
async fn the_other_roots_go_on() {
    let (good, bad) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let roots = vec![good.path().to_owned(), bad.path().to_owned()];
    let engine = Arc::new(FailsUnder {
        inner: pread(),
        directory: bad.path().to_owned(),
        failing: AtomicBool::new(true),
    });
    let config = PageStoreConfig { roots, io_timeout_ms: 300, ..config(good.path()) };
    let store = fixture::open(config, Arc::clone(&engine) as Arc<dyn Engine>).await;
    let bench = Bench::new(store, 64, PAGE);
    let all = pages(0..64);
    let mut rounds = Vec::new();
    for version in 1..=5 {
        let some: Vec<_> = all.iter().map(|page| Page { version, ..*page }).collect();
        rounds.push(bench.try_store(&some, true).await.iter().map(kind_of).collect::<Vec<_>>());
    }
    let share = rounds[0].iter().filter(|kind| kind.is_none()).count();
    assert!((10..54).contains(&share), "{share}");
    for (round, kind) in rounds.iter().zip([ErrorKind::Io, ErrorKind::Io, ErrorKind::Io]) {
        assert!(round.iter().all(|seen| seen.is_none_or(|seen| seen == kind)), "{round:?}");
    }
    for round in &rounds[3..] {
        assert!(round.iter().all(|seen| seen.is_none_or(|seen| seen == ErrorKind::Unavailable)), "{round:?}");
    }
    for round in &rounds {
        assert_eq!(round.iter().filter(|kind| kind.is_none()).count(), share);
    }
    let batch = bench.store.load(bench.blank_batch(&all)).await;
    assert!(kinds(&batch).iter().all(Option::is_none));
    assert_eq!(batch.outcomes.iter().filter(|outcome| outcome.is_done()).count(), share);
    drop(batch);
    engine.failing.store(false, Ordering::Relaxed);
    tokio::time::sleep(STUCK * 2).await;
    bench.store_with(&all, true).await;
    bench.load_all(&all).await;
    bench.close().await;
}

/// Slow is not stuck, as long as it is not slower than the deadline.
#[tokio::test]
async fn a_slow_disk() {
    for direction in [Direction::Write, Direction::Read] {
        let directory = tempfile::tempdir().unwrap();
        let (bench, engine) = faulty(directory.path(), pread()).await;
        bench.store(&pages(0..4)).await;
        engine.set_plan(FaultPlan::every(direction, EngineFault::LateStart(STUCK / 2)));
        for round in 1..4 {
            in_time("a slow store", bench.store(&pages(round * 10..round * 10 + 4))).await;
            in_time("a slow load", bench.load_all(&pages(0..4))).await;
        }
        assert_eq!(bench.store.stat().breaker_opened, 0);
        // Slower than the deadline: lost, and the next is told at once. What was begun is finished all the same.
        engine.set_plan(FaultPlan::every(direction, EngineFault::LateStart(STUCK * 3)));
        let begun = Instant::now();
        let batch = match direction {
            Direction::Write => bench.store.store(bench.full_batch(&pages(50..54)), Default::default()).await,
            Direction::Read => bench.store.load(bench.blank_batch(&pages(0..4))).await,
        };
        assert_eq!(kinds(&batch), [Some(ErrorKind::Abandoned); 4]);
        assert!(begun.elapsed() >= STUCK && begun.elapsed() < STUCK * 3, "{:?}", begun.elapsed());
        let other = Bench::new(Arc::clone(&bench.store), 8, PAGE);
        let asked = Instant::now();
        let kind = match direction {
            Direction::Write => kind_of(&other.try_store(&pages(60..61), false).await[0]),
            Direction::Read => kinds(&other.store.load(other.blank_batch(&pages(0..1))).await)[0],
        };
        assert_eq!(kind, Some(ErrorKind::Unavailable));
        assert!(asked.elapsed() < STUCK / 2);
        engine.set_plan(FaultPlan::none());
        let late = bench.registration.region();
        eventually("the late batch ends", || late.leases() == 0).await;
        until(&bench, None).await;
        in_time("reading goes on", async { while other.load(&pages(0..4)).await != [Got::Version(1); 4] {} })
            .await;
        drop(other);
        balanced(&bench, directory.path(), 0).await;
        bench.close().await;
    }
}
