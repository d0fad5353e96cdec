//! The engine that stages, over host memory: the copies are real ones, and the engines below are those of posix-uring.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use hicache_core::{
    Access, Direction, Engine, EngineFile, Error, ErrorKind, Extent, MemoryKind, PageMemory, Region,
    Registration, Result,
};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig, UringEngine};
use hicache_testkit::conformance::{EngineTraits, EngineUnderTest, engine_suite};
use hicache_testkit::{EngineFault, FaultPlan, FaultyEngine, ThreadEngine};

use super::{Copier, CopyFailure, HostCopier, Lane, StagedConfig, StagedCopy, StagedEngine};

const PAGE: usize = 4096;

/// Slots so small that most extents are cut.
fn small() -> StagedConfig {
    StagedConfig { lanes: 2, slots: 3, slot_bytes: 2 * PAGE, ..StagedConfig::default() }
}

fn pread() -> Arc<dyn Engine> {
    Arc::new(PreadEngine::open(PreadConfig::default()).unwrap())
}

fn staged(below: Arc<dyn Engine>, copier: impl Copier, config: StagedConfig) -> StagedEngine {
    StagedEngine::open(below, Arc::new(copier), config).unwrap()
}

/// Copies of host memory that a test can make go wrong.
struct Wrong<F>(Arc<F>);

impl<F> fmt::Debug for Wrong<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrong")
    }
}

impl<F> Copier for Wrong<F>
where
    F: Fn(Direction) -> Result<(), CopyFailure> + Send + Sync + 'static,
{
    fn memory(&self) -> MemoryKind {
        MemoryKind::Host
    }

    fn allocate_staging(&self, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        HostCopier.allocate_staging(slots, slot_bytes)
    }

    fn lane(&self) -> Result<Box<dyn Lane>> {
        Ok(Box::new(WrongLane(Arc::clone(&self.0))))
    }
}

struct WrongLane<F>(Arc<F>);

impl<F: Fn(Direction) -> Result<(), CopyFailure>> Lane for WrongLane<F> {
    unsafe fn copy(&mut self, direction: Direction, copies: &[StagedCopy]) -> Result<(), CopyFailure> {
        (self.0)(direction)?;
        // SAFETY: the caller's promise.
        unsafe { HostCopier.copy(direction, copies) }
    }
}

struct Ground {
    engine: StagedEngine,
    plain: Arc<File>,
    file: EngineFile,
    memory: Registration,
}

impl Ground {
    fn new(engine: StagedEngine, slots: usize, bytes: usize) -> Self {
        let plain = Arc::new(tempfile::tempfile().unwrap());
        let file = engine.attach(Arc::clone(&plain), Path::new("test")).unwrap();
        let memory = engine.register(&Region::allocate(slots, bytes).unwrap()).unwrap();
        Self { engine, plain, file, memory }
    }

    fn page(&self, slot: usize, bytes: &[u8]) -> PageMemory {
        let mut memory = self.memory.page(slot, bytes.len(), Access::Write).unwrap();
        memory.copy_from(bytes).unwrap();
        memory
    }

    fn one(&self, direction: Direction, memory: PageMemory) -> (Result<u64>, Option<Extent>) {
        let extent = Extent { file: self.file.clone(), offset: 0, memory };
        let mut done = self.engine.submit(direction, vec![extent]).wait();
        (done.outcomes.remove(0), done.extents.remove(0))
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn content(extent: &Extent) -> Vec<u8> {
    let mut bytes = vec![0; extent.memory.bytes()];
    extent.memory.copy_to(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn conformance_over_pread() {
    let directory = tempfile::tempdir().unwrap();
    let make = async || EngineUnderTest::new(Arc::new(staged(pread(), HostCopier, StagedConfig::default())));
    // It takes any alignment, so one of 25 does not apply.
    engine_suite("staged, pread", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}

#[tokio::test]
async fn conformance_with_extents_that_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let make = async || EngineUnderTest::new(Arc::new(staged(pread(), HostCopier, small())));
    engine_suite("staged, cut", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}

#[tokio::test]
async fn conformance_over_io_uring() {
    if let Err(error) = UringEngine::open(UringConfig::default()) {
        println!("went without: io_uring: {error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let make = async || {
        let below = Arc::new(UringEngine::open(UringConfig::default()).unwrap());
        EngineUnderTest::new(Arc::new(staged(below, HostCopier, StagedConfig::default())))
    };
    engine_suite("staged, io_uring", &EngineTraits::new(directory.path()), make).await.assert_complete(24);
}

#[test]
fn a_file_that_ends_within_an_extent_gives_the_count_up_to_there() {
    for length in [0, 1, 2 * PAGE - 1, 2 * PAGE, 5 * PAGE + 7, 8 * PAGE] {
        let ground = Ground::new(staged(pread(), HostCopier, small()), 1, 8 * PAGE);
        let bytes = pattern(8 * PAGE);
        ground.plain.write_all_at(&bytes[..length], 0).unwrap();
        let (outcome, extent) = ground.one(Direction::Read, ground.page(0, &[0xee; 8 * PAGE]));
        assert_eq!(outcome.unwrap(), length as u64);
        let read = content(&extent.unwrap());
        assert_eq!(read[..length], bytes[..length]);
        assert!(read[length..].iter().all(|&byte| byte == 0xee), "nothing behind the end of the file");
    }
}

#[test]
fn a_part_that_fails_below_fails_its_extent_and_no_other() {
    let fail = EngineFault::Fail { errno: 5, after_moving: false };
    let plan = FaultPlan::custom(move |operation| (operation.offset == 2 * PAGE as u64).then_some(fail));
    let below = FaultyEngine::new(ThreadEngine::new().unwrap(), plan);
    let ground = Ground::new(staged(below, HostCopier, small()), 2, 8 * PAGE);
    let extents = vec![
        Extent { file: ground.file.clone(), offset: 0, memory: ground.page(0, &pattern(8 * PAGE)) },
        Extent {
            file: ground.file.clone(),
            offset: 16 * PAGE as u64,
            memory: ground.page(1, &pattern(8 * PAGE)),
        },
    ];
    let done = ground.engine.submit(Direction::Write, extents).wait();
    assert_eq!(done.outcomes[0].as_ref().unwrap_err().errno(), Some(5));
    assert_eq!(*done.outcomes[1].as_ref().unwrap(), 8 * PAGE as u64);
    assert!(done.extents.iter().all(Option::is_some));
}

#[test]
fn what_the_engine_below_loses_costs_staging_memory_only() {
    // More losses than a lane has slots, and fewer than it takes.
    let plan = FaultPlan::custom(|operation| (operation.number < 7).then_some(EngineFault::Lost));
    let below = FaultyEngine::new(ThreadEngine::new().unwrap(), plan);
    let config = StagedConfig { lanes: 1, slots: 2, slot_bytes: PAGE, ..StagedConfig::default() };
    let ground = Ground::new(staged(Arc::clone(&below) as Arc<dyn Engine>, HostCopier, config), 1, PAGE);
    ground.plain.write_all_at(&pattern(PAGE), 0).unwrap();
    for round in 0..7 {
        let (outcome, extent) = ground.one(Direction::Read, ground.page(0, &[0xee; PAGE]));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Io, "round {round}");
        assert_eq!(content(&extent.unwrap()), [0xee; PAGE], "the caller's memory comes back untouched");
    }
    let (outcome, extent) = ground.one(Direction::Read, ground.page(0, &[0xee; PAGE]));
    assert_eq!(outcome.unwrap(), PAGE as u64);
    assert_eq!(content(&extent.unwrap()), pattern(PAGE));
    below.release_lost();
}

/// A late write still lands in the file: only an answer without the extent keeps its place from being used again.
#[test]
fn a_write_that_the_engine_below_loses_is_lost_and_no_plain_error() {
    let plan = FaultPlan::custom(|operation| (operation.number == 0).then_some(EngineFault::Lost));
    let below = FaultyEngine::new(ThreadEngine::new().unwrap(), plan);
    let config = StagedConfig { lanes: 1, slots: 2, slot_bytes: PAGE, ..StagedConfig::default() };
    let ground = Ground::new(staged(Arc::clone(&below) as Arc<dyn Engine>, HostCopier, config), 2, PAGE);
    let (outcome, extent) = ground.one(Direction::Write, ground.page(0, &pattern(PAGE)));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(extent.is_none(), "whoever gets the extent back uses its place in the file again");
    let (outcome, extent) = ground.one(Direction::Write, ground.page(1, &pattern(PAGE)));
    assert!(outcome.unwrap() == PAGE as u64 && extent.is_some());
    below.release_lost();
}

#[test]
fn copies_that_fail_fail_what_they_were_for() {
    for way in [Direction::Read, Direction::Write] {
        let fail = move |direction| match direction == way {
            true => Err(CopyFailure::Ended(Error::new(ErrorKind::Io, "the device says no"))),
            false => Ok(()),
        };
        let ground = Ground::new(staged(pread(), Wrong(Arc::new(fail)), small()), 1, 8 * PAGE);
        let other = if way == Direction::Read { Direction::Write } else { Direction::Read };
        let (outcome, extent) = ground.one(way, ground.page(0, &pattern(8 * PAGE)));
        assert!(outcome.unwrap_err().to_string().contains("the device says no"));
        let length = ground.plain.metadata().unwrap().len();
        assert_eq!(length, 0, "nothing may be written of what could not be copied");
        drop(extent.unwrap());
        assert!(ground.one(other, ground.page(0, &pattern(8 * PAGE))).0.is_ok());
    }
}

#[test]
fn copies_that_are_lost_keep_their_memory_for_ever() {
    let lost = |_| Err(CopyFailure::Lost(Error::new(ErrorKind::Io, "nobody knows")));
    let ground = Ground::new(staged(pread(), Wrong(Arc::new(lost)), small()), 1, 8 * PAGE);
    let (outcome, extent) = ground.one(Direction::Write, ground.page(0, &pattern(8 * PAGE)));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(extent.is_none() && !ground.engine.capabilities().proves_idle);
    assert_eq!(ground.memory.page(0, PAGE, Access::Read).unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn a_copier_that_panics_loses_its_part_and_the_lane_goes_on() {
    let calls = AtomicUsize::new(0);
    let panics = move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => std::panic::panic_any("on purpose"),
        _ => Ok(()),
    };
    let config = StagedConfig { lanes: 1, slots: 2, slot_bytes: PAGE, ..StagedConfig::default() };
    let ground = Ground::new(staged(pread(), Wrong(Arc::new(panics)), config), 2, PAGE);
    let (outcome, extent) = ground.one(Direction::Write, ground.page(0, &pattern(PAGE)));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Abandoned);
    assert!(extent.is_none(), "what a panic left undone may still move");
    let (outcome, _) = ground.one(Direction::Write, ground.page(1, &pattern(PAGE)));
    assert_eq!(outcome.unwrap(), PAGE as u64);
}

/// Two lanes stand in their copies at one time: neither waits for the other.
#[test]
fn lanes_work_side_by_side() {
    let barrier = Barrier::new(2);
    let meet = move |_| {
        barrier.wait();
        Ok(())
    };
    let config = StagedConfig { lanes: 2, slots: 1, slot_bytes: PAGE, ..StagedConfig::default() };
    let ground = Ground::new(staged(pread(), Wrong(Arc::new(meet)), config), 1, 4 * PAGE);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sender.send(ground.one(Direction::Write, ground.page(0, &pattern(4 * PAGE))).0.unwrap())
    });
    assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).unwrap(), 4 * PAGE as u64);
}

#[test]
fn bad_settings_are_named() {
    let bad = [
        (StagedConfig { lanes: 0, ..small() }, "lanes = 0"),
        (StagedConfig { slots: 0, ..small() }, "slots = 0"),
        (StagedConfig { slot_bytes: 5000, ..small() }, "slot_bytes = 5000"),
    ];
    for (config, name) in bad {
        let error = StagedEngine::open(pread(), Arc::new(HostCopier), config).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(name), "{error}");
    }
}
